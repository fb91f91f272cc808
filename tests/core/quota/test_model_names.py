from itertools import product

import pytest
from builders import account, api_key, snapshot

from relayd.core.quota.model_names import LONGEST, MOST, OTHER, ModelNames, listed_models
from relayd.core.quota.prices import shipped

TREE = snapshot(
    accounts=(account("a", models=("house-*", "house-exact"), model_map={"asked": "sent"}),),
    keys=(api_key(models=("claude-next", "glob-?")),),
    relay={"models": {"fast": "behind-the-alias"}},
)
DAY = "2026-11-22"


def invented(count: int) -> list[str]:
    return [f"invented-{number}" for number in range(count)]


@pytest.mark.parametrize(
    "model",
    [
        "claude-haiku-4-5",
        "claude-haiku-4-5-20251001",
        "house-exact",
        "asked",
        "sent",
        "claude-next",
        "behind-the-alias",
        "",
    ],
)
def test_a_model_with_a_price_or_named_in_the_tree_has_a_line_of_its_own(model: str) -> None:
    assert ModelNames().of(model, TREE) == model
    assert ModelNames().confirmed(model, TREE, DAY) == model


@pytest.mark.parametrize("model", ["house-1", "glob-x", "claude-haiku-4-5-00000001", "house-*", "fast"])
def test_a_name_that_no_upstream_has_confirmed_has_none(model: str) -> None:
    """Also not a dated one, though it has the price of its base id: there are a hundred million dates."""
    assert ModelNames().of(model, TREE) == OTHER


def test_a_name_that_an_upstream_has_confirmed_has_one_from_then_on() -> None:
    names = ModelNames()
    assert names.confirmed("claude-haiku-4-5-20300101", TREE, DAY) == "claude-haiku-4-5-20300101"
    assert names.of("claude-haiku-4-5-20300101", TREE) == "claude-haiku-4-5-20300101"


def test_a_day_has_no_more_than_so_many_confirmed_names_and_listed_ones_are_not_among_them() -> None:
    names = ModelNames()
    given = {names.confirmed(model, TREE, DAY) for model in [*shipped(), *invented(1000)]}
    assert given == {*shipped(), *invented(MOST), OTHER}
    assert names.confirmed("invented-0", TREE, DAY) == "invented-0"
    assert names.confirmed("claude-opus-5", TREE, DAY) == "claude-opus-5"


def test_each_day_begins_anew_and_old_ones_are_forgotten() -> None:
    names = ModelNames()
    for day, model in product(("2026-11-22", "2026-11-23", "2026-11-24", "2026-11-25"), invented(MOST + 1)):
        names.confirmed(model, TREE, day)
    assert names.confirmed("new", TREE, "2026-11-24") == OTHER  # a call that began yesterday
    assert names.confirmed("new", TREE, "2026-11-26") == "new"
    assert names.of("invented-0", TREE) == "invented-0"
    names.confirmed("new", TREE, "2026-11-27")
    assert names.of("invented-0", TREE) == OTHER


@pytest.mark.parametrize("model", ["x" * (LONGEST + 1), "a\x1b[31m", "two\nlines", "\u202eback"])
def test_a_name_that_is_none_is_not_confirmed(model: str) -> None:
    assert ModelNames().confirmed(model, TREE, DAY) == OTHER


def test_a_reload_changes_what_is_listed() -> None:
    names = ModelNames()
    assert names.of("later", TREE) == OTHER
    assert names.of("later", snapshot(keys=(api_key(models=("later",)),))) == "later"
    assert names.of("later", TREE) == OTHER


def test_globs_are_no_names() -> None:
    assert {"house-*", "glob-?"}.isdisjoint(listed_models(TREE))


def test_a_model_may_be_sent_under_other_names_by_accounts_of_the_keys_groups() -> None:
    accounts = (
        account("a", groups=("x",), model_map={"m": "one"}),
        account("b", groups=("x", "y"), model_map={"m": "two"}),
        account("c", groups=("y",)),
        account("d", groups=("y",), models=("other-*",)),
        account("e", groups=("x",), model_map={"m": "off"}, enabled=False),
    )
    tree = snapshot(accounts=accounts)
    assert ModelNames().sent_as("m", ("x",), tree) == ("one", "two")
    assert ModelNames().sent_as("m", ("y",), tree) == ("m", "two")
    assert ModelNames().sent_as("m", ("z",), tree) == ("m",)
    assert ModelNames().sent_as("n", ("x", "y"), tree) == ("n",)
