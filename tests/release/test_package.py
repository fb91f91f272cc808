"""What is published: a wheel that knows its commit and brings nothing that runs by itself; a changelog in order.

deploy/release/release.py proves the rest at a release: the same bytes twice, the installed wheel at work, the SBOM.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from relayd import __version__
from relayd.config.source.own_commit import own_commit

ROOT = Path(__file__).parents[2]
VERSION = re.compile(r"(\d+)\.(\d+)\.(\d+)(?: \((\d{4}-\d\d-\d\d)\))?")


def copy_of_source(place: Path) -> Path:
    """The source as it is published: of git what is committed, else (in an sdist) what is there."""
    if (ROOT / ".git").exists():
        config = place.with_name("gitconfig")
        config.write_text("[safe]\n\tdirectory = *\n")  # whoever else it belongs to
        environment = {**os.environ, "GIT_CONFIG_GLOBAL": str(config)}
        words = ["git", "clone", "-q", str(ROOT), str(place)]
        subprocess.run(words, env=environment, check=True, capture_output=True)
    else:
        shutil.copytree(ROOT, place, ignore=shutil.ignore_patterns("__pycache__", ".venv"))
    return place


def test_a_wheel_knows_its_commit_and_has_nothing_but_the_package(tmp_path: Path) -> None:
    source = copy_of_source(tmp_path / "source")
    asked = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / "out")]
    subprocess.run(asked, cwd=source, check=True, capture_output=True)
    (path,) = (tmp_path / "out").iterdir()

    with zipfile.ZipFile(path) as wheel:
        names = wheel.namelist()
        told = wheel.read("relayd/commit.txt").decode() if "relayd/commit.txt" in names else "\n"
        assert told == f"{own_commit()}\n"
        assert len({entry.date_time for entry in wheel.infolist()}) == 1  # one time for all: no clock of a builder
    assert path.name == f"relayd-{__version__}-py3-none-any.whl"
    assert [name for name in names if not re.match(r"relayd/|relayd-[^/]+\.dist-info/", name)] == []
    assert [name for name in names if name.endswith((".pth", ".pyc", "customize.py"))] == []
    assert {"relayd/py.typed", "relayd/config/problems/codes.toml", "relayd/state/apply.lua"} <= set(names)


def test_the_command_says_version_and_commit() -> None:
    done = subprocess.run([sys.executable, "-m", "relayd", "--version"], capture_output=True, text=True, check=True)

    commit = own_commit()
    assert done.stdout == f"relayd {__version__}{f' (commit {commit[:12]})' if commit else ''}\n"


def test_the_changelog_goes_from_now_to_the_first_version() -> None:
    sections = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    past = sections[1:] if sections[0] == "Unreleased" else sections
    matches = [VERSION.fullmatch(section) for section in past]

    assert all(matches), past
    numbers = [tuple(int(match[part]) for part in (1, 2, 3)) for match in matches if match]
    dates = [match[4] for match in matches if match and match[4]]
    assert numbers == sorted(set(numbers), reverse=True)
    assert dates == sorted(dates, reverse=True)
    assert past[0].split()[0] == __version__


def test_what_a_release_installs_is_locked_by_hash_and_is_the_newest_that_the_project_asks_for() -> None:
    locked = (ROOT / "deploy/release/requirements.lock").read_text()
    entries = re.split(r"\n(?=[A-Za-z0-9])", locked)

    assert [entry.splitlines()[0] for entry in entries if "--hash=sha256:" not in entry] == []
    names = {re.match(r"[A-Za-z0-9._-]+", entry)[0].lower() for entry in entries}  # type: ignore[index]
    assert {"build", "cyclonedx-bom", "hatchling", "pex", "pip-audit", "uv"} <= names


def test_the_metadata_name_every_python_that_is_tried() -> None:
    from_pyproject = re.findall(r"Programming Language :: Python :: (3\.\d+)", (ROOT / "pyproject.toml").read_text())
    script = (ROOT / "deploy/release/release.py").read_text()
    tried = re.search(r"^PYTHONS = \((.+)\)$", script, re.MULTILINE)

    assert tried is not None
    assert re.findall(r"3\.\d+", tried[1]) == from_pyproject
