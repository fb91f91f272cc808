"""Mounts: whether a tree lies on a mount that will never show a change.

Rule: pure; the kernel's table as text goes in.

Theory: a bind mount of a file, or of one version of a directory (subPath in Kubernetes), pins what it showed when it
was made. Whoever then replaces the source, as editors, git, git-sync and ConfigMaps do, changes another file. Nothing
fails; the change just never comes.
Source: proc_pid_mountinfo(5); Kubernetes documentation, "Using subPath": such a volume receives no updates.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from relayd.config.problems.problem import Problem

# One version of a ConfigMap or Secret: the directory that its `..data` link leads to.
_VERSION = re.compile(r"/\.\.\d{4}_\d\d_\d\d_")
_OCTAL = re.compile(r"\\([0-7]{3})")
_HINT = "mount the directory above it instead, so that a replaced file or link is seen"


def frozen_mounts(mountinfo: str, tree: Path, is_file: Callable[[Path], bool] = Path.is_file) -> Iterator[Problem]:
    """A warning for each mount, of the tree or inside it, that is pinned.

    Args:
        mountinfo: content of /proc/self/mountinfo.
        tree: the tree's directory, with links resolved.
        is_file: whether a mount point is a file.
    """
    for line in mountinfo.splitlines():
        fields = line.split(" ")
        if len(fields) < 5:
            continue
        source, place = _plain(fields[3]), Path(_plain(fields[4]))
        if place != tree and tree not in place.parents:
            continue
        why = ""
        if source.endswith("//deleted"):
            why = "what it shows was deleted or replaced since"
        elif is_file(place):
            why = "it is a single file, and shows the one that was there when it was mounted"
        elif _VERSION.search(source):
            why = "it shows one version of a ConfigMap or Secret (subPath)"
        if why:
            file = "" if place == tree else str(place.relative_to(tree))
            message = f"{place} is a mount that never changes: {why}"
            yield Problem(code="W-MOUNT-FROZEN", file=file, message=message, hint=_HINT)


def _plain(text: str) -> str:
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), text)
