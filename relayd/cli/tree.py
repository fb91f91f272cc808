"""What the verbs that read and write a tree have in common.

Rule: results on stdout, talk on stderr. A verb that cannot do what it was asked raises Stop (or one of the config
room's errors), and `guarded` turns that into one message and exit code 1; no traceback reaches a person.
"""

from __future__ import annotations

import argparse
import datetime
import getpass
import json
import os
import re
import sys
import time
import unicodedata
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from relayd.cli.options import add_config, add_json
from relayd.config.compile import compile_tree
from relayd.config.edit.toml_edit import EditError
from relayd.config.edit.write import EditPlan, Files, WriteError, edit_tree
from relayd.config.load import load_tree
from relayd.config.model.values import Bad, seconds
from relayd.config.problems.problem import ConfigError, is_error
from relayd.config.secrets.identity import identity_paths, load_identities
from relayd.config.secrets.recipients import SealError
from relayd.config.secrets.seal import Identity
from relayd.config.secrets.sealed_fields import objects, realm_of
from relayd.config.secrets.secret import Secret
from relayd.config.snapshot import NAME, Snapshot
from relayd.config.source.tree import read_tree

FAILED = 1


class Stop(Exception):
    """The verb cannot go on; the text says why and what to do."""


def guarded(verb: str, act: Callable[[argparse.Namespace], int], args: argparse.Namespace) -> int:
    """Run a verb; expected failures become a message."""
    try:
        return act(args)
    except (Stop, WriteError, EditError, SealError, ConfigError, LookupError, Bad) as error:
        text = error.message() if isinstance(error, Bad) else str(error.args[0] if error.args else error)
        if isinstance(error, ConfigError):
            text = str(error)
        say(f"relayd {verb}: {text}")
    except BrokenPipeError:  # the reader of our output has what it wanted: main() ends quietly
        raise
    except OSError as error:
        say(f"relayd {verb}: {error.filename or ''}: {(error.strerror or 'failed').lower()}")
    return FAILED


def say(text: str) -> None:
    """Talk: to stderr."""
    print(text, file=sys.stderr)


def add_action(
    actions: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    summary: str,
    act: Callable[[argparse.Namespace], int],
    *,
    as_json: bool = True,
    writes: bool = False,
) -> argparse.ArgumentParser:
    """A sub-verb, such as `key new`, with the options that all have."""
    parser = actions.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
    parser.set_defaults(act=act)
    add_config(parser)
    if as_json:
        add_json(parser)
    if writes:
        parser.add_argument("--force", action="store_true", help="write even if the tree does not compile")
    return parser


def now() -> datetime.datetime:
    """The time, in whole seconds: a command is its own composition root, so it asks the clock here."""
    return datetime.datetime.fromtimestamp(int(time.time()), datetime.UTC)


def compiled(args: argparse.Namespace) -> Snapshot:
    """The tree, compiled. Raises: Stop with the errors."""
    require_tree(args.config)
    found = load_tree(args.config)
    if found.snapshot is None:
        errors = [str(problem) for problem in found.problems if is_error(problem)]
        raise Stop("\n".join(["the tree does not compile:", *errors]))
    return found.snapshot


def tree_files(args: argparse.Namespace) -> Files:
    """The tree as it is, also when it does not compile. Raises: Stop where there is none."""
    require_tree(args.config)
    return read_tree(args.config).files


def require_tree(root: Path) -> None:
    """Raises: Stop when the directory is no config tree, so that nobody takes "nothing wrong" for an answer."""
    if not os.path.lexists(root / "relay.toml"):
        raise Stop(f"{root}: no relay.toml there, so it is no config tree (--config DIR; relayd init DIR makes one)")


def sound_but_for_seals(files: Files) -> list[str]:
    """The errors of a tree, without those that sealing again repairs: else nobody could add a recipient and reseal."""
    problems = compile_tree(files).problems
    return [str(problem) for problem in problems if is_error(problem) and not problem.code.startswith("E-SEAL-")]


def write(args: argparse.Namespace, plan: EditPlan, **options: Any) -> tuple[str, ...]:
    """Change the tree, and say which files changed."""
    changed = edit_tree(args.config, plan, force=args.force, **options)
    for path in changed:
        say(f"{'wrote' if (args.config / path).exists() else 'removed'} {args.config / path}")
    if not changed:
        say("nothing to change")
    for problem in load_tree(args.config).problems if changed else ():
        if problem.severity == "warning" and problem.file in changed and problem.code not in _SAID_BEFORE:
            say(str(problem))
    return changed


# About a kind of account; who adds one is told before the secret is asked for.
_SAID_BEFORE = ("W-SESSION-KEY", "W-OAUTH-PERSONAL")


def edit_object(folder: str, name: str, edit: Callable[[str], str]) -> EditPlan:
    """A plan that edits the file of one account or key. Raises, when it runs: LookupError."""

    def plan(files: Files) -> Mapping[str, bytes | None]:
        path = find_object(files, folder, name)
        return {path: edit(files[path].decode()).encode()}

    return plan


def find_object(files: Files, folder: str, name: str) -> str:
    """The file of an account or key. Raises: LookupError that says what there is."""
    found = {identity: file for file, identity, _ in objects(files, folder)}
    if name not in found:
        kind = {"accounts.d": "account", "keys.d": "key"}[folder]
        have = ", ".join(sorted(found)[:20]) or "none"
        raise LookupError(f"there is no {kind} {name} (there is: {have})")
    return found[name]


def refuse_taken(files: Files, folder: str, name: str) -> None:
    """Raises: Stop when an object of that id exists, in whatever sub-directory."""
    for file, identity, _ in objects(files, folder):
        if identity == name:
            raise Stop(f"{file} exists already (choose another name)")


def object_id(text: str) -> str:
    """An id from a name for people: "Development Key" is development-key. Raises: Stop when nothing is left."""
    name = re.sub(r"[^a-z0-9_-]+", "-", text.lower()).strip("-_")[:63]
    if not re.fullmatch(NAME, name):
        raise Stop(f"no id can be made from {text!r} (use letters a-z, digits, - and _)")
    return name


def identities(args: argparse.Namespace) -> list[Identity]:
    """The identities of `--identity`, the environment or the usual places; maybe none."""
    paths = identity_paths(args.identity, os.environ, realm_of(tree_files(args)))
    return load_identities(paths, args.config, os.environ)


def add_identity(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--identity",
        metavar="FILE",
        help="identity that opens sealed values, several separated by colons (RELAYD_IDENTITY; default: the realm's "
        "in ~/.config/relayd or /etc/relayd)",
    )


def read_secret(what: str) -> Secret:
    """A secret from stdin, without one line break at its end; on a terminal it is asked for and not shown.

    Raises: Stop.
    """
    if sys.stdin.isatty():
        try:
            return Secret(getpass.getpass(f"{what} (not shown): ", stream=sys.stderr))
        except EOFError:
            raise Stop("nothing was entered; nothing was written") from None
    return Secret(_all_of_stdin().removesuffix("\n").removesuffix("\r"))


def _all_of_stdin() -> str:
    """Raises: Stop for what is no UTF-8; the error of the decoder would quote it."""
    raw = getattr(sys.stdin, "buffer", None)
    if raw is None:  # a text stream in its place
        return sys.stdin.read()
    try:
        return str(raw.read().decode())
    except UnicodeDecodeError:
        raise Stop("stdin is not UTF-8 text; nothing was written") from None


def read_new_secret(what: str) -> Secret:
    """A secret that a person makes up: on a terminal it is asked for twice. Raises: Stop when the two differ."""
    first = read_secret(what)
    if sys.stdin.isatty() and read_secret(f"{what}, once more") != first:
        raise Stop("the two differ; nothing was made")
    return first


def confirmed(question: str, args: argparse.Namespace) -> bool:
    """Ask when a person is there to answer; without a terminal the command itself is the answer."""
    if args.yes or not sys.stdin.isatty():
        return True
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def expiry(text: str, start: datetime.datetime) -> datetime.datetime:
    """A duration from `start` ("90d"), or a date or a time with an offset, in the future. Raises: Stop."""
    found = _expiry(text, start)
    if found <= start:
        raise Stop(f"--expires {text}: {moment(found)} is in the past")
    return found


def _expiry(text: str, start: datetime.datetime) -> datetime.datetime:
    try:
        return start + datetime.timedelta(seconds=seconds(text))
    except Bad:
        pass
    try:
        found = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise Stop(f"{text!r} is no duration (90d), date (2027-11-22) or time (2027-11-22T00:00:00Z)") from None
    return found if found.tzinfo else found.replace(tzinfo=datetime.UTC)


def words(text: str) -> list[str]:
    """ "a, b": a list on the command line. An empty one would mean "all" or "none", which nobody says by accident."""
    found = [part.strip() for part in text.split(",") if part.strip()]
    if not found:
        raise argparse.ArgumentTypeError("expected names, separated by commas (left out, the option has its default)")
    return found


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False, default=_plain))


def print_table(head: Sequence[str], rows: Iterable[Sequence[str]], *, figures: Collection[str] = ()) -> None:
    """Columns padded to their longest entry; nothing but the head when there are no rows.

    Args:
        figures: heads of the columns that hold numbers, which stand at the right.
    """
    lines = [list(head), *([_visible(cell) for cell in row] for row in rows)]
    widths = [max(_width(line[column]) for line in lines) for column in range(len(head))]
    right = [name in figures for name in head]
    for line in lines:
        padded = [
            " " * (width - _width(cell)) + cell if at_right else cell + " " * (width - _width(cell))
            for cell, width, at_right in zip(line, widths, right, strict=True)
        ]
        print("  ".join(padded).rstrip())


def _width(text: str) -> int:
    """Columns that a text takes on a terminal."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(c) else 1 + (unicodedata.east_asian_width(c) in "WF") for c in text)


def moment(when: datetime.datetime | None) -> str:
    """A time for people and scripts; "" for none."""
    return "" if when is None else when.isoformat(timespec="seconds").replace("+00:00", "Z")


def _visible(cell: str) -> str:
    """No control character of a name reaches the terminal."""
    return "".join(char if char.isprintable() else "?" for char in cell) or "-"


def _plain(value: object) -> Any:
    if isinstance(value, datetime.datetime):
        return moment(value)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"no JSON for {type(value).__name__}")
