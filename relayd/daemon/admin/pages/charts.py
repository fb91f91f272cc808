"""Charts: numbers over time as shapes for an SVG, made on the server.

Rule: pure geometry; a template draws it, and the table of the same numbers stands beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

from relayd.noun import noun

WIDTH, HEIGHT = 640.0, 150.0
LEFT, BOTTOM, TOP = 62.0, 18.0, 8.0  # room for the figures at the sides


@noun(kw_only=True)
class Series:
    """One line or one row of bars.

    Args:
        name: `chart.NAME` is its name for people.
        values: None where nothing is known.
    """

    name: str
    values: Sequence[float | None]


@noun(kw_only=True)
class Chart:
    """What a template draws.

    Args:
        name: of the chart; also the kind of its figures: "money", "duration" or "number" in `kind`.
        starts: the time of each value, Unix time, s.
        top: the largest figure on the axis.
        paths: for each series its name and the `d` of its path.
        marks: pairs of x and the time, Unix time, s, for the axis below.
    """

    name: str
    kind: str
    starts: Sequence[float]
    series: tuple[Series, ...]
    top: float
    paths: tuple[tuple[str, str], ...]
    marks: tuple[tuple[float, float], ...]


def chart(name: str, kind: str, starts: Sequence[float], *series: Series, marks: int = 4) -> Chart:
    """Lines over time on one axis that begins at 0."""
    highest = max((value for one in series for value in one.values if value is not None), default=0.0)
    top = nice_top(highest)
    across = (WIDTH - LEFT) / max(1, len(starts) - 1)
    paths = tuple((one.name, _path(one.values, across, top)) for one in series)
    steps = max(1, ceil(len(starts) / marks))
    places = tuple((LEFT + number * across, starts[number]) for number in range(0, len(starts), steps))
    return Chart(name=name, kind=kind, starts=starts, series=series, top=top, paths=paths, marks=places)


def nice_top(highest: float) -> float:
    """1, 2 or 5 times a power of ten, at or above the highest value."""
    if highest <= 0:
        return 1.0
    power = 1.0
    while power < highest:
        power *= 10
    while power / 10 >= highest:
        power /= 10
    return next(step for step in (power / 5, power / 2, power) if step >= highest)


def _path(values: Sequence[float | None], across: float, top: float) -> str:
    """A line through the values; it is broken where nothing is known, and a lone value is a dot."""
    parts: list[str] = []
    pen_down = False
    for number, value in enumerate(values):
        if value is None:
            pen_down = False
            continue
        x, y = LEFT + number * across, HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * value / top
        alone = not pen_down and (number + 1 == len(values) or values[number + 1] is None)
        parts.append(f"{'L' if pen_down else 'M'}{x:.1f} {y:.1f}" + ("h0.1" if alone else ""))
        pen_down = True
    return "".join(parts)
