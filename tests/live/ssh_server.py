"""A real sshd on loopback, as the user who runs the tests: Debian's openssh-server with a config of its own."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import attrs
from waiting import wait_until

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


@attrs.frozen
class SshServer:
    """A running sshd. `key` may sign in; `known_hosts` has the server's own key."""

    port: int
    key: Path
    known_hosts: Path

    def url(self, path: Path) -> str:
        """A repository on it."""
        return f"git+ssh://{getpass.getuser()}@127.0.0.1:{self.port}{path}#main"


@contextlib.contextmanager
def serving_ssh(place: Path) -> Iterator[SshServer]:
    """For the length of the block."""
    assert SSHD is not None
    place.mkdir(mode=0o700)
    for name in ("host", "deploy"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(place / name)], check=True)
    shutil.copy(place / "deploy.pub", place / "authorized")
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    known = place / "known_hosts"
    known.write_text(f"[127.0.0.1]:{port} {(place / 'host.pub').read_text()}")
    settings = {
        "Port": port, "ListenAddress": "127.0.0.1", "HostKey": place / "host", "PidFile": "none", "UsePAM": "no",
        "AuthorizedKeysFile": place / "authorized", "StrictModes": "no", "PasswordAuthentication": "no",
        "KbdInteractiveAuthentication": "no", "PermitRootLogin": "prohibit-password",
    }  # fmt: skip
    config = place / "sshd_config"
    config.write_text("".join(f"{name} {value}\n" for name, value in settings.items()))
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # where sshd locks up its unprivileged half
    with (place / "log").open("wb") as log:
        process = subprocess.Popen([SSHD, "-D", "-e", "-f", str(config)], stderr=log)
    try:
        wait_until(lambda: socket.create_connection(("127.0.0.1", port), 1).close() is None, "sshd")
        yield SshServer(port, place / "deploy", known)
    finally:
        process.terminate()
        process.wait()
