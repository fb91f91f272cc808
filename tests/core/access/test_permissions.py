"""What a key may ask for, and which model it gets."""

from __future__ import annotations

import pytest
from builders import account, api_key, call, snapshot

from relayd.core.access.permissions import glob_matches, resolve, served_beyond
from relayd.core.balancing.candidates import serves
from relayd.wire.named_models import NamedModels
from relayd.wire.refusal import Refusal

ALIASES = {"models": {"fast": "claude-haiku-4-5", "best": "claude-opus-5-5"}}


def refusal(key, asked) -> Refusal:
    with pytest.raises(Refusal) as caught:
        resolve(asked, key, snapshot(relay=ALIASES))
    return caught.value


def test_an_alias_is_resolved_and_other_names_pass() -> None:
    assert resolve(call("fast"), api_key(), snapshot(relay=ALIASES)).model == "claude-haiku-4-5"
    assert resolve(call("claude-new-9"), api_key(), snapshot(relay=ALIASES)).model == "claude-new-9"


def test_a_model_is_allowed_by_its_own_name_or_the_alias_and_denied_by_either() -> None:
    tree = snapshot(relay=ALIASES)

    assert resolve(call("fast"), api_key(models=("claude-haiku-*",)), tree).model == "claude-haiku-4-5"
    assert resolve(call("fast"), api_key(models=("fast",)), tree).model == "claude-haiku-4-5"
    assert refusal(api_key(models=("claude-haiku-*",)), call("best")).status == 403
    assert refusal(api_key(deny_models=("*opus*",)), call("best")).status == 403
    assert refusal(api_key(deny_models=("best",)), call("best")).status == 403


def test_a_refused_model_is_named_without_raw_control_characters() -> None:
    message = refusal(api_key(models=("claude-*",)), call("evil\n\x1b[31m")).message

    assert "evil\\n\\x1b" in message


def test_an_endpoint_is_refused_by_name() -> None:
    refused = refusal(api_key(endpoints=("models",)), call())

    assert refused.status == 403
    assert "messages" in refused.message


def test_token_counting_rides_on_messages() -> None:
    assert resolve(call(endpoint="count_tokens"), api_key(endpoints=("messages",)), snapshot()).attempts == 3


def test_max_tokens_is_capped_by_refusal_not_by_change() -> None:
    assert refusal(api_key(max_tokens=100), call(max_tokens=101)).status == 400
    assert resolve(call(max_tokens=100), api_key(max_tokens=100), snapshot()).call.max_tokens == 100


@pytest.mark.parametrize(
    ("glob", "name", "expected"),
    [
        ("*", "anything", True),
        ("claude-*", "claude-x", True),
        ("claude-*", "xclaude-x", False),
        ("claude-?", "claude-4", True),
        ("claude-?", "claude-45", False),
        ("claude-4.5", "claude-4x5", False),
        ("[ab]", "a", False),
    ],
)
def test_globs_know_stars_and_question_marks_only(glob: str, name: str, expected: bool) -> None:
    assert glob_matches(glob, name) is expected


# What an upstream may read as another name: some put it into a URL's path, some trim it.
READ_OTHERWISE = [
    "claude-haiku-4-5/../claude-opus-5-5",
    "claude-haiku-4-5/./x",
    "claude-haiku-4-5//x",
    "/claude-haiku-4-5",
    "claude-haiku-4-5/",
    "claude-haiku-4-5%2f%2e%2e%2fclaude-opus-5-5",
    "claude-haiku-4-5\\..\\claude-opus-5-5",
    "claude-haiku-4-5?x",
    "claude-haiku-4-5#x",
    "claude-haiku-4-5 ",
    "claude-haiku-4-5\n",
    "claude-haiku-4-5\x00",
    "claude-haiku-4-\N{FULLWIDTH DIGIT FIVE}",
]


@pytest.mark.parametrize("name", READ_OTHERWISE)
def test_a_name_that_an_upstream_may_read_otherwise_fits_no_glob_and_is_denied_by_each(name: str) -> None:
    assert refusal(api_key(models=("claude-haiku-*",)), call(name)).status == 403
    assert refusal(api_key(deny_models=("*opus*",)), call(name)).status == 403
    assert resolve(call(name), api_key(), snapshot()).model == name  # who may ask for anything may ask for this
    assert resolve(call(name), api_key(models=("*",)), snapshot()).model == name
    assert not serves(account(models=("claude-haiku-*",)), name)


def test_a_denial_holds_in_capitals_too() -> None:
    assert refusal(api_key(deny_models=("claude-opus-*",)), call("Claude-OPUS-5-5")).status == 403
    assert refusal(api_key(models=("claude-*",)), call("Claude-haiku-4-5")).status == 403


@pytest.mark.parametrize(
    "name",
    [
        "claude-sonnet-4-5[1m]",
        "us.anthropic.claude-sonnet-4-20250514-v1:0",
        "claude-3-5-sonnet@20240620",
        "anthropic/claude-3.5-sonnet",
        "arn:aws:bedrock:us-east-1:1:inference-profile/us.anthropic.claude-x",
    ],
)
def test_names_that_providers_really_have_fit_globs(name: str) -> None:
    assert resolve(call(name), api_key(models=("*claude*",), deny_models=("*opus*",)), snapshot()).model == name


NAMED = NamedModels(models=("claude-haiku-4-5", "claude-opus-5-5"), max_tokens=64000)


def test_models_that_a_request_names_besides_its_own_must_be_allowed_too() -> None:
    sonnet = call(named=NAMED)

    assert resolve(sonnet, api_key(), snapshot()).model == "claude-sonnet-4-5"
    assert resolve(sonnet, api_key(models=("claude-*",)), snapshot()).call.named == NAMED
    for fields in ({"deny_models": ("*opus*",)}, {"models": ("claude-sonnet-*", "claude-haiku-*")}):
        no = refusal(api_key(**fields), sonnet)
        assert (no.status, no.code) == (403, "model_not_allowed")
        assert "claude-opus-5-5" in no.message
    assert refusal(api_key(models=("claude-sonnet-4-5", "best")), call(named=NamedModels(models=("claude-opus-5-5",))))


def test_a_cap_on_tokens_is_one_on_those_of_named_models_too() -> None:
    assert refusal(api_key(max_tokens=8192), call(max_tokens=100, named=NAMED)).code == "max_tokens_cap"
    assert resolve(call(named=NAMED), api_key(max_tokens=64000), snapshot()).model


def test_a_key_that_may_not_use_every_model_cannot_leave_the_choice_to_the_upstream() -> None:
    choice = call(named=NamedModels(any_model=True))

    assert resolve(choice, api_key(), snapshot()).model
    assert refusal(api_key(models=("claude-*",)), choice).status == 403
    assert refusal(api_key(deny_models=("claude-fable-*",)), choice).status == 403


def test_what_an_answer_says_it_is_from_is_known_for_a_dated_name_and_else_must_be_allowed() -> None:
    key = api_key(models=("claude-sonnet-4-5",))

    assert served_beyond(("", "claude-sonnet-4-5-20250929"), ("claude-sonnet-4-5",), key) == ""
    assert served_beyond(("claude-sonnet-4-5", "claude-opus-5-5"), ("claude-sonnet-4-5",), key) == "claude-opus-5-5"
    assert served_beyond(("claude-opus-5-5",), ("claude-sonnet-4-5",), api_key()) == ""
