"""Pull decisions: which head is taken by itself, and which is held."""

from __future__ import annotations

import random

import pytest

from relayd.core.pull import (
    LONGEST,
    CommitSignature,
    Head,
    is_late,
    is_meant,
    judge_head,
    next_pause,
)

OLD, NEW = "a" * 40, "b" * 40


def signed(verdict: str, commit: str = NEW) -> CommitSignature:
    return CommitSignature(commit, verdict, "SHA256:x")


@pytest.mark.parametrize(
    "head",
    [
        Head(commit=NEW),
        Head(commit=NEW, taken=OLD),
        Head(commit=NEW, taken=OLD, signatures=[signed("G"), signed("G", "c" * 40)]),
        Head(commit=NEW, signatures=[signed("G")]),
    ],
)
def test_a_head_that_goes_forward_is_taken(head: Head) -> None:
    assert judge_head(head) is None


def test_a_head_that_goes_back_or_aside_is_held() -> None:
    rewound = judge_head(Head(commit=NEW, taken=OLD, onward=False, back=True))
    forced = judge_head(Head(commit=NEW, taken=OLD, onward=False))

    assert rewound is not None
    assert "was rewound" in rewound.reasons[0]
    assert forced is not None
    assert "a forced push" in forced.reasons[0]


@pytest.mark.parametrize("verdict", ["N", "B", "U", "E", "X", "Y", "R", "?"])
def test_every_verdict_but_a_good_one_holds_the_head_and_names_the_commit(verdict: str) -> None:
    middle = "c" * 40
    found = judge_head(Head(commit=NEW, taken=OLD, signatures=[signed("G"), signed(verdict, middle)]))

    assert found is not None
    assert (found.commit, found.unsigned) == (NEW, (middle,))
    assert found.reasons[0].startswith(f"commit {'c' * 12} ")


def test_of_many_unsigned_commits_all_are_known_and_some_are_named() -> None:
    found = judge_head(Head(commit=NEW, taken=OLD, signatures=[signed("N", f"{n:040x}") for n in range(40)]))

    assert found is not None
    assert (len(found.unsigned), len(found.reasons), found.reasons[-1]) == (
        40,
        6,
        "and 35 more commits without an allowed signature",
    )


def test_a_forced_head_with_unsigned_commits_has_both_reasons() -> None:
    found = judge_head(Head(commit=NEW, taken=OLD, onward=False, signatures=[signed("N")]))

    assert found is not None
    assert len(found.reasons) == 2


def test_a_commit_is_meant_by_enough_of_its_digits() -> None:
    commit = "0123456789abcdef" + "0" * 24
    assert is_meant(["0123456789AB"], commit)
    assert is_meant(["ffffffffffff", commit], commit)
    assert not is_meant(["0123456789a", "", "ffffffffffff"], commit)


def test_pauses_grow_with_failures_within_bounds_and_differ_between_nodes() -> None:
    rng = random.Random(1)
    usual = [next_pause(60, 0, rng) for _ in range(200)]
    failing = [next_pause(60, 50, rng) for _ in range(200)]

    assert 48 <= min(usual) < 55 < 65 < max(usual) <= 72
    assert max(failing) <= LONGEST * 1.2
    assert next_pause(3600, 9, rng) <= 3600 * 1.2


def test_somebody_should_look_after_three_missed_fetches_but_not_within_minutes() -> None:
    assert not is_late(170, 1)
    assert is_late(200, 1)
    assert not is_late(1000, 600)
    assert is_late(1900, 600)
