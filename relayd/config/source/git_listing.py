"""Git listing: which files a config tree has in a commit, read from git's objects without a checkout.

Rule: pure, but for the contents of links, which the caller fetches. No filter, attribute or submodule counts. What
cannot be had is a problem with its place. Those who pull, those who are pushed to and those who look back all see this
one tree.

Theory: a link within the repository is the file that it leads to, also by way of other links (a ConfigMap that somebody
committed). What this node then keeps is that file: on its disk no link leads anywhere.
"""

from __future__ import annotations

import bisect
import itertools
import os
from collections.abc import Callable, Mapping, Sequence

import attrs

from relayd.config.model.document import classify
from relayd.config.problems.problem import Problem, in_order
from relayd.config.source.scan import MANIFEST, MAX_FILES, REVISION
from relayd.noun import noun

LINKS = 16  # in a row that are followed; Linux follows 40
LOOKS = 10 * MAX_FILES  # at entries that links lead to: a few folders of links to one another have billions of paths
_FILE, _LINK, _SUBMODULE = "100", "120000", "160000"

Contents = Callable[[Sequence[str]], list[bytes]]  # of blobs, by their names


@noun(kw_only=True)
class Listing:
    """The files of a tree as they are in a commit.

    Args:
        files: object name by POSIX path; of a link, that of what it leads to.
        problems: what is there and cannot be had.
    """

    commit: str
    files: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    problems: tuple[Problem, ...] = ()


@noun
class GitEntry:
    """One line of `git ls-tree`."""

    mode: str
    blob: str

    @property
    def is_file(self) -> bool:
        return self.mode.startswith(_FILE)


def listing_of(commit: str, listed: bytes, contents: Contents) -> Listing:
    """What `git ls-tree -r -z` says. Raises: what `contents` does."""
    entries = _entries(listed)
    links = {path: entry.blob for path, entry in entries.items() if entry.mode == _LINK}
    targets = dict(zip(links, map(os.fsdecode, contents(list(links.values()))), strict=True))
    places, problems = _Repository(entries, targets).places()
    if len(places) > MAX_FILES:
        problems.append(Problem(code="E-TOO-LARGE", file="", message=f"the tree has more than {MAX_FILES:,} files"))
        places = dict(itertools.islice(places.items(), MAX_FILES))
    files = {path: entries[place].blob for path, place in places.items()}
    return Listing(commit=commit, files=files, problems=in_order(problems))


def is_read(path: str) -> bool:
    """Whether a file at this path is of the tree."""
    return classify(path) != "ignored" and path not in (MANIFEST, REVISION)


def matters(path: str) -> bool:
    """Whether what is at a path is of the tree, or may hold files that are."""
    return is_read(path) or is_read(f"{path}/x.toml")


def _entries(listed: bytes) -> dict[str, GitEntry]:
    """Everything in a tree of git, by path. Source: git-ls-tree(1), "OUTPUT FORMAT"."""
    found = {}
    for line in listed.split(b"\0"):
        head, tab, path = line.partition(b"\t")
        if tab:
            mode, _, blob = head.decode().split(" ")
            found[os.fsdecode(path)] = GitEntry(mode, blob)
    return found


class _Nowhere(Exception):
    """A link cannot be followed. The text says why."""


class _Repository:
    """What a tree of git has. `targets`: what its links say, by the path of the link."""

    def __init__(self, entries: Mapping[str, GitEntry], targets: Mapping[str, str]) -> None:
        self._entries, self._targets, self._ordered = entries, targets, sorted(entries)
        self._looks = 0

    def places(self) -> tuple[dict[str, str], list[Problem]]:
        """Which entry has the content of each file of the config tree, and what cannot be had."""
        found = {path: path for path, entry in self._entries.items() if entry.is_file and is_read(path)}
        problems = []
        for path, entry in self._entries.items():
            if entry.is_file or not matters(path):
                continue
            if len(found) > MAX_FILES:
                break
            if entry.mode == _SUBMODULE:
                problems.append(_submodule(path))
            elif path in self._targets:
                try:
                    found.update(self._reached(path, path))
                except _Nowhere as why:
                    problems.append(Problem(code="E-UNREADABLE", file=path, message=str(why), hint=_COPY))
        return found, problems

    def _reached(self, link: str, path: str, depth: int = 0) -> dict[str, str]:
        """What a link leads to, by the path in the config tree that it has through it. Raises: _Nowhere."""
        if depth > LINKS:
            raise _Nowhere("the links form a loop, or are nested too deeply")
        place = self._end_of(link)
        entry = self._entries.get(place)
        if entry is not None:
            return {path: place} if entry.is_file and is_read(path) else {}
        below = self._below(place)
        if not below:
            raise _Nowhere("the link leads nowhere")
        self._looks += len(below)
        if self._looks > LOOKS:
            raise _Nowhere("the links lead to too many files")
        found: dict[str, str] = {}
        for one in below:
            name = path + one.removeprefix(place)
            if self._entries[one].is_file and is_read(name):
                found[name] = one
            elif one in self._targets and matters(name):
                found.update(self._reached(one, name, depth + 1))
        return found

    def _end_of(self, link: str) -> str:
        """The path without any link in it. Raises: _Nowhere."""
        done: list[str] = []
        todo, followed = link.split("/"), 0
        while todo:
            part = todo.pop(0)
            if part == "..":
                if not done:
                    raise _Nowhere("the link leads out of the tree")
                done.pop()
            elif part not in ("", "."):
                done.append(part)
            target = self._targets.get("/".join(done))
            if target is not None:
                followed += 1
                if target.startswith("/"):
                    raise _Nowhere("the link leads out of the tree")
                if followed > LINKS:
                    raise _Nowhere("the link leads in a circle")
                done.pop()
                todo = [*target.split("/"), *todo]
        return "/".join(done)

    def _below(self, place: str) -> Sequence[str]:
        """The paths in a folder."""
        ordered = self._ordered
        return ordered[bisect.bisect_left(ordered, f"{place}/") : bisect.bisect_left(ordered, f"{place}0")]


_COPY = "copy the file into the tree"


def _submodule(path: str) -> Problem:
    return Problem(
        code="E-UNREADABLE",
        file=path,
        message="this is a submodule, and relayd reads no other repository",
        hint="put its files into the tree",
    )
