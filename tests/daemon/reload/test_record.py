"""The reload record: what is remembered of rounds, and what is said of it in one word or line."""

from __future__ import annotations

from typing import Any

from relayd.core.cluster import MOST_PAST
from relayd.daemon.reload.record import ConfigOrigin, ReloadRecord, kept_back
from relayd.daemon.reload.requests import ReloadOutcome, ReloadResult


def origin(digest: str, since: float = 100.0) -> ConfigOrigin:
    return ConfigOrigin(
        digest=digest, revision="r", commit="", dirty=None, source="disk", since=since, trigger="boot", model=digest
    )


def result(outcome: ReloadOutcome, **fields: Any) -> ReloadResult:
    return ReloadResult(result=outcome, generation=1, **fields)


def test_the_time_since_when_disk_and_daemon_differ_is_that_of_the_first_of_several_results() -> None:
    record = ReloadRecord(origin=origin("a"))
    assert record.last_result == ("applied", 100.0)

    record.differ(result("rejected", digest="b"), 200.0)
    record.differ(result("held", digest="c"), 300.0)
    assert (record.last_result, record.last_digest) == (("held", 200.0), "c")

    record.agree(result("unchanged"), 400.0)
    assert (record.last_result, record.last_digest, record.succeeded) == (("applied", 100.0), "a", 400.0)


def test_a_rollback_holds_whatever_lies_on_disk() -> None:
    record = ReloadRecord(origin=origin("a"))
    record.roll_back(3, result("applied", digest="a"), 200.0)

    assert record.last_result == ("rolled-back", 200.0)
    assert record.last_digest == ""
    assert record.headline(2, "r") == f"generation 2 r HELD {kept_back(3)}"


def test_a_degraded_node_says_so_before_all_else() -> None:
    record = ReloadRecord(origin=origin("a"), degraded="the tree has errors")
    record.differ(result("rejected", reasons=("the tree has errors",)), 200.0)

    assert record.last_result == ("degraded", 200.0)
    assert record.headline(1, "r") == "generation 1 r DEGRADED REJECTED the tree has errors"


def test_what_waits_for_a_restart_is_in_the_headline() -> None:
    record = ReloadRecord(origin=origin("a"))
    assert record.headline(1, "r") == "generation 1 r ok"
    record.agree(result("applied", restart_required=("realm", "state.url")), 200.0)

    assert record.headline(1, "r") == "generation 1 r ok, restart needed for realm, state.url"


def test_configs_that_ran_before_are_remembered_the_newest_first_and_not_for_ever() -> None:
    record = ReloadRecord(origin=origin("0"))
    record.run_from(origin("0", since=150.0), 150.0)  # the same, told in another way
    assert record.past == ()
    for number in range(1, MOST_PAST + 5):
        record.run_from(origin(str(number)), 200.0 + number)

    assert len(record.past) == MOST_PAST
    assert (record.past[0].tree, record.past[0].left) == (str(MOST_PAST + 3), 200.0 + MOST_PAST + 4)
