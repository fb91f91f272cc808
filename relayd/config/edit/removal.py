"""Removal: an account or a key out of a tree, and what makes no sense without it.

Rule: pure, on files that need not compile. What is not TOML names nothing, and stays.

Theory: a key depends on an account when no other account is in any of its groups; a scenario depends on every key and
account that it names. deny.toml keeps what it names: it refuses, whether or not the file is there.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from relayd.config.edit.toml_edit import remove_value
from relayd.config.edit.write import Files
from relayd.config.secrets.sealed_fields import objects, parsed
from relayd.noun import noun

DEFAULT_GROUPS = ["default"]
NAMED_IN_SCENARIO = ("accounts", "first", "down")


@noun(kw_only=True)
class Removal:
    """What goes.

    Args:
        accounts, keys: ids.
        changes: the files that change, None for those that go.
        scenarios: how many go, by file.
    """

    accounts: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    changes: Mapping[str, bytes | None]
    scenarios: Mapping[str, int]

    @property
    def names(self) -> list[str]:
        """`account main`, `key alice`."""
        return [f"account {one}" for one in self.accounts] + [f"key {one}" for one in self.keys]


def removal(files: Files, accounts: Collection[str] = (), keys: Collection[str] = ()) -> Removal:
    """Take out accounts and keys, with all that depends on them."""
    gone = {*keys, *_keys_of(files, accounts)} if accounts else set(keys)
    changes: dict[str, bytes | None] = {
        file: None for file, name, _ in objects(files, "accounts.d") if name in accounts
    }
    changes |= {file: None for file, name, _ in objects(files, "keys.d") if name in gone}
    scenarios = {}
    for file, numbers in _scenarios_of(files, accounts, gone).items():
        scenarios[file] = len(numbers)
        changes[file] = _without(files[file], numbers)
    return Removal(accounts=tuple(sorted(accounts)), keys=tuple(sorted(gone)), changes=changes, scenarios=scenarios)


def simulators(files: Files) -> list[str]:
    """The accounts that are only there to try relayd out."""
    return [name for _, name, table in objects(files, "accounts.d") if table.get("kind") == "simulator"]


def _keys_of(files: Files, accounts: Collection[str]) -> list[str]:
    """Keys that only these accounts could serve."""
    groups = {name: set(_texts(table, "groups", DEFAULT_GROUPS)) for _, name, table in objects(files, "accounts.d")}
    losing = set().union(*(found for name, found in groups.items() if name in accounts))
    staying = set().union(*(found for name, found in groups.items() if name not in accounts))
    found = []
    for _, name, table in objects(files, "keys.d"):
        own = set(_texts(table, "groups", DEFAULT_GROUPS))
        if own & losing and not own & staying:
            found.append(name)
    return found


def _scenarios_of(files: Files, accounts: Collection[str], keys: Collection[str]) -> dict[str, list[int]]:
    """The scenarios that name any of them, by file."""
    found: dict[str, list[int]] = {}
    for file, _, table in objects(files, "tests.d"):
        listed = table.get("scenario")
        for number, one in enumerate(listed if isinstance(listed, list) else []):
            if isinstance(one, dict) and _names(one, accounts, keys):
                found.setdefault(file, []).append(number)
    return found


def _names(scenario: dict[str, Any], accounts: Collection[str], keys: Collection[str]) -> bool:
    named = {name for field in NAMED_IN_SCENARIO for name in _texts(scenario, field, [])}
    return scenario.get("key") in keys or not named.isdisjoint(accounts)


def _without(content: bytes, numbers: list[int]) -> bytes | None:
    """A file of scenarios without some of them; None when none is left."""
    if len(numbers) == len(parsed(content)["scenario"]):
        return None
    text = content.decode()
    for number in reversed(numbers):
        text = remove_value(text, ("scenario", number))
    return text.encode()


def _texts(table: dict[str, Any], name: str, otherwise: list[str]) -> list[str]:
    found = table.get(name, otherwise)
    return [one for one in found if isinstance(one, str)] if isinstance(found, list) else otherwise
