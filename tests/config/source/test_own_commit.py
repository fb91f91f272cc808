"""Which commit of its own source a relayd is of: built in, or of the checkout that it runs from."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from relayd import __version__
from relayd.config.source import own_commit
from relayd.config.source.own_commit import commit_at, version_text

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def git(root: Path, *words: str) -> str:
    config = ["-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", *config, "-C", str(root), *words], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_a_package_that_was_built_says_what_it_was_built_from(tmp_path: Path) -> None:
    (tmp_path / "commit.txt").write_text(f"{COMMIT}\n")

    assert commit_at(tmp_path) == COMMIT


def test_a_checkout_is_of_its_head_in_a_linked_worktree_too(tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    (checkout / "relayd").mkdir(parents=True)
    (checkout / "relayd/x.py").write_text("")
    git(tmp_path, "init", "-q", str(checkout))
    git(checkout, "add", ".")
    git(checkout, "commit", "-qm", "one")
    git(checkout, "worktree", "add", "-q", str(tmp_path / "linked"))

    assert commit_at(checkout / "relayd") == commit_at(tmp_path / "linked/relayd") == git(checkout, "rev-parse", "HEAD")


def test_a_package_in_somebody_elses_repository_is_of_no_commit(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q", ".")
    package = tmp_path / "venv/site-packages/relayd"
    package.mkdir(parents=True)

    assert commit_at(package) == ""


@pytest.mark.parametrize(
    ("commit", "shown"),
    [
        ("", f"relayd {__version__}"),
        (COMMIT, f"relayd {__version__} (commit 0123456789ab)"),
        (f"{COMMIT}-dirty", f"relayd {__version__} (commit 0123456789ab, changed)"),
    ],
)
def test_the_version_names_it(commit: str, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_commit, "own_commit", lambda: commit)

    assert version_text() == shown
