"""The gate of a push, its pre-receive hook: whether a commit may come in, said in the pusher's own terminal.

Rule: decides, and makes the version beside the one in place; a refusal leaves the branch, the tree and what runs as
they were. What is pushed is read, never run.

Theory: whoever asks the daemon learns what a change means for what runs; where none answers, the tree in place stands
for that. Everything that can fail (a full disk, above all) fails before the branch has moved.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import attrs

from relayd.cli import push_lock
from relayd.cli.control_client import DaemonRefused, NoDaemon, ask, place_and_message
from relayd.cli.git_place import GitPlace
from relayd.cli.output import print_report
from relayd.cli.push_words import NAMED, PushOptions, PushRefused, RefUpdate, asker, tell
from relayd.config.problems.problem import printable
from relayd.config.source.git import quarantine
from relayd.config.source.pushed import Objects
from relayd.config.source.versions import Version, compared, stage

LOCK = ".push"
SHOWN = 200  # lines of a plan


def receive(place: GitPlace, updates: list[RefUpdate], options: PushOptions) -> None:
    """Decide about a push. Raises: PushRefused, unless it may come in; NotALink; GitError; OSError."""
    branch, objects = place.branch(), objects_of(place, quarantine(os.environ))
    live = next((update for update in updates if update.ref == f"refs/heads/{branch}"), None)
    if live is None:
        _tell_of_other_branches(place, branch, updates)
        return
    push_lock.take(place.versions.home / LOCK, tell)
    refuse_other_history(objects, live, branch)
    listing = objects.listing(live.new)
    if listing.problems:
        raise PushRefused("\n".join(["the commit cannot be a tree:", *map(str, listing.problems)]))
    before = version_in_place(place, objects, options)
    staged = stage(place.versions, listing, objects.contents, before)
    try:
        judge(place, staged, options)
    except BaseException:
        place.versions.discard(staged)
        raise


def objects_of(place: GitPlace, objects: Mapping[str, str] = MappingProxyType({})) -> Objects:
    """What is in the repository, and in the quarantine of a push."""
    return Objects(root=place.bare, folder=place.folder, objects=objects)


def _tell_of_other_branches(place: GitPlace, branch: str, updates: list[RefUpdate]) -> None:
    """A push that does not concern what runs. Raises: PushRefused when it looks as if it were meant to."""
    pushed = next((one.ref.removeprefix("refs/heads/") for one in updates if one.new), "")
    if pushed and not objects_of(place).commit(f"refs/heads/{branch}"):
        raise PushRefused(
            f"this node runs the branch {branch}, and there is none yet: git push REMOTE {pushed}:{branch} "
            f"(or on the node: relayd serve-git {place.tree} --branch {pushed})"
        )
    tell(f"kept, and nothing changes here: this node runs the branch {branch}")


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
    version = compared(place.versions, objects.listing(commit))
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
    result, alone = examined(place, staged, options)
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
    if alone:
        tell(f"{alone}: compared with the tree in place" if result["changes"] else alone)


def plan_in_words(result: Mapping[str, Any]) -> str:
    """Problems and changes."""
    lines = [place_and_message(problem) for problem in result["problems"] if problem["severity"] != "note"]
    lines += result["changes_text"].splitlines()
    if len(lines) > SHOWN:
        lines[SHOWN:] = [f"and {len(lines) - SHOWN} more lines"]
    return "".join(f"{line}\n" for line in lines)


def examined(place: GitPlace, staged: Path, options: PushOptions) -> tuple[dict[str, Any], str]:
    """What the daemon says of a version, or what can be said without one; and why it was not the daemon."""
    try:
        answer = ask(asker(place), verb="examine", tree=str(staged), accept=options.accept)
    except NoDaemon:
        alone = "no daemon answers here"
    except DaemonRefused as error:
        alone = f"the daemon here does not judge it ({error})"
    else:
        return dict(answer["result"]), ""
    from relayd.cli.push_alone import examine_alone

    return examine_alone(place, staged, options.accept), alone
