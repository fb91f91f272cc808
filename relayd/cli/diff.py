"""`relayd diff`: what a change of the tree means. Between commits, or from a commit to the work tree."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import attrs

from relayd.cli.options import add_config, add_json
from relayd.cli.reading import at_revision, read_steadily
from relayd.config.compile import Compiled, compile_tree
from relayd.config.diff import Changes, diff, model_digest
from relayd.config.gitcommand import GitError
from relayd.config.guard import held
from relayd.config.problem import ConfigError, is_error
from relayd.config.snapshot import Snapshot
from relayd.config.tree import Unstable

SAME, ERROR, DIFFERS = 0, 1, 2


class DiffError(Exception):
    """There is nothing to compare. The text says why."""


@attrs.frozen(kw_only=True)
class Side:
    """One of the two trees. `name`: a commit, or "work tree"."""

    name: str
    snapshot: Snapshot


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "revisions",
        metavar="REV or A..B",
        nargs="?",
        default="HEAD",
        help="a commit, compared with the work tree (default: HEAD), or two, compared with each other",
    )
    add_config(parser)
    add_json(parser)
    parser.epilog = "exit status: 0 the two mean the same, 1 error, 2 they differ"


def main(args: argparse.Namespace) -> int:
    try:
        old, new = sides(args.config, args.revisions)
    except (DiffError, GitError, ConfigError) as error:
        print(f"relayd diff: {error}", file=sys.stderr)
        return ERROR
    changes = diff(old.snapshot, new.snapshot)
    reasons = held(old.snapshot, new.snapshot, changes)
    sys.stdout.write(as_json(old, new, changes, reasons) if args.json else as_text(old, new, changes, reasons))
    return SAME if changes.empty else DIFFERS


def sides(directory: Path, revisions: str) -> tuple[Side, Side]:
    """The two trees. Raises: DiffError, GitError, ConfigError."""
    before, dots, after = revisions.partition("..")
    if after.startswith("."):
        raise DiffError(f"{revisions}: A...B has no meaning here (write A..B)")
    old = _at(directory, before or "HEAD")
    return old, _at(directory, after or "HEAD") if dots else _work_tree(directory)


def _at(directory: Path, revision: str) -> Side:
    commit, files = at_revision(directory, revision)
    if not files:
        raise DiffError(f"{revision}: there is no config tree at {directory} in this commit")
    return Side(name=commit, snapshot=_sound(f"{revision}", compile_tree(files)))


def _work_tree(directory: Path) -> Side:
    tree = read_steadily(directory)
    if isinstance(tree, Unstable):
        raise DiffError(f"the tree does not hold still: {tree.reason}")
    return Side(name="work tree", snapshot=_sound("work tree", compile_tree(tree.files, reading=tree.problems)))


def _sound(name: str, compiled: Compiled) -> Snapshot:
    """Raises: DiffError, with the errors."""
    if compiled.snapshot is None:
        errors = "\n".join(f"  {problem}" for problem in compiled.problems if is_error(problem))
        raise DiffError(f"{name} does not compile:\n{errors}")
    return compiled.snapshot


def as_text(old: Side, new: Side, changes: Changes, reasons: tuple[str, ...]) -> str:
    """For people."""
    head = f"{_short(old.name)} -> {_short(new.name)}"
    if changes.empty:
        return f"{head}: the same\n"
    tail = "".join(f"the daemon would hold this: {reason}\n" for reason in reasons)
    return f"{head}\n{changes.as_text()}{tail}"


def as_json(old: Side, new: Side, changes: Changes, reasons: tuple[str, ...]) -> str:
    """For programs."""
    result = {
        "version": 1,
        "old": {"name": old.name, "revision": old.snapshot.revision, "model_digest": model_digest(old.snapshot)},
        "new": {"name": new.name, "revision": new.snapshot.revision, "model_digest": model_digest(new.snapshot)},
        **changes.as_json(),
        "held": list(reasons),
    }
    return json.dumps(result, indent=2) + "\n"


def _short(name: str) -> str:
    return name[:12] if " " not in name else name
