"""relayd explain --at: which account would have served under another config: a commit, a revision, a stored one."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from booked_tree import make_booked, tell
from cli_tree import Tree

from relayd.config.load import load_tree
from relayd.config.source.history import Meta, save
from relayd.config.source.tree import read_files
from relayd.daemon.source.settings import SourceSettings, source_settings

ASKED = ("explain", "--key", "dev", "--model", "claude-haiku-4-5")


def git(root: Path, *words: str) -> str:
    own = ["-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", *own, "-C", str(root), *words], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def revision(tree: Tree) -> str:
    """What answers under this tree say in relayd-config."""
    found = load_tree(tree.root).snapshot
    assert found is not None
    return found.revision


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    tree = make_booked(tmp_path)
    tell(tree)
    return tree


def disable_key(tree: Tree) -> None:
    path = tree.root / "keys.d" / "dev.toml"
    path.write_text("enabled = false\n" + path.read_text())


@pytest.fixture
def committed(tree: Tree) -> tuple[Tree, str, str]:
    """A tree whose last commit disables the key. Returns: with it the commit before, and its revision."""
    git(tree.root, "init", "--quiet", "-b", "main")
    git(tree.root, "add", "relay.toml", "accounts.d", "keys.d")
    git(tree.root, "commit", "--quiet", "-m", "before")
    before, said = git(tree.root, "rev-parse", "HEAD"), revision(tree)
    disable_key(tree)
    git(tree.root, "commit", "--quiet", "-am", "after")
    return tree, before, said


def test_a_commit_and_the_revision_of_an_answer_name_the_same_config(committed: tuple[Tree, str, str]) -> None:
    tree, before, said = committed
    now = tree.run(*ASKED, "--json")
    by_name = tree.run(*ASKED, "--json", "--at", "HEAD~1")
    by_revision = tree.run(*ASKED, "--json", "--at", said)
    text = tree.run(*ASKED, "--at", before[:10])

    assert (now.code, now.json["served"], "config" in now.json) == (1, False, False)
    assert (by_name.code, by_name.json["served"]) == (0, True)
    assert by_name.json["config"] == by_revision.json["config"] == f"commit {before[:12]}, revision {said}"
    assert f"by the config of commit {before[:12]}, revision {said}" in text.out


def test_a_revision_without_git_is_found_among_the_stored_generations(tree: Tree) -> None:
    said, files = revision(tree), read_files(tree.root)
    digest = said + "0" * 52
    save(tree.root / "var" / "generations", files, Meta(digest=digest, realm="example", commit="f" * 40))
    disable_key(tree)

    ran = tree.run(*ASKED, "--json", "--at", said)
    by_commit = tree.run(*ASKED, "--json", "--at", "f" * 12)

    assert (ran.code, ran.json["config"]) == (0, f"stored generation 1, revision {said}")
    assert by_commit.json["config"] == ran.json["config"]


def test_an_unknown_revision_and_one_that_does_not_compile_are_told(committed: tuple[Tree, str, str]) -> None:
    tree, _, _ = committed
    (tree.root / "relay.toml").write_text("wrong = 1\n")
    git(tree.root, "commit", "--quiet", "-am", "broken")

    unknown = tree.run(*ASKED, "--at", "0123456789ab")
    broken = tree.run(*ASKED, "--at", "HEAD")

    assert (unknown.code, broken.code) == (1, 1)
    assert "0123456789ab: no tree of that revision is known here" in unknown.err
    assert "E-UNKNOWN-KEY" in broken.err


def test_on_a_node_that_pulls_the_pulled_tree_is_explained(committed: tuple[Tree, str, str], tmp_path: Path) -> None:
    tree, before, _ = committed
    node = Tree(tmp_path / "node")
    (node.root / "var").mkdir(parents=True)
    settings = source_settings(f"git+file://{tree.root}", node.root / "var", {}, watch=True)
    assert isinstance(settings, SourceSettings)
    subprocess.run(["git", "clone", "--quiet", "--bare", str(tree.root), str(settings.mirror)], check=True)
    git(settings.mirror, "update-ref", "refs/relayd/taken", "HEAD")
    (settings.mirror / "tree-folder").write_text("\n")
    shutil.copytree(tree.root / "var", node.root / "var", dirs_exist_ok=True)

    now, past = node.run(*ASKED, "--json"), node.run(*ASKED, "--json", "--at", before)

    assert (now.code, now.json["refusal"] is not None, now.err) == (1, True, "")
    assert (past.code, past.json["served"]) == (0, True)
