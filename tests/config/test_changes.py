"""The text of a diff: what many objects have in common is one entry, and nothing that differs is lost from JSON."""

from __future__ import annotations

from typing import Any

import attrs
from builders import account, api_key, snapshot

from relayd.config.changes import Changes
from relayd.config.compile import compile_tree
from relayd.config.diff import diff
from relayd.config.snapshot import Snapshot

MANY = 300


def tree(limits: str, keys: dict[str, str]) -> Snapshot:
    files = {
        "relay.toml": f'schema = 1\nrealm = "x"\n[limits]\n{limits}\n',
        "accounts.d/a.toml": 'kind = "simulator"\n',
    }
    for number, (name, more) in enumerate(keys.items()):
        files[f"keys.d/{name}.toml"] = f'hashes = [{{ sha256 = "{number:064x}" }}]\n{more}\n'
    return compile_tree({path: text.encode() for path, text in files.items()}).require()


def named(count: int, more: str = "") -> dict[str, str]:
    return {f"k{number:03}": more for number in range(count)}


def many(**fields: Any) -> Snapshot:
    return snapshot(keys=tuple(api_key(f"key {number}", id=f"k{number:03}", **fields) for number in range(MANY)))


def test_what_keys_inherit_is_one_line_with_the_number_of_heirs() -> None:
    others = {"own": "[limits]\nconcurrency = 3"}
    changes = diff(tree("concurrency = 20", named(301) | others), tree("concurrency = 30", named(301) | others))
    lines = changes.as_text().splitlines()
    assert lines[0] == "~ relay.toml"
    assert lines[1].startswith("    limits.concurrency  20 -> 30  [")
    assert lines[1].endswith(" (301 keys inherit it)]")
    assert len(lines) == 3
    assert len(changes.as_json()["changes"]) == 302


def test_a_key_with_a_change_of_its_own_shows_that_alone() -> None:
    old = tree("concurrency = 20", named(2))
    new = tree("concurrency = 30", named(1) | {"k001": 'name = "Anna"'})
    text = diff(old, new).as_text()
    assert "(2 keys inherit it)" in text
    assert "~ key k000" not in text
    assert "~ key k001\n    name  " in text
    assert text.count("concurrency") == 1


def test_one_change_of_many_keys_is_one_entry_with_some_names() -> None:
    lines = diff(many(), many(max_tokens=5)).as_text().splitlines()
    assert lines[:2] == ["~ 300 keys", f"    {', '.join(f'k{number:03}' for number in range(12))} and 288 more"]
    assert lines[2].startswith("    max_tokens  0 -> 5  [hot: ")
    assert lines[3:] == ["0 added, 300 changed, 0 removed; folded, `relayd diff --full` shows each"]


def test_values_that_differ_from_key_to_key_say_so() -> None:
    new = many()
    new = attrs.evolve(new, keys={name: attrs.evolve(key, name=name) for name, key in new.keys.items()})
    text = diff(many(name="x"), new).as_text()
    assert "    name  each its own  [hot: " in text
    assert len(text.splitlines()) == 4


def test_many_new_and_many_removed_keys_fold_and_few_do_not() -> None:
    nobody = attrs.evolve(snapshot(), keys={})
    added, removed = diff(nobody, many(owner="team")).as_text(), diff(many(), nobody).as_text()
    assert added.startswith("+ 300 keys: each is accepted from the next request\n    k000, ")
    assert '    owner  "team"\n' in added
    assert removed.startswith("- 300 keys: each is refused from the next request, also on open connections\n")
    assert len(added.splitlines()) < 8
    few = diff(nobody, snapshot(keys=(api_key(id="a"), api_key("other", id="b")))).as_text()
    assert few.count("+ key ") == 2
    assert "folded" not in few


def test_accounts_fold_with_what_the_change_does_to_connections() -> None:
    old = snapshot(accounts=tuple(account(f"a{number}", base_url="http://127.0.0.1:1") for number in range(20)))
    new = snapshot(accounts=tuple(account(f"a{number}", base_url="http://127.0.0.1:2") for number in range(20)))
    assert "[drain: new connections; " in diff(old, new).as_text()
    assert diff(old, new).as_text().count("\n") == 4


def test_full_shows_each_and_json_comes_back_whole() -> None:
    changes = diff(many(), many(max_tokens=5))
    assert changes.as_text(full=True).count("~ key ") == MANY
    assert Changes.from_json(changes.as_json()) == changes
