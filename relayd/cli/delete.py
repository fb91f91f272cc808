"""Deleting accounts and keys, with or without what depends on them; and `relayd demo remove`.

Rule: nothing else of the tree is left broken by it: what names the object goes with it, or the verb says what does.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence

from relayd.cli.output import counted, say
from relayd.cli.revoke import DenyEntry, take_out
from relayd.cli.tree import Stop, add_action, guarded, print_written, require_tree, tree_files
from relayd.config.edit.objects import find_object
from relayd.config.edit.removal import Removal, removal, simulators
from relayd.config.edit.write import Files


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    add_action(
        actions,
        "remove",
        "remove the simulator accounts, and the keys and scenarios that need them",
        remove,
        writes=True,
    )


def main(args: argparse.Namespace) -> int:
    return guarded(f"demo {args.action}", args.act, args)


def remove(args: argparse.Namespace) -> int:
    """Remove what `relayd init` made for a first look."""
    require_tree(args.config)
    args.with_dependents = True
    found = simulators(tree_files(args))
    if not found:
        say("there is nothing to remove: no account is a simulator")
        return 0
    return delete(args, accounts=found)


def add_delete(parser: argparse.ArgumentParser, what: str) -> None:
    """`--yes` and `--with-dependents`."""
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument("--with-dependents", action="store_true", help=f"also remove what depends on it: {what}")


def delete(args: argparse.Namespace, *, accounts: Sequence[str] = (), keys: Sequence[str] = ()) -> int:
    """Remove the files; what was removed is refused from then on, whatever becomes of the rest of the tree."""
    require_tree(args.config)
    found = _planned(args, tree_files(args), accounts, keys)
    for file, count in found.scenarios.items():
        say(f"removed {counted(count, 'scenario')} from {file}")
    entries = [DenyEntry(field="accounts", value=one) for one in found.accounts]
    entries += [DenyEntry(field="keys", value=one) for one in found.keys]

    def plan(files: Files) -> Mapping[str, bytes | None]:
        return _planned(args, files, accounts, keys).changes

    changed = take_out(args, entries, plan)
    one = {"id": args.id} if "id" in args else {}
    result = {"accounts": found.accounts, "keys": found.keys, "scenarios": found.scenarios}
    return print_written(args, {**one, "deleted": list(changed), **result})


def _planned(args: argparse.Namespace, files: Files, accounts: Sequence[str], keys: Sequence[str]) -> Removal:
    """What goes. Raises: LookupError; Stop when something depends on it that was not to go as well."""
    for folder, names in (("accounts.d", accounts), ("keys.d", keys)):
        for name in names:
            find_object(files, folder, name)
    found = removal(files, accounts, keys)
    if args.with_dependents:
        return found
    others = [f"key {one} has no other account" for one in found.keys if one not in keys]
    others += [f"{counted(count, 'scenario')} of {file} would fail" for file, count in found.scenarios.items()]
    if others:
        raise Stop("\n".join([f"{'; '.join(others)}", "nothing was deleted (--with-dependents removes these as well)"]))
    return found
