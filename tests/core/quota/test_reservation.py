"""What a call reserves: what the dearest of the models that may serve it would cost at most."""

from __future__ import annotations

import pytest
from builders import api_key, call, snapshot

from relayd.config.snapshot import Limits, MicroUsd, Policy
from relayd.core.access.permissions import resolve
from relayd.core.quota.call_estimate import Estimate
from relayd.core.quota.learned import LearnedUsage
from relayd.core.quota.model_names import ModelNames
from relayd.core.quota.reservation import quota
from relayd.wire.named_models import NamedModels
from relayd.wire.refusal import Refusal

HAIKU, OPUS, FABLE = "claude-haiku-4-5", "claude-opus-5-5", "claude-fable-5-1"


def reserved(model: str, **fields: object) -> Estimate:
    asked = call(model, **{"max_tokens": 500, "body": b"x" * 3000, **fields})
    tree = snapshot()
    return quota(resolve(asked, api_key(), tree), tree, 1_800_000_000_000, ModelNames(), LearnedUsage()).most


def test_a_call_is_reserved_for_the_dearest_model_that_it_names() -> None:
    for order in ((HAIKU, OPUS), (OPUS, HAIKU), (HAIKU, HAIKU, OPUS)):
        assert reserved(order[0], named=NamedModels(models=order[1:])) == reserved(OPUS)
    assert reserved(HAIKU).cost != reserved(OPUS).cost


def test_the_largest_cap_and_the_dearest_speed_count() -> None:
    assert reserved(OPUS, named=NamedModels(models=(HAIKU,), max_tokens=64000)) == reserved(OPUS, max_tokens=64000)
    assert reserved(OPUS, named=NamedModels(models=(HAIKU,), max_tokens=100)) == reserved(OPUS)
    assert reserved(OPUS, named=NamedModels(models=(HAIKU,), fast=True)) == reserved(OPUS, fast=True)


def test_a_choice_left_to_the_upstream_may_be_the_dearest_model_there_is() -> None:
    left = reserved(HAIKU, named=NamedModels(any_model=True)).cost
    dearest = [reserved(model).cost for model in (HAIKU, OPUS, FABLE)]

    assert left is not None
    assert all(one is not None and one <= left for one in dearest)


def test_a_named_model_without_a_price_is_denied_as_an_asked_one_is() -> None:
    tree = snapshot(relay={"policy": Policy(unknown_model_cost="deny")})
    key = api_key(limits=Limits(daily_cost=MicroUsd(1_000_000)))
    plan = resolve(call(HAIKU, named=NamedModels(models=("acme-1",))), key, tree)

    with pytest.raises(Refusal, match="acme-1"):
        quota(plan, tree, 1_800_000_000_000, ModelNames(), LearnedUsage())
