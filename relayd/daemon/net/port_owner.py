"""Owner of a port: which process listens on a TCP port of this machine, as far as /proc shows it to us.

Rule: sync, for whoever found the port taken; a look at every process's descriptors, so never in the event loop. What
cannot be seen (another user's process, another machine's port forward) is left out, and nothing is raised.

Theory: /proc/net/tcp lists each socket with its state and inode; /proc/PID/fd links to `socket:[INODE]`.
Source: proc(5); the kernel's include/net/tcp_states.h: 0A is TCP_LISTEN.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from relayd.noun import noun

PROC = Path("/proc")
LISTEN = "0A"


@noun(kw_only=True)
class PortOwner:
    """A process that listens on a port."""

    pid: int
    command: str

    def __str__(self) -> str:
        return f"process {self.pid} ({self.command})" if self.command else f"process {self.pid}"


def owner_of_port(port: int, proc: Path = PROC) -> PortOwner | None:
    """Who listens there; None when it cannot be seen."""
    inodes = {f"socket:[{inode}]" for table in ("tcp", "tcp6") for inode in _listening(proc / "net" / table, port)}
    for process in _processes(proc) if inodes else ():
        if not inodes.isdisjoint(_links(process / "fd")):
            return PortOwner(pid=int(process.name), command=_command(process))
    return None


def advice(port: int, owner: PortOwner | None, own: int) -> str:
    """What to do about a taken port: `taken by process 4711 (nginx); stop it, or ...`. `own`: our process id."""
    other = f"or choose another port, such as {port + 1 if port < 65535 else port - 1} (--listen, or relay.toml)"
    if owner is None:
        seen = f"try `ss -ltnp 'sport = :{port}'` as root"
        return f"taken by a process that we may not see, maybe another relayd ({seen}); {other}"
    if owner.pid == own:
        return f"this very process listens there already; {other}"
    return f"taken by {owner}; stop it (kill {owner.pid}), {other}"


def _listening(table: Path, port: int) -> Iterator[str]:
    try:
        lines = table.read_text(encoding="ascii", errors="replace").splitlines()[1:]
    except OSError:
        return
    for line in lines:
        words = line.split()
        if len(words) > 9 and words[3] == LISTEN and int(words[1].rpartition(":")[2], 16) == port:
            yield words[9]


def _processes(proc: Path) -> Iterator[Path]:
    try:
        names = os.listdir(proc)
    except OSError:
        return
    yield from (proc / name for name in names if name.isdecimal())


def _links(folder: Path) -> Iterator[str]:
    """Where the descriptors of a process lead; it may be another user's, or end meanwhile."""
    try:
        names = os.listdir(folder)
    except OSError:
        return
    for name in names:
        try:
            yield os.readlink(folder / name)
        except OSError:
            continue


def _command(process: Path) -> str:
    """The program's name; its arguments are not our business, and may hold a secret."""
    try:
        name = (process / "comm").read_text(errors="replace").strip()
    except OSError:
        return ""
    return "".join(char if char.isprintable() else "?" for char in name)
