"""Words of a push: what git tells its hooks, what the pusher asks for, and how the pusher is told.

Rule: the environment and standard input of a hook in, nouns out.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from typing import Any

from relayd.cli.git_place import GitPlace
from relayd.cli.output import print_report
from relayd.noun import noun

ACCEPTED, REFUSED = 0, 1
OPTIONS = ("accept", "dry-run", "overwrite")


class PushRefused(Exception):
    """The push is refused. The text says why and what to do."""


@noun(kw_only=True)
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


@noun
class RefUpdate:
    """A line that git gives a hook: a ref, and where it leads before and after; "" for nowhere."""

    ref: str
    old: str
    new: str


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


def asker(place: GitPlace) -> argparse.Namespace:
    """Who asks the daemon of this tree."""
    return argparse.Namespace(config=place.tree, control=place.control)
