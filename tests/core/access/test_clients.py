"""Client rules: patterns over what programs say of themselves."""

from __future__ import annotations

import re

import pytest
from builders import api_key, headers

from relayd.config.snapshot import ClientRule
from relayd.core.access.clients import identify, permit
from relayd.wire.refusal import Refusal

RULES = {
    "claude_code": ClientRule(name="Claude Code", user_agent=re.compile(r"^claude-cli/[\d.]+ \(external,")),
    "team": ClientRule(name="Team script", headers={"X-Team": re.compile("^blue$")}),
}
CLAUDE = headers(user_agent="claude-cli/2.1.330 (external, sdk-cli)")


def test_a_program_is_known_by_its_patterns() -> None:
    assert identify(CLAUDE, RULES) == "claude_code"
    assert identify(headers(x_team="blue"), RULES) == "team"
    assert identify(headers(user_agent="curl/8.5", x_team="red"), RULES) == ""


def test_every_pattern_of_a_rule_must_match() -> None:
    both = {"strict": ClientRule(name="s", user_agent=re.compile("curl"), headers={"x-team": re.compile("blue")})}

    assert identify(headers(user_agent="curl/8"), both) == ""
    assert identify(headers(user_agent="curl/8", x_team="blue"), both) == "strict"


def test_a_key_without_rules_takes_any_client_and_still_says_which() -> None:
    assert permit(CLAUDE, api_key(), RULES) == "claude_code"
    assert permit(headers(user_agent="curl/8"), api_key(), RULES) == ""


def test_another_client_is_refused_by_name() -> None:
    with pytest.raises(Refusal) as caught:
        permit(headers(user_agent="curl/8.5"), api_key(clients=("claude_code",)), RULES)

    assert caught.value.status == 403
    assert "Claude Code" in caught.value.message
    assert "curl/8.5" in caught.value.message


def test_the_order_of_the_key_decides_between_rules_that_both_match() -> None:
    rules = {"any": ClientRule(name="Any", user_agent=re.compile("")), **RULES}

    assert permit(CLAUDE, api_key(clients=("claude_code", "any")), rules) == "claude_code"
