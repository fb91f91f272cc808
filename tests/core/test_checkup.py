"""What a checkup makes of facts."""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from relayd.core.checkup import (
    CheckupFinding,
    Descriptors,
    Reached,
    Room,
    StoreState,
    descriptor_findings,
    memory_findings,
    reach_findings,
    room_findings,
    split_advice,
    split_hint,
    store_findings,
    version_finding,
    worker_findings,
)

GIB = 1 << 30
STORE = StoreState(name="redis://r:6379/0", seconds=0.001, version="Redis 7.2", size=5 << 20, persistent=True)
WAY = Reached(origin="https://api.anthropic.com:443", accounts=("a", "b"), seconds=0.2, ahead=1.0)
OPEN = Descriptors(limit=65536, used=100, clients=32640, wanted=10000, whose="the daemon")


def bad(findings: Iterable[CheckupFinding]) -> list[CheckupFinding]:
    """Those that are not well; each says what to do, and those that are well say nothing."""
    found = list(findings)
    assert all(one.ok != bool(one.what_to_do) for one in found)
    return [one for one in found if not one.ok]


def test_a_store_that_is_well_is_well() -> None:
    found = list(store_findings(STORE))
    assert not bad(found)
    assert found[0].text == "redis://r:6379/0: answers in 1.0 ms, Redis 7.2, 5.0 MiB"


def test_each_thing_that_is_wrong_with_a_store_is_told_apart() -> None:
    warning = "redis://r:6379/0: maxmemory-policy is allkeys-lru, which may drop counters [set it to noeviction]"
    wrong = attrs.evolve(STORE, seconds=0.3, persistent=False, warnings=(warning,), ahead=-90.0)
    slow, lost, policy, clock = bad(store_findings(wrong))
    assert "300.0 ms" in slow.text
    assert lost.what_to_do == "switch persistence on (appendonly yes)"
    assert policy.what_to_do == "set it to noeviction"
    assert (clock.area, clock.text) == ("clock", "redis://r:6379/0: its clock is -90 s from this machine's")


def test_a_store_that_does_not_answer_says_what_its_error_says() -> None:
    error = "redis://r:6379/0: invalid password [see state.password_file and RELAYD_STATE_PASSWORD]"
    (one,) = bad(store_findings(attrs.evolve(STORE, error=error)))
    assert one.text == "redis://r:6379/0: invalid password"
    assert one.what_to_do == "see state.password_file and RELAYD_STATE_PASSWORD"
    (other,) = bad(store_findings(attrs.evolve(STORE, error="connection refused")))
    assert other.what_to_do.startswith("start the store")


def test_what_to_do_about_an_upstream_depends_on_why() -> None:
    def todo(error: str) -> str:
        return bad(reach_findings([attrs.evolve(WAY, error=error, ahead=None)]))[0].what_to_do

    assert "resolver" in todo("https://x:443: dns: name or service not known")
    assert "authorities" in todo("https://x:443: tls: certificate not trusted: self-signed certificate")
    assert "proxy" in todo("https://x:443: proxy http://p:80: refused CONNECT with status 403")
    assert "firewall" in todo("https://x:443: connection refused")


def test_the_clock_is_wrong_only_when_no_upstream_agrees_with_it() -> None:
    far = attrs.evolve(WAY, origin="https://far:443", ahead=400.0)
    assert not bad(reach_findings([far, WAY]))
    (one,) = bad(reach_findings([far]))
    assert (one.area, one.text) == ("clock", "this machine's clock is +400 s from that of https://far:443")
    assert [one.area for one in reach_findings([attrs.evolve(WAY, ahead=None)])] == ["accounts"]


def test_a_disk_is_full_by_bytes_or_by_inodes() -> None:
    rooms = [Room(place="/a", free=GIB), Room(place="/b", free=5 << 20), Room(place="/c", free=GIB, inodes=3)]
    assert [one.text for one in bad(room_findings(rooms))] == ["/b: 5.0 MiB free", "/c: 1,024 MiB and 3 inodes free"]


def test_memory_is_what_the_machine_has_left_or_a_limit_allows() -> None:
    assert not bad(memory_findings(GIB, GIB))
    assert bad(memory_findings(GIB, 64 << 20))
    assert bad(memory_findings(64 << 20, GIB))
    assert list(memory_findings(None, GIB)) == []


def test_descriptors_lack_where_they_are_nearly_all_in_use_or_too_few_for_the_clients() -> None:
    assert not bad(descriptor_findings(OPEN))
    assert not bad(descriptor_findings(attrs.evolve(OPEN, used=None)))
    assert bad(descriptor_findings(attrs.evolve(OPEN, used=65000)))
    assert bad(descriptor_findings(attrs.evolve(OPEN, limit=1024, clients=384)))
    assert not bad(descriptor_findings(attrs.evolve(OPEN, limit=1024, clients=384, wanted=100)))
    assert list(descriptor_findings(None)) == []


def test_workers_are_too_many_for_the_processors_or_too_large_for_the_memory() -> None:
    assert list(worker_findings(1, 1, GIB, 0, 0)) == []
    assert not bad(worker_findings(2, 2, 0, 144 << 20, GIB))
    assert not bad(worker_findings(2, 2, GIB, 144 << 20, 2 * GIB))
    (many,) = bad(worker_findings(4, 1, 0, 192 << 20, GIB))
    assert many.text == "4 workers, and 1 processor that they may use"
    (large,) = bad(worker_findings(2, 2, GIB, 144 << 20, GIB))
    assert large.text == "2 workers may have 2,048 MiB together, 1,024 MiB allowed"
    (tight,) = bad(worker_findings(4, 4, 0, 192 << 20, 256 << 20))
    assert tight.text == "4 workers take 192 MiB before they have a call, 256 MiB allowed"


def test_a_daemon_of_another_version_wants_a_restart() -> None:
    assert not bad([version_finding("1.0", "1.0")])
    (one,) = bad([version_finding("1.0", "1.1")])
    assert one.text == "relayd 1.0 runs, and 1.1 is installed"


def test_a_hint_is_what_stands_last_in_brackets() -> None:
    assert split_hint("a: b (c) [do it]") == ("a: b (c)", "do it")
    assert split_hint("a: b (see X)") == ("a: b", "see X")
    assert split_hint("a: b") == ("a: b", "")


def test_advice_stands_in_square_brackets_and_an_error_may_have_brackets_too() -> None:
    full = "lines of the log are lost: [Errno 28] No space left on device"
    assert split_advice(f"{full} [make room]") == (full, "make room")
    assert split_advice(full) == (full, "")
    assert split_advice("held (`relayd resume` ends it)") == ("held (`relayd resume` ends it)", "")
