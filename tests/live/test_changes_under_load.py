"""Reloads, broken trees and replaced workers under load: no call fails, and the books are equal to the ledger.

The short version of tests/bench/reload_soak.py and tests/bench/replacement_rounds.py.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from builders import KEY
from changes import WRONG, Changes
from churn import Churn, Mixture, missing
from crew_world import CrewDaemon, aside
from daemon import key_text
from fleet import eventually, fleet, noon_zone
from replacements import Replacements, replace

CLIENTS = 12
WORKERS = 2


async def test_calls_notice_neither_right_nor_broken_trees_nor_workers_that_are_replaced(tmp_path: Path) -> None:
    relay = f'[server]\nworkers = {WORKERS}\n[state]\ntimezone = "{noon_zone()}"\n'
    keys, named = {"dev": key_text(KEY)}, [f"kept.{number}" for number in range(7)]
    state = f"sqlite:{tmp_path}/state/relayd.db"
    async with fleet(tmp_path, state, keys=keys, relay=relay, named=named, nodes=1) as relays:
        node, mixture, changes = relays.nodes[0], Mixture(leaving=0), Changes(relays.tree(0))
        world, load = Replacements(CrewDaemon(node, node.tree.parent / "control.sock")), Churn(node.port, mixture)

        async def reloaded() -> str:
            return str((await aside(world.crew.reload))["result"])

        async with load.running(CLIENTS):
            for _ in range(WRONG):
                changes.right()
                assert await reloaded() == "applied"
                mend = changes.wrong()
                assert await reloaded() == "rejected"
                mend()
                await load.more(5)
            await replace(world, 5, WORKERS, load.more)
        assert load.failed == []
        assert world.told == 2
        assert world.large == WORKERS
        assert world.fewer >= 1
        wrong = ["no report"]

        async def whole() -> bool:
            try:
                wrong[:] = await missing(relays, mixture.expected)
            except AssertionError as error:  # settlements wait for the store
                wrong[:] = [repr(error)]
            return not wrong

        with contextlib.suppress(AssertionError):  # of what was booked last: what is wrong in the end is told
            await eventually(whole, "the last bookings")
        assert wrong == []
