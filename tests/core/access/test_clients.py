"""Client rules: patterns over what programs say of themselves."""

from __future__ import annotations

import time

import pytest
from builders import api_key, headers

from relayd.config.pattern import operators
from relayd.config.snapshot import ClientRule
from relayd.core.access.clients import identify, permit
from relayd.wire.refusal import Refusal

RULES = {
    "claude_code": ClientRule(name="Claude Code", user_agent=operators(r"^claude-cli/[\d.]+ \(external,")),
    "team": ClientRule(name="Team script", headers={"X-Team": operators("^blue$")}),
}
CLAUDE = headers(user_agent="claude-cli/2.1.330 (external, sdk-cli)")


def test_a_program_is_known_by_its_patterns() -> None:
    assert identify(CLAUDE, RULES) == "claude_code"
    assert identify(headers(x_team="blue"), RULES) == "team"
    assert identify(headers(user_agent="curl/8.5", x_team="red"), RULES) == ""


def test_every_pattern_of_a_rule_must_match() -> None:
    both = {"strict": ClientRule(name="s", user_agent=operators("curl"), headers={"x-team": operators("blue")})}

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
    rules = {"any": ClientRule(name="Any", user_agent=operators("")), **RULES}

    assert permit(CLAUDE, api_key(clients=("claude_code", "any")), rules) == "claude_code"


def test_a_pattern_with_many_ways_to_match_costs_no_more_for_a_text_that_does_not() -> None:
    rules = {"mine": ClientRule(name="Mine", user_agent=operators("^(a|a)*$"), headers={"x": operators("(x+x+)+y")})}
    began = time.process_time()

    assert identify(headers(user_agent="a" * 27 + "!", x="x" * 40), rules) == ""
    assert identify(headers(user_agent="a" * 8000 + "!"), rules) == ""
    assert identify(headers(user_agent="a" * 8000, x="xxy"), rules) == "mine"
    assert time.process_time() - began < 5  # s; going back takes 8 s for 27 characters, and a minute for 30
