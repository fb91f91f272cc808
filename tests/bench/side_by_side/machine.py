"""The machine: what processes use of it, and whether it is at rest.

Source: proc(5): /proc/PID/stat, /proc/PID/status, /proc/stat.
"""

from __future__ import annotations

import os
import platform
import subprocess
import time
from pathlib import Path

TICK = os.sysconf("SC_CLK_TCK")
PROC = Path("/proc")


def family(root: int) -> list[int]:
    """A process and all that descend from it."""
    children: dict[int, list[int]] = {}
    for place in PROC.iterdir():
        if place.name.isdigit():
            fields = _stat(int(place.name))
            if fields is not None:
                children.setdefault(int(fields[1]), []).append(int(place.name))
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    return found


def cpu_of(root: int) -> float:
    """CPU seconds of a process and its descendants, those that have ended included."""
    stats = [fields for pid in family(root) if (fields := _stat(pid)) is not None]
    return sum(int(field) for fields in stats for field in fields[11:15]) / TICK


def memory_of(root: int) -> float:
    """Resident MB of a process and its descendants; pages that they share count in each."""
    return sum(_resident(pid) for pid in family(root)) / 1024


def _stat(pid: int) -> list[str] | None:
    """The fields behind the name, from the state on."""
    try:
        return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def _resident(pid: int) -> float:
    try:
        lines = (PROC / str(pid) / "status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((float(line.split()[1]) for line in lines if line.startswith("VmRSS")), 0.0)


def busy_seconds() -> float:
    """CPU seconds that all cores have worked since the boot, for whomever; also for other guests (steal)."""
    user, nice, system, _, _, irq, soft, steal = map(int, (PROC / "stat").read_text().split()[1:9])
    return (user + nice + system + irq + soft + steal) / TICK


def look_around(seconds: float) -> tuple[float, list[str]]:
    """The share of all cores' time that something runs, and what runs most."""
    before, began, used = busy_seconds(), time.monotonic(), _all_cpu()
    time.sleep(seconds)
    wall = time.monotonic() - began
    share = (busy_seconds() - before) / wall / (os.cpu_count() or 1)
    spent = {name: at - used.get(name, at) for name, at in _all_cpu().items()}
    most = sorted((name for name in spent if spent[name] > 0.05 * wall), key=lambda name: -spent[name])[:3]
    return share, [f"{name[1]} ({name[0]}) {spent[name] / wall:.0%}" for name in most]


def _all_cpu() -> dict[tuple[int, str], float]:
    found = {}
    for place in PROC.iterdir():
        if place.name.isdigit() and int(place.name) != os.getpid() and (fields := _stat(int(place.name))) is not None:
            try:
                name = (place / "comm").read_text().strip()
            except OSError:
                continue
            found[int(place.name), name] = (int(fields[11]) + int(fields[12])) / TICK
    return found


def description() -> str:
    """What machine this is, in a line."""
    info = (PROC / "cpuinfo").read_text()
    model = next((line.partition(":")[2].strip() for line in info.splitlines() if line.startswith("model name")), "?")
    return f"{os.cpu_count()} cores ({model}), Linux {platform.release()}, Python {platform.python_version()}"


def first_line(*command: str) -> str:
    """What a program says of its version."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return ((done.stdout + done.stderr).strip().splitlines() or ["?"])[0]
