"""What a reload of one changed file costs a daemon with a large tree: `reload_cost.py [KEYS] [ACCOUNTS] [RELOADS]`.

10,000 keys, 500 accounts and 10 reloads by default. A whole daemon in this process, on real files. Printed for each
reload: time from the request to the verdict (with the quiet period, which is waited for and costs nothing), its CPU
time, and how long the event loop was held meanwhile: the longest step of any task, by the clock and in CPU time (which
a busy machine does not lengthen), and the greatest delay of a task that wants to run every millisecond.
"""

from __future__ import annotations

import logging
import sys
import tempfile
import time
from pathlib import Path

import attrs
import trio

sys.path.insert(0, str(Path(__file__).parents[1]))
import import_paths

import_paths.add()

from check_cost import make_tree
from reload_world import FAST, Tree, World, living

from relayd.daemon.run import tune_memory


@attrs.define(eq=False)
class Steps(trio.abc.Instrument):
    """The longest step of any task since `clear`, s."""

    longest: float = 0.0
    longest_cpu: float = 0.0
    late: float = 0.0
    _began: tuple[float, float] = (0.0, 0.0)

    def clear(self) -> None:
        self.longest = self.longest_cpu = self.late = 0.0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._began = time.perf_counter(), time.thread_time()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self.longest = max(self.longest, time.perf_counter() - self._began[0])
        self.longest_cpu = max(self.longest_cpu, time.thread_time() - self._began[1])

    async def beat(self) -> None:
        """Want to run every millisecond."""
        while True:
            due = time.perf_counter() + 0.001
            await trio.sleep(0.001)
            self.late = max(self.late, time.perf_counter() - due)


async def drive(tree: Tree, reloads: int) -> None:
    steps = Steps()
    logging.getLogger().addHandler(logging.NullHandler())  # no account has a credential that opens here
    pace = attrs.evolve(FAST, poll=30.0, patience=60.0, quiet=0.25)
    async with living(tree, watch=False, pace=pace) as world, trio.open_nursery() as nursery:
        tune_memory()  # as `relayd run` does before it serves
        nursery.start_soon(steps.beat)
        await world.reload()
        trio.lowlevel.add_instrument(steps)
        for number in range(reloads):
            await reload_once(world, steps, number)
        trio.lowlevel.remove_instrument(steps)
        nursery.cancel_scope.cancel()


async def reload_once(world: World, steps: Steps, number: int) -> None:
    place = f"keys.d/team1/k{1 + 100 * number}.toml"
    text = (world.tree.root / place).read_text()
    world.tree.write(place, text.replace("rate = { requests = 100,", "rate = { requests = 101,"))
    await trio.sleep(0.3)  # the quiet period is over when the reload is asked for
    steps.clear()
    began, cpu = time.perf_counter(), time.process_time()
    result = await world.reload()
    took, used = time.perf_counter() - began, time.process_time() - cpu
    phases = ", ".join(f"{name} {seconds * 1000:.0f}" for name, seconds in world.record.seconds.items())
    print(
        f"{result.result}: {took:.3f} s, {used:.3f} s CPU ({phases} ms); loop held {steps.longest * 1000:.1f} ms "
        f"({steps.longest_cpu * 1000:.1f} ms CPU), a beat came {steps.late * 1000:.1f} ms late"
    )


def main(keys: int, accounts: int, reloads: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "tree"
        root.mkdir()
        make_tree(root, keys, accounts)
        relay = root / "relay.toml"
        relay.write_text(relay.read_text() + '[server]\nlisten = ["127.0.0.1:0"]\n[admin]\nlisten = ""\n')
        time.sleep(2.1)  # so that stamps are old enough to be trusted by the cache
        trio.run(drive, Tree(root), reloads)


if __name__ == "__main__":
    numbers = [int(word) for word in sys.argv[1:]]
    main(*(numbers + [10_000, 500, 10][len(numbers) :]))
