"""OAuth decisions: when to refresh, what an answer means, which tokens are newer, whose note it is."""

from __future__ import annotations

import json
import random

import attrs
import builders
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relayd.config.secrets.secret import Secret
from relayd.config.snapshot import OAuth, Relay, Url
from relayd.core.oauth import (
    LONGEST_RETRY,
    MARGIN,
    RefreshFailed,
    StoredTokens,
    Tokens,
    due_at,
    fingerprint,
    newer,
    note_name,
    parse_tokens,
    read_answer,
    read_note,
    request_body,
    retry_in,
    runtime_binding,
    write_note,
    write_tokens,
    written_at,
)

NOW = 1_800_000_000.0
RNG = random.Random(1)


def tokens(life: float | None = 28800.0, **fields: object) -> Tokens:
    expires = None if life is None else NOW + life
    return Tokens(**{"access": Secret("a"), "refresh": Secret("r"), "expires_at": expires, **fields})  # type: ignore[arg-type]


# When.


@settings(deadline=None, max_examples=200)
@given(life=st.floats(600, 1e8), seed=st.integers())
def test_a_token_is_due_at_four_fifths_of_its_life_give_or_take_a_twentieth(life: float, seed: int) -> None:
    due = due_at(tokens(life), NOW, random.Random(seed))
    assert due is not None
    assert 0.7499 * life <= due - NOW <= 0.8501 * life
    assert NOW + life - due >= MARGIN * 0.74


@settings(deadline=None, max_examples=100)
@given(life=st.floats(0, 600), seed=st.integers())
def test_a_short_token_is_used_for_half_of_its_life_at_least(life: float, seed: int) -> None:
    due = due_at(tokens(life), NOW, random.Random(seed))
    assert due is not None
    assert life / 2 <= due - NOW + 1e-3
    assert due <= NOW + max(life / 2, life - MARGIN) + 1e-3


def test_a_token_of_ten_minutes_is_refreshed_two_minutes_before_its_end() -> None:
    class Late(random.Random):
        def random(self) -> float:
            return 1.0

    assert due_at(tokens(600), NOW, Late()) == NOW + 480


def test_what_has_expired_is_due_at_once_and_what_cannot_be_refreshed_never() -> None:
    assert due_at(tokens(-5), NOW, RNG) == NOW
    assert due_at(tokens(None), NOW, RNG) is None
    assert due_at(tokens(refresh=Secret("")), NOW, RNG) is None


def test_retries_come_at_growing_distances_and_not_before_the_provider_asked() -> None:
    waits = [retry_in(failures, 0.0, random.Random(0)) for failures in range(1, 20)]
    assert 4.0 <= waits[0] <= 5.0
    assert all(wait <= LONGEST_RETRY for wait in waits)
    assert waits[-1] >= LONGEST_RETRY * 0.8
    assert retry_in(1, 77.0, RNG) == 77.0
    assert retry_in(1, 1e9, RNG) == 3600.0


# What is sealed.


@pytest.mark.parametrize("at", [1_800_003_600, 1_800_003_600.0, 1_800_003_600_000])
def test_an_expiry_is_read_in_seconds_and_in_milliseconds(at: float) -> None:
    text = json.dumps({"access_token": "a", "refresh_token": "r", "expires_at": at, "scope": "x"})
    assert parse_tokens(Secret(text)) == tokens(3600)


@pytest.mark.parametrize("at", [None, True, "soon", -1, 0, float("nan"), float("inf"), 10**400, []])
def test_an_expiry_that_means_nothing_is_unknown(at: object) -> None:
    assert parse_tokens(Secret(json.dumps({"access_token": "a", "expires_at": at}))).expires_at is None


def test_an_access_token_alone_is_tokens_too() -> None:
    assert parse_tokens(Secret("sk-ant-oat01-x")) == Tokens(access=Secret("sk-ant-oat01-x"))


@pytest.mark.parametrize(
    "text",
    [
        "", "a b", "a\nb", "ü", "{", "{}", '{"access_token":7}', '{"access_token":"SECRET X"}', '{"a":' * 9000,
        '{"access_token":"a","refresh_token":{"SECRET":1}}',
    ],
)  # fmt: skip
def test_what_cannot_be_presented_is_refused_without_being_quoted(text: str) -> None:
    with pytest.raises(ValueError) as raised:
        parse_tokens(Secret(text))
    assert "SECRET" not in str(raised.value)
    assert raised.value.__cause__ is None


@settings(deadline=None, max_examples=100)
@given(
    access=st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1),
    refresh=st.text(),
    expires=st.none() | st.floats(1, 9e10),
    generation=st.integers(0, 10**6),
)
def test_tokens_survive_being_written(access: str, refresh: str, expires: float | None, generation: int) -> None:
    before = Tokens(access=Secret(access), refresh=Secret(refresh), expires_at=expires, generation=generation)
    assert parse_tokens(write_tokens(before)) == before


# Which.


def test_a_later_generation_wins_and_of_two_alike_the_one_that_lives_longer() -> None:
    old, new = tokens(9000, generation=1), tokens(10, generation=2)
    assert newer(new, old)
    assert not newer(old, new)
    twin = tokens(11, generation=2, access=Secret("b"))
    assert newer(twin, new)
    assert not newer(new, twin)
    assert not newer(new, new)


# Answers.


def test_the_request_is_what_rfc_6749_asks_for() -> None:
    assert json.loads(request_body(Secret("r"), "ours")) == {
        "grant_type": "refresh_token", "refresh_token": "r", "client_id": "ours"
    }  # fmt: skip


def answer(status: int = 200, old: Tokens | None = None, **fields: object) -> Tokens | RefreshFailed:
    return read_answer(status, json.dumps(fields).encode(), old or tokens(generation=4), NOW)


def test_an_answer_gives_the_next_generation() -> None:
    assert answer(access_token="A", refresh_token="R", expires_in=3600) == Tokens(
        access=Secret("A"), refresh=Secret("R"), expires_at=NOW + 3600, generation=5
    )


def test_an_answer_without_a_refresh_token_keeps_the_old_one() -> None:
    found = answer(access_token="A")
    assert isinstance(found, Tokens)
    assert (found.refresh, found.expires_at) == (Secret("r"), None)


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"access_token":""}', b'{"access_token":"a b"}', b"[" * 9000])
def test_a_200_without_a_token_leaves_open_what_the_provider_did(body: bytes) -> None:
    found = read_answer(200, body, tokens(), NOW)
    assert isinstance(found, RefreshFailed)
    assert found.unknown
    assert not found.spent


@pytest.mark.parametrize(
    ("status", "error", "reason", "spent", "unknown"),
    [
        (400, "invalid_grant", "the token endpoint answered 400 invalid_grant", True, False),
        (401, {"type": "invalid_grant"}, "the token endpoint answered 401 invalid_grant", True, False),
        (400, {"type": "invalid_request_error"}, "the token endpoint answered 400 invalid_request_error", False, False),
        (401, "invalid_client", "the token endpoint answered 401 invalid_client", False, False),
        (400, "SECRET", "the token endpoint answered 400", False, False),
        (400, {"type": ["SECRET"]}, "the token endpoint answered 400", False, False),
        (404, None, "the token endpoint answered 404", False, False),
        (302, None, "the token endpoint answered 302, a redirect, which is not followed", False, False),
        (500, "invalid_grant", "the token endpoint answered 500 invalid_grant", False, True),
        (529, None, "the token endpoint answered 529", False, True),
    ],
)
def test_a_refusal_says_its_status_and_known_words_only(
    status: int, error: object, reason: str, spent: bool, unknown: bool
) -> None:
    found = answer(status, error=error, error_description="SECRET")
    assert found == RefreshFailed(reason=reason, spent=spent, unknown=unknown)


# Seeds and notes.


def test_a_seed_has_one_name_everywhere_and_each_seed_its_own() -> None:
    names = {
        fingerprint(realm, account, Secret(seed))
        for realm in ("a", "b")
        for account in ("a", "b")
        for seed in ("a", "b", "ab")
    }
    assert len(names) == 12
    assert note_name("example", "max", Secret("seed")) == f"max/{fingerprint('example', 'max', Secret('seed'))}"
    # Nodes of different versions must agree, so this may never change.
    assert fingerprint("example", "max", Secret("seed")) == "5931d5225601f657e3377bd4"
    assert "seed" not in note_name("example", "max", Secret("seed"))


def test_run_time_tokens_are_bound_like_the_seed_but_to_a_field_of_their_own() -> None:
    account = builders.account("max", kind="oauth", base_url=Url("https://API.anthropic.com:443/x"))
    for token_url, bound in ((OAuth().token_url, ""), ("https://ID.example/token/", "https://id.example/token")):
        relay = Relay(schema=1, realm="example", oauth=OAuth(token_url=Url(token_url)))
        assert attrs.astuple(runtime_binding(account, relay)) == (
            "example", "account", "max", "credential.runtime", "https://api.anthropic.com", bound
        )  # fmt: skip


NOTE = StoredTokens(sealed="rlsec1.x", asking="n1-00", at=NOW)


def test_a_note_is_read_by_who_has_the_seed() -> None:
    body = write_note(NOTE, "max/00", Secret("seed"))
    assert read_note(body, "max/00", Secret("seed")) == NOTE
    assert read_note("", "max/00", Secret("seed")) == StoredTokens()
    assert written_at(body) == NOW
    assert (written_at(""), written_at("[]"), written_at('{"at":true}')) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("field", ["sealed", "asking", "at", "mac"])
def test_a_note_that_was_altered_is_not_believed(field: str) -> None:
    found = json.loads(write_note(NOTE, "max/00", Secret("seed")))
    found[field] = found[field] + 1 if field == "at" else found[field] + "x"
    assert read_note(json.dumps(found), "max/00", Secret("seed")) is None


def test_a_note_of_another_seed_or_name_is_not_believed() -> None:
    body = write_note(NOTE, "max/00", Secret("seed"))
    assert read_note(body, "max/00", Secret("other")) is None
    assert read_note(body, "pro/00", Secret("seed")) is None


@pytest.mark.parametrize("body", ["x", "[]", "{}", '{"at":1}', '{"mac":7,"at":1}', '{"mac":"\\ud800","at":1}'])
def test_what_is_no_note_is_not_believed(body: str) -> None:
    assert read_note(body, "max/00", Secret("seed")) is None
