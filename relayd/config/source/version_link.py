"""Version link: commits of a tree that were put in place, each whole in its own directory, and the link to one.

Rule: what the link leads to is never written to; a version counts from the moment when the link is replaced. So a
reader sees one commit or another and nothing in between, and a full disk, a crash or a power cut leaves what was there.
A version whose REVISION is missing was not finished.

Layout: `relay -> relay.trees/COMMIT`; `relay.trees/COMMIT/` with the tree and REVISION, the file that is written last;
`relay.trees/var`, to which `var` in each version leads, because a daemon keeps its state in the tree where nobody says
otherwise; `relay.trees/COMMIT.looks`, what the version looked like when it came into its place.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

from relayd.config.atomic import sync_directory
from relayd.noun import noun

REVISION = "REVISION"
KEEP = 3  # versions, the one in place among them: enough to look at what was
COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
UNFINISHED, NOTES = ".new-", ".looks"

Looks = dict[str, list[int]]  # inode, size (bytes), mtime (ns), by path


class NotALink(Exception):
    """Something lies where the link should be. The text says what, and what to do."""


@noun(kw_only=True)
class VersionLink:
    """The versions of one tree. `link`: what the daemon reads, an absolute path."""

    link: Path

    @property
    def home(self) -> Path:
        """Where they lie."""
        return self.link.with_name(f"{self.link.name}.trees")

    def place(self, commit: str) -> Path:
        """The directory of a version."""
        return self.home / commit

    def current(self) -> str:
        """The commit in place; "" for none. Raises: NotALink."""
        if not self.link.is_symlink():
            if os.path.lexists(self.link):
                hint = "move it away; the tree appears here with the first push"
                raise NotALink(f"{self.link} is there already, and is not a link to a version of the tree ({hint})")
            return ""
        target = Path(os.path.normpath(self.link.parent / os.readlink(self.link)))
        if target.parent != self.home or not COMMIT.fullmatch(target.name):
            raise NotALink(f"{self.link} is a link to {target}, which is not one of {self.home}")
        return target.name if (target / REVISION).is_file() else ""

    def put_in_place(self, commit: str) -> None:
        """Let the link lead to a version, in one step. Raises: OSError; NotALink."""
        self.current()
        fresh = self.link.with_name(f".{self.link.name}.new")
        fresh.unlink(missing_ok=True)
        os.symlink(f"{self.home.name}/{commit}", fresh)
        try:
            os.replace(fresh, self.link)
        except BaseException:
            fresh.unlink(missing_ok=True)
            raise
        sync_directory(self.link.parent)

    def discard(self, directory: Path) -> None:
        """Take a version away, or what there is of it; never the one in place."""
        if directory.name != self.current():
            self._notes(directory.name).unlink(missing_ok=True)
            shutil.rmtree(directory, ignore_errors=True)

    def prune(self) -> None:
        """Keep the one in place and the newest others; what was not finished goes."""
        current, old = self.current(), []
        for directory in self.home.iterdir():
            if directory.name.startswith(UNFINISHED):
                self.discard(directory)
            elif COMMIT.fullmatch(directory.name) and directory.name != current:
                old.append((directory.stat().st_mtime_ns, directory))
        for _, directory in sorted(old, reverse=True)[KEEP - 1 :]:
            self.discard(directory)

    def note(self, commit: str) -> None:
        """Note what a version looks like, so that the next push sees at a glance what was changed since."""
        path = self._notes(commit)
        path.write_text(json.dumps(looks(self.place(commit))), encoding="utf-8")

    def noted(self, commit: str) -> Looks:
        """What was noted of a version; nothing where it was not."""
        try:
            found = json.loads(self._notes(commit).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _notes(self, commit: str) -> Path:
        return self.home / f"{commit}{NOTES}"


def looks(directory: Path) -> Looks:
    """Every plain file of a version, by POSIX path: what tells it from another one, but for its link count."""
    found: Looks = {}
    todo = [("", str(directory))]
    while todo:
        prefix, folder = todo.pop()
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    todo.append((f"{prefix}{entry.name}/", entry.path))
                elif entry.is_file(follow_symlinks=False):
                    about = entry.stat(follow_symlinks=False)
                    found[prefix + entry.name] = [about.st_ino, about.st_size, about.st_mtime_ns]
    return found
