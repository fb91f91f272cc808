"""The daemon's verdict on a change of its tree: what every writing verb waits for, and says last.

Rule: only the daemon that follows this very tree is asked; a verb says that its change runs only when the daemon has
said so. Where none runs here the change is sound and on its way elsewhere: that is no failure.

Theory: the verb names the digest of the tree as it left it (`expect`), so that the verdict is about its own change,
whatever woke the daemon first. If somebody changed the tree in between, the newer tree is asked for. What was taken
out by name is not bound to a digest: it is to be refused whatever becomes of the rest, and the daemon says whether it
is.
"""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs

from relayd.cli.control_client import (
    BUSY,
    EXITS,
    NO_DAEMON,
    OK,
    REJECTED,
    DaemonRefused,
    DaemonSilent,
    NoDaemon,
    add_control_path,
    ask,
    place_and_message,
)
from relayd.cli.output import say
from relayd.config.guard import LEAST_DIGITS
from relayd.config.model.tree_digest import tree_digest
from relayd.config.source.git_state import find_git
from relayd.config.source.tree import read_tree
from relayd.noun import noun

PATIENCE = 30.0  # s; a round waits up to 10 s for a tree to hold still, and may have to wait for the one before it
QUICK = 5.0  # s for an answer that needs no round
TRIES = 3  # trees that somebody else changes meanwhile
SHOWN = 5  # problems


@noun(kw_only=True)
class DaemonVerdict:
    """What became of a change.

    Args:
        result: a reload's result; "no daemon" where none runs on this tree; "unknown" when it does not say.
        lines: for people; the first one says it.
        refused: of what was taken out by name, what the daemon refuses now.
        document: the daemon's whole answer.
    """

    result: str
    code: int
    lines: tuple[str, ...]
    refused: frozenset[str] = frozenset()
    document: dict[str, Any] | None = attrs.field(default=None, repr=False)

    @property
    def asked(self) -> bool:
        """Whether a daemon has answered."""
        return self.document is not None

    def as_json(self) -> dict[str, Any]:
        known = self.document or {}
        fields = ("generation", "digest", "accept", "reasons", "problems", "restart_required")
        refused = {"refused": sorted(self.refused)} if self.refused else {}
        return {
            "result": self.result,
            "exit": self.code,
            **refused,
            **{name: known[name] for name in fields if name in known},
        }


def add_waiting(parser: argparse.ArgumentParser) -> None:
    """`--no-wait` and `--control`, for verbs that write."""
    parser.add_argument("--no-wait", action="store_true", help="do not wait for the verdict of the daemon on this tree")
    add_control_path(parser)


def verdict(args: argparse.Namespace, revoked: Sequence[str] = ()) -> DaemonVerdict | None:
    """Wait for the verdict on the tree as it is now; None with `--no-wait`.

    Args:
        revoked: what was taken out by name, such as "key alice"; the guard does not hold that.
    """
    if args.no_wait:
        return None
    try:
        if not same_directory(ask(args, verb="tree", patience=QUICK)["tree"], args.config):
            return _nobody(args.config)
        return _judged(args, _asked(args, revoked))
    except DaemonRefused as error:
        return _unknown(args, f"the daemon did not understand: {error}", REJECTED)
    except DaemonSilent as error:
        return _unknown(args, str(error), NO_DAEMON)
    except NoDaemon:
        return _nobody(args.config)
    except KeyboardInterrupt:
        return _unknown(args, "interrupted", 130)


def tell(found: DaemonVerdict | None) -> int:
    """Say the verdict, and give its exit code."""
    if found is None:
        return OK
    say("\n".join(found.lines))
    return found.code


def same_directory(theirs: str, ours: Path) -> bool:
    """Whether the daemon's tree is ours, also by another name."""
    try:
        return ours.samefile(theirs)
    except OSError:
        return False


def command(args: argparse.Namespace, words: str) -> str:
    """A command for the same tree and daemon, to be copied."""
    where = "" if args.config.absolute() == Path.cwd() or "RELAYD_CONFIG" in os.environ else str(args.config)
    control = "" if args.control == os.environ.get("RELAYD_CONTROL", "") else args.control
    options = [("--config", where), ("--control", control)]
    return f"relayd {words}" + "".join(f" {name} {shlex.quote(value)}" for name, value in options if value)


def _asked(args: argparse.Namespace, revoked: Sequence[str]) -> dict[str, Any]:
    """The daemon's answer about the tree as it is now."""
    if revoked:
        return ask(args, verb="reload", revoked=list(revoked), patience=PATIENCE)
    for _ in range(TRIES):
        reading = read_tree(args.config)
        digest = tree_digest(reading.files, reading.problems)
        answer = ask(args, verb="reload", expect=digest, patience=PATIENCE)
        if not answer["result"].get("unexpected"):
            break
    return answer


def _judged(args: argparse.Namespace, answer: dict[str, Any]) -> DaemonVerdict:
    result = answer["result"]
    word, generation = result["result"], result["generation"]
    reasons = "; ".join(result["reasons"])
    match word:
        case "applied" | "unchanged":  # unchanged: it was applied when the file changed, before we asked
            what = result.get("brief", "") if args.wrote else ""
            lines = [f"applied: generation {generation}" + (f": {what}" if what else "")]
            lines += [f"needs a restart: {setting}" for setting in result["restart_required"]]
        case "held":
            lines = [f"HELD: {reasons}"]
            if result["accept"]:
                accept = f"reload --accept {result['accept'][:LEAST_DIGITS]}"
                lines.append(f"to apply it: {command(args, accept)}")
        case "rejected":
            lines = [f"REJECTED: {reasons or 'the tree has errors'}; generation {generation} goes on running"]
            lines += _errors(result["problems"])
        case _:
            lines = [f"{word.upper()}: {reasons}; {command(args, 'reload')} asks again"]
    refused = frozenset(answer.get("refused", ()))
    return DaemonVerdict(result=word, code=EXITS.get(word, BUSY), lines=tuple(lines), refused=refused, document=result)


def _errors(problems: Sequence[dict[str, Any]]) -> list[str]:
    errors = [place_and_message(one) for one in problems if one["severity"] == "error"]
    more = len(errors) - SHOWN
    return errors[:SHOWN] + ([f"and {more} more: relayd check"] if more > 0 else [])


def _nobody(tree: Path) -> DaemonVerdict:
    what = "commit and push" if find_git(os.path.realpath(tree)) else "`relayd run` takes it up"
    return DaemonVerdict(result="no daemon", code=OK, lines=(f"no daemon runs here: {what}",))


def _unknown(args: argparse.Namespace, why: str, code: int) -> DaemonVerdict:
    line = f"written, but whether the daemon applies it is unknown: {why}; ask again: {command(args, 'reload')}"
    return DaemonVerdict(result="unknown", code=code, lines=(line,))
