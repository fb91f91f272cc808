"""The clock of a whole process is set, forward and back, while calls run."""

from __future__ import annotations

from pathlib import Path

import trio
from builders import KEY
from daemon import key_text
from fleet import fleet, noon_zone
from ledger import asking
from load import names_of
from skewed import clock_of, set_clock
from strain import asked, fate

OTHER = "rk_another.0123456789abcdef0123456789abcdef"
STEPS = (3600, -3600, 86_400, 0)  # s ahead, one after the other
LEASE = 8.0  # s; whoever is held up for six of them has lost it


async def test_calls_keep_their_slots_and_are_booked_once_whatever_the_clock_does(tmp_path: Path) -> None:
    clock = tmp_path / "clock"
    set_clock(clock, 0)
    relay = f'[state]\ntimezone = "{noon_zone()}"\nlease = "{LEASE:g}s"\n'
    keys = {"dev": key_text(KEY, "[limits]\nconcurrency = 3\n"), "other": key_text(OTHER)}
    held = names_of("held", 3)
    state = f"sqlite:{tmp_path}/state/relayd.db"
    async with fleet(
        tmp_path,
        state,
        keys=keys,
        relay=relay,
        named=held,
        nodes=1,
        modules={0: "skewed"},
        environments={0: clock_of(clock)},
    ) as relays:
        port = relays.nodes[0].port
        fates = []

        async def hold(model: str) -> None:
            request = asking(KEY, model, stream=True, pause=0.2, events=10_000, output=9)
            fates.append(fate(await asked(port, request)))

        async with trio.open_nursery() as nursery:
            for model in held:
                nursery.start_soon(hold, model)
            while relays.ledger.running["held"] < len(held):  # noqa: ASYNC110 - a counter tells nobody
                await trio.sleep(0.02)
            for step in STEPS:
                set_clock(clock, step)
                for _ in range(2):
                    assert (await asked(port, asking(KEY, "beyond.0", output=5))).status == 429
                    assert (await asked(port, asking(OTHER, f"beside.{step}", output=5))).status == 200
                    await trio.sleep(LEASE / 6)  # the leases are renewed every quarter of it
            assert not fates
            relays.ledger.enough.set()
        assert fates == ["whole"] * len(held)
        assert relays.ledger.of("beyond") == {}
        await relays.books_hold({model: relays.ledger.calls[model].tokens for model in held})
        assert (await asked(port, asking(KEY, "again.0", output=5))).status == 200
        for event in ("state.reaped", "state.replaced", "state.unavailable", "lease.lost"):
            assert not relays.nodes[0].events(event), event
        assert "Traceback" not in relays.nodes[0].text()
