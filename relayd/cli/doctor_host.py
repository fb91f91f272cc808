"""The machine under a node: disks, memory, descriptors, ports, permissions and systemd, as far as they show themselves.

Rule: reads; a port that is tried is let go at once. What this system or this user may not see is left out.
Source: proc(5); proc_meminfo(5) for MemAvailable; systemctl(1).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import stat
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

from relayd.core.checkup import CheckupFinding, Descriptors, Room, split_hint
from relayd.daemon.capacity import PLENTY, attainable_descriptors, client_connections
from relayd.daemon.net.listen import open_listener, sockets_of

PROC = Path("/proc")
SYSTEMD = Path("/run/systemd/system")  # sd_booted(3)
UNIT = "relayd.service"
PATIENCE = 5.0  # s for one answer of this machine's own
OTHERS = 0o077


def rooms(places: Iterable[str]) -> list[Room]:
    """The room on the file systems of directories, each file system once; of one that is not there, its parent's."""
    found: dict[int, Room] = {}
    for place in filter(None, places):
        there = Path(place).absolute()
        while not there.exists():
            there = there.parent
        with contextlib.suppress(OSError):
            about = os.statvfs(there)
            inodes = about.f_favail if about.f_files else None
            room = Room(place=str(there), free=about.f_bavail * about.f_frsize, inodes=inodes)
            found.setdefault(there.stat().st_dev, room)
    return list(found.values())


def available_memory(proc: Path = PROC) -> int | None:
    """Bytes that a new process could have without swapping."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in (proc / "meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return None


def descriptors_of(pid: int | None, used: int | None, wanted: int, proc: Path = PROC) -> Descriptors | None:
    """The descriptors of a daemon; without one, what a daemon started here could have: it raises its limit itself.

    Args:
        used: how many it says it has open.
    """
    if pid is None:
        return _descriptors("a daemon started here", attainable_descriptors(), None, wanted)
    place = proc / str(pid)
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = (place / "limits").read_text(encoding="ascii").splitlines()
        soft = next(line for line in lines if line.startswith("Max open files")).split()[3]
        limit = PLENTY if soft == "unlimited" else int(soft)
        return _descriptors(f"the daemon (process {pid})", limit, used, wanted)
    return None


def _descriptors(whose: str, limit: int, used: int | None, wanted: int) -> Descriptors:
    return Descriptors(limit=limit, used=used, clients=client_connections(limit), wanted=wanted, whose=whose)


def listening_findings(addresses: Iterable[str]) -> Iterator[CheckupFinding]:
    """Whether a daemon answers where it says that it listens: `http://host:port` or `unix:/path`."""
    for address in addresses:
        try:
            status = _livez(address)
        except OSError as error:
            why = (error.strerror or "no answer in time").lower()
            todo = "see whether a firewall is between, or the daemon hangs (relayd status)"
            yield CheckupFinding(area="listeners", ok=False, text=f"{address}: {why}", what_to_do=todo)
            continue
        well = status == 200
        todo = "" if well else "see who answers there (`ss -ltnp`)"
        yield CheckupFinding(
            area="listeners", ok=well, text=f"{address}: /livez is {status or 'not HTTP'}", what_to_do=todo
        )


def _livez(address: str) -> int:
    """The status of GET /livez; 0 for what is not HTTP. Raises: OSError."""
    with _connected(address) as sock:
        sock.settimeout(PATIENCE)
        sock.sendall(b"GET /livez HTTP/1.1\r\nhost: doctor\r\nconnection: close\r\n\r\n")
        words = sock.makefile("rb").readline(200).split()
    return int(words[1]) if len(words) > 1 and words[0].startswith(b"HTTP/") and words[1].isdigit() else 0


def _connected(address: str) -> socket.socket:
    if address.startswith("unix:"):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.connect(address.removeprefix("unix:"))
        except OSError:
            sock.close()
            raise
        return sock
    host, _, port = address.removeprefix("http://").rpartition(":")
    everywhere = {"0.0.0.0": "127.0.0.1", "[::]": "::1"}
    return socket.create_connection((everywhere.get(host, host.strip("[]")), int(port)), timeout=PATIENCE)


def port_findings(addresses: Iterable[str]) -> Iterator[CheckupFinding]:
    """Whether a daemon could listen there. A path is not tried: making its socket would leave a file."""
    for address in addresses:
        if address.startswith("unix:"):
            continue
        try:
            for sock in sockets_of({address: open_listener(address)}):
                sock.close()
        except (OSError, ValueError) as error:
            text, hint = _taken(str(error.strerror or error) if isinstance(error, OSError) else str(error))
            yield CheckupFinding(area="listeners", ok=False, text=text, what_to_do=hint)
        else:
            yield CheckupFinding(area="listeners", ok=True, text=f"{address}: free")


def _taken(said: str) -> tuple[str, str]:
    text, semicolon, hint = said.partition("; ")
    return (text, hint) if semicolon else (split_hint(said)[0], "choose another address in [server].listen")


def permission_findings(state: Path) -> Iterator[CheckupFinding]:
    """Whether others could read what is counted, or we could not write it."""
    if not state.is_dir():
        return
    bad = False
    for place in (state, *sorted(state.glob("*.db")), *sorted(state.glob("journal"))):
        with contextlib.suppress(OSError):
            about = place.stat()
            mode = stat.S_IMODE(about.st_mode)
            # A directory may be read by others, and with a group of its own written (a volume of Kubernetes).
            if mode & (OTHERS if place != state else stat.S_IWOTH):
                bad = True
                todo = f"chmod {'go=' if place != state else 'o-w'} {place}"
                text = f"{place}: mode {mode:04o} lets others in"
                yield CheckupFinding(area="permissions", ok=False, text=text, what_to_do=todo)
            if not os.access(place, os.W_OK):
                bad = True
                text = f"{place}: belongs to user {about.st_uid}, and user {os.geteuid()} may not write it"
                todo = "run doctor as the daemon's user, or chown it to that user"
                yield CheckupFinding(area="permissions", ok=False, text=text, what_to_do=todo)
    if not bad:
        yield CheckupFinding(area="permissions", ok=True, text=f"{state}: ours alone")


def unit_findings(unit: str = UNIT) -> Iterator[CheckupFinding]:
    """How the systemd unit is; nothing where systemd does not run, or has no such unit."""
    program = shutil.which("systemctl")
    if not SYSTEMD.is_dir() or program is None:
        return
    names = "LoadState,ActiveState,UnitFileState,NeedDaemonReload,Result,NRestarts"
    asked = [program, "show", unit, f"--property={names}"]
    try:
        said = subprocess.run(asked, capture_output=True, text=True, timeout=PATIENCE, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return
    yield from judge_unit(unit, dict(line.partition("=")[::2] for line in said.splitlines()))


def judge_unit(unit: str, told: dict[str, str]) -> Iterator[CheckupFinding]:
    """What `systemctl show` says of a unit. Pure."""
    if told.get("LoadState") in (None, "not-found"):
        return
    state, result = told.get("ActiveState", ""), told.get("Result", "")
    text = f"{unit} is {state}" + (f" ({result})" if result not in ("", "success") else "")
    active = state in ("active", "reloading", "activating")
    todo = "" if active else f"see `systemctl status {unit}` and `journalctl -u {unit} -n 50`"
    yield CheckupFinding(area="unit", ok=active, text=text, what_to_do=todo)
    if told.get("NeedDaemonReload") == "yes":
        text = f"{unit} has changed on disk since systemd read it"
        yield CheckupFinding(
            area="unit", ok=False, text=text, what_to_do="systemctl daemon-reload && systemctl restart relayd"
        )
    if told.get("UnitFileState") == "disabled":
        text = f"{unit} will not start with the machine"
        yield CheckupFinding(area="unit", ok=False, text=text, what_to_do=f"systemctl enable {unit}")
