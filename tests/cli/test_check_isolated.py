"""`relayd check` asks nothing but the tree: no network, no place to write, no secret, no clock."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from builders import KEY
from cli_tree import make_tree

from relayd.config.secrets.api_keys import key_hash

# In namespaces of its own: no network device but a dead loopback, and nothing on the whole system can be written.
ALONE = ["unshare", "-rmn", "sh", "-c", 'mount -o remount,bind,ro / && mount -o bind,ro "$0" "$0" && exec "$@"']
# The clock of another year: whoever asks for the time is told 2035. Seen by the child through sitecustomize.
LATER = """\
import time
_time, _time_ns = time.time, time.time_ns
time.time = lambda: _time() + 9 * 365 * 86400
time.time_ns = lambda: _time_ns() + 9 * 365 * 86400 * 10**9
"""


def can_be_alone(folder: Path) -> bool:
    if sys.platform != "linux" or shutil.which("unshare") is None:
        return False
    return subprocess.run([*ALONE, str(folder), "true"], capture_output=True, check=False).returncode == 0


def files_below(root: Path) -> dict[str, tuple[int, int]]:
    found = {}
    for path in root.rglob("*"):
        about = path.lstat()
        found[str(path)] = about.st_ino, about.st_ctime_ns
    return found


@pytest.mark.parametrize("form", ["text", "json"])
def test_the_report_is_the_same_alone_on_a_read_only_system_in_another_year(tmp_path: Path, form: str) -> None:
    if not can_be_alone(tmp_path):
        pytest.skip("no user namespaces here")
    tree = make_tree(tmp_path)
    expires = f'hashes = [{{ sha256 = "{key_hash(KEY)}" }}]\nexpires = 2031-01-01T00:00:00Z\n'
    tree.write("keys.d/dev.toml", expires + "modles = []\n")
    tree.write("accounts.d/b.toml", 'kind = "api-key"\nproxy = "http://proxy.invalid:1"\n[credential]\nfile = "/x"\n')
    tree.write("later/sitecustomize.py", LATER)
    check = [sys.executable, "-m", "relayd", "check", str(tree.root), "--format", form]
    bare = {"PATH": os.environ["PATH"], "HOME": str(tmp_path / "home"), "TMPDIR": str(tmp_path / "home")}
    (tmp_path / "home").mkdir()

    here = subprocess.run(check, capture_output=True, env=bare, cwd=tmp_path, check=False)
    before = files_below(tmp_path)
    alone = subprocess.run(
        [*ALONE, str(tmp_path), *check],
        capture_output=True,
        env={**bare, "PYTHONPATH": str(tree.root / "later"), "TZ": "Asia/Tokyo", "LC_ALL": "C.UTF-8"},
        cwd=tmp_path,
        check=False,
    )

    assert (alone.returncode, alone.stderr) == (1, b"")
    assert alone.stdout == here.stdout
    assert b"modles" in here.stdout
    assert b"2031" not in here.stdout
    assert files_below(tmp_path) == before
