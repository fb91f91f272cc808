"""A push by a user of its own, beside a daemon of another one, as under the unit in deploy/systemd with push.conf.

Needs root, to be other users; elsewhere who may ask is tested in tests/daemon/admin.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from daemon import SIMULATOR
from ports import free_port
from waiting import wait_until

SERVICE, PUSHER, STRANGER, GROUP = 64_001, 64_002, 64_003, 64_100  # ids that nobody has


ROOT = Path(__file__).parents[2]
PATH = f"{ROOT}:{sysconfig.get_paths()['purelib']}"


def python_for_all() -> str:
    """A Python with which another user can run this relayd; "" for none. Ours may lie in somebody's home."""
    for python in (sys.executable, f"/usr/bin/python3.{sys.version_info.minor}"):
        with contextlib.suppress(OSError):
            words, environment = [python, "-P", "-c", "import relayd.daemon.run"], {"PYTHONPATH": PATH}
            done = subprocess.run(
                words, user=PUSHER, group=PUSHER, extra_groups=[], env=environment, check=False, capture_output=True
            )
            if done.returncode == 0:
                return python
    return ""


PYTHON = python_for_all() if os.geteuid() == 0 else ""
pytestmark = pytest.mark.skipif(not PYTHON, reason="only root can be other users")


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """A place that all of them reach; each has a directory in it."""
    root = Path(tempfile.mkdtemp(prefix="relayd-users-"))
    root.chmod(0o755)
    for name, user in (("run", SERVICE), ("pushed", PUSHER)):
        (root / name).mkdir()
        os.chown(root / name, user, user)
    yield root
    shutil.rmtree(root)


def as_user(user: int, *words: str, home: Path, groups: tuple[int, ...] = ()) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "RELAYD_"))}
    people = {f"GIT_{who}_{what}": "x" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    return subprocess.run(
        words, user=user, group=user, extra_groups=groups, capture_output=True, text=True, check=False, cwd=home,
        env={**environment, **people, "HOME": str(home), "XDG_CONFIG_HOME": str(home), "PYTHONPATH": PATH}, timeout=120,
    )  # fmt: skip


@pytest.fixture(scope="module")
def pushed(home: Path) -> Iterator[Path]:
    """A tree that was pushed by PUSHER, and is served by SERVICE."""
    place = home / "pushed"
    control, port = home / "run" / "c.sock", free_port()
    script = f"""set -e
{PYTHON} -m relayd serve-git relay --control {control}
git init -q -b main laptop && cd laptop && mkdir accounts.d && git remote add node ../relay.git
printf 'schema = 1\\nrealm = "test"\\n[admin]\\nlisten = ""\\n' > relay.toml
printf '{SIMULATOR.strip()}\\n' > accounts.d/a.toml
git add . && git commit -q -m one && git push -qu node main
"""
    done = as_user(PUSHER, "sh", "-c", script, home=place, groups=(GROUP,))
    assert done.returncode == 0, done.stderr
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RELAYD_")}
    log = home / "daemon.log"
    words = [PYTHON, "-m", "relayd", "run", "--config", str(place / "relay"), "--control", str(control)]
    words += ["--state", f"sqlite:{home}/run/relayd.db", "--listen", f"127.0.0.1:{port}"]
    with log.open("wb") as file:
        daemon = subprocess.Popen(
            words, user=SERVICE, group=SERVICE, extra_groups=[GROUP], stdout=file, stderr=file, cwd="/",
            env={**environment, "RELAYD_CONTROL_GROUP": str(GROUP), "HOME": str(home / "run"), "PYTHONPATH": PATH},
        )  # fmt: skip
    try:
        wait_until(lambda: "daemon.listening" in log.read_text() or daemon.poll() is not None, "the daemon")
        assert daemon.poll() is None, log.read_text()
        yield place
    finally:
        daemon.send_signal(signal.SIGTERM)
        daemon.wait(60)


def change(place: Path, name: str, *, groups: tuple[int, ...]) -> subprocess.CompletedProcess[str]:
    words = (
        f"cd laptop && cp accounts.d/a.toml accounts.d/{name}.toml && git add . && git commit -qm x && git push node"
    )
    return as_user(PUSHER, "sh", "-c", words, home=place, groups=groups)


def test_a_member_of_the_group_gets_the_verdict_of_a_daemon_that_is_not_theirs(pushed: Path) -> None:
    done = change(pushed, "b", groups=(GROUP,))

    assert "relayd: applied generation 2: account b added" in done.stderr
    assert os.stat(pushed.parent / "run" / "c.sock").st_mode & 0o777 == 0o660


def test_who_is_not_in_the_group_is_told_that_the_daemon_does_not_answer_them(pushed: Path) -> None:
    done = change(pushed, "c", groups=())

    assert done.returncode == 0
    assert "a daemon takes it by itself, but its verdict is not to be had" in done.stderr
    assert "permission denied" in done.stderr


ASK = """
import json, socket, sys
sock = socket.socket(socket.AF_UNIX)
sock.connect(sys.argv[1])
sock.sendall(sys.argv[2].encode() + b"\\n")
print(sock.makefile().readline())
"""


def ask(home: Path, user: int, request: dict[str, Any]) -> dict[str, Any]:
    control = str(home / "run" / "c.sock")
    done = as_user(user, PYTHON, "-c", ASK, control, json.dumps(request), home=Path("/"), groups=(GROUP,))
    return dict(json.loads(done.stdout))


def test_a_member_may_push_and_nothing_else(pushed: Path) -> None:
    for verb in ("rollback", "resume", "generations", "metrics", "wake", "explain"):
        assert "is for root and the daemon's own user" in ask(pushed.parent, PUSHER, {"verb": verb})["error"]
    assert ask(pushed.parent, STRANGER, {"verb": "status"})["ok"]


@pytest.mark.parametrize("tree", ["/etc", "..", "relay", "/proc/self/cwd", ""])
def test_a_member_cannot_have_the_daemon_read_another_directory(pushed: Path, tree: str) -> None:
    path = tree if tree.startswith("/") or not tree else str(pushed / tree)

    answer = ask(pushed.parent, PUSHER, {"verb": "examine", "tree": path})
    assert not answer["ok"]
    assert answer["error"].startswith("tree: ")
