"""Mounts that hide changes: from the kernel's table, and from a real one."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cli_tree import make_tree

from relayd.config.source.mounts import frozen_mounts

TREE = Path("/etc/relay tree")
FORM = r"36 35 98:0 {} {} rw,noatime master:1 - ext4 /dev/sda1 rw"
VERSION = "/kubelet/pods/1f/volumes/kubernetes.io~configmap/tree/..2026_11_28_05_00_00.123"


def told(*mounts: tuple[str, str]) -> list[tuple[str, str]]:
    table = "\n".join(["", "x y", *(FORM.format(source, place) for source, place in mounts)])
    found = frozen_mounts(table, TREE, is_file=lambda path: path.suffix == ".toml")
    return [(problem.file, problem.message.partition(": ")[2]) for problem in found]


@pytest.mark.parametrize(
    ("source", "place", "file", "why"),
    [
        (r"/srv/tree//deleted", r"/etc/relay\040tree", "", "deleted or replaced"),
        ("/srv/relay.toml", r"/etc/relay\040tree/relay.toml", "relay.toml", "a single file"),
        (VERSION, r"/etc/relay\040tree/keys.d", "keys.d", "one version of a ConfigMap"),
        (f"{VERSION}/relay.toml", r"/etc/relay\040tree/relay.toml", "relay.toml", "a single file"),
    ],
)
def test_a_mount_that_pins_what_it_shows_is_told(source: str, place: str, file: str, why: str) -> None:
    ((named, text),) = told((source, place))

    assert named == file
    assert why in text


def test_other_mounts_are_not() -> None:
    whole = "/kubelet/pods/1f/volumes/kubernetes.io~configmap/tree"
    elsewhere = [("/", "/"), ("/x//deleted", "/etc/relay"), (f"{VERSION}/a.toml", "/etc/other.toml")]

    assert told((whole, r"/etc/relay\040tree"), ("/srv/keys", r"/etc/relay\040tree/keys.d"), *elsewhere) == []


def test_check_env_tells_of_a_file_that_is_mounted(tmp_path: Path) -> None:
    mount = ["unshare", "-rm", "sh", "-c", 'mount --bind "$0" "$1" && shift && exec "$@"']
    tree = make_tree(tmp_path)
    source = tmp_path / "mounted.toml"
    source.write_bytes((tree.root / "relay.toml").read_bytes())
    place = tree.root / "relay.toml"
    if shutil.which("unshare") is None or subprocess.run([*mount, source, place, "true"], check=False).returncode:
        pytest.skip("no user namespaces here")
    check = [sys.executable, "-m", "relayd", "check", str(tree.root)]

    plain = subprocess.run([*mount, source, place, *check], capture_output=True, text=True, check=False)
    asked = subprocess.run([*mount, source, place, *check, "--env"], capture_output=True, text=True, check=False)

    assert "W-MOUNT-FROZEN" not in plain.stdout
    assert "relay.toml is a mount that never changes: it is a single file" in asked.stdout
