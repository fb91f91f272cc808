"""`relayd diff`: what a change of the tree means: of the tree on disk to what runs, to a commit, or between commits.

Rule: offline, except without a revision, when the daemon of this tree is asked. Only it knows what it runs: a setting
that waits for a restart, or what deny.toml has refused meanwhile, is in no file. Where no daemon answers, the last
commit stands for it, and that is said.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from relayd.cli.control_client import DaemonRefused, NoDaemon, add_control, ask, place_and_message, tree_in_words
from relayd.cli.output import print_json, say
from relayd.cli.tree import at_revision, read_steadily
from relayd.cli.verdict import same_directory
from relayd.config.changes import Changes
from relayd.config.compile import Compiled, compile_tree
from relayd.config.diff import diff, model_digest
from relayd.config.guard import held
from relayd.config.problems.problem import ConfigError, is_error
from relayd.config.snapshot import Snapshot
from relayd.config.source.git import GitError
from relayd.config.source.tree import Unstable
from relayd.noun import noun

SAME, ERROR, DIFFERS = 0, 1, 2


class DiffError(Exception):
    """There is nothing to compare. The text says why."""


@noun(kw_only=True)
class Side:
    """One of the two trees. `name`: a commit, or "work tree"."""

    name: str
    snapshot: Snapshot


class NotRunning(Exception):
    """What runs is not known. The text says why."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "revisions",
        metavar="REV, A..B or A B",
        nargs="*",
        default=[],
        help="a commit to compare with the work tree, or two to compare with each other;"
        " default: compare what the daemon runs with the tree on disk",
    )
    parser.add_argument("--base", metavar="REV", help="compare that commit with the work tree, as `check --base` does")
    parser.add_argument("--full", action="store_true", help="show each object, also where many changed in one way")
    parser.add_argument(
        "--running", action="store_true", help="insist on what the daemon runs: it is an error when no daemon answers"
    )
    add_control(parser)
    parser.epilog = "exit status: 0 the two mean the same, 1 error, 2 they differ"


def main(args: argparse.Namespace) -> int:
    try:
        revisions = _revisions(args)
        if not revisions:
            try:
                return _from_running(args)
            except NotRunning as error:
                if args.running:
                    raise DiffError(str(error)) from None
                say(f"relayd diff: {error}: comparing the last commit with the work tree instead")
        old, new = sides(args.config, *(revisions or ("HEAD", None)))
    except (DiffError, GitError, ConfigError) as error:
        say(f"relayd diff: {error}")
        return ERROR
    changes = diff(old.snapshot, new.snapshot)
    reasons = held(old.snapshot, new.snapshot, changes)
    if args.json:
        print_json(as_json(old, new, changes, reasons))
    else:
        sys.stdout.write(as_text(old, new, changes, reasons, full=args.full))
    return SAME if changes.empty else DIFFERS


def _revisions(args: argparse.Namespace) -> tuple[str, str | None] | None:
    """The two sides, None for the work tree; None for what runs. Raises: DiffError."""
    named = [*args.revisions, *([args.base] if args.base is not None else [])]
    if named and args.running:
        raise DiffError("--running takes no revision")
    if len(named) > 2 or (args.base is not None and len(named) > 1):
        raise DiffError(f"too many revisions: {' '.join(named)} (REV, A..B, A B, or --base REV)")
    if not named:
        return None
    before, dots, after = named[0].partition("..")
    if after.startswith("."):
        raise DiffError(f"{named[0]}: A...B has no meaning here (write A..B)")
    if dots and len(named) > 1:
        raise DiffError(f"too many revisions: {' '.join(named)} (A..B or A B)")
    if len(named) == 2:
        return named[0], named[1]
    return before or "HEAD", (after or "HEAD") if dots else None


# --- from what runs


def _from_running(args: argparse.Namespace) -> int:
    """Raises: NotRunning; DiffError when the tree on disk cannot be compared."""
    try:
        answer = ask(args, verb="diff")["diff"]
    except (NoDaemon, DaemonRefused) as error:
        raise NotRunning(str(error).partition(" [")[0]) from None
    pulls = answer["tree"].startswith("git+") and not os.path.lexists(args.config / "relay.toml")
    if not pulls and not same_directory(answer["tree"], args.config):
        raise NotRunning(
            f"the daemon that answers follows another tree, {answer['tree']}, not {args.config.absolute()}"
        )
    found = answer["candidate"]
    if found["changes"] is None:
        errors = [place_and_message(one) for one in found["problems"] if one["severity"] == "error"]
        reasons = "\n".join(f"  {line}" for line in (*errors, *found["reasons"]))
        raise DiffError(f"the tree on disk is {found['result']}, so it cannot be compared:\n{reasons}")
    if args.json:
        print_json(running_as_json(answer))
    else:
        sys.stdout.write(running_as_text(answer, full=args.full))
    return SAME if found["changes"]["empty"] else DIFFERS


def running_as_text(answer: dict[str, Any], *, full: bool = False) -> str:
    """For people."""
    running, found = answer["running"], answer["candidate"]
    head = f"running generation {running['generation']}, {tree_in_words(running)} -> disk, {tree_in_words(found)}"
    if found["changes"]["empty"]:
        same = "the same" if running["digest"] == found["digest"] else "the same meaning in other words"
        return f"{head}: {same}\n"
    tail = "".join(f"the daemon holds this: {reason}\n" for reason in found["reasons"])
    return f"{head}\n{Changes.from_json(found['changes']).as_text(full=full)}{tail}"


def running_as_json(answer: dict[str, Any]) -> dict[str, Any]:
    """For programs: the same fields as between commits, and more of each side."""
    running, found = answer["running"], answer["candidate"]
    sides = {
        "old": {"name": "running", "generation": running["generation"], **_side(running)},
        "new": {"name": "disk", **_side(found)},
    }
    return {"version": 1, **sides, **found["changes"], "held": found["reasons"]}


def _side(one: dict[str, Any]) -> dict[str, Any]:
    return {name: one[name] for name in ("revision", "model_digest", "digest", "commit", "dirty")}


# --- from commits


def sides(directory: Path, before: str, after: str | None) -> tuple[Side, Side]:
    """The two trees; None is the work tree. Raises: DiffError, GitError, ConfigError."""
    old = _at(directory, before)
    return old, _work_tree(directory) if after is None else _at(directory, after)


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


def as_text(old: Side, new: Side, changes: Changes, reasons: tuple[str, ...], *, full: bool = False) -> str:
    """For people."""
    head = f"{_short(old.name)} -> {_short(new.name)}"
    if changes.empty:
        return f"{head}: the same\n"
    tail = "".join(f"the daemon would hold this: {reason}\n" for reason in reasons)
    return f"{head}\n{changes.as_text(full=full)}{tail}"


def as_json(old: Side, new: Side, changes: Changes, reasons: tuple[str, ...]) -> dict[str, Any]:
    """For programs."""
    return {
        "version": 1,
        "old": {"name": old.name, "revision": old.snapshot.revision, "model_digest": model_digest(old.snapshot)},
        "new": {"name": new.name, "revision": new.snapshot.revision, "model_digest": model_digest(new.snapshot)},
        **changes.as_json(),
        "held": list(reasons),
    }


def _short(name: str) -> str:
    return name[:12] if " " not in name else name
