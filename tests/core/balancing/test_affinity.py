"""Affinity: where a conversation lives."""

from __future__ import annotations

from pool_world import GOOD, NOW, World, accounts, answered, snapshot

from relayd.core.balancing.affinity import Pins, affinity_id, sets_pin
from relayd.core.balancing.outcomes import Answered

HOUR = 3600.0


def test_a_conversation_is_scoped_to_its_key() -> None:
    assert affinity_id("dev", "s:1") != affinity_id("ops", "s:1")
    assert affinity_id("dev", "s:1") == affinity_id("dev", "s:1")
    assert affinity_id("dev", "") == ""
    assert len(affinity_id("dev", "s:\ud800" + "x" * 1000)) == 32


def test_a_pin_holds_for_the_time_after_the_last_call() -> None:
    pins = Pins()
    assert pins.pin("c", "a", NOW, HOUR)
    assert pins.look("c", NOW + HOUR - 1, HOUR) == "a"
    assert not pins.pin("c", "a", NOW + HOUR / 4 - 1, HOUR)  # not new, not moved, told lately
    assert pins.pin("c", "a", NOW + HOUR - 1, HOUR)  # the store's copy has to be kept alive

    assert pins.look("c", NOW + 2 * HOUR - 2, HOUR) == "a"
    assert pins.look("c", NOW + 2 * HOUR - 1, HOUR) is None
    assert pins.look("c", NOW + HOUR, 0.0) is None  # affinity = "0s"


def test_looking_prolongs_nothing_and_no_name_is_no_pin() -> None:
    pins = Pins()
    pins.pin("c", "a", NOW, HOUR)
    pins.look("c", NOW + HOUR - 1, HOUR)

    assert pins.look("c", NOW + HOUR, HOUR) is None
    assert not pins.pin("", "a", NOW, HOUR)
    assert pins.look("", NOW, HOUR) is None


def test_the_pins_used_longest_ago_go_first() -> None:
    pins = Pins(most=3)
    for name in "wxyz":
        pins.pin(name, "a", NOW, HOUR)
        pins.pin("w", "a", NOW, HOUR)

    assert len(pins) == 3
    assert [pins.look(name, NOW, HOUR) for name in "wxyz"] == ["a", None, "a", "a"]


def test_only_answers_that_fill_a_prompt_cache_set_a_pin() -> None:
    assert sets_pin("messages")
    assert not sets_pin("count_tokens")
    assert not sets_pin("models")


def test_a_conversation_stays_moves_once_and_stays_moved() -> None:
    world = World(snapshot(*accounts(*"abcde")))
    pins = Pins()
    homes: list[str] = []

    def upstream(account: str) -> Answered:  # the first home is limited in turns 20 to 22, and well again from then on
        return answered(429, retry_after="20") if 20 <= len(homes) < 23 and account == homes[0] else GOOD

    for _ in range(60):
        done = world.deliver(upstream, affinity=pins.look("c", world.now, HOUR))
        pins.pin("c", done.served_by, world.now, HOUR)
        homes.append(done.served_by)
        world.now += 10

    assert len(set(homes[:20])) == 1
    assert len(set(homes[20:])) == 1
    assert homes[0] != homes[-1]
