"""The tree behind the pages: all of an edit, its commit included, or nothing."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest
from daemon import write_tree

from relayd.config.edit.commit import Author
from relayd.config.edit.tree_edit import Moved
from relayd.config.edit.wanted_keys import switch_key
from relayd.config.source.tree import read_coherent
from relayd.daemon.admin.pages.drafts import AGE, MOST_OF_ONE, Waiting
from relayd.daemon.admin.pages.edit_flow import client_lines
from relayd.daemon.admin.pages.edit_tree import EditedTree
from relayd.daemon.reload.candidate import TreeReader

ALICE = Author(name="alice", email="alice@example.com")


@pytest.fixture
def tree(tmp_path: Path) -> EditedTree:
    root = write_tree(tmp_path)
    own = ("-c", "user.name=setup", "-c", "user.email=setup@example.com")
    for words in (("init", "-q", "-b", "main"), ("add", "-A"), ("commit", "-qm", "first")):
        subprocess.run(["git", "-C", str(root), *own, *words], check=True)
    return EditedTree(reader=TreeReader(tree=root, wall=time.time, patience=5.0, quiet=0.0))


def test_what_was_written_has_the_digest_that_a_reload_will_read(tree: EditedTree) -> None:
    wanted, why = tree.draft(switch_key("dev", False))
    assert why == ""
    written = tree.write(wanted, ALICE)
    read = read_coherent(tree.root, quiet=0.0, wall=time.time, sleep=time.sleep, deadline=time.time() + 60)
    assert (read.digest, read.provenance.commit) == (written.digest, written.commit)  # type: ignore[union-attr]
    assert read.provenance.dirty == ()  # type: ignore[union-attr]


def test_a_commit_that_fails_takes_back_what_was_written(tree: EditedTree) -> None:
    before = (tree.root / "keys.d/dev.toml").read_bytes()
    wanted, _ = tree.draft(switch_key("dev", False))
    (tree.root / ".git/refs/heads/main.lock").touch()
    written = tree.write(wanted, ALICE)
    assert (written.commit, written.digest) == ("", "")
    assert written.why.startswith("git: ")
    assert written.why.endswith("; what was written was taken back")
    assert (tree.root / "keys.d/dev.toml").read_bytes() == before


def test_nothing_is_written_over_somebody_elses_change(tree: EditedTree) -> None:
    path = tree.root / "keys.d/dev.toml"
    wanted, _ = tree.draft(switch_key("dev", False))
    path.write_text(path.read_text() + "# theirs\n")
    with pytest.raises(Moved, match=r"keys\.d/dev\.toml: changed by somebody else"):
        tree.write(wanted, ALICE)
    assert path.read_text().endswith("# theirs\n")


def test_what_waits_is_bounded_ends_and_is_given_once() -> None:
    numbers = iter(range(1000))
    waiting: Waiting[int] = Waiting(lambda size: next(numbers).to_bytes(size, "big"))
    token = waiting.keep("mine", 1, 0.0)
    assert waiting.take("other", token, 1.0) is None
    assert waiting.take("mine", token, 1.0) == 1
    assert waiting.take("mine", token, 1.0) is None
    old = waiting.keep("mine", 2, 0.0)
    assert waiting.take("mine", old, AGE) is None
    tokens = [waiting.keep("mine", number, 0.0) for number in range(MOST_OF_ONE + 1)]
    assert waiting.take("mine", tokens[0], 0.0) is None
    assert waiting.take("mine", tokens[1], 0.0) == 1


def test_clients_are_told_an_address_that_they_can_ask() -> None:
    ((_, first), *_) = client_lines(["unix:/run/x.sock", "http://0.0.0.0:3000"], "the-key")
    assert first.splitlines()[:2] == [
        "export ANTHROPIC_BASE_URL=http://127.0.0.1:3000",
        "export ANTHROPIC_AUTH_TOKEN=the-key",
    ]
