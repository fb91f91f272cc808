"""After a push, its post-receive hook: the version is put in place, and the daemon's verdict is printed.

Rule: nothing is decided here any more. What fails leaves the old tree in place, and says how to go on.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from relayd.cli.control_client import DaemonRefused, NoDaemon, NotForUs, ask, in_words
from relayd.cli.git_place import GitPlace
from relayd.cli.push_words import ACCEPTED, NAMED, REFUSED, PushOptions, RefUpdate, asker, tell


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
    place.versions.note(live.new)
    place.versions.prune()
    return ACCEPTED


def verdict(place: GitPlace, commit: str, options: PushOptions) -> Iterator[str]:
    """What the daemon made of the tree in place."""
    try:
        result = ask(asker(place), verb="reload", expect=commit, accept=options.accept)["result"]
    except NotForUs as error:
        yield f"the tree is in place at {commit[:12]}; a daemon takes it by itself, but its verdict is not to be had:"
        yield f"{error}, or RELAYD_CONTROL_GROUP"
        return
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
