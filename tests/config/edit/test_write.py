"""Writing the tree: all or nothing, and never over somebody else's change."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from relayd.config.edit.write import EditPlan, Files, WriteError, edit_tree


def tree(root: Path) -> Path:
    (root / "keys.d" / "team").mkdir(parents=True)
    (root / "accounts.d").mkdir()
    (root / "relay.toml").write_bytes(b"count = 0\n")
    (root / "keys.d" / "team" / "dev.toml").write_bytes(b"x = 1\n")
    return root


def fine(files: Files) -> list[str]:
    return []


def broken_where_x_is_9(files: Files) -> list[str]:
    return [f"{path}:1:1: x is 9" for path, content in files.items() if b"x = 9" in content]


def change(**files: bytes | None) -> EditPlan:
    names = {"dev": "keys.d/team/dev.toml", "new": "accounts.d/new.toml", "relay": "relay.toml"}
    return lambda _: {names[name]: content for name, content in files.items()}


def content(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_files_are_changed_made_and_deleted_and_nothing_else_is_left(tmp_path: Path) -> None:
    root = tree(tmp_path)
    changed = edit_tree(root, change(dev=None, new=b"n = 1\n", relay=b"count = 0\n"), check=fine)
    assert changed == ("accounts.d/new.toml", "keys.d/team/dev.toml")
    assert content(root) == {"relay.toml": b"count = 0\n", "accounts.d/new.toml": b"n = 1\n"}


def test_permissions_are_kept(tmp_path: Path) -> None:
    root = tree(tmp_path)
    path = root / "keys.d" / "team" / "dev.toml"
    path.chmod(0o640)
    edit_tree(root, change(dev=b"x = 2\n"), check=fine)
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"x = 2\n", 0o640)


def test_a_link_stays_a_link_and_one_that_leads_out_of_the_tree_is_refused(tmp_path: Path) -> None:
    root = tree(tmp_path / "tree")
    (root / "accounts.d" / "new.toml").symlink_to("../keys.d/team/dev.toml")
    edit_tree(root, change(new=b"x = 2\n"), check=fine)
    assert (root / "accounts.d" / "new.toml").is_symlink()
    assert (root / "keys.d" / "team" / "dev.toml").read_bytes() == b"x = 2\n"
    outside = tmp_path / "outside.toml"
    outside.write_bytes(b"x = 1\n")
    (root / "accounts.d" / "new.toml").unlink()
    (root / "accounts.d" / "new.toml").symlink_to(outside)
    with pytest.raises(WriteError, match=r"accounts.d/new.toml: leads out of the tree"):
        edit_tree(root, change(new=b"x = 2\n"), check=fine, force=True)
    assert outside.read_bytes() == b"x = 1\n"


def test_a_tree_that_does_not_compile_is_not_written_unless_told(tmp_path: Path) -> None:
    root = tree(tmp_path)
    (root / "accounts.d" / "bad.toml").write_bytes(b"x = 9\n")
    before = content(root)
    with pytest.raises(WriteError, match=r"does not compile.*\n.*accounts.d/bad.toml:1:1: x is 9"):
        edit_tree(root, change(dev=b"x = 2\n"), check=broken_where_x_is_9)
    assert content(root) == before
    edit_tree(root, change(dev=b"x = 2\n"), check=broken_where_x_is_9, force=True)
    assert content(root) == {**before, "keys.d/team/dev.toml": b"x = 2\n"}


def test_a_change_that_would_break_the_tree_is_not_written(tmp_path: Path) -> None:
    root = tree(tmp_path)
    before = content(root)
    with pytest.raises(WriteError, match="the change does not compile"):
        edit_tree(root, change(dev=b"x = 9\n", new=b"x = 1\n"), check=broken_where_x_is_9)
    assert content(root) == before


def test_a_change_made_by_an_editor_in_the_meantime_wins(tmp_path: Path) -> None:
    root = tree(tmp_path)

    def plan(files: Files) -> Mapping[str, bytes]:
        (root / "relay.toml").write_bytes(b"count = 5 # by hand\n")
        return {"keys.d/team/dev.toml": b"x = 2\n", "relay.toml": b"count = 1\n"}

    with pytest.raises(WriteError, match=r"relay.toml: was changed by somebody else"):
        edit_tree(root, plan, check=fine)
    assert content(root) == {"relay.toml": b"count = 5 # by hand\n", "keys.d/team/dev.toml": b"x = 1\n"}


def test_a_file_that_appeared_in_the_meantime_is_not_overwritten(tmp_path: Path) -> None:
    root = tree(tmp_path)

    def plan(files: Files) -> Mapping[str, bytes]:
        (root / "accounts.d" / "new.toml").write_bytes(b"theirs = 1\n")
        return {"accounts.d/new.toml": b"ours = 1\n"}

    with pytest.raises(WriteError, match="was changed by somebody else"):
        edit_tree(root, plan, check=fine)
    assert (root / "accounts.d" / "new.toml").read_bytes() == b"theirs = 1\n"


def test_when_one_file_cannot_be_written_none_is(tmp_path: Path) -> None:
    root = tree(tmp_path)
    before = content(root)
    (root / "accounts.d").rmdir()
    (root / "accounts.d").write_bytes(b"a file where a folder belongs")
    with pytest.raises(WriteError, match="nothing changed"):
        edit_tree(root, change(dev=b"x = 2\n", relay=None, new=b"n = 1\n"), check=fine)
    assert content(root) == {**before, "accounts.d": b"a file where a folder belongs"}


def test_a_plan_that_fails_writes_nothing(tmp_path: Path) -> None:
    root = tree(tmp_path)

    def plan(files: Files) -> Mapping[str, bytes]:
        raise ValueError("no such key")

    with pytest.raises(ValueError, match="no such key"):
        edit_tree(root, plan, check=fine)
    assert edit_tree(root, change(dev=b"x = 2\n"), check=fine) == ("keys.d/team/dev.toml",)


def test_edits_of_several_processes_at_once_lose_nothing(tmp_path: Path) -> None:
    root = tree(tmp_path)
    program = """
import sys
from pathlib import Path
from relayd.config.edit.write import edit_tree

def plan(files):
    return {"relay.toml": b"count = %d\\n" % (int(files["relay.toml"].split()[2]) + 1)}

for _ in range(10):
    edit_tree(Path(sys.argv[1]), plan, check=lambda files: [])
"""
    running = [subprocess.Popen([sys.executable, "-c", program, str(root)]) for _ in range(4)]
    assert [one.wait(timeout=60) for one in running] == [0, 0, 0, 0]
    assert (root / "relay.toml").read_bytes() == b"count = 40\n"


def test_without_another_check_the_tree_must_compile(tmp_path: Path) -> None:
    root = tree(tmp_path)
    with pytest.raises(WriteError, match=r"relay.toml.*E-"):
        edit_tree(root, change(new=b"n = 1\n"))
    (root / "relay.toml").write_bytes(b'schema = 1\nrealm = "example"\n')
    (root / "keys.d" / "team" / "dev.toml").unlink()
    assert edit_tree(root, change(new=b'kind = "simulator"\n')) == ("accounts.d/new.toml",)
    with pytest.raises(WriteError, match=r"the change does not compile.*\naccounts.d/new.toml:1:"):
        edit_tree(root, change(new=b'kind = "simulat"\n'))


def test_no_tree_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(WriteError, match=r"none: no such file or directory \(name the tree: --config DIR\)"):
        edit_tree(tmp_path / "none", change(), check=fine)
