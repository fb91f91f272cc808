from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from relayd.cli import main
from relayd.cli.first_run import curl_target
from relayd.cli.init import template
from relayd.config.load import load_tree
from relayd.config.model.json_schema import KINDS
from relayd.config.secrets.api_keys import KEY_PATTERN, checksum_ok, key_digest, key_hash
from relayd.config.secrets.identity import identity_paths, read_identities


def printed_key(text: str) -> str:
    keys = set(KEY_PATTERN.findall(text))
    assert len(keys) == 1
    return keys.pop()


def test_a_new_tree_passes_the_strictest_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree = tmp_path / "new"

    assert main(["init", str(tree)]) == 0
    assert main(["check", str(tree), "--deny-warnings"]) == 0
    assert main(["test", str(tree)]) == 0
    assert main(["check", str(tree), "--env", "--deny-warnings"]) == 0
    assert load_tree(tree).problems == ()


def test_the_key_is_printed_and_is_not_in_the_tree(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["init", str(tmp_path / "new")])

    key = printed_key(capsys.readouterr().out)
    assert checksum_ok(key)
    assert key_digest(key.encode()) in load_tree(tmp_path / "new").require().keys_by_hash
    for path in (tmp_path / "new").rglob("*.toml"):
        assert key not in path.read_text()


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
    assert [one.code for one in load_tree(tree).problems if one.severity != "note"] == []


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
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)

    assert main(["init", str(tmp_path)]) == 0


def test_a_file_in_the_way_is_an_error_and_no_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("x")

    assert main(["init", str(tmp_path / "file")]) == 1
    assert "file" in capsys.readouterr().err


def test_json_names_the_files_and_the_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["init", str(tmp_path / "new"), "--json"])

    result = json.loads(capsys.readouterr().out)
    assert "relay.toml" in result["files"]
    assert [Path(path).name for path in result["identity"]] == ["new.identity"]
    assert result["git"] == "made"
    assert key_hash(result["key"]) in (tmp_path / "new" / "keys.d" / "demo.toml").read_text()


# --- git: the hook, run as it is written


def shim(tmp_path: Path) -> dict[str, str]:
    """An environment with this relayd on the PATH, and a person who may commit."""
    command = tmp_path / "bin" / "relayd"
    command.parent.mkdir(exist_ok=True)
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m relayd "$@"\n')
    command.chmod(0o755)
    who = {
        f"GIT_{role}_{what}": f"{what}@example.com" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
    }
    return {**os.environ, **who, "PATH": f"{command.parent}:{os.environ['PATH']}", "GIT_CONFIG_GLOBAL": "/dev/null"}


def git(tree: Path, *words: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["git", *words], cwd=tree, env=environment, capture_output=True, text=True, check=False, timeout=60
    )


def test_the_new_repository_refuses_commits_that_relayd_would_not_load_or_that_fail_its_scenarios(
    tmp_path: Path,
) -> None:
    tree, environment = tmp_path / "new", shim(tmp_path)
    main(["init", str(tree)])
    relay = tree / "relay.toml"
    sound = relay.read_text()

    git(tree, "add", ".", environment=environment)
    first = git(tree, "commit", "-m", "first", environment=environment)
    assert first.returncode == 0, first.stderr
    assert git(tree, "status", "--porcelain", environment=environment).stdout == ""

    relay.write_text("wrong = 1\n")
    git(tree, "add", ".", environment=environment)
    relay.write_text(sound)  # what is staged counts, not what lies there
    broken = git(tree, "commit", "-m", "broken", environment=environment)
    assert (broken.returncode, "E-UNKNOWN-KEY" in broken.stdout + broken.stderr) == (1, True)

    git(tree, "add", ".", environment=environment)
    (tree / "keys.d" / "demo.toml").write_text((tree / "keys.d" / "demo.toml").read_text() + "# a comment\n")
    (tree / "tests.d" / "demo.toml").write_text(template("scenarios.toml").replace("status = 403", "status = 404"))
    git(tree, "add", ".", environment=environment)
    failing = git(tree, "commit", "-m", "failing", environment=environment)
    assert (failing.returncode, "it has no access to batches" in failing.stdout + failing.stderr) == (1, True)

    missing = git(tree, "commit", "-m", "none", environment={**environment, "PATH": "/usr/bin:/bin"})
    assert (missing.returncode, "no relayd on the PATH" in missing.stderr) == (1, True)


def test_a_directory_in_a_repository_becomes_no_other_and_no_git_makes_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    subprocess.run(["git", "init", "--quiet", str(tmp_path / "mono")], check=True)
    main(["init", str(tmp_path / "mono" / "relay")])
    assert not (tmp_path / "mono" / "relay" / ".git").exists()
    assert f"in the repository {tmp_path / 'mono'}" in capsys.readouterr().out
    main(["init", str(tmp_path / "plain"), "--no-git"])
    assert not (tmp_path / "plain" / ".git").exists()
    main(["init", str(tmp_path / "mono" / "other"), "--identity", str(tmp_path / "mono" / "key")])
    assert f"warning: {tmp_path / 'mono' / 'key'} is in that repository too" in capsys.readouterr().out


# --- the identity


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's config directory."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path / "config" / "relayd"


def recipients(tree: Path) -> list[str]:
    return [one.public for one in load_tree(tree).require().relay.secrets.recipients if one.state == "active"]


def test_the_identity_is_made_outside_the_tree_and_its_public_half_is_listed(home: Path, tmp_path: Path) -> None:
    tree = tmp_path / "new"
    main(["init", str(tree)])

    file = home / "new.identity"
    (identity,) = read_identities(file, tree)
    assert stat.S_IMODE(file.stat().st_mode) == 0o400
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert recipients(tree) == [identity.public.text]
    secret = identity.secret.reveal()
    assert all(
        secret not in path.read_text() for path in tree.rglob("*") if path.is_file() and ".git/" not in str(path)
    )
    assert identity_paths(None, os.environ, "new") == [file]


def test_an_identity_of_the_realm_is_used_again_and_never_overwritten(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["init", str(tmp_path / "a"), "--realm", "prod"])
    before = (home / "prod.identity").read_bytes()
    capsys.readouterr()
    assert main(["init", str(tmp_path / "b"), "--realm", "prod"]) == 0
    assert "was there and is used" in capsys.readouterr().out
    assert (home / "prod.identity").read_bytes() == before
    assert recipients(tmp_path / "a") == recipients(tmp_path / "b")
    main(["init", str(tmp_path / "c"), "--realm", "prod-2"])
    assert recipients(tmp_path / "c") != recipients(tmp_path / "a")

    (home / "prod.identity").chmod(0o644)
    assert main(["init", str(tmp_path / "d"), "--realm", "prod"]) == 1
    assert "chmod 0400" in capsys.readouterr().err
    assert not (tmp_path / "d").exists()


def test_the_identity_may_be_elsewhere_or_none_at_all(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "keys" / "it"
    main(["init", str(tmp_path / "a"), "--identity", str(file)])
    assert f"relayd run --config {tmp_path / 'a'} --identity {file}\n" in capsys.readouterr().out
    (identity,) = read_identities(file, tmp_path / "a")
    assert recipients(tmp_path / "a") == [identity.public.text]

    assert main(["init", str(tmp_path / "b"), "--no-identity"]) == 0
    assert (recipients(tmp_path / "b"), home.exists()) == ([], False)
    assert load_tree(tmp_path / "b").problems == ()
    assert main(["init", str(tmp_path / "c"), "--no-identity", "--identity", str(file)]) == 2

    assert main(["init", str(tmp_path / "d"), "--identity", str(tmp_path / "d" / "key")]) == 1
    assert "must not lie in the config tree" in capsys.readouterr().err
    assert not (tmp_path / "d").exists()
    (tmp_path / "file").write_text("")
    assert main(["init", str(tmp_path / "e"), "--identity", str(tmp_path / "file" / "key")]) == 1
    assert "--no-identity" in capsys.readouterr().err


def test_a_variable_that_names_an_identity_is_obeyed(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RELAYD_IDENTITY", str(tmp_path / "named"))
    main(["init", str(tmp_path / "a")])
    assert recipients(tmp_path / "a") == [
        one.public.text for one in read_identities(tmp_path / "named", tmp_path / "a")
    ]
    assert not home.exists()
    assert "--identity" not in capsys.readouterr().out


def test_a_post_quantum_identity_on_wish(home: Path, tmp_path: Path) -> None:
    main(["init", str(tmp_path / "a"), "--post-quantum"])
    assert recipients(tmp_path / "a")[0].startswith("rlpub2.")
    assert load_tree(tmp_path / "a").problems == ()


@pytest.mark.parametrize(
    ("listen", "target"),
    [
        ("127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("0.0.0.0:80", "http://127.0.0.1:80"),
        ("[::]:80", "http://[::1]:80"),
        ("unix:/run/relay d", "--unix-socket '/run/relay d' http://relayd"),
    ],
)
def test_curl_is_told_the_way(listen: str, target: str) -> None:
    assert curl_target(listen) == target


def test_a_listen_address_is_taken_or_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["init", str(tmp_path / "a"), "--listen", "127.0.0.1:8123"])
    assert load_tree(tmp_path / "a").require().relay.server.listen == ("127.0.0.1:8123",)
    assert main(["init", str(tmp_path / "b"), "--listen", "nonsense"]) == 2
    assert not (tmp_path / "b").exists()
