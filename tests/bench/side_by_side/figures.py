"""Figures of the benchmark: what many measurements come to, and the table that is printed.

Rule: pure. A figure that could not be taken is None and shows as a dash; nothing is made up from its neighbours.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from statistics import median

import attrs

LIMITS = (1.0, 5.0, 10.0, 50.0)  # ms at the 99th percentile
MOST_BUSY = 0.10  # of all cores, by others, before the start; more than that and figures are of the others
MOST_LOAD = 0.5  # of the load average per core
MOST_NOISE = 0.05  # of a core, by others, at the median of all measurements

FLOOR = "nginx"  # what ratios are to


@attrs.frozen(kw_only=True)
class Level:
    """One rate that was offered. `p99`: ms from when a request should have begun to the end of its answer."""

    offered: float
    answered: float
    p99: float
    failed: int


def best_rate(levels: Iterable[Level], limit: float) -> float | None:
    """The most answers a second at which 99 of 100 came within `limit` ms, none failed, and nothing was left behind."""
    kept = [
        one.answered for one in levels if one.p99 <= limit and not one.failed and one.answered >= 0.97 * one.offered
    ]
    return max(kept, default=None)


def per_unit(seconds: float, units: float) -> float | None:
    """CPU us for each of `units` calls or events."""
    return seconds * 1e6 / units if units > 0 else None


def added(through: float, direct: float) -> float:
    """ms that a relay adds to what the way without it takes."""
    return max(0.0, through - direct)


def slope(samples: Sequence[tuple[float, float]]) -> float | None:
    """What `(x, y)` grows by for each x: the median of the slopes of all pairs, which single outliers do not move.

    Source: Theil (1950) and Sen (1968).
    """
    pairs = combinations(samples, 2)
    return median(found) if (found := [(y - b) / (x - a) for (a, b), (x, y) in pairs if x != a]) else None


def why_busy(busy: float, load: float, cores: int, largest: Sequence[str] = ()) -> str:
    """Why this is no time to measure; "" when it is.

    Args:
        busy: share of all cores' time that something ran.
        load: the load average of the last minute.
        largest: what ran, for people.
    """
    names = f" (most of it: {', '.join(largest)})" if largest else ""
    if busy > MOST_BUSY:
        return f"{busy:.0%} of the cores' time is taken by other programs{names}; {MOST_BUSY:.0%} is the most"
    if load / cores > MOST_LOAD:
        return f"the load average is {load:.2f} on {cores} cores{names}; wait until it is below {MOST_LOAD * cores:.1f}"
    return ""


# --- what was measured, as a table


@attrs.define
class Results:
    """Every measurement, by row and by target; a cell may also say why there is none."""

    values: dict[tuple[str, str], list[float]] = attrs.field(factory=lambda: defaultdict(list))
    faults: dict[tuple[str, str], str] = attrs.field(factory=dict)

    def add(self, row: str, target: str, value: float | None) -> None:
        """One more measurement."""
        if value is not None:
            self.values[row, target].append(value)

    def of(self, row: str, target: str) -> float | None:
        """The median of what was measured."""
        found = self.values.get((row, target))
        return median(found) if found else None

    def spread(self, row: str, target: str) -> tuple[float, float] | None:
        """The least and the most."""
        found = self.values.get((row, target))
        return (min(found), max(found)) if found else None


@attrs.frozen
class Row:
    """A line of the table. `ratio`: whether it is told as a multiple of the floor's too."""

    name: str
    title: str
    ratio: bool = True


ROWS = (
    Row("json", "JSON, CPU µs a call"),
    Row("sse", "20-event stream, CPU µs a call"),
    Row("large", "200 KB body, CPU µs a call"),
    Row("event", "paced stream, CPU µs an event"),
    *(Row(f"rate{limit:g}", f"calls/s with p99 within {limit:g} ms") for limit in LIMITS),
    Row("capacity", "calls/s, 32 connections in a closed loop"),
    Row("first50", "first byte, ms added, p50", ratio=False),
    Row("first99", "first byte, ms added, p99", ratio=False),
    Row("idle", "memory idle, MB"),
    Row("loaded", "memory with many open streams, MB"),
    Row("recovered", "memory after them, MB"),
    Row("stream", "memory an open stream, KB"),
    Row("growth", "memory growth under steady calls, MB an hour", ratio=False),
)


def number(value: float) -> str:
    """A figure for people: three significant digits, thousands with a comma."""
    if value < 0:
        return f"-{number(-value)}"
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def cell(results: Results, row: Row, target: str) -> str:
    """One figure, with its multiple of the floor's; a dash where there is none."""
    value, floor = results.of(row.name, target), results.of(row.name, FLOOR)
    if value is None:
        return "fails" if (row.name, target) in results.faults else "-"
    if target == FLOOR or not row.ratio or not floor:
        return number(value)
    return f"{number(value)} ({number(value / floor)}x)"


def table(results: Results, targets: Mapping[str, str], rows: Sequence[Row] = ROWS) -> str:
    """The figures as Markdown. `targets`: titles by name, in the order of the columns."""
    lines = ["| | " + " | ".join(targets.values()) + " |", "|---|" + "--:|" * len(targets)]
    for row in rows:
        cells = [cell(results, row, target) for target in targets]
        if any(text != "-" for text in cells):
            lines.append(f"| {row.title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


# --- the table in other pages


def rewritten(page: str, name: str, block: str) -> str:
    """A page with another text between `<!-- NAME ... -->` and `<!-- end -->`. Raises: ValueError, without them."""
    found = re.search(rf"(?s)(<!-- {name}\b.*?-->\n).*?(<!-- end -->)", page)
    if found is None:
        raise ValueError(f"expected a line <!-- {name} --> and, after it, <!-- end -->")
    return f"{page[: found.start()]}{found[1]}{block}\n{found[2]}{page[found.end() :]}"


def shortened(page: str, full: str) -> str:
    """A page in which the short table has the figures of the full one.

    The page says itself which rows it shows, `<!-- figures: ROW, ROW -->` by their names here, and how it calls them:
    the first column stays as it is. Raises: ValueError, for a row that is not there.
    """
    head, rule, *lines = full.splitlines()
    titles = {row.title: row.name for row in ROWS}
    cells = {titles[title.strip()]: rest for title, rest in (line[1:].split("|", 1) for line in lines)}
    found = re.search(r"(?s)<!-- figures: (.*?) -->\n(.*?)\n<!-- end -->", page)
    if found is None:
        raise ValueError("expected a line <!-- figures: ROW, ROW --> and, after it, <!-- end -->")
    names, (_, _, *old) = found[1].split(", "), found[2].splitlines()
    if unknown := [name for name in names if name not in cells]:
        raise ValueError(f"{', '.join(unknown)}: expected rows of the table: {', '.join(cells)}")
    own = [f"|{line[1:].split('|', 1)[0]}|{cells[name]}" for name, line in zip(names, old, strict=True)]
    return rewritten(page, "figures", "\n".join((head, rule, *own)))


def footnotes(results: Results, targets: Mapping[str, str], absent: Mapping[str, str]) -> str:
    """Why cells say "fails", and why peers are missing."""
    faults: dict[tuple[str, str], list[str]] = defaultdict(list)
    titles = {row.name: row.title.partition(",")[0] for row in ROWS}
    for (row, target), why in results.faults.items():
        faults[target, why].append(titles.get(row, row))
    lines = [
        f"- {targets[target]} fails ({', '.join(sorted({*rows}))}): {why}" for (target, why), rows in faults.items()
    ]
    lines += [f"- not measured: {name}: {why}" for name, why in absent.items()]
    return "\n".join(lines)
