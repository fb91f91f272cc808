"""The config tree on the command line: how verbs read it, change it, and ask for what goes into it.

Rule: a verb that cannot do what it was asked raises Stop (or one of the config room's errors), and `guarded` turns that
into one message and exit code 1; no traceback reaches a person. A verb that only looks gets the tree as it was at one
moment, or not at all.
"""

from __future__ import annotations

import argparse
import datetime
import os
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from anyascii import anyascii

from relayd.cli import add_config
from relayd.cli.output import add_json, print_json, say
from relayd.cli.verdict import DaemonVerdict, add_waiting, tell, verdict
from relayd.config.compile import Compiled, compile_tree
from relayd.config.edit.toml_edit import EditError
from relayd.config.edit.write import EditPlan, Files, WriteError, edit_tree
from relayd.config.load import load_tree
from relayd.config.model.values import Bad
from relayd.config.problems.problem import ConfigError, is_error
from relayd.config.secrets.identity import identity_paths, load_identities
from relayd.config.secrets.recipients import SealError
from relayd.config.secrets.seal import Identity
from relayd.config.secrets.sealed_fields import realm_of
from relayd.config.secrets.secret_files import SecretFiles, secret_files
from relayd.config.snapshot import NAME, Snapshot
from relayd.config.source.git import commit_of
from relayd.config.source.git_state import place_in_repository
from relayd.config.source.git_tree import BlobCache, read_git_tree
from relayd.config.source.pushed import Objects
from relayd.config.source.tree import Git, Tree, Unstable, read_coherent, read_tree

Found = TypeVar("Found")
VerbAction = Callable[[argparse.Namespace], int]

FAILED = 1
UNSTABLE = 4  # exit code of verbs that look at a tree which does not hold still
PATIENCE = 10.0  # s to wait for that; a checkout of a large tree takes less than one
# Warnings about a kind of account: whoever adds one is told before the secret is asked for.
SAID_BEFORE = ("W-SESSION-KEY", "W-OAUTH-PERSONAL")


class Stop(Exception):
    """The verb cannot go on; the text says why and what to do."""


def guarded(verb: str, act: VerbAction, args: argparse.Namespace) -> int:
    """Run a verb; expected failures become a message. One that wrote ends with what the daemon makes of it."""
    try:
        return act(args) or tell(outcome(args))
    except ConfigError as error:
        say(f"relayd {verb}: {error}")
    except (Stop, WriteError, EditError, SealError, LookupError, Bad) as error:
        text = error.message() if isinstance(error, Bad) else str(error.args[0] if error.args else error)
        say(f"relayd {verb}: {text}")
    except BrokenPipeError:  # the reader of our output has what it wanted: main() ends quietly
        raise
    except OSError as error:
        say(f"relayd {verb}: {error.filename or ''}: {(error.strerror or 'failed').lower()}")
    return FAILED


# --- arguments ------------------------------------------------------------------------------------------------------


def add_action(
    actions: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    summary: str,
    act: VerbAction,
    *,
    writes: bool = False,
) -> argparse.ArgumentParser:
    """A sub-verb, such as `key new`, with the options that all have."""
    parser = actions.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
    parser.set_defaults(act=act)
    add_config(parser)
    add_json(parser)
    if writes:
        add_force(parser)
    return parser


def add_force(parser: argparse.ArgumentParser) -> None:
    """`--force`, `--no-wait` and `--control`, for verbs that write."""
    parser.add_argument("--force", action="store_true", help="write even if the tree does not compile")
    add_waiting(parser)


def add_directory(parser: argparse.ArgumentParser) -> None:
    """`DIR` or `--config DIR`."""
    parser.add_argument("directory", metavar="DIR", nargs="?", type=Path, help="the config tree, as with --config")
    add_config(parser)


def add_replay(parser: argparse.ArgumentParser) -> None:
    """`--replay FILE`."""
    parser.add_argument(
        "--replay",
        metavar="FILE",
        action="append",
        default=[],
        help='play the calls of a log against the tree (log.format = "json"; also .gz, - for stdin; may be repeated)',
    )


def add_identity(parser: argparse.ArgumentParser) -> None:
    """`--identity FILE`, which `identities` reads."""
    parser.add_argument(
        "--identity",
        metavar="FILE",
        help="identity that opens sealed values, several separated by colons (RELAYD_IDENTITY; default: the realm's "
        "in ~/.config/relayd or /etc/relayd)",
    )


def words(text: str) -> list[str]:
    """ "a, b": a list on the command line. An empty one would mean "all" or "none", which nobody says by accident."""
    found = [part.strip() for part in text.split(",") if part.strip()]
    if not found:
        raise argparse.ArgumentTypeError("expected names separated by commas (leave the option out for its default)")
    return found


def object_id(text: str) -> str:
    """An id from a name for people: "Development Key" is development-key, and 김철수 is gimcheolsu.

    Raises: Stop when nothing is left.
    """
    name = re.sub(r"[^a-z0-9_-]+", "-", anyascii(text).lower()).strip("-_")[:63]
    if not re.fullmatch(NAME, name):
        raise Stop(f"no id can be made from {text!r} (use letters a-z, digits, - and _)")
    return name


def now() -> datetime.datetime:
    """The time, in whole seconds: a command is its own composition root, so it asks the clock here."""
    return datetime.datetime.fromtimestamp(int(time.time()), datetime.UTC)


# --- reading --------------------------------------------------------------------------------------------------------


def compiled(args: argparse.Namespace) -> Snapshot:
    """The tree, compiled. Raises: Stop with the errors."""
    require_tree(args.config)
    return _sound(load_tree(args.config), "the tree")


def compiled_files(files: Files, what: str) -> Snapshot:
    """A tree that does not lie in the directory, compiled. Raises: Stop with the errors."""
    return _sound(compile_tree(files), what)


def _sound(found: Compiled, what: str) -> Snapshot:
    if found.snapshot is None:
        errors = [str(problem) for problem in found.problems if is_error(problem)]
        raise Stop("\n".join([f"{what} does not compile:", *errors]))
    return found.snapshot


def tree_files(args: argparse.Namespace) -> Files:
    """The tree as it is, also when it does not compile. Raises: Stop where there is none."""
    require_tree(args.config)
    return read_tree(args.config).files


def require_tree(root: Path) -> None:
    """Raises: Stop when the directory is not a config tree, so that nobody takes "nothing wrong" for an answer."""
    if not os.path.lexists(root / "relay.toml"):
        raise Stop(f"{root}: not a config tree, there is no relay.toml (--config DIR; relayd init DIR makes one)")


def read_steadily(directory: Path) -> Tree | Unstable:
    """The tree, once nobody is writing it. An unfinished merge or rebase is no hindrance: people check what they merge.

    In a git hook the index is locked by the very commit that waits for us, so locks mean nothing there.
    """
    in_hook = "GIT_INDEX_FILE" in os.environ or "GIT_DIR" in os.environ
    git: Git = "ignore" if in_hook else "locks"
    deadline = time.time() + PATIENCE
    return read_coherent(directory, wall=time.time, sleep=time.sleep, deadline=deadline, git=git)


def at_revision(directory: Path, revision: str) -> tuple[str, dict[str, bytes]]:
    """The commit that a revision names, and the files of the tree in it; none where it has no such folder.

    Raises: GitError.
    """
    commit, folder = commit_of(directory, revision), folder_of(directory).rstrip("/")
    if not Objects(root=directory, folder=folder).has_folder(commit):
        return commit, {}
    return commit, read_git_tree(directory, commit, folder, BlobCache()).files


def folder_of(directory: Path) -> str:
    """Where a tree lies in its repository, "config/" or "": what counts paths from the repository's root needs it."""
    return place_in_repository(os.path.realpath(directory))


def pick(found: Mapping[str, Found], kind: str, name: str) -> Found:
    """The account or key of that id. Raises: LookupError that says which there are."""
    if name not in found:
        there = ", ".join(sorted(found)[:20]) or "none"
        raise LookupError(f"there is no {kind} {name} (known: {there})")
    return found[name]


def identities(args: argparse.Namespace) -> list[Identity]:
    """The identities of `--identity`, the environment or the usual places; maybe none."""
    return load_identities(_identity_paths(args), args.config, os.environ)


def permitted_files(args: argparse.Namespace) -> SecretFiles:
    """Which files with secrets the tree may name on this machine. Raises: SealError."""
    return secret_files(os.environ, kept=_identity_paths(args))


def _identity_paths(args: argparse.Namespace) -> list[Path]:
    return identity_paths(args.identity, os.environ, realm_of(tree_files(args)))


# --- writing --------------------------------------------------------------------------------------------------------


def write(args: argparse.Namespace, plan: EditPlan, **options: Any) -> tuple[str, ...]:
    """Change the tree, and say which files changed."""
    changed = edit_tree(args.config, plan, force=args.force, **options)
    args.wrote = getattr(args, "wrote", False) or bool(changed)
    for path in changed:
        say(f"{'wrote' if (args.config / path).exists() else 'removed'} {args.config / path}")
    if not changed:
        say("nothing to change")
    for problem in load_tree(args.config).problems if changed else ():
        if problem.severity == "warning" and problem.file in changed and problem.code not in SAID_BEFORE:
            say(str(problem))
    return changed


def outcome(args: argparse.Namespace) -> DaemonVerdict | None:
    """The daemon's verdict on what the verb wrote, asked for once; None when it wrote nothing, or does not wait."""
    if "verdict" not in args:
        revoked = getattr(args, "revoked", ())
        args.verdict = verdict(args, revoked) if "wrote" in args else None
    found: DaemonVerdict | None = args.verdict
    return found


def print_written(args: argparse.Namespace, result: Mapping[str, Any]) -> int:
    """What a verb that writes did, as JSON, with the daemon's verdict in it. Returns the exit code 0."""
    if args.json:
        found = outcome(args)
        print_json({**result, "daemon": found.as_json() if found is not None else None})
    return 0


def sound_but_for_seals(files: Files) -> list[str]:
    """The errors of a tree, without those that sealing again repairs: else nobody could add a recipient and reseal."""
    problems = compile_tree(files).problems
    return [str(problem) for problem in problems if is_error(problem) and not problem.code.startswith("E-SEAL-")]
