"""A real sshd on loopback, for one test, as our own user: own host key, own config, own authorized keys.

What comes in by the key may do git and nothing else, as docs/gitops.md says it should be set up.
"""

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
from ports import free_port
from waiting import wait_until

FORCED = 'restrict,command="git-shell -c \\"$SSH_ORIGINAL_COMMAND\\""'


@attrs.frozen
class SshServer:
    """A server that listens. `command`: of an ssh client that trusts it, for GIT_SSH_COMMAND."""

    port: int
    command: str
    user: str = attrs.field(factory=getpass.getuser)

    def url(self, path: Path) -> str:
        return f"ssh://{self.user}@127.0.0.1:{self.port}{path}"


def find_sshd() -> str:
    """The path of sshd. A test that needs it fails where there is none; tests/run installs it where it may."""
    found = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
    if not found:
        raise RuntimeError("no sshd [install openssh-server]")
    return found


def _key(path: Path) -> Path:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    return path


@contextlib.contextmanager
def serving_ssh(root: Path, authorized: Path | None = None) -> Iterator[SshServer]:
    """A server for the length of a block. `authorized`: another file than the one that lets our client's key in."""
    root.mkdir(mode=0o700)
    port, host, client = free_port(), _key(root / "host"), _key(root / "client")
    (root / "authorized").write_text(f"{FORCED} {client.with_suffix('.pub').read_text()}")
    (root / "known").write_text(f"[127.0.0.1]:{port} {host.with_suffix('.pub').read_text()}")
    path, keys = os.environ.get("PYTHONPATH", ""), authorized or root / "authorized"
    (root / "config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {host}\nPidFile none\nAuthorizedKeysFile {keys}\n"
        "StrictModes no\nUsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n"
        f"PermitRootLogin prohibit-password\n{f'SetEnv PYTHONPATH={path}' if path else ''}\n"
    )
    if os.geteuid() == 0:
        os.makedirs("/run/sshd", mode=0o755, exist_ok=True)  # where sshd locks up its unprivileged half
    with (root / "log").open("wb") as log:
        server = subprocess.Popen([find_sshd(), "-D", "-e", "-f", str(root / "config")], stderr=log)
    try:
        wait_until(lambda: socket.create_connection(("127.0.0.1", port), 5).close() is None, "sshd")
        options = f"-F none -i {client} -o IdentitiesOnly=yes -o UserKnownHostsFile={root}/known -o BatchMode=yes"
        yield SshServer(port, f"ssh {options}")
    finally:
        server.terminate()
        server.wait(30)
