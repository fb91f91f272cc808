"""Keys of the relay before, at a real daemon: at its start, after a reload, and when their secret cannot be opened."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import httpx2
from builders import KEY
from daemon import Daemon, key_text, running, write_tree

from relayd.config.secrets.binding import crs_binding
from relayd.config.secrets.identity import write_identity
from relayd.config.secrets.seal import new_identity, seal
from relayd.config.secrets.secret import Secret

OLD, PEPPER = "cr_" + "5e" * 32, "canary-encryption-key-of-32-chars"
HASH = hashlib.sha256((OLD + PEPPER).encode()).hexdigest()
KEY_FILE = f'hashes = [{{ scheme = "crs-sha256", sha256 = "{HASH}" }}]\n'
ASK = {"model": "claude-haiku-4-5", "max_tokens": 10, "messages": [{"role": "user", "content": "Hello"}]}


def status(daemon: Daemon, key: str = OLD) -> int:
    answer = httpx2.post(f"{daemon.url}/v1/messages", headers={"x-api-key": key}, json=ASK, timeout=30)
    return answer.status_code


def test_an_old_key_is_served_at_the_start_and_after_a_reload(tmp_path: Path) -> None:
    identity = new_identity(os.urandom)
    sealed = seal(Secret(PEPPER), crs_binding("test"), [identity.public])
    secrets = (
        f'[secrets]\nrecipients = [{{ name = "n", public = "{identity.public.text}", state = "active" }}]\n'
        f'crs_encryption_key = "{sealed}"\n'
    )
    tree = write_tree(tmp_path, relay=secrets, keys={"old": KEY_FILE})
    write_identity(tmp_path / "identity", tree, identity)
    with running(tree, "--identity", str(tmp_path / "identity")) as daemon:
        assert (status(daemon), status(daemon, OLD[:-1])) == (200, 401)
        (tree / "keys.d/old.toml").write_text(KEY_FILE + "max_tokens = 5\n")
        daemon.wait_for("reload.applied")
        assert status(daemon) == 400  # the new limit holds for the same old key
        relay = (tree / "relay.toml").read_text()
        (tree / "keys.d/old.toml").write_text(key_text())
        (tree / "relay.toml").write_text(relay.replace("crs_encryption_key", "# crs_encryption_key"))
        daemon.wait_until(lambda: status(daemon, KEY) == 200, "the key of its own")
        assert status(daemon) == 401
        (tree / "keys.d/old.toml").write_text(KEY_FILE)
        (tree / "relay.toml").write_text(relay)
        daemon.wait_until(lambda: status(daemon) == 200, "the old key again")
        assert OLD not in daemon.text()
        assert PEPPER not in daemon.text()
    with running(tree, "--identity", str(_another(tmp_path, tree))) as daemon:
        assert status(daemon) == 401
        assert "keys of scheme crs-sha256 are refused" in daemon.wait_for("old_keys.closed")[0]["hint"]


def _another(tmp_path: Path, tree: Path) -> Path:
    file = tmp_path / "other"
    write_identity(file, tree, new_identity(os.urandom))
    return file
