"""Workers that are replaced as they are in real life: told to end, grown too large, and changed in number."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Awaitable, Callable

import attrs
from crew_world import CrewDaemon, aside, eventually

SMALL = "20MiB"  # less than the program itself


@attrs.define(eq=False)
class Replacements:
    """The workers of a daemon. `told`, `large`, `fewer`: how many have been replaced for what."""

    crew: CrewDaemon
    told: int = 0
    large: int = 0
    fewer: int = 0

    @property
    def count(self) -> int:
        """All of them."""
        return self.told + self.large + self.fewer

    async def tell_one(self, place: int) -> None:
        """SIGTERM of a worker; another one takes its place."""
        pid = (await aside(self.crew.workers))[place]
        os.kill(pid, signal.SIGTERM)
        await eventually(lambda: self.crew.workers().get(place, pid) != pid)
        self.told += 1

    async def outgrow_all(self) -> None:
        """`max_memory` below what they have: each is replaced in turn."""
        before = await aside(self.crew.workers)
        await self.write("max_memory", f'"{SMALL}"')
        await eventually(lambda: self._others(before))
        await self.write("max_memory", "0")
        self.large += len(before)

    def _others(self, before: dict[int, int]) -> bool:
        now = self.crew.workers()
        return now.keys() == before.keys() and not {*before.values()} & {*now.values()}

    async def be(self, count: int) -> None:
        """So many workers, two at least, by a reload."""
        before = await aside(self.crew.workers)
        await self.write("workers", str(count))
        await eventually(lambda: self.crew.workers().keys() == {*range(1, count + 1)})
        self.fewer += max(0, len(before) - count)

    async def write(self, name: str, value: str) -> None:
        """A setting of [server], and a reload. Raises: AssertionError where it is not taken."""
        place = self.crew.daemon.tree / "relay.toml"
        text = re.sub(rf"^{name} = .*\n", "", place.read_text(), flags=re.MULTILINE)
        fresh = place.with_name(".relay.toml.new")
        fresh.write_text(text.replace("[server]\n", f"[server]\n{name} = {value}\n"))
        fresh.replace(place)
        result = await aside(self.crew.reload)
        assert result["result"] in ("applied", "unchanged"), result


async def replace(world: Replacements, count: int, workers: int, between: Callable[[], Awaitable[None]]) -> None:
    """Replace so many at least: two fifths told to end, a fifth grown too large, the rest by reloads of their number.

    Args:
        workers: as many as there are, and will be.
        between: waited for between two steps.
    """
    for number in range(count * 2 // 5):
        await world.tell_one(1 + number % workers)
        await between()
    # A place whose workers soon outgrow their memory is filled ever more slowly (pace.py), so there are more of them.
    await world.be(max(workers, min(8, count // 5)))
    while world.large < count // 5:
        await world.outgrow_all()
        await between()
    await world.be(workers)
    while world.count < count:
        await world.be(workers + 2)
        await world.be(workers)
        await between()
