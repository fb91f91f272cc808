"""Commits of edits: exactly these files, under their author's name, and why not."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from relayd.config.edit.commit import Author, commit_paths, push, why_not_committed
from relayd.config.source.git import GitError


def git(root: Path, *words: str) -> str:
    own = ("-c", "user.name=setup", "-c", "user.email=setup@example.com")
    return subprocess.run(["git", "-C", str(root), *own, *words], capture_output=True, text=True, check=True).stdout


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "repository/config"
    (root / "keys.d").mkdir(parents=True)
    (root / "keys.d/a.toml").write_text("a = 1\n")
    (root / "keys.d/b.toml").write_text("b = 1\n")
    git(root.parent, "init", "-q", "-b", "main")
    git(root, "add", "-A")
    git(root, "commit", "-qm", "first")
    return root


def test_only_these_files_are_committed_new_ones_and_deleted_ones_too(tree: Path) -> None:
    (tree / "keys.d/a.toml").unlink()
    (tree / "keys.d/*.toml").write_text("new = 1\n")
    (tree / "keys.d/b.toml").write_text("b = 2\n")
    git(tree, "add", "keys.d/b.toml")
    author = Author(name="Ünal <x> -q\n", email="u@example.com")
    name = commit_paths(tree, ["keys.d/a.toml", "keys.d/*.toml"], "-m sly: # not a comment", author)
    assert name == git(tree, "rev-parse", "HEAD").strip()
    assert git(tree, "show", "--name-status", "--format=%an|%ae|%s", "HEAD").split("\n")[:4] == [
        "Ünal x -q|u@example.com|-m sly: # not a comment",
        "",
        "A\tconfig/keys.d/*.toml",
        "D\tconfig/keys.d/a.toml",
    ]
    assert git(tree, "status", "--porcelain") == "M  config/keys.d/b.toml\n", "what others staged is still staged"


def test_no_hook_of_the_repository_runs(tree: Path, tmp_path: Path) -> None:
    for name in ("pre-commit", "post-commit", "pre-push", "commit-msg", "reference-transaction"):
        hook = tree.parent / ".git/hooks" / name
        hook.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
        hook.chmod(0o755)
    (tree / "keys.d/a.toml").write_text("a = 2\n")
    commit_paths(tree, ["keys.d/a.toml"], "a", Author(name="a"))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["", "<>", "...", "\x1b[31m", "a" * 500])
def test_any_name_gives_an_author(tree: Path, name: str) -> None:
    (tree / "keys.d/a.toml").write_text("a = 2\n")
    commit_paths(tree, ["keys.d/a.toml"], "a", Author(name=name))
    shown = git(tree, "log", "-1", "--format=%an <%ae>")
    assert "@relayd.invalid>" in shown
    assert "\x1b" not in shown


def test_a_commit_that_fails_leaves_nothing_staged(tree: Path) -> None:
    (tree / "keys.d/new.toml").write_text("n = 1\n")
    (tree.parent / ".git/HEAD.lock").touch()
    with pytest.raises(GitError):
        commit_paths(tree, ["keys.d/new.toml"], "n", Author(name="a"))
    assert git(tree, "status", "--porcelain") == "?? config/keys.d/new.toml\n"


def test_why_an_edit_cannot_be_committed(tree: Path, tmp_path: Path) -> None:
    assert why_not_committed(tree, ["keys.d/a.toml", "keys.d/new.toml"]) == ""
    assert "in no git repository" in why_not_committed(tmp_path, ["keys.d/a.toml"])
    (tree / "keys.d/a.toml").write_text("a = 3\n")
    assert why_not_committed(tree, ["keys.d/b.toml"]) == ""
    assert why_not_committed(tree, ["keys.d/a.toml"]) == "uncommitted changes in keys.d/a.toml"
    git(tree, "add", "-A")
    git(tree, "show", "HEAD:config/keys.d/a.toml")
    (tree / "keys.d/a.toml").write_text("a = 1\n")
    assert "keys.d/a.toml" in why_not_committed(tree, ["keys.d/a.toml"]), "staged, though the file is as it was"
    (tree / "keys.d/link.toml").symlink_to("b.toml")
    assert why_not_committed(tree, ["keys.d/link.toml"]) == "keys.d/link.toml is a link"


def test_a_push_says_what_came_of_it_and_starts_no_program_of_the_remotes_choice(tree: Path, tmp_path: Path) -> None:
    remote = tmp_path / "remote.git"
    git(tree, "init", "-q", "--bare", "-b", "main", str(remote))
    git(tree, "remote", "add", "origin", str(remote))
    assert push(tree, "origin") == ""
    assert git(remote, "rev-parse", "main") == git(tree, "rev-parse", "HEAD")
    git(tree, "remote", "add", "sly", f"ext::touch {tmp_path}/ran")
    assert push(tree, "sly").startswith("not pushed to sly: ")
    assert not (tmp_path / "ran").exists()
    git(tree, "remote", "add", "away", "https://me:canary@127.0.0.1:9/x.git")
    said = push(tree, "away")
    assert said.startswith("not pushed to away: ")
    assert "canary" not in said
