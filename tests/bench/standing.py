"""What a daemon holds, looked at from outside: memory, descriptors, threads, tasks, configs, entries of its store."""

from __future__ import annotations

import argparse
import contextlib
import os
import sqlite3
import sys
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import trio

sys.path.append(str(Path(__file__).parent / "side_by_side"))

import redis
import redis_server
from daemon import control_answer
from figures import slope
from fleet import Fleet, eventually
from machine import family

BY_AGE = frozenset({"done", "c", "calls"})  # settled calls, kept for six hours; lines for the pages, as configured
CALM = 60  # looks, 2 s apart, until idle connections upstream are closed, and what waits for the collector is collected
# The most that a quantity may grow in an hour, which for memory is 1 MB in ten minutes, and the most by which it may
# differ at rest, before and afterwards.
ALLOWED: Mapping[str, tuple[float, float]] = {
    "memory": (6.0, 8.0),
    "descriptors": (5.0, 5.0),
    "threads": (2.0, 3.0),
    "tasks": (5.0, 5.0),
    "configs": (1.0, 1.0),
    "entries": (30.0, 30.0),
}


Soak = Callable[[Path, str, argparse.Namespace], Awaitable[bool]]  # a folder, the address of a store


def played(soak: Soak, args: argparse.Namespace) -> int:
    """Plays it in a folder and on a store of its own. Returns: the exit status.

    Raises: SystemExit for anybody but root, to whom relayd shows nothing of its memory and descriptors.
    """
    if os.geteuid():
        raise SystemExit("only root may look at a daemon's memory and descriptors: run this as root")
    with contextlib.ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        state = f"sqlite:{place}/state/relayd.db"
        if args.state == "redis":
            state = stack.enter_context(redis_server.running()).url
        return 0 if trio.run(soak, place, state, args) else 1


def held_by(pid: int) -> dict[str, float]:
    """What a process and its descendants hold. Memory in MB: what several share counts once (PSS)."""
    found = Counter({"memory": 0.0, "descriptors": 0, "threads": 0})
    for one in family(pid):
        try:
            memory = _field(Path(f"/proc/{one}/smaps_rollup"), "Pss")
            threads = _field(Path(f"/proc/{one}/status"), "Threads")
            descriptors = len(os.listdir(f"/proc/{one}/fd"))
        except PermissionError:
            raise  # a root without CAP_SYS_PTRACE, as in some containers
        except (OSError, StopIteration):
            continue  # it has just ended
        found.update({"memory": memory / 1024, "threads": threads, "descriptors": descriptors})
    return dict(found)


def _field(path: Path, name: str) -> int:
    """Of a table in /proc (proc(5))."""
    line = next(line for line in path.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1])


def entries_of(state: str) -> Counter[str]:
    """How many rows or keys a store has, by table or kind."""
    scheme, _, place = state.partition(":")
    if scheme == "sqlite":
        connection = sqlite3.connect(f"file:{place}?mode=ro", uri=True, timeout=30)
        try:
            names = [name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
            return Counter({name: connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in names})
        finally:
            connection.close()
    with redis.Redis.from_url(state) as client:
        return Counter(_kind(name) for name in client.scan_iter(count=1000))


def _kind(name: bytes) -> str:
    """relayd:{REALM}:KIND:..., see state/apply.lua."""
    return name.rpartition(b"}")[2].lstrip(b":").partition(b":")[0].decode()


@attrs.frozen(kw_only=True)
class Standing:
    """One look. `at`: s since the first; `values`: by the names of ALLOWED; `entries`: all of the store's, by kind."""

    at: float
    values: Mapping[str, float]
    entries: Mapping[str, int]

    @classmethod
    def of(cls, at: float, pid: int, status: Mapping[str, Any], state: str) -> Standing:
        """A look at a daemon that has said its status."""
        entries = entries_of(state)
        values = {
            **held_by(pid),
            "tasks": status["tasks"],
            "configs": status["generations_live"],
            "entries": sum(count for name, count in entries.items() if name not in BY_AGE),
        }
        return cls(at=at, values=values, entries=entries)

    def text(self) -> str:
        """For people."""
        told = ", ".join(f"{name} {self.values[name]:.4g}" for name in ALLOWED)
        by_age = sum(count for name, count in self.entries.items() if name in BY_AGE)
        return f"{self.at / 60:5.1f} min: {told} (and {by_age} kept by age)"


@attrs.define(eq=False)
class Watched:
    """The first node of a fleet, looked at from outside."""

    relays: Fleet
    began: float = attrs.field(factory=trio.current_time)

    async def asked(self, verb: str) -> dict[str, Any]:
        """What the control socket answers."""
        control = self.relays.tree(0).parent / "control.sock"
        found: dict[str, Any] = await trio.to_thread.run_sync(control_answer, control, verb)
        return found

    async def reload(self) -> str:
        """Ask for a reload; how it went."""
        return str((await self.asked("reload"))["result"]["result"])

    async def look(self) -> Standing:
        """What it holds now."""
        at, pid = trio.current_time() - self.began, self.relays.nodes[0].process.pid
        status = (await self.asked("status"))["status"]
        return await trio.to_thread.run_sync(Standing.of, at, pid, status, self.relays.state)

    async def at_rest(self, before: Standing | None = None) -> Standing:
        """What it holds once nothing is under way and it has had time to come back to what it held before."""

        async def is_quiet() -> bool:
            status = (await self.asked("status"))["status"]
            return not status["calls"] and not status["connections"]["open"]

        await eventually(is_quiet, "no call and no connection")
        for _ in range(CALM):
            await trio.sleep(2)
            found = await self.look()
            if before is None or all(one.gone for one in verdicts((), before, found)):
                break
        return found


@attrs.frozen(kw_only=True)
class Verdict:
    """What became of one quantity."""

    name: str
    per_hour: float
    before: float
    after: float

    @property
    def flat(self) -> bool:
        """It does not grow under load."""
        return self.per_hour <= ALLOWED[self.name][0]

    @property
    def gone(self) -> bool:
        """What the load took is given back at rest."""
        return self.after - self.before <= ALLOWED[self.name][1]


def verdicts(samples: Sequence[Standing], before: Standing, after: Standing) -> list[Verdict]:
    """Of each quantity: its growth under load, and what is left of it at rest."""
    return [
        Verdict(
            name=name,
            per_hour=(slope([(one.at, one.values[name]) for one in samples]) or 0.0) * 3600,
            before=before.values[name],
            after=after.values[name],
        )
        for name in ALLOWED
    ]


def table(found: Sequence[Verdict], *, hourly: bool = True) -> str:
    """As Markdown. `hourly`: with the growth, which says something after half an hour."""
    lines = ["| | at rest before | afterwards | |", "|---|--:|--:|---|"]
    if hourly:
        lines = ["| | growth an hour | at rest before | afterwards | |", "|---|--:|--:|--:|---|"]
    for one in found:
        words = [f"grows, {ALLOWED[one.name][0]:g} is allowed"] if hourly and not one.flat else []
        words += [f"is left, {ALLOWED[one.name][1]:g} more are allowed"] if not one.gone else []
        figures = [f"{one.per_hour:+.1f}"] if hourly else []
        cells = [one.name, *figures, f"{one.before:.4g}", f"{one.after:.4g}", ", ".join(words) or "flat"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
