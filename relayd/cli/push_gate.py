"""The gate of a push: what the hooks of `relayd serve-git` do, in the pusher's own terminal.

Rule: pre-receive decides and makes the version, beside the one in place; a refusal leaves the branch, the tree and what
runs as they were. post-receive only lets the link lead to it, asks the daemon, and tells its verdict. What is pushed is
read, never run.

Theory: whoever asks the daemon learns what a change means for what runs; where none answers, the tree in place stands
for that. Everything that can fail (a full disk, above all) fails before the branch has moved.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs

from relayd.cli import push_lock
from relayd.cli.control_client import DaemonRefused, NoDaemon, ask, in_words, place_and_message
from relayd.cli.git_place import GitPlace
from relayd.cli.output import print_report
from relayd.config.problems.problem import printable
from relayd.config.source.git import GitError, quarantine
from relayd.config.source.pushed import Objects
from relayd.config.source.versions import NotALink, Version

ACCEPTED, REFUSED = 0, 1
LOCK = ".push"
OPTIONS = ("accept", "dry-run", "overwrite")
SHOWN = 200  # lines of a plan
NAMED = 8  # paths in one line


class PushRefused(Exception):
    """The push is refused. The text says why and what to do."""


@attrs.frozen(kw_only=True)
class PushOptions:
    """`git push -o relayd.NAME[=VALUE]`.

    Args:
        accept: digest of a tree that the guard holds and that is meant.
        dry_run: show the plan, and refuse.
        overwrite: replace what was changed on the node.
    """

    accept: str = ""
    dry_run: bool = False
    overwrite: bool = False


@attrs.frozen
class RefUpdate:
    """A line that git gives a hook: a ref, and where it leads before and after; "" for nowhere."""

    ref: str
    old: str
    new: str


def run_hook(name: str, place: GitPlace) -> int:
    """One of the hooks. Whatever goes wrong is a line in the pusher's terminal."""
    updates = [update_of(line) for line in sys.stdin.buffer.read().decode("utf-8", "replace").splitlines()]
    try:
        options = push_options(os.environ)
        branch = place.branch()
        live = next((update for update in updates if update.ref == f"refs/heads/{branch}"), None)
        if name == "pre-receive":
            return receive(place, branch, live, updates, options)
        return follow(place, live, options) if live else ACCEPTED
    except (PushRefused, GitError, NotALink, push_lock.PushBusy) as error:
        tell(f"refused: {error}" if name == "pre-receive" else str(error))
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        tell(f"{'refused: ' * (name == 'pre-receive')}{where}{(error.strerror or str(error)).lower()} on the node")
    if name == "pre-receive":
        tell("nothing was changed: the branch, the tree and what runs are as they were")
    return REFUSED


def tell(text: str) -> None:
    """A line for the pusher, at once."""
    print_report(f"relayd: {text}\n")
    sys.stdout.flush()


def update_of(line: str) -> RefUpdate:
    """Source: githooks(5), "pre-receive"."""
    old, new, ref = line.split(" ", 2)
    return RefUpdate(ref, old if old.strip("0") else "", new if new.strip("0") else "")


def push_options(environ: Mapping[str, str]) -> PushOptions:
    """Our options among those of the push. Raises: PushRefused. Source: githooks(5), GIT_PUSH_OPTION_COUNT."""
    found: dict[str, Any] = {}
    count = environ.get("GIT_PUSH_OPTION_COUNT", "")
    for number in range(int(count) if count.isdigit() else 0):
        name, _, value = environ.get(f"GIT_PUSH_OPTION_{number}", "").partition("=")
        if not name.startswith("relayd."):
            continue
        name = name.removeprefix("relayd.")
        if name not in OPTIONS:
            raise PushRefused(f"-o relayd.{name}: there is no such option (known: {', '.join(OPTIONS)})")
        found[name.replace("-", "_")] = value if name == "accept" else True
    return PushOptions(**found)


# --- pre-receive


def receive(
    place: GitPlace, branch: str, live: RefUpdate | None, updates: list[RefUpdate], options: PushOptions
) -> int:
    """Decide about a push. Raises: PushRefused; GitError; OSError."""
    objects = attrs.evolve(place.objects, objects=quarantine(os.environ))
    if live is None:
        return _other_branches(place, branch, updates)
    push_lock.take(place.versions.home / LOCK, tell)
    refuse_other_history(objects, live, branch)
    listing = objects.listing(live.new)
    if listing.problems:
        raise PushRefused("\n".join(["the commit cannot be a tree:", *map(str, listing.problems)]))
    before = version_in_place(place, objects, options)
    staged = place.versions.stage(listing, objects.contents, before)
    try:
        judge(place, staged, options)
    except BaseException:
        place.versions.discard(staged)
        raise
    return ACCEPTED


def _other_branches(place: GitPlace, branch: str, updates: list[RefUpdate]) -> int:
    """A push that does not concern what runs. Raises: PushRefused when it looks as if it were meant to."""
    pushed = next((one.ref.removeprefix("refs/heads/") for one in updates if one.new), "")
    if pushed and not place.objects.commit(f"refs/heads/{branch}"):
        raise PushRefused(
            f"this node runs the branch {branch}, and there is none yet: git push REMOTE {pushed}:{branch} "
            f"(or on the node: relayd serve-git {place.tree} --branch {pushed})"
        )
    tell(f"kept, and nothing changes here: this node runs the branch {branch}")
    return ACCEPTED


def refuse_other_history(objects: Objects, live: RefUpdate, branch: str) -> None:
    """Raises: PushRefused for what is no step forward."""
    if not live.new:
        raise PushRefused(f"the branch {branch} is what this node runs, and cannot be deleted")
    now = attrs.evolve(objects, objects={}).commit(f"refs/heads/{branch}")
    if now != live.old:
        raise PushRefused(f"{branch} has moved to {now[:12]} meanwhile: git pull, and push again")
    if live.old and not objects.follows(live.old, live.new):
        raise PushRefused(
            f"{live.new[:12]} does not follow {live.old[:12]}, which runs here: git pull --rebase, and push again "
            "without force (to undo a change: git revert)"
        )


def version_in_place(place: GitPlace, objects: Objects, options: PushOptions) -> Version | None:
    """What is in place, if it can be compared. Raises: PushRefused when somebody has changed it on the node."""
    commit = place.versions.current()
    if not commit or objects.commit(commit) != commit:
        return None
    version = place.versions.look(objects.listing(commit))
    if version.changed and not options.overwrite:
        names = [printable(path) for path in sorted(version.changed)]
        more = f" and {len(names) - NAMED} more" * (len(names) > NAMED)
        raise PushRefused(
            f"changed on the node since {commit[:12]}: {', '.join(names[:NAMED])}{more}. Bring that into your tree "
            "first, or replace it: git push -o relayd.overwrite ..."
        )
    return version


def judge(place: GitPlace, staged: Path, options: PushOptions) -> None:
    """Show what a version is and does. Raises: PushRefused when it may not come in."""
    result, by_daemon = examined(place, staged, options)
    print_report(plan_in_words(result))
    warned = any(problem["severity"] == "warning" for problem in result["problems"])
    match result["result"]:
        case "rejected":
            errors = sum(problem["severity"] == "error" for problem in result["problems"])
            raise PushRefused(f"{errors} error{'s' * (errors != 1)}")
        case "held":
            raise PushRefused(
                f"HELD: {'; '.join(result['reasons'])}\n"
                f"if it is meant: git push -o relayd.accept={result['accept'][:12]} ..."
            )
        case "busy":
            raise PushRefused(f"the tree could not be read: {'; '.join(result['reasons'])}")
    if warned and place.deny_warnings:
        raise PushRefused("there are warnings, which this node does not let in")
    if options.dry_run:
        raise PushRefused("a dry run, as you asked; without -o relayd.dry-run it would be let in")
    if not by_daemon:
        tell("no daemon answers here: compared with the tree in place")


def plan_in_words(result: Mapping[str, Any]) -> str:
    """Problems and changes."""
    lines = [place_and_message(problem) for problem in result["problems"] if problem["severity"] != "note"]
    lines += result["changes_text"].splitlines()
    if len(lines) > SHOWN:
        lines[SHOWN:] = [f"and {len(lines) - SHOWN} more lines"]
    return "".join(f"{line}\n" for line in lines)


def examined(place: GitPlace, staged: Path, options: PushOptions) -> tuple[dict[str, Any], bool]:
    """What the daemon says of a version, or what can be said without one; and whether it was the daemon."""
    try:
        answer = ask(_asker(place), verb="examine", tree=str(staged), accept=options.accept)
    except (NoDaemon, DaemonRefused):
        from relayd.cli.push_alone import examine_alone

        return examine_alone(place, staged, options.accept), False
    return dict(answer["result"]), True


def _asker(place: GitPlace) -> argparse.Namespace:
    return argparse.Namespace(config=place.tree, control=place.control)


# --- post-receive


def follow(place: GitPlace, live: RefUpdate, options: PushOptions) -> int:
    """Put the version in place, and tell what the daemon makes of it. Raises: OSError; NotALink."""
    try:
        place.versions.put_in_place(live.new)
    except OSError as error:
        tell(f"{error.strerror}: {live.new[:12]} is in the repository, and the old tree is still in place")
        tell(f"once that is mended, on the node: relayd serve-git {place.tree} --bare {place.bare}")
        return REFUSED
    for line in verdict(place, live.new, options):
        tell(line)
    place.versions.prune()
    return ACCEPTED


def verdict(place: GitPlace, commit: str, options: PushOptions) -> Iterator[str]:
    """What the daemon made of the tree in place."""
    try:
        result = ask(_asker(place), verb="reload", expect=commit, accept=options.accept)["result"]
    except NoDaemon as error:
        yield f"the tree is in place at {commit[:12]}; no daemon answers, so nothing runs it yet"
        yield str(error)
        return
    except DaemonRefused as error:
        yield f"the tree is in place at {commit[:12]}, but the daemon does not talk to us: {error}"
        return
    changes = (result["changes"] or {}).get("changes", [])
    if result["result"] == "applied":
        yield f"applied generation {result['generation']}: {changes_in_words(changes)}"
    elif result["result"] == "unchanged":
        yield f"unchanged: generation {result['generation']} runs on, it means the same"
    else:
        yield from in_words({**result, "changes_text": ""}).splitlines()
    yield from (f"needs a restart: {one}" for one in result["restart_required"] if result["result"] == "applied")


_DONE = {"add": "added", "change": "changed", "remove": "removed"}


def changes_in_words(changes: list[dict[str, Any]]) -> str:
    """`key alice added, account main changed`."""
    words = [f"{one['kind']} {one['id']}".strip() + f" {_DONE[one['action']]}" for one in changes[:NAMED]]
    more = [f"and {len(changes) - NAMED} more"] * (len(changes) > NAMED)
    return ", ".join([*words, *more]) or "nothing that acts"
