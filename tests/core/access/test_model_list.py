"""The models that a key is shown: of the upstreams that have said, else those that are known."""

from __future__ import annotations

from builders import account, api_key, snapshot

from relayd.core.access.model_list import find_model, usable_models
from relayd.wire.anthropic import ModelEntry, read_models

KNOWN = ("claude-opus-5-5", "claude-haiku-4-5", "claude-opus-4-1")


def entry(name: str, **more: object) -> ModelEntry:
    return ModelEntry(id=name, display_name=name.title(), created="2026-09-15T00:00:00Z", more=more)


def offered(*names: str) -> dict[str, ModelEntry]:
    return {name: entry(name) for name in names}


def ids(entries: list[ModelEntry]) -> list[str]:
    return [one.id for one in entries]


def test_an_upstream_that_has_said_what_it_has_is_believed() -> None:
    tree = snapshot(accounts=(account("a"),))
    key = next(iter(tree.keys.values()))
    assert ids(usable_models(key, tree, KNOWN)) == ["claude-opus-5-5", "claude-haiku-4-5", "claude-opus-4-1"]
    offers = {"a": offered("claude-next-1", "claude-haiku-4-5-20251001")}
    assert ids(usable_models(key, tree, KNOWN, offers)) == ["claude-haiku-4-5-20251001", "claude-next-1"]
    assert find_model("claude-opus-5-5", key, tree, KNOWN, offers) is None
    bare = find_model("claude-haiku-4-5", key, tree, KNOWN, offers)
    assert bare is not None
    assert (bare.id, bare.created) == ("claude-haiku-4-5", "2026-09-15T00:00:00Z")


def test_one_account_that_has_not_said_so_far_leaves_the_known_ones() -> None:
    tree = snapshot(accounts=(account("a"), account("b", models=("claude-haiku-*",))))
    key = next(iter(tree.keys.values()))
    found = ids(usable_models(key, tree, KNOWN, {"a": offered("claude-opus-5-5")}))
    assert found == ["claude-opus-5-5", "claude-haiku-4-5"]
    assert ids(usable_models(key, tree, KNOWN, {"a": offered("claude-opus-5-5"), "b": {}})) == ["claude-opus-5-5"]


def test_only_accounts_of_the_keys_groups_count() -> None:
    tree = snapshot(keys=(api_key(groups=("x",)),), accounts=(account("a", groups=("x",)), account("b", groups=("y",))))
    key = next(iter(tree.keys.values()))
    offers = {"a": offered("claude-opus-5-5"), "b": offered("claude-secret-1")}
    assert ids(usable_models(key, tree, KNOWN, offers)) == ["claude-opus-5-5"]
    assert find_model("claude-secret-1", key, tree, KNOWN, offers) is None


def test_an_alias_is_listed_first_and_as_old_as_what_it_stands_for() -> None:
    tree = snapshot(accounts=(account("a"),), relay={"models": {"best": "claude-opus-5-5"}})
    key = next(iter(tree.keys.values()))
    first, second = usable_models(key, tree, KNOWN, {"a": offered("claude-opus-5-5")})
    assert (first.id, first.display_name, first.created) == ("best", "Best", "2026-09-15T00:00:00Z")
    assert (second.id, second.display_name) == ("claude-opus-5-5", "Claude-Opus-5-5")


def test_a_mapped_model_is_there_where_the_one_it_is_mapped_to_is() -> None:
    tree = snapshot(accounts=(account("a", model_map={"claude-opus-5-5": "vendor-opus"}),))
    key = next(iter(tree.keys.values()))
    assert find_model("claude-opus-5-5", key, tree, KNOWN, {}) is not None
    assert ids(usable_models(key, tree, KNOWN, {"a": offered("vendor-opus")})) == ["vendor-opus"]


def test_retired_models_are_marked() -> None:
    tree = snapshot(accounts=(account("a"),))
    key = next(iter(tree.keys.values()))
    marks = {one.id: one.more.get("lifecycle") for one in usable_models(key, tree, KNOWN)}
    assert marks == {"claude-opus-5-5": None, "claude-haiku-4-5": None, "claude-opus-4-1": "retired"}
    said = {"claude-opus-4-1": entry("claude-opus-4-1", lifecycle="deprecated", retires_at="2026-12-01T00:00:00Z")}
    (one,) = usable_models(key, tree, KNOWN, {"a": said})
    assert one.more == {"lifecycle": "deprecated", "retires_at": "2026-12-01T00:00:00Z"}


def test_an_unknown_model_is_none_whatever_the_key_may_ask_for() -> None:
    tree = snapshot(accounts=(account("a"),))
    key = next(iter(tree.keys.values()))
    for name in ("claude-opus-99", "claude-opus-5-5-latest", "gpt-9", ""):
        assert find_model(name, key, tree, KNOWN) is None
    assert find_model("claude-haiku-4-5-20251001", key, tree, KNOWN) is not None


def test_what_is_no_list_of_models_is_none() -> None:
    for body in (b"", b"[]", b"{}", b'{"data":5}', b'{"data":[{"name":"x"}]}', b"<html>", b"[" * 5000, b"\xff"):
        assert read_models(body) is None
    (one,) = read_models(b'{"data":[{"id":"m","created_at":"2026-01-01T00:00:00Z","line":"x"},{"id":""}]}') or []
    assert (one.id, one.display_name, one.created, one.more) == ("m", "m", "2026-01-01T00:00:00Z", {})
