"""Pulling by systemd: the timer's service on a clone and a daemon, and the drop-in for a daemon that pulls."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from daemon import PATIENCE, SIMULATOR, running, write_tree
from systemd_units import RELAYD, UNITS, analyze, needs_systemd, read_unit

PULL = read_unit("relayd-pull.service")


@needs_systemd
def test_systemd_finds_nothing_to_complain_of_in_what_pulls(tmp_path: Path) -> None:
    names = ("relayd-pull.service", "relayd-pull.timer", "relayd.service", "relayd.service.d/source.conf")
    for name in names:
        text = (UNITS / name).read_text().replace(RELAYD, sys.executable)
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)

    done = analyze("verify", *(str(tmp_path / name) for name in names[:3]))

    assert [line for line in done.stderr.splitlines() if "relayd" in line] == []
    assert done.returncode == 0


def git(place: Path, *words: str) -> None:
    own = ["-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *own, "-C", str(place), *words], check=True, capture_output=True)


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    """The laptop's tree, whose commits go to a bare repository, and the node's clone of that."""
    laptop, bare, clone = write_tree(tmp_path), tmp_path / "origin.git", tmp_path / "node" / "tree"
    subprocess.run(["git", "init", "--quiet", "--bare", "-b", "main", str(bare)], check=True)
    git(laptop, "init", "--quiet", "-b", "main")
    git(laptop, "remote", "add", "origin", str(bare))
    publish(laptop, "priority = 1")
    subprocess.run(["git", "clone", "--quiet", str(bare), str(clone)], check=True)
    return laptop, clone


def publish(laptop: Path, line: str, *options: str) -> None:
    (laptop / "accounts.d" / "sim.toml").write_text(f"{SIMULATOR}{line}\n")
    git(laptop, "add", "--all")
    git(laptop, "commit", "--quiet", "--allow-empty", "-m", line)
    git(laptop, "push", "--quiet", *options, "origin", "HEAD:main")


def pull(clone: Path) -> list[int]:
    """Run the unit's commands one after the other, as far as systemd would go. Returns: their exit statuses."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("RELAYD_", "GIT_"))}
    environment = {**inherited, **PULL.environment(clone, clone.parent)}
    codes = []
    for command in PULL.commands("ExecStart", clone):
        done = subprocess.run(command, env=environment, capture_output=True, timeout=PATIENCE, check=False)
        codes.append(done.returncode)
        if done.returncode:
            break
    return codes


def test_the_timers_service_pulls_reloads_and_fails_when_the_tree_is_not_taken(places: tuple[Path, Path]) -> None:
    laptop, clone = places
    with running(clone, environment={"RELAYD_WATCH": "off"}) as daemon:
        publish(laptop, "priority = 2")
        assert pull(clone) == [0, 0, 0]
        assert len(daemon.wait_for("reload.applied")) == 1
        publish(laptop, "wieght = 1")
        assert pull(clone) == [0, 0, 1]
        publish(laptop, "priority = 3")
        assert pull(clone) == [0, 0, 0]

        git(laptop, "reset", "--quiet", "--hard", "HEAD~3")
        git(laptop, "commit", "--quiet", "--allow-empty", "-m", "another history")
        git(laptop, "push", "--quiet", "--force", "origin", "HEAD:main")

        codes = pull(clone)
        assert (len(codes), codes[0], codes[1] != 0) == (2, 0, True)
        assert len(daemon.wait_for("reload.applied", 2)) == 2
    assert str(pull_code_without_a_daemon(clone)) in PULL.settings["SuccessExitStatus"]


def pull_code_without_a_daemon(clone: Path) -> int:
    environment = {**os.environ, **PULL.environment(clone, clone.parent)}
    command = PULL.commands("ExecStart", clone)[-1]
    return subprocess.run(command, env=environment, capture_output=True, timeout=PATIENCE, check=False).returncode
