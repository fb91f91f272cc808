"""One push at a time: who comes second waits for the process of the first, and no longer."""

from __future__ import annotations

import os
import subprocess
import threading
from pathlib import Path

import pytest

from relayd.cli import push_lock
from relayd.cli.push_lock import _named, take
from relayd.cli.push_words import PushOptions, PushRefused, RefUpdate, push_options, update_of


def test_both_hooks_of_one_push_hold_the_same_lock(tmp_path: Path) -> None:
    told: list[str] = []
    for _ in range(2):
        take(tmp_path / "lock", told.append)

    assert told == []
    assert (tmp_path / "lock").read_text() == _named(os.getppid())


def test_the_second_push_is_told_and_goes_on_when_the_first_has_ended(tmp_path: Path) -> None:
    told: list[str] = []
    asked = threading.Event()
    first = subprocess.Popen(["sleep", "600"])
    (tmp_path / "lock").write_text(_named(first.pid))

    def tell(text: str) -> None:
        told.append(text)
        asked.set()

    second = threading.Thread(target=take, args=(tmp_path / "lock", tell))
    second.start()
    assert asked.wait(60)
    first.kill()
    first.wait()
    second.join(60)

    assert told == ["another push is at work; this one waits for it"]
    assert not second.is_alive()
    assert (tmp_path / "lock").read_text() == _named(os.getppid())


def test_a_push_that_does_not_end_does_not_block_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(push_lock, "PATIENCE", 0.0)
    (tmp_path / "lock").write_text(_named(os.getpid()))

    with pytest.raises(PushRefused, match=f"another push \\(process {os.getpid()}\\) has been at work"):
        take(tmp_path / "lock", lambda text: None)


@pytest.mark.parametrize("left", ["", "999999999 1", "1 999", "garbage", "x y z", "SELF 1"])
def test_what_a_dead_push_has_left_holds_nobody_up(tmp_path: Path, left: str) -> None:
    left = left.replace("SELF", str(os.getpid()))
    (tmp_path / "lock").write_text(left)
    told: list[str] = []
    take(tmp_path / "lock", told.append)

    assert told == []


def test_push_options_are_ours_by_their_prefix() -> None:
    environ = {
        "GIT_PUSH_OPTION_COUNT": "3",
        "GIT_PUSH_OPTION_0": "ci.skip",
        "GIT_PUSH_OPTION_1": "relayd.accept=98c2b1d0f3aa",
        "GIT_PUSH_OPTION_2": "relayd.dry-run",
    }

    assert push_options(environ) == PushOptions(accept="98c2b1d0f3aa", dry_run=True)
    assert push_options({}) == PushOptions()
    with pytest.raises(PushRefused, match=r"-o relayd\.acept: there is no such option"):
        push_options({"GIT_PUSH_OPTION_COUNT": "1", "GIT_PUSH_OPTION_0": "relayd.acept=1"})


def test_a_ref_that_is_made_or_deleted_leads_to_nowhere_on_one_side() -> None:
    one, none = "1" * 40, "0" * 40

    assert update_of(f"{none} {one} refs/heads/main") == RefUpdate("refs/heads/main", "", one)
    assert update_of(f"{one} {none} refs/heads/main") == RefUpdate("refs/heads/main", one, "")
