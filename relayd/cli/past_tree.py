"""Past trees on the command line: the tree that a revision names, and the one that a node has pulled.

Rule: looks where a node of this directory keeps its own, and where the shipped unit does; what is another user's is not
seen.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from pathlib import Path

from relayd.cli.tree import Stop, compiled, compiled_files, folder_of
from relayd.config.snapshot import Snapshot
from relayd.config.source.past import SEARCHED, TAKEN, TreeRepository, find_past, pulled_places
from relayd.daemon.paths import SYSTEM_STATE, own_directory, state_directory, state_url_of


def snapshot_at(args: argparse.Namespace, revision: str) -> tuple[Snapshot, str]:
    """The config of a revision, and where it was found. Raises: Stop."""
    here = TreeRepository(repository=args.config, folder=folder_of(args.config).rstrip("/"))
    places = [here, *pulled_places(place / "source" for place in _own(args))]
    past = find_past(revision, places, [place / "generations" for place in _own(args)])
    if past is None:
        looked = f"git's names, the stored generations and the last {SEARCHED} commits"
        raise Stop(f"{revision}: no tree of that revision is known here (looked through {looked})")
    return compiled_files(past.tree.files, f"{past.found}: the tree"), f"{past.found}, revision {past.revision}"


def snapshot_here(args: argparse.Namespace) -> Snapshot:
    """The tree in the directory; where there is none, and a node has pulled one, that. Raises: Stop."""
    if not os.path.lexists(args.config / "relay.toml"):
        for place in pulled_places(place / "source" for place in _own(args)):
            past = find_past(TAKEN, [place], [])
            if past is not None:
                return compiled_files(past.tree.files, f"{past.found}: the tree")
    return compiled(args)


def _own(args: argparse.Namespace) -> Iterator[Path]:
    """Where a node of this directory may keep what is its own."""
    own = own_directory(os.environ)
    urls = (getattr(args, "state", ""), os.environ.get("RELAYD_STATE_URL", ""), state_url_of(args.config))
    places = [state_directory(url, args.config, own) for url in urls]
    places += [args.config / "var", SYSTEM_STATE]
    yield from dict.fromkeys(places)
