"""Rounds of `kill -9` under load: nodes die in the middle of calls, others take over, and at the end the books are held
against what the upstream saw.

What must hold of each call that reached the upstream: it is in the books, once. A call that was settled stands there
with the upstream's own figures. One that was open when its node died was booked by the reaper of another node (it
counts as an error): with its last checkpoint, so that what is missing is at most what came since, or, before there was
one, with the estimate of its prompt.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import attrs
import trio
from builders import KEY
from crew_world import CrewDaemon
from crew_world import eventually as eventually_some
from daemon import Daemon, key_text
from fleet import Fleet, eventually, fleet, noon_zone
from ledger import EACH, Seen, asking, body_length
from load import PROMPT, Load, names_of

from relayd.core.quota.learned import TOKENS_PER_SECOND

Victim = Literal["node", "worker", "supervisor"]

SLOTS = 1000  # of the key: enough for all calls, and a leak shows in what `relayd usage` says is used
MOST_CALLS = 20_000  # whose names a tree can hold and a daemon that starts on a busy machine still read in time
LONGEST_ROUND = 20  # s, on a machine that is busy with other tests


@attrs.define
class Tally:
    """What the books say of the calls that the upstream saw.

    Args:
        settled: booked with the upstream's own figures.
        reaped: booked by a reaper.
        unsent: booked, though the upstream never saw them: admitted a moment before their node died.
        short: tokens that each reaped stream with a checkpoint is short of.
        leaked: slots that are still taken.
        faults: one line for each call that is missing, stands there twice, or with wrong figures.
    """

    rounds: int
    seen: int = 0
    settled: int = 0
    reaped: int = 0
    unsent: int = 0
    leaked: int = 0
    short: list[int] = attrs.field(factory=list)
    faults: list[str] = attrs.field(factory=list)

    def text(self) -> str:
        """For people."""
        short = sorted(self.short)
        most = f", short of {short[len(short) // 2]} tokens at the median, {short[-1]} at most" if short else ""
        lines = [
            f"{self.rounds} rounds of kill -9: {self.seen} calls reached the upstream, {self.settled} were settled with"
            f" its figures, {self.reaped} reaped ({len(short)} with a checkpoint{most}); {self.unsent} more were booked"
            f" and never sent; {len(self.faults)} missing, twice or wrong; {self.leaked} slots leaked"
        ]
        return "\n".join(lines + self.faults)


async def kill_rounds(
    place: Path,
    state: str,
    *,
    rounds: int,
    nodes: int,
    rate: float,
    lease: float,
    workers: int = 1,
    victims: Sequence[Victim] = ("node",),
    tell: Callable[[str], None] = print,
) -> Tally:
    """Kill processes under load, round by round, and hold the books against the upstream's ledger.

    Args:
        workers: of each node.
        victims: by turns: a node or a supervisor, which is started again (a supervisor's workers finish their calls
            meanwhile), or a worker, which its supervisor replaces, ever later where they keep dying.
    """
    relay = f'[server]\nworkers = {workers}\n[state]\ntimezone = "{noon_zone()}"\nlease = "{lease:g}s"\n'
    keys = {"dev": key_text(KEY, f"[limits]\nconcurrency = {SLOTS}\n")}
    rng = random.Random(rounds)
    named = names_of("kill", min(MOST_CALLS, round(rounds * rate * LONGEST_ROUND)))
    async with fleet(place, state, keys=keys, relay=relay, named=named, nodes=nodes) as relays:
        load = Load(relays, KEY, "kill", rate, rng)
        async with load.running():
            for number, victim in zip(range(rounds), itertools.cycle(victims), strict=False):
                await trio.sleep(rng.uniform(0.2, 1.5))
                node = rng.randrange(nodes)
                if victim == "worker":
                    await kill_worker(relays.nodes[node], rng)
                else:
                    await relays.kill(node)
                    await relays.start(node)
                if number % 10 == 9:
                    tell(f"round {number + 1}: {len(load.replies)} calls")
        await all_slots_free(relays, lease)
        with contextlib.suppress(AssertionError):  # the tally tells what is missing
            await relays.books_with(relays.ledger.of(load.group).keys())
        tally = await tally_of(relays, load, rounds, lease)
    return tally


async def kill_worker(node: Daemon, rng: random.Random) -> None:
    """kill -9 of one of the workers that serve; where there is none just now, of the next one."""
    crew = CrewDaemon(node, node.tree.parent / "control.sock")
    serving: dict[int, int] = await eventually_some(crew.workers)
    os.kill(rng.choice(sorted(serving.values())), signal.SIGKILL)


async def all_slots_free(relays: Fleet, lease: float) -> None:
    """Wait until the dead nodes' leases have run out and their calls have been reaped."""

    async def are() -> bool:
        return await slots_used(relays) == 0

    with contextlib.suppress(AssertionError):  # the tally tells how many leaked
        await eventually(are, "the slots to be free")
    await trio.sleep(lease / 2 + 1)  # the reaper looks twice in a lease: it may book a call once too often


async def slots_used(relays: Fleet) -> int:
    document = await relays.verb(0, "usage", "dev")
    (row,) = [row for row in document["keys"][0]["limits"] if row["unit"] == "concurrent"]
    used: int = row["used"]
    return used


async def tally_of(relays: Fleet, load: Load, rounds: int, lease: float) -> Tally:
    calls, rows = relays.ledger.of(load.group), await relays.report()
    tally = Tally(rounds, seen=len(calls), leaked=await slots_used(relays))
    tally.unsent = len(rows.keys() - calls.keys())
    for model, seen in calls.items():
        row = rows.get(model)
        fault = ""
        if row is None:
            fault = "is missing"
        elif row["requests"] != 1 or seen.times != 1:
            fault = "is there more than once"
        elif row["errors"]:
            tally.reaped += 1
            fault = "" if _reaped_right(row, seen, model, load, lease, tally.short) else "was reaped wrongly"
        elif (row["input"], row["output"]) == (seen.input, seen.output) and seen.whole:
            tally.settled += 1
        else:
            fault = "was settled wrongly"
        if fault:
            tally.faults.append(f"{model} {fault}: upstream {seen}, books {row}, client {load.replies.get(model)}")
    tally.faults += [f"{model} is there more than once: {row}" for model, row in rows.items() if row["requests"] != 1]
    return tally


def _reaped_right(row: dict[str, Any], seen: Seen, model: str, load: Load, lease: float, short: list[int]) -> bool:
    """Whether a reaped call stands with what the upstream had said at a checkpoint, or else with its estimate.

    That has no output for a stream, of which nothing was heard. A plain answer comes last: a heartbeat that met the
    call in flight notes as written what a model likely writes in that time, and its client has waited no shorter. So it
    does for a stream that stood still.
    """
    likely = TOKENS_PER_SECOND * load.replies[model].seconds
    if row["input"] == PROMPT:  # so a checkpoint was made after message_start
        if not seen.whole:  # else the upstream has told another number at the end
            short.append(seen.output - row["output"])
        most = EACH * lease / load.paces[model]  # four checkpoints come in a lease; later the call would be dead
        return seen.whole or (row["output"] <= max(seen.output + EACH, likely) and short[-1] <= most + 5 * EACH)
    estimates = {
        -(-body_length(asking(KEY, model, stream=stream, prompt=PROMPT, output=output, **play)) * 2 // 7)
        for stream, play in ((False, {"pause": 0.0}), (False, {"pause": 0.02}), (True, {"pause": 0.05, "events": 10}))
        for output in (10, 100)
    }
    written = 0 if model in load.paces else likely
    return bool(min(estimates) - 3 <= row["input"] <= max(estimates) + 3 and 0 <= row["output"] <= written)
