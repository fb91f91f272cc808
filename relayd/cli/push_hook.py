"""A hook of `relayd serve-git`: `python -m relayd.cli.push_hook NAME TREE BARE ...`, as git starts it.

Rule: whatever goes wrong is a line in the pusher's terminal. Each hook imports what it needs and no more, because a
person waits for it.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from relayd.cli.git_place import GitPlace
from relayd.cli.push_words import ACCEPTED, REFUSED, PushRefused, push_options, tell, update_of
from relayd.config.source.version_link import NotALink


def main() -> int:
    os.umask(0o022)  # the daemon may be another user, and no secret is here in clear
    parser = argparse.ArgumentParser()
    parser.add_argument("hook")
    parser.add_argument("tree", type=Path)
    parser.add_argument("bare", type=Path)
    parser.add_argument("--folder", default="")
    parser.add_argument("--control", default="")
    parser.add_argument("--deny-warnings", action="store_true")
    words = vars(parser.parse_args())
    return run_hook(words.pop("hook"), GitPlace(**words))


def run_hook(name: str, place: GitPlace) -> int:
    """Do what one of the hooks has to do."""
    receiving = name == "pre-receive"
    try:
        return _receive(place) if receiving else _follow(place)
    except (PushRefused, NotALink) as error:
        tell(f"refused: {error}" if receiving else str(error))
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        tell(f"{'refused: ' * receiving}{where}{(error.strerror or str(error)).lower()} (on the node)")
    if receiving:
        tell("nothing was changed: the branch, the tree and what runs are as they were")
    return REFUSED


def _receive(place: GitPlace) -> int:
    from relayd.cli.push_gate import receive
    from relayd.config.source.git import GitError

    updates = [update_of(line) for line in sys.stdin.read().splitlines()]
    try:
        receive(place, updates, push_options(os.environ))
    except GitError as error:
        raise PushRefused(str(error)) from None
    return ACCEPTED


def _follow(place: GitPlace) -> int:
    from relayd.cli.push_follow import follow

    updates = [update_of(line) for line in sys.stdin.read().splitlines()]
    live = next((one for one in updates if one.ref == f"refs/heads/{place.branch()}"), None)
    return follow(place, live, push_options(os.environ)) if live else ACCEPTED


if __name__ == "__main__":
    sys.exit(main())
