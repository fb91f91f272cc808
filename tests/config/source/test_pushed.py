"""What of a commit belongs in a tree on disk, read from git's objects alone."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from relayd.config.source import pushed
from relayd.config.source.git import GitError
from relayd.config.source.pushed import Listing, Objects


def git(root: Path, *words: str, stdin: str = "") -> str:
    people = {f"GIT_{who}_{what}": "t@example.com" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    done = subprocess.run(
        ["git", "-C", str(root), *words], input=stdin, capture_output=True, text=True, check=True,
        env={**os.environ, **people},
    )  # fmt: skip
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    git(tmp_path, "init", "--quiet", "--bare", "repository")
    return tmp_path / "repository"


def listed(repository: Path, *entries: tuple[str, str], folder: str = "") -> Listing:
    """A commit of entries (mode, path) is listed. A submodule's commit need not be there."""
    blob = git(repository, "hash-object", "-w", "--stdin", stdin="x")
    for mode, path in entries:
        name = blob if mode != "160000" else "1" * 40
        git(repository, "update-index", "--add", "--cacheinfo", f"{mode},{name},{path}")
    commit = git(repository, "commit-tree", git(repository, "write-tree"), "-m", "x")
    return Objects(root=repository, folder=folder).listing(commit)


def test_only_what_a_tree_consists_of_is_taken(repository: Path) -> None:
    entries = ("relay.toml", "keys.d/a.toml", "keys.d/team/b.toml", "README", ".github/x.toml", "keys.d/.hidden.toml",
               "docs/a.toml", "manifest.toml", "REVISION", "keys.d/note.txt")  # fmt: skip
    found = listed(repository, *(("100644", path) for path in entries), ("100755", "deny.toml"))

    assert set(found.files) == {"relay.toml", "keys.d/a.toml", "keys.d/team/b.toml", "deny.toml", "keys.d/note.txt"}
    assert (found.links, found.problems) == ({}, ())


@pytest.mark.parametrize("path", ["keys.d/sub", "keys.d", "accounts.d/a.toml", "extra.d/sub"])
def test_a_submodule_where_files_should_be_is_a_problem(repository: Path, path: str) -> None:
    found = listed(repository, ("160000", path))

    assert [(one.code, one.file) for one in found.problems] == [("E-UNREADABLE", path)]


def test_a_submodule_elsewhere_is_nobody_s_business(repository: Path) -> None:
    assert listed(repository, ("160000", "vendor/thing"), ("100644", "relay.toml")).problems == ()


@pytest.mark.parametrize("path", ["keys.d", "keys.d/team", "keys.d/a.toml", "relay.toml", "deny.toml"])
def test_links_are_told_from_files(repository: Path, path: str) -> None:
    found = listed(repository, ("120000", path))

    assert (set(found.links), found.files) == ({path}, {})


def test_a_folder_of_the_repository_is_a_tree_of_its_own(repository: Path) -> None:
    found = listed(repository, ("100644", "relay.toml"), ("100644", "in/here/relay.toml"), folder="in/here")

    assert set(found.files) == {"relay.toml"}
    assert listed(repository, folder="nowhere").files == {}


def test_a_commit_of_too_many_files_is_refused_before_any_is_read(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pushed, "MAX_FILES", 2)

    with pytest.raises(GitError, match="the tree has more than 2 files"):
        listed(repository, *(("100644", f"keys.d/{name}.toml") for name in "abc"))


def test_history_is_followed_one_way(repository: Path) -> None:
    tree = git(repository, "write-tree")
    first = git(repository, "commit-tree", tree, "-m", "1")
    second = git(repository, "commit-tree", tree, "-p", first, "-m", "2")
    other = git(repository, "commit-tree", tree, "-p", first, "-m", "3")
    objects = Objects(root=repository)

    assert objects.follows(first, second)
    assert objects.follows(second, second)
    assert not objects.follows(second, first)
    assert not objects.follows(second, other)
    assert not objects.follows("1" * 40, second)
    assert objects.commit("nonsense") == ""
