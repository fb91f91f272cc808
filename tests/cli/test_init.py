from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from relayd.cli import main
from relayd.config.keys import KEY_PATTERN, checksum_ok, key_digest, key_hash
from relayd.config.schema import KINDS
from relayd.config.tree import load_tree


def printed_key(text: str) -> str:
    keys = set(KEY_PATTERN.findall(text))
    assert len(keys) == 1
    return keys.pop()


def test_a_new_tree_passes_the_strictest_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree = tmp_path / "new"

    assert main(["init", str(tree)]) == 0
    assert main(["check", str(tree), "--deny-warnings"]) == 0
    assert load_tree(tree).problems == ()


def test_the_key_is_printed_and_is_not_in_the_tree(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["init", str(tmp_path / "new")])

    key = printed_key(capsys.readouterr().out)
    assert checksum_ok(key)
    assert key_digest(key.encode()) in load_tree(tmp_path / "new").require().keys_by_hash
    for path in (tmp_path / "new").rglob("*"):
        assert not path.is_file() or key not in path.read_text()


def test_every_tree_gets_a_key_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["init", str(tmp_path / "a")])
    one = printed_key(capsys.readouterr().out)
    main(["init", str(tmp_path / "b")])

    assert one != printed_key(capsys.readouterr().out)


def test_the_tree_is_ready_for_git_and_for_editors(tmp_path: Path) -> None:
    tree = tmp_path / "new"
    main(["init", str(tree)])

    assert os.access(tree / ".githooks" / "pre-commit", os.X_OK)
    assert "/var/" in (tree / ".gitignore").read_text()
    assert (tree / ".github" / "workflows" / "relayd.yml").exists()
    rules = tomllib.loads((tree / ".taplo.toml").read_text())["rule"]
    assert len(rules) == len(KINDS)
    assert all((tree / rule["schema"]["path"]).is_file() for rule in rules)


def test_the_settings_shown_as_comments_are_valid_when_switched_on(tmp_path: Path) -> None:
    tree = tmp_path / "new"
    main(["init", str(tree)])
    lines = (tree / "relay.toml").read_text().splitlines()
    switched = [
        line[2:] if line.startswith("# ") and (" = " in line or line.startswith("# [")) else line for line in lines
    ]
    (tree / "relay.toml").write_text("\n".join(switched) + "\n")

    assert switched != lines
    assert load_tree(tree).problems == ()


def test_the_realm_is_the_directorys_name_or_what_was_asked_for(tmp_path: Path) -> None:
    main(["init", str(tmp_path / "My Relay")])
    main(["init", str(tmp_path / "other"), "--realm", "prod"])

    assert load_tree(tmp_path / "My Relay").require().relay.realm == "my-relay"
    assert load_tree(tmp_path / "other").require().relay.realm == "prod"


def test_a_realm_that_is_no_name_is_a_usage_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", str(tmp_path / "new"), "--realm", "No Name"]) == 2
    assert not (tmp_path / "new").exists()


def test_a_directory_with_something_in_it_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("x")

    assert main(["init", str(tmp_path)]) == 1
    assert "--force" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert main(["init", str(tmp_path), "--force"]) == 0
    assert (tmp_path / "file").read_text() == "x"


def test_a_fresh_git_repository_counts_as_empty(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()

    assert main(["init", str(tmp_path)]) == 0


def test_a_file_in_the_way_is_an_error_and_no_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("x")

    assert main(["init", str(tmp_path / "file")]) == 1
    assert "file" in capsys.readouterr().err


def test_json_names_the_files_and_the_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["init", str(tmp_path / "new"), "--json"])

    result = json.loads(capsys.readouterr().out)
    assert "relay.toml" in result["files"]
    assert key_hash(result["key"]) in (tmp_path / "new" / "keys.d" / "demo.toml").read_text()


def test_the_hook_stops_a_commit_that_relayd_would_not_load(tmp_path: Path) -> None:
    tree = tmp_path / "new"
    main(["init", str(tree)])
    command = tmp_path / "bin" / "relayd"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m relayd "$@"\n')
    command.chmod(0o755)
    environment = {**os.environ, "PATH": f"{command.parent}:{os.environ['PATH']}"}

    good = subprocess.run([str(tree / ".githooks" / "pre-commit")], cwd=tree, env=environment, capture_output=True)
    (tree / "relay.toml").write_text("wrong = 1\n")
    bad = subprocess.run([str(tree / ".githooks" / "pre-commit")], cwd=tree, env=environment, capture_output=True)

    assert (good.returncode, bad.returncode) == (0, 1)
