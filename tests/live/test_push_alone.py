"""A push to a node on which no daemon runs, a full disk, and what `relayd serve-git` refuses to touch."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from builders import KEY
from daemon import key_text
from push_node import Laptop, PushNode, make_laptop, make_node, relayd


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[PushNode, Laptop]:
    root = tmp_path_factory.mktemp("alone")
    node = make_node(root / "node")
    laptop = make_laptop(root / "laptop", str(node.bare), keys=4)
    assert laptop.push().code == 0
    return node, laptop


def test_without_a_daemon_the_tree_in_place_stands_for_what_runs(pair: tuple[PushNode, Laptop]) -> None:
    node, laptop = pair
    laptop.undo()
    laptop.key("alice")
    commit = laptop.commit()
    pushed = laptop.push()

    assert pushed.code == 0, pushed.all
    assert "+ key alice" in pushed.said
    assert "relayd: no daemon answers here: compared with the tree in place" in pushed.said
    assert node.commit() == commit


def test_without_a_daemon_errors_scenarios_and_the_guard_refuse_as_with_one(pair: tuple[PushNode, Laptop]) -> None:
    node, laptop = pair
    for change, words in (
        (lambda: laptop.write("accounts.d/b.toml", "kind = 3\n"), "accounts.d/b.toml:1:8: error[E-CHOICE]"),
        (lambda: laptop.write("keys.d/dev.toml", key_text(KEY, 'models = ["x"]')), "error[E-SCENARIO]"),
        (lambda: [path.unlink() for path in (laptop.root / "keys.d").glob("[ak]*")], "refused: HELD: "),
    ):
        laptop.undo()
        change()
        laptop.commit()
        before = node.commit()
        pushed = laptop.push()
        assert pushed.code != 0
        assert words in pushed.said
        assert (node.commit(), node.tip()) == (before, before)


def test_a_bare_repository_that_was_made_anew_takes_the_commit_that_is_in_place(tmp_path: Path) -> None:
    node = make_node(tmp_path)
    laptop = make_laptop(tmp_path / "laptop", str(node.bare))
    laptop.push()
    shutil.rmtree(node.bare)
    assert node.serve().returncode == 0

    assert laptop.push().code == 0
    assert node.commit() == laptop.head()
    laptop.key("next")
    laptop.commit()
    assert "+ key next" in laptop.push().said


def test_the_first_push_must_be_to_the_branch_that_runs(tmp_path: Path) -> None:
    node = make_node(tmp_path)
    laptop = make_laptop(tmp_path / "laptop", str(node.bare))
    pushed = laptop.push(refs="HEAD:master")

    assert pushed.code != 0
    assert "this node runs the branch main, and there is none yet: git push REMOTE master:main" in pushed.said
    assert node.serve("--branch", "master").returncode == 0
    assert laptop.push(refs="HEAD:master").code == 0
    assert node.commit() == laptop.head()


def test_the_tree_may_lie_in_a_folder_of_the_repository(tmp_path: Path) -> None:
    node = make_node(tmp_path, "--folder", "relay/")
    laptop = make_laptop(tmp_path / "laptop", str(node.bare))
    laptop.commit()
    pushed = laptop.push()
    assert "relay.toml: error[E-NO-RELAY-TOML]" in pushed.said

    laptop.write("relay/.keep", "")
    for name in ("relay.toml", "accounts.d", "keys.d", "tests.d"):
        laptop.git("mv", name, f"relay/{name}")
    laptop.commit()
    assert laptop.push().code == 0
    assert (node.tree / "relay.toml").exists()


def test_a_state_that_the_tree_puts_elsewhere_is_one_for_all_versions(tmp_path: Path) -> None:
    node = make_node(tmp_path)
    laptop = make_laptop(tmp_path / "laptop", str(node.bare))
    laptop.write("relay.toml", 'schema = 1\nrealm = "test"\n[state]\nurl = "sqlite:data/books.db"\n')
    laptop.commit()
    laptop.push()
    (node.tree / "data" / "books.db").write_text("kept")
    laptop.key("next")
    laptop.commit()
    laptop.push()

    assert (node.tree / "data" / "books.db").read_text() == "kept"


# --- a full disk


FULL = """\
mount -t tmpfs -o size=300k none {home}
{relayd} serve-git {home}/relay --bare {bare} >/dev/null
git -C {laptop} push -q node small:main
echo "in place: $(readlink {home}/relay)"
git -C {laptop} push -q node large:main && echo it came in
echo "in place: $(readlink {home}/relay)"
echo "there are: $(ls -A {home}/relay.trees | tr '\\n' ' ')"
cat {home}/relay/keys.d/dev.toml >/dev/null && echo readable
git -C {laptop} push -q node next:main
echo "in place: $(readlink {home}/relay)"
"""


def may_mount() -> bool:
    words = ["unshare", "-rm", "mount", "-t", "tmpfs", "none", "/mnt"]
    return bool(shutil.which("unshare")) and subprocess.run(words, capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not may_mount(), reason="no mount namespaces here")
def test_on_a_full_disk_the_push_is_refused_and_the_old_tree_stays_whole(tmp_path: Path) -> None:
    home, bare = tmp_path / "node", tmp_path / "relay.git"
    home.mkdir()
    laptop = make_laptop(tmp_path / "laptop", str(bare))
    laptop.git("branch", "small")
    small = laptop.head()
    for number in range(150):
        laptop.key(f"many{number}")
    laptop.commit()
    laptop.git("branch", "large")
    laptop.git("reset", "--quiet", "--hard", "small")
    laptop.key("one")
    following = laptop.commit()
    laptop.git("branch", "next")
    words = {"home": home, "bare": bare, "laptop": laptop.root, "relayd": f"{sys.executable} -m relayd"}
    script = FULL.format(
        **{name: value if name == "relayd" else shlex.quote(str(value)) for name, value in words.items()}
    )

    done = subprocess.run(["unshare", "-rm", "sh", "-c", script], capture_output=True, text=True, check=False)

    assert "no space left on device (on the node)" in done.stderr
    assert "nothing was changed" in done.stderr
    assert done.stdout.splitlines() == [
        f"in place: relay.trees/{small}",
        f"in place: relay.trees/{small}",
        f"there are: .push {small} {small}.looks var ",
        "readable",
        f"in place: relay.trees/{following}",
    ], done.stderr


# --- what is not ours


def test_serve_git_touches_no_directory_repository_or_hook_of_somebody_else(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "notes").write_text("mine")
    done = relayd("serve-git", str(tmp_path / "tree"))
    assert done.returncode == 1
    assert "is there already, and is not a link to a version of the tree" in done.stderr

    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes").write_text("mine")
    done = relayd("serve-git", str(tmp_path / "relay"), "--bare", str(tmp_path / "full"))
    assert done.returncode == 1
    assert "not a bare repository" in done.stderr

    node = make_node(tmp_path / "node")
    hook = node.bare / "hooks" / "post-receive"
    hook.write_text("#!/bin/sh\necho mine\n")
    done = node.serve()
    assert done.returncode == 1
    assert "there is a hook of your own" in done.stderr
    assert hook.read_text() == "#!/bin/sh\necho mine\n"


def test_serve_git_says_what_it_made_as_json(tmp_path: Path) -> None:
    done = relayd("serve-git", str(tmp_path / "relay"), "--json")

    about = json.loads(done.stdout)
    assert about == {
        "bare": str(tmp_path / "relay.git"),
        "tree": str(tmp_path / "relay"),
        "branch": "main",
        "made": True,
        "in_place": "",
    }
    assert os.access(tmp_path / "relay.git" / "hooks" / "pre-receive", os.X_OK)
