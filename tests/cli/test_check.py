from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from relayd.cli import main
from relayd.config.problems.codes import explanations

RELAY = 'schema = 1\nrealm = "test"\n'


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "relay.toml").write_text(RELAY)
    (tmp_path / "accounts.d").mkdir()
    (tmp_path / "keys.d").mkdir()
    (tmp_path / "accounts.d" / "a.toml").write_text('kind = "simulator"\n')
    (tmp_path / "keys.d" / "k.toml").write_text(f'hashes = [{{ sha256 = "{"1" * 64}" }}]\n')
    return tmp_path


def test_a_sound_tree_is_summed_up_in_one_line(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(tree)]) == 0

    out, err = capsys.readouterr()
    assert out.startswith("checked 3 files, 1 account, 1 key: revision ")
    assert out.endswith(", no problems\n")
    assert err == ""


def test_errors_exit_with_1(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tree / "relay.toml").write_text(RELAY + "wrong = 1\n")

    assert main(["check", str(tree), "--deny-warnings"]) == 1
    assert "relay.toml:3:1: error[E-UNKNOWN-KEY]" in capsys.readouterr().out


def test_warnings_exit_with_0_or_with_3_when_they_are_denied(tree: Path) -> None:
    (tree / "keys.d" / "notes.txt").write_text("x")

    assert main(["check", str(tree)]) == 0
    assert main(["check", str(tree), "--deny-warnings"]) == 3


def test_notes_are_never_denied(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tree / "deny.toml").write_text('keys = ["gone"]\n')

    assert main(["check", str(tree), "--deny-warnings"]) == 0
    assert "note[N-UNKNOWN-ID]" in capsys.readouterr().out


def test_the_directory_comes_from_the_argument_the_option_or_the_environment(tree: Path) -> None:
    environment = {**os.environ, "RELAYD_CONFIG": str(tree)}
    for arguments, changes in (
        (["--config", str(tree)], {}),
        ([], {"env": environment}),
        ([], {"cwd": tree}),
    ):
        done = subprocess.run([sys.executable, "-m", "relayd", "check", *arguments], **changes, capture_output=True)

        assert done.returncode == 0, done


def test_an_empty_directory_is_an_error_with_a_way_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(tmp_path)]) == 1
    assert "relayd init" in capsys.readouterr().out


def test_json_is_one_object_with_a_version(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tree / "accounts.d" / "a.toml").write_text('kind = "simulater"\n')

    assert main(["check", str(tree), "--json"]) == 1

    result = json.loads(capsys.readouterr().out)
    assert (result["version"], result["ok"], result["errors"], result["warnings"]) == (1, False, 1, 0)
    assert result["problems"][0]["code"] == "E-CHOICE"
    assert (result["files"], result["accounts"], result["keys"]) == (3, 1, 1)


def test_sarif_and_github_are_formats_too(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tree / "relay.toml").write_text("schema = 1\n")

    main(["check", str(tree), "--format", "sarif"])
    assert json.loads(capsys.readouterr().out)["version"] == "2.1.0"
    main(["check", str(tree), "--format", "github"])
    assert capsys.readouterr().out.startswith("::error file=relay.toml,line=1,")


@pytest.mark.parametrize("linked", [False, True])
def test_reports_for_github_count_paths_from_the_root_of_the_repository(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], linked: bool
) -> None:
    config = tmp_path / "deploy" / "config"
    config.mkdir(parents=True)
    (config / "relay.toml").write_text("schema = 1\n")
    if linked:  # a linked work tree has a file in that place
        (tmp_path / ".git").write_text("gitdir: /nowhere\n")
    else:
        (tmp_path / ".git").mkdir()

    main(["check", str(config), "--format", "github"])
    assert capsys.readouterr().out.startswith("::error file=deploy/config/relay.toml,line=1,")
    main(["check", str(config), "--format", "sarif"])
    assert '"uri": "deploy/config/relay.toml"' in capsys.readouterr().out
    main(["test", str(config), "--format", "github"])
    assert capsys.readouterr().out.startswith("::error file=deploy/config/relay.toml,line=1,")


@pytest.mark.parametrize("code", ["E-UNKNOWN-KEY", "w-empty-group"])
def test_a_code_is_explained(code: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--explain", code]) == 0
    assert " ".join(explanations()[code.upper()].split()) in " ".join(capsys.readouterr().out.split())


def test_an_unknown_code_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--explain", "E-NONSENSE"]) == 2
    assert "E-NONSENSE" in capsys.readouterr().err


def test_an_unknown_option_is_a_usage_error() -> None:
    with pytest.raises(SystemExit) as caught:
        main(["check", "--nonsense"])

    assert caught.value.code == 2


def test_a_check_leaves_no_trace(tree: Path) -> None:
    before = sorted((path, path.stat().st_mtime_ns) for path in [tree, *tree.rglob("*")])
    main(["check", str(tree)])

    assert sorted((path, path.stat().st_mtime_ns) for path in [tree, *tree.rglob("*")]) == before


def test_a_terminal_that_knows_only_ascii_still_gets_the_report(tree: Path) -> None:
    (tree / "accounts.d" / "a.toml").write_text('kind = "本"\n')
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C"}
    done = subprocess.run([sys.executable, "-m", "relayd", "check", str(tree)], env=environment, capture_output=True)

    assert done.returncode == 1
    assert rb"\u672c" in done.stdout


def test_an_alias_that_claude_code_does_not_show_is_told_and_no_hindrance(
    tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (tree / "relay.toml").open("a") as relay:
        relay.write('\n[models]\nsmart = "claude-haiku-4-5"\nclaude-fast = "claude-haiku-4-5"\n')
        relay.write('Anthropic-best = "claude-haiku-4-5"\n')
    assert main(["check", str(tree), "--deny-warnings"]) == 0
    told = capsys.readouterr().out
    assert told.count("N-ALIAS-HIDDEN") == 1
    assert "models.smart" in told
