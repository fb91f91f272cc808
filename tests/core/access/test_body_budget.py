"""Request bodies take bounded memory, and no key takes all of it."""

from __future__ import annotations

import pytest
from builders import OTHER_KEY, api_key
from hypothesis import given
from hypothesis import strategies as st

from relayd.config.snapshot import Limits, Server, Size
from relayd.core.access.body_budget import BodyBudget, body_bounds
from relayd.wire.refusal import Refusal

MIB = 1 << 20
SERVER = Server(max_request_body=Size(32 * MIB), body_memory=Size(256 * MIB))
ONE = api_key(limits=Limits(concurrency=1))
FREE = api_key(OTHER_KEY, id="free")


def refused(budget: BodyBudget, call: str, key, size: int) -> Refusal:
    with pytest.raises(Refusal) as caught:
        budget.take(call, key, SERVER, size)
    return caught.value


def test_a_key_of_one_call_at_once_has_room_for_one_largest_body() -> None:
    budget = BodyBudget(lambda server: 0)
    budget.take("a", ONE, SERVER, 31 * MIB)

    no = refused(budget, "b", ONE, 31 * MIB)

    assert (no.status, no.retry_after, no.code) == (429, 1, "key_body_memory")
    budget.take("c", FREE, SERVER, 31 * MIB)
    budget.give_back("a")
    budget.take("b", ONE, SERVER, 32 * MIB)


def test_a_key_without_a_limit_has_half_and_all_together_have_the_whole() -> None:
    budget, third = BodyBudget(lambda server: 0), api_key(id="third")
    budget.take("a", FREE, SERVER, 128 * MIB)
    assert refused(budget, "b", FREE, 1).status == 429
    budget.take("c", third, SERVER, 128 * MIB)

    no = refused(budget, "d", ONE, 1)
    assert (no.status, no.retry_after, no.code) == (529, 1, "body_memory")


@pytest.mark.parametrize(
    ("said", "memory", "total"), [(0, 1280 * MIB, 256 * MIB), (0, 1000, 32 * MIB), (1, 1 << 40, 32 * MIB)]
)
def test_the_budget_is_a_fifth_of_memory_and_never_less_than_one_body(said: int, memory: int, total: int) -> None:
    server = Server(max_request_body=Size(32 * MIB), body_memory=Size(said))

    assert body_bounds(FREE, server, memory)[0] == total
    assert 32 * MIB <= body_bounds(ONE, server, memory)[1] <= total


KEYS = [ONE, FREE, api_key(id="third", limits=Limits(concurrency=3))]


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 40 * MIB), st.booleans())))
def test_no_order_of_bodies_exceeds_a_bound_or_leaves_anything_behind(steps) -> None:
    budget, held = BodyBudget(lambda server: 0), dict.fromkeys(range(10), 0)
    for call, size, ends in steps:
        key = KEYS[call % 3]
        if ends:
            budget.give_back(str(call))
            held[call] = 0
            continue
        try:
            budget.take(str(call), key, SERVER, size)
        except Refusal:
            continue
        held[call] += size
        total, share = body_bounds(key, SERVER, 0)
        assert budget.used == sum(held.values()) <= total
        assert sum(of for other, of in held.items() if KEYS[other % 3] is key) <= share
    for call in range(10):
        budget.give_back(str(call))
    assert (budget.used, budget._by_key, budget._by_call) == (0, {}, {})
