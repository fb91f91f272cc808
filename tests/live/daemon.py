"""Starts `relayd run` as a process of its own, on a free port, with a tree that the test writes.

    with running(write_tree(tmp_path, relay='[server]\\nsse_keepalive = "1s"')) as daemon:
        httpx2.get(daemon.url + "/health")

At the end of the block the daemon is told to stop and must end well (exit code 0). All it printed is in `daemon.log`
beside the tree and in the message of whatever assertion here fails.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import attrs
from builders import KEY

from relayd.config.secrets.api_keys import key_hash

PATIENCE = 60.0  # s for a start or a stop, on a machine that is busy with other things
SIMULATOR = 'kind = "simulator"\n'
_HEAD = 'schema = 1\nrealm = "test"\n'


def control_answer(control: Path, verb: str, patience: float = PATIENCE) -> Any:
    """What the daemon at a control socket says."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(patience)
        sock.connect(str(control))
        sock.sendall(json.dumps({"verb": verb}).encode() + b"\n")
        answer = json.loads(sock.makefile("rb").readline())
    assert answer["ok"], answer
    return answer


def key_text(key: str = KEY, more: str = "") -> str:
    """keys.d/ID.toml for `key`."""
    return f'hashes = [{{ sha256 = "{key_hash(key)}", hint = "{key[:13]}" }}]\n{more}\n'


def write_tree(
    root: Path,
    *,
    relay: str = "",
    accounts: Mapping[str, str] = MappingProxyType({"sim": SIMULATOR}),
    keys: Mapping[str, str] = MappingProxyType({"dev": key_text()}),
    files: Mapping[str, str] = MappingProxyType({}),
) -> Path:
    """A config tree below `root`.

    Args:
        relay: tables of relay.toml, behind `schema` and `realm`. Without an [admin] table the admin listener is off.
        accounts, keys: TOML by id.
        files: further files by path, such as deny.toml.
    """
    tree = root / "tree"
    admin = "" if "[admin]" in relay else '\n[admin]\nlisten = ""\n'
    texts = {
        "relay.toml": f"{_HEAD}{relay}\n{admin}",
        **{f"accounts.d/{name}.toml": text for name, text in accounts.items()},
        **{f"keys.d/{name}.toml": text for name, text in keys.items()},
        **files,
    }
    for name, text in texts.items():
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tree


@attrs.define(eq=False)
class Daemon:
    """A running daemon. `url` is the base of its public listener."""

    process: subprocess.Popen[bytes]
    output: Path
    tree: Path
    url: str = ""

    @property
    def host(self) -> str:
        return self.url.removeprefix("http://").rpartition(":")[0]

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def text(self) -> str:
        """All it has printed so far."""
        return self.output.read_text(errors="replace")

    def events(self, name: str = "") -> list[dict[str, Any]]:
        """The whole lines of its JSON log, of one event or of all."""
        lines = self.text().split("\n")[:-1]
        entries = [json.loads(line) for line in lines if line.startswith("{")]
        return [entry for entry in entries if name in ("", entry["event"])]

    def last_of_store(self) -> str:
        """The event that it has logged last of its store coming or going; "" while there is none."""
        changes = [one["event"] for one in self.events() if one["event"] in ("state.unavailable", "state.available")]
        return changes[-1] if changes else ""

    def wait_for(self, event: str, count: int = 1) -> list[dict[str, Any]]:
        """Wait until `event` has been logged `count` times; these entries."""
        self.wait_until(lambda: len(self.events(event)) >= count, f"{event} (x {count})")
        return self.events(event)

    def wait_until(self, condition: Callable[[], bool], what: str) -> None:
        """Poll while the daemon lives. Raises: AssertionError, with its output."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            ended = self.process.poll()
            if ended is not None and not condition():
                raise AssertionError(f"the daemon ended with {ended} before {what}:\n{self.text()}")
            if time.monotonic() > deadline:
                raise AssertionError(f"waited {PATIENCE:g} s in vain for {what}:\n{self.text()}")
            time.sleep(0.01)

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self) -> int:
        """Wait until it has ended by itself; its exit code."""
        try:
            return self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the daemon did not end within {PATIENCE:g} s:\n{self.text()}") from None

    def stop(self) -> None:
        """SIGTERM, then wait for a good end. Raises: AssertionError."""
        if self.process.poll() is None:
            self.signal(signal.SIGTERM)
        code = self.wait()
        assert code == 0, f"the daemon ended with {code}:\n{self.text()}"

    def kill(self) -> None:
        """At once, as a crash would."""
        self.process.kill()
        self.process.wait()


def start(
    tree: Path,
    *options: str,
    environment: Mapping[str, str] = MappingProxyType({}),
    output: Path | None = None,
    program: Sequence[str] = ("-m", "relayd"),
    descriptors: Sequence[int] = (),
    enter: Sequence[str] = (),
) -> Daemon:
    """Start `relayd run` and wait until it listens. The caller stops it. Raises: AssertionError, with its output.

    Args:
        descriptors: that the process is given, under the same numbers.
        enter: words that start a command somewhere else, and become it.
    """
    output = output or tree.parent / "daemon.log"
    daemon = Daemon(_process(tree, options, environment, output, program, descriptors, enter), output, tree)
    try:
        daemon.wait_until(lambda: "daemon.listening" in daemon.text().rpartition("\n")[0], "daemon.listening")
    except BaseException:
        daemon.kill()
        raise
    line = next(line for line in daemon.text().splitlines() if "daemon.listening" in line)  # JSON, or text for people
    daemon.url = (re.findall(r"http://[^\s\"'\],]+", line) or [""])[0]
    return daemon


def _process(
    tree: Path,
    options: tuple[str, ...],
    environment: Mapping[str, str],
    output: Path,
    program: Sequence[str],
    descriptors: Sequence[int],
    enter: Sequence[str],
) -> subprocess.Popen[bytes]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RELAYD_")}
    near = ":".join(map(str, (tree, tree.parent, tree.parent.parent)))  # where tests put files with secrets
    inherited |= {"RELAYD_CREDENTIALS": near, "RELAYD_LOG_DIR": str(tree.parent)}
    listen = () if "--listen" in options else ("--listen", "127.0.0.1:0")
    with output.open("wb") as file:
        return subprocess.Popen(
            [*enter, sys.executable, *program, "run", "--config", str(tree), *listen, *options],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            env={**inherited, **environment},
            pass_fds=descriptors,
        )


@contextlib.contextmanager
def running(
    tree: Path,
    *options: str,
    environment: Mapping[str, str] = MappingProxyType({}),
    program: Sequence[str] = ("-m", "relayd"),
) -> Iterator[Daemon]:
    """A daemon for the length of a block. It must stop well, unless the block has ended it."""
    daemon = start(tree, *options, environment=environment, program=program)
    try:
        yield daemon
    except BaseException:
        daemon.kill()
        raise
    if daemon.process.returncode is None:
        daemon.stop()


def alive(pid: int) -> bool:
    """Whether a process still runs; a zombie only waits for whoever started or adopted it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # the latter where it goes between opening and reading
        return False


def children_of(pid: int) -> set[int]:
    """Processes that one has started, by whichever of its threads."""
    found: set[int] = set()
    with contextlib.suppress(OSError):  # it has ended
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                found |= set(map(int, (thread / "children").read_text().split()))
    return found
