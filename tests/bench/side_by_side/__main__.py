"""relayd beside nginx and its peers: what a call costs, how many a core serves in what time, and what memory they take.

    tests/bench/all [--quick] [--only relayd,nginx] [--peers DIR] [--anyway] [--write]

Every program is measured by turns in one run, alone: the others are stopped meanwhile (SIGSTOP), it runs on one core,
and upstream and load on another. Printed are the medians as Markdown. On a machine that is busy with other things it
refuses to start, and says why; `--anyway` measures all the same and marks the table. `--write` puts the table into
docs/performance.md and its short form into both READMEs, which show it.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median

sys.path[:0] = [str(Path(__file__).parents[number]) for number in (0, 2, 3)]

import attrs
from figures import (
    LIMITS,
    MOST_NOISE,
    Level,
    Results,
    added,
    best_rate,
    footnotes,
    per_unit,
    rewritten,
    shortened,
    slope,
    table,
    why_busy,
)
from machine import busy_seconds, cpu_of, description, look_around, memory_of
from targets import ROOT, TARGETS, NotInstalled, Target
from traffic import FIRST, JSON, LARGE, PACED, SSE, Load, Shape, Traffic, cores, request, seen

CONNECTIONS = 32
RATES = (0.2, 0.35, 0.5, 0.6, 0.7, 0.8, 0.9)  # of what a closed loop gets
FRAME = 5  # events of a stream that are no deltas
CALLS: Mapping[str, Shape] = {"json": JSON, "sse": SSE, "large": LARGE}


@attrs.frozen(kw_only=True)
class Pace:
    """How long and how often.

    Args:
        seconds: of one measurement.
        rest: s until memory counts as recovered.
        steady: s of calls at half of what a closed loop gets, for the growth of memory.
    """

    rounds: int
    seconds: float
    sweep: float
    streams: int
    open: int
    rest: float
    steady: float


FULL = Pace(rounds=3, seconds=4, sweep=4, streams=300, open=1000, rest=10, steady=120)
QUICK = Pace(rounds=1, seconds=1, sweep=0.5, streams=100, open=200, rest=1, steady=6)
QUICKLY_HAD = ("relayd", "nginx", "portkey", "claude-code-router")


@attrs.define
class Bench:
    """One run."""

    traffic: Traffic
    pace: Pace
    results: Results = attrs.field(factory=Results)
    noise: list[float] = attrs.field(factory=list)  # cores that others used, for each measurement

    def ask(self, target: Target, shape: Shape, *, connections: int, seconds: float, rate: float = 0) -> Load:
        """Send a load through a target."""
        program = target.program
        asked = request(program.path, dict(program.headers), shape, program.model)
        return self.traffic.run(program.port, asked, shape, connections=connections, seconds=seconds, rate=rate)

    def costly(self, target: Target, shape: Shape, connections: int) -> tuple[Load, float]:
        """A load, and the CPU seconds of the target for it."""
        self.traffic.flow(shape)
        pid, began, busy = target.process.pid, time.monotonic(), busy_seconds()
        before, ours = cpu_of(pid), cpu_of(os.getpid())  # ours: the target's, the upstream's and the load's too
        load = self.ask(target, shape, connections=connections, seconds=self.pace.seconds)
        used, ours = cpu_of(pid) - before, cpu_of(os.getpid()) - ours
        self.noise.append(max(0.0, busy_seconds() - busy - ours) / max(time.monotonic() - began, 1e-3))
        return load, used

    def calls(self, target: Target) -> None:
        """CPU for each kind of call, in a closed loop."""
        for name, shape in CALLS.items():
            if (name, target.name) in self.results.faults:
                continue
            load, used = self.costly(target, shape, CONNECTIONS)
            if self._sound(name, target, load):
                self.results.add(name, target.name, per_unit(used, load.answers))
                if name == "json":
                    self.results.add("capacity", target.name, load.answers / load.seconds)

    def paced(self, target: Target) -> None:
        """CPU for an event of many slow streams."""
        load, used = self.costly(target, PACED, self.pace.streams)
        if self._sound("event", target, load):
            self.results.add("event", target.name, per_unit(used, load.deltas + FRAME * load.answers))

    def first_byte(self, target: Target) -> None:
        """What the way through a target adds to the first byte, beside the way without it."""
        self.traffic.flow(FIRST)
        bare = request("/v1/messages", {"x-api-key": "none"}, FIRST)
        seconds = self.pace.seconds
        through = self.ask(target, FIRST, connections=CONNECTIONS, seconds=seconds)
        direct = self.traffic.run(self.traffic.port, bare, FIRST, connections=CONNECTIONS, seconds=seconds)
        if self._sound("first50", target, through):
            for row, share in (("first50", "p50"), ("first99", "p99")):
                self.results.add(row, target.name, added(through.first[share], direct.first[share]))

    def rates(self, target: Target) -> None:
        """How many calls a second come back in time."""
        capacity = self.results.of("capacity", target.name)
        if not capacity:
            return
        self.traffic.flow(JSON)
        levels = []
        for share in RATES:
            rate = capacity * share
            load = self.ask(target, JSON, connections=512, seconds=self.pace.sweep, rate=rate)
            if load.answers:
                levels.append(
                    Level(offered=rate, answered=load.answers / load.seconds, p99=load.total["p99"], failed=load.failed)
                )
        for limit in LIMITS:
            self.results.add(f"rate{limit:g}", target.name, best_rate(levels, limit))

    def memory(self, target: Target) -> None:
        """Memory with many streams open, and some time after."""
        # Slowly enough for the slowest of them: 400 events a second in all, or one in 5 s on each stream.
        pid, shape = target.process.pid, Shape(deltas=4, pause=min(5.0, self.pace.open / 400))
        self.traffic.flow(shape)
        before = most = memory_of(pid)
        asked = request(target.program.path, dict(target.program.headers), shape, target.program.model)
        load = self.traffic.begin(target.program.port, asked, shape, connections=self.pace.open, seconds=2)
        while load.poll() is None:
            most = max(most, memory_of(pid))
            time.sleep(0.1)
        if self._sound("loaded", target, seen(load)):
            self.results.add("loaded", target.name, most)
            self.results.add("stream", target.name, (most - before) * 1024 / self.pace.open)
            time.sleep(self.pace.rest)
            self.results.add("recovered", target.name, memory_of(pid))

    def growth(self, target: Target) -> None:
        """What memory grows by under steady calls; the first third of the time is not counted."""
        pid, seconds = target.process.pid, self.pace.steady
        asked = request(target.program.path, dict(target.program.headers), JSON, target.program.model)
        rate = (self.results.of("capacity", target.name) or 0) / 2
        if not rate:
            return
        self.traffic.flow(JSON)
        load = self.traffic.begin(target.program.port, asked, JSON, connections=CONNECTIONS, seconds=seconds, rate=rate)
        samples, began = [], time.monotonic()
        while load.poll() is None:
            if (at := time.monotonic() - began) > seconds / 3:
                samples.append((at / 3600, memory_of(pid)))
            time.sleep(0.5)
        if self._sound("growth", target, seen(load)):
            self.results.add("growth", target.name, slope(samples))

    def probe(self, target: Target) -> None:
        """One call of each kind; what fails is not measured. It warms the target up, too."""
        for name, shape in {**CALLS, "event": PACED, "first50": FIRST, "loaded": PACED}.items():
            self.traffic.flow(attrs.evolve(shape, first=0, pause=0))
            self._sound(name, target, self.ask(target, shape, connections=1, seconds=0.01))
        for shape in (JSON, SSE):
            self.traffic.flow(shape)
            self.ask(target, shape, connections=CONNECTIONS, seconds=self.pace.seconds / 2)

    def _sound(self, row: str, target: Target, load: Load) -> bool:
        """Whether a load went well; if not, it is noted why."""
        if load.failed or not load.answers:
            self.results.faults[row, target.name] = f"{load.failed} of {load.failed + load.answers} calls: {load.why}"
        return not load.failed and load.answers > 0

    def turn(self, target: Target, number: int) -> None:
        """All that one target does in one round."""
        faults = self.results.faults
        self.calls(target)
        for row, measure in (("event", self.paced), ("first50", self.first_byte)):
            if (row, target.name) not in faults:
                measure(target)
        if number == self.pace.rounds - 1:
            self.rates(target)
            if ("loaded", target.name) not in faults:
                self.memory(target)
            self.growth(target)


@contextlib.contextmanager
def alone(target: Target) -> Iterator[None]:
    """The target runs for the length of a block."""
    target.go_on()
    time.sleep(0.3)  # what waited has a moment
    try:
        yield
    finally:
        target.pause()


def started(names: Sequence[str], folder: Path, peers: Path, upstream: int) -> tuple[list[Target], dict[str, str]]:
    """The targets that can be had, each paused once it listens, and why the others cannot."""
    found: list[Target] = []
    absent: dict[str, str] = {}
    for name in names:
        say(f"installing and starting {name} ...")
        own = (folder if name in ("relayd", "nginx") else peers) / name
        own.mkdir(parents=True, exist_ok=True)
        try:
            target = Target.start(name, TARGETS[name](own, upstream), own, cores()[0])
        except NotInstalled as error:
            absent[name] = str(error)
            continue
        time.sleep(2)  # what is done after a start
        found.append(target)
        target.pause()
    return found, absent


def say(text: str) -> None:
    """Talk beside the table."""
    print(text, file=sys.stderr, flush=True)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests/bench/all", description="relayd beside nginx and its peers")
    parser.add_argument("--quick", action="store_true", help="a trial of two minutes: one short round, without LiteLLM")
    parser.add_argument("--anyway", action="store_true", help="measure on a busy machine too, and mark the table")
    parser.add_argument("--only", default="", metavar="NAMES", help=f"of {','.join(TARGETS)}")
    parser.add_argument(
        "--peers", type=Path, metavar="DIR", help="where peers are installed, to keep them for the next run"
    )
    parser.add_argument("--streams", type=int, default=0, help="open at once for the figures of memory")
    parser.add_argument("--rounds", type=int, default=0)
    parser.add_argument("--steady", type=float, default=0, metavar="S", help="of calls, for the growth of memory")
    parser.add_argument("--write", action="store_true", help="put the table into the pages that show it")
    args = parser.parse_args()
    wanted = args.only.split(",") if args.only else list(QUICKLY_HAD if args.quick else TARGETS)
    if unknown := set(wanted) - set(TARGETS):
        parser.error(f"--only {','.join(sorted(unknown))}: expected names of {', '.join(TARGETS)}")
    args.wanted = [name for name in TARGETS if name in wanted]
    return args


def refuse_a_busy_machine(anyway: bool) -> str:
    """Why the figures will be of little use; "" when the machine is at rest. Raises: SystemExit."""
    busy, largest = look_around(3)
    why = why_busy(busy, os.getloadavg()[0], os.cpu_count() or 1, largest)
    if why and not anyway:
        raise SystemExit(f"side by side: {why} (--anyway measures all the same)")
    return why


def main() -> None:
    args = parsed()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that nothing that was started stays behind
    pace = QUICK if args.quick else FULL
    pace = attrs.evolve(
        pace,
        open=args.streams or pace.open,
        rounds=args.rounds or pace.rounds,
        steady=args.steady or pace.steady,
    )
    why, began = refuse_a_busy_machine(args.anyway), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="side-by-side-") as place:
        folder = Path(place)
        traffic = Traffic.start(folder, cores()[1])
        targets: list[Target] = []
        try:
            targets, absent = started(args.wanted, folder, args.peers or folder / "peers", traffic.port)
            bench = Bench(traffic, pace)
            measure(bench, targets)
            text = page(bench, targets, absent, why, time.monotonic() - began)
            print(text)
            if args.write:
                write(text, table(bench.results, {target.name: target.program.title for target in targets}))
        finally:
            for target in targets:
                target.stop()
            traffic.stop()


def measure(bench: Bench, targets: Sequence[Target]) -> None:
    """All rounds."""
    for target in targets:
        bench.results.add("idle", target.name, memory_of(target.process.pid))
        with alone(target):
            bench.probe(target)
    for number in range(bench.pace.rounds):
        for target in targets:
            say(f"round {number + 1} of {bench.pace.rounds}: {target.name}")
            with alone(target):
                bench.turn(target, number)


def write(text: str, figures: str) -> None:
    """Put the figures into the pages that show them."""
    for name in ("README.md", "README.ko.md"):
        path = ROOT / name
        path.write_text(shortened(path.read_text(), figures))
    path = ROOT / "docs" / "performance.md"
    path.write_text(rewritten(path.read_text(), "figures", text))


def page(bench: Bench, targets: Sequence[Target], absent: Mapping[str, str], why: str, seconds: float) -> str:
    """The table, with all that is needed to read it."""
    titles = {target.name: target.program.title for target in targets}
    noise = median(bench.noise) if bench.noise else 0.0
    marks = [f"**Only a trial: when it began, {why}.**"] if why else []
    if noise > MOST_NOISE:
        marks.append(f"**Only a trial: other programs took {noise:.0%} of a core while it measured.**")
    pace, day = bench.pace, datetime.datetime.now(datetime.UTC).date()
    how = (
        f"{day}, {description()}; {pace.rounds} rounds of {pace.seconds:g} s a figure, medians; {pace.streams} streams "
        f"for the cost of an event, {pace.open} for memory; {seconds / 60:.0f} minutes. "
        "In brackets: multiples of nginx's."
    )
    setups = "\n".join(f"- {target.program.title}: {target.program.notes}" for target in targets)
    parts = (*marks, table(bench.results, titles), how, setups, footnotes(bench.results, titles, absent))
    return "\n\n".join(part for part in parts if part)


if __name__ == "__main__":
    main()
