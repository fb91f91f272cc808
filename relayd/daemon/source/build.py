"""Source, made: the parts with which a node pulls its tree.

Rule: nothing runs yet. The clock and the random generator come from the composition root.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from pathlib import Path

from relayd.daemon.source.git_child import GitChild, read_token
from relayd.daemon.source.keeper import SourceKeeper, SourceRecord
from relayd.daemon.source.mirror import Mirror
from relayd.daemon.source.reader import MirrorReader
from relayd.daemon.source.settings import SourceSettings


def build_source(
    settings: SourceSettings,
    environ: Mapping[str, str],
    tree: Path,
    wall: Callable[[], float],
    rng: random.Random,
) -> tuple[SourceKeeper, MirrorReader]:
    """Who pulls, and who reads what was pulled; the mirror is this process's from now on.

    Raises: OSError; ValueError when another process has the mirror, or the key is not a token.
    """
    mirror = Mirror(git=GitChild(settings=settings, environ=environ, token=read_token(settings)))
    mirror.open()
    record = SourceRecord(since=wall())
    keeper = SourceKeeper(settings=settings, mirror=mirror, record=record, wall=wall, rng=rng)
    return keeper, MirrorReader(tree=tree, settings=settings, wall=wall, why_absent=lambda: record.why_absent)
