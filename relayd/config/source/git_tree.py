"""Git tree: the files of a config tree straight from a repository's objects, as they are in one commit.

Rule: nothing is checked out, so no filter, hook or attribute of the repository is ever obeyed, and at no moment does
half of a commit lie there. What is not in the commit is a problem: a submodule, a link that leads out.
"""

from __future__ import annotations

import bisect
import itertools
import os
import posixpath
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs

from relayd.config.model.document import classify
from relayd.config.model.tree_digest import tree_digest
from relayd.config.problems.problem import Problem, in_order
from relayd.config.source.git import contents_of, run_git
from relayd.config.source.provenance import Provenance
from relayd.config.source.scan import MAX_FILES
from relayd.config.source.tree import Tree

LINKS = 8  # in a row that are followed

_FILE, _LINK, _SUBMODULE = "100", "120000", "160000"


@attrs.define(eq=False)
class BlobCache:
    """Contents of the last reading, by object name: a commit that changes one file costs one file."""

    blobs: dict[str, bytes] = attrs.field(factory=dict, repr=False)


@attrs.frozen
class GitEntry:
    """One line of `git ls-tree`."""

    mode: str
    blob: str


def read_git_tree(repository: Path, commit: str, folder: str, cache: BlobCache) -> Tree:
    """A tree as it is in a commit. `folder`: where it lies in the repository; "" for the top. Raises: GitError."""
    entries = _entries(repository, f"{commit}:{folder}" if folder else commit)
    links = {path: entry.blob for path, entry in entries.items() if entry.mode == _LINK and _matters(path)}
    targets = dict(zip(links, contents_of(repository, list(links.values())), strict=True))
    places, problems = _places(entries, targets)
    if len(places) > MAX_FILES:
        problems.append(Problem(code="E-TOO-LARGE", file="", message=f"the tree has more than {MAX_FILES} files"))
        places = dict(itertools.islice(places.items(), MAX_FILES))
    names = sorted({entries[place].blob for place in places.values()})
    missing = [name for name in names if name not in cache.blobs]
    known = cache.blobs | dict(zip(missing, contents_of(repository, missing), strict=True))
    cache.blobs = {name: known[name] for name in names}
    files = {path: known[entries[place].blob] for path, place in places.items()}
    return Tree(
        files=files,
        problems=in_order(problems),
        digest=tree_digest(files, problems),
        provenance=Provenance(commit=commit, dirty=(), source="git"),
        signature=commit,
    )


def _entries(repository: Path, treeish: str) -> dict[str, GitEntry]:
    """Everything in a tree of git, by path."""
    listed = run_git(repository, "ls-tree", "-r", "-z", "--full-tree", "--end-of-options", treeish)
    found = {}
    for line in listed.split(b"\0"):
        head, tab, path = line.partition(b"\t")
        if tab:
            mode, _, blob = head.decode().split(" ")
            found[os.fsdecode(path)] = GitEntry(mode, blob)
    return found


def _places(entries: Mapping[str, GitEntry], targets: Mapping[str, bytes]) -> tuple[dict[str, str], list[Problem]]:
    """Which entry has the content of each file of the config tree, and what cannot be had.

    Args:
        targets: what the links say, by the path of the link.
    """
    places = {path: path for path, entry in entries.items() if entry.mode.startswith(_FILE) and _is_read(path)}
    problems, ordered = [], sorted(entries)
    for path, entry in entries.items():
        if len(places) > MAX_FILES:
            break
        if entry.mode == _SUBMODULE and _matters(path):
            problems.append(_unreadable(path, "a submodule, whose files are in another repository"))
        elif path in targets:
            reached = _reached(path, entries, ordered, targets)
            if isinstance(reached, str):
                problems.append(_unreadable(path, reached))
            else:
                places.update(reached)
    return places, problems


def _reached(
    path: str, entries: Mapping[str, GitEntry], ordered: Sequence[str], targets: Mapping[str, bytes]
) -> dict[str, str] | str:
    """What a link leads to: a file, or those of a folder, by the path that the link gives them; else why nowhere.

    Args:
        ordered: the paths of the entries.
    """
    place = path
    for _ in range(LINKS):
        place = posixpath.normpath(posixpath.join(posixpath.dirname(place), os.fsdecode(targets[place])))
        if place.startswith(("/", "../")) or place == "..":
            return "the link leads out of the tree"
        entry = entries.get(place)
        if entry is None:
            first, end = bisect.bisect_left(ordered, f"{place}/"), bisect.bisect_left(ordered, f"{place}0")
            below = [one for one in ordered[first:end] if entries[one].mode.startswith(_FILE)]
            found = {f"{path}{one.removeprefix(place)}": one for one in below}
            return {name: one for name, one in found.items() if _is_read(name)} if found else "the link leads nowhere"
        if entry.mode.startswith(_FILE):
            return {path: place} if _is_read(path) else {}
        if place not in targets:
            return "the link leads nowhere"
    return "the link leads in a circle"


def _is_read(path: str) -> bool:
    return classify(path) != "ignored"


def _matters(path: str) -> bool:
    """Whether a path is a file of the tree, or may hold some."""
    return _is_read(path) or _is_read(f"{path}/x.toml")


def _unreadable(path: str, why: str) -> Problem:
    return Problem(code="E-UNREADABLE", file=path, message=f"the file cannot be read: {why}")
