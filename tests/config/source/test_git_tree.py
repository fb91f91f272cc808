"""Git trees: a tree from a commit's objects is the tree that a checkout of it would be."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest

from relayd.config.problems.problem import is_error
from relayd.config.source.git import GitError
from relayd.config.source.git_listing import listing_of
from relayd.config.source.git_tree import BlobCache, read_git_tree
from relayd.config.source.tree import read_tree

FILES = {
    "relay.toml": "schema = 1\n",
    "accounts.d/a.toml": 'kind = "simulator"\n',
    "keys.d/team/b.toml": "x = 1\r\n",
    "keys.d/.hidden.toml": "x",
    "keys.d/notes.md": "a stray file",
    "docs/readme.md": "not config",
    "shared/deep/c.toml": "y = 1\n",
    "deny.toml": "keys = []\n",
    "..2026_01/d.toml": "w = 1\n",
    "keys.d/na\u00efve name.toml": "z = 1\n",
}


def git(root: Path, *words: str, stdin: bytes = b"") -> str:
    own = ["-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", *own, "-C", str(root), *words], check=True, capture_output=True, input=stdin)
    return done.stdout.decode().strip()


def commit(root: Path, links: Iterable[tuple[str, str]] = ()) -> str:
    """The files, and links, in a commit; they lie in the work tree as git puts them there."""
    root.mkdir()
    git(root, "init", "--quiet")
    for name, text in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(text.encode())
    for name, target in links:
        (root / name).symlink_to(target)
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "-m", "x")
    return git(root, "rev-parse", "HEAD")


GOOD_LINKS = [
    ("keys.d/alias.toml", "../shared/deep/c.toml"),
    ("keys.d/twice.toml", "alias.toml"),
    ("accounts.d/folder", "../shared"),
    ("prices.toml", "shared/deep/c.toml"),
    ("docs/out.md", "/etc/passwd"),
    ("..data", "..2026_01"),
    ("keys.d/mounted.toml", "../..data/d.toml"),
    ("shared/inner.toml", "../..data/d.toml"),
    ("extra.d", "shared/deep/.."),
]


def test_files_and_links_are_those_of_a_checkout(tmp_path: Path) -> None:
    root = tmp_path / "tree"
    name = commit(root, GOOD_LINKS)
    checked_out, tree = read_tree(root), read_git_tree(root, name, "", BlobCache())

    assert tree.files == checked_out.files
    assert [one for one in tree.problems if is_error(one)] == []
    assert (tree.provenance.commit, tree.provenance.dirty) == (name, ())
    assert {"keys.d/alias.toml", "keys.d/twice.toml", "accounts.d/folder/deep/c.toml"} <= set(tree.files)
    assert tree.files["keys.d/mounted.toml"] == tree.files["accounts.d/folder/inner.toml"] == b"w = 1\n"


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("/etc/passwd", "leads out of the tree"),
        ("../../outside.toml", "leads out of the tree"),
        ("nothing.toml", "leads nowhere"),
        ("loop.toml", "leads in a circle"),
    ],
)
def test_a_link_that_cannot_be_followed_is_an_error_in_both(tmp_path: Path, target: str, why: str) -> None:
    root = tmp_path / "tree"
    tree = read_git_tree(root, commit(root, [("keys.d/loop.toml", target)]), "", BlobCache())

    assert [(one.file, why in one.message) for one in tree.problems] == [("keys.d/loop.toml", True)]
    assert [one.file for one in read_tree(root).problems if is_error(one)] == ["keys.d/loop.toml"]


def test_what_did_not_change_is_not_read_again(tmp_path: Path) -> None:
    root, cache = tmp_path / "tree", BlobCache()
    first = read_git_tree(root, commit(root), "", cache)
    (root / "relay.toml").write_text("schema = 1  # one\n")
    git(root, "commit", "--quiet", "-am", "y")
    second = read_git_tree(root, git(root, "rev-parse", "HEAD"), "", cache)

    assert second.files["deny.toml"] is first.files["deny.toml"]
    assert second.files["relay.toml"] != first.files["relay.toml"]
    assert set(cache.blobs.values()) == set(second.files.values())  # and what is gone is not kept


def test_folders_of_links_to_folders_of_links_come_to_an_end() -> None:
    lines = [f"120000 blob {deep + 1}\tkeys.d/{deep}/{name}" for deep in range(16) for name in "abcd"]
    listed = "\0".join([*lines, "100644 blob f\tkeys.d/16/k.toml", "160000 commit s\tdocs", ""])
    found = listing_of("c", listed.encode(), lambda names: [f"../{name}".encode() for name in names])

    assert {one.message for one in found.problems} == {"the links lead to too many files"}
    assert found.files == {"keys.d/16/k.toml": "f"}


def test_a_folder_of_a_repository_and_one_that_is_not_there(tmp_path: Path) -> None:
    root = tmp_path / "tree"
    name = commit(root)

    assert set(read_git_tree(root, name, "keys.d/team", BlobCache()).files) == set()
    assert "c.toml" not in read_git_tree(root, name, "shared", BlobCache()).files
    with pytest.raises(GitError):
        read_git_tree(root, name, "nowhere", BlobCache())


def many_keys(root: Path, number: int) -> str:
    """A commit with so many files of one content."""
    root.mkdir()
    git(root, "init", "--quiet")
    lines = [b"commit refs/heads/many\ncommitter t <t@example.com> 0 +0000\ndata 1\nx\n"]
    lines += [b"M 100644 inline keys.d/k%d.toml\ndata 4\nx=1\n\n" % n for n in range(number)]
    git(root, "fast-import", "--quiet", stdin=b"".join(lines))
    return git(root, "rev-parse", "refs/heads/many")


def test_ten_thousand_files_are_read(tmp_path: Path) -> None:
    assert len(read_git_tree(tmp_path / "a", many_keys(tmp_path / "a", 10_000), "", BlobCache()).files) == 10_000


def test_more_files_than_a_tree_may_have_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relayd.config.source.git_listing.MAX_FILES", 10)
    tree = read_git_tree(tmp_path / "a", many_keys(tmp_path / "a", 11), "", BlobCache())

    assert ([one.code for one in tree.problems], len(tree.files)) == (["E-TOO-LARGE"], 10)
