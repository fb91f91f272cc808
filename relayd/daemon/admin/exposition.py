"""Exposition: metrics in Prometheus's text format.

Rule: pure; numbers in, text out.
Theory: a metric is declared once, with its labels, in metric_list.py; samples can only be made of a declaration, so
/metrics has no metric that the list (and with it the documentation) does not have.
Source: Prometheus documentation, "Exposition formats", text format 0.0.4.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import accumulate
from typing import Literal, TypeVar

from relayd.core.durations import Durations
from relayd.noun import noun

Values = TypeVar("Values", bound=tuple[str, ...])  # of labels


@noun
class Metric:
    """The declaration of one metric.

    Args:
        labels: their names, in the order in which samples give the values.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    meaning: str
    labels: tuple[str, ...] = ()

    def at(self, value: float) -> Family:
        """Of a metric without labels, its value."""
        return Family(self, (((), value),))

    def each(self, samples: Mapping[str, float]) -> Family:
        """Of a metric with one label, a value for each of the label's values."""
        return self.by({(value,): amount for value, amount in samples.items()})

    def by(self, samples: Mapping[Values, float]) -> Family:
        """Of a metric with labels, a value for each set of their values."""
        return Family(self, tuple(sorted(samples.items())))

    def of(self, durations: Durations) -> Histogram:
        """Of a histogram, its buckets as they are now."""
        return Histogram(self, durations.bounds, tuple(durations.counts), durations.total)


@noun
class Family:
    """A metric with its values, by those of its labels."""

    metric: Metric
    samples: tuple[tuple[tuple[str, ...], float], ...]


@noun
class Histogram:
    """A metric of durations.

    Args:
        bounds: upper bounds, s, rising, without the infinite one.
        counts: how many lie at or below each bound and above the one before; the last: above all.
        total: the sum of what was measured, s.
    """

    metric: Metric
    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    total: float


def exposition(families: Iterable[Family | Histogram]) -> str:
    """All metrics as text."""
    return "".join(_histogram(one) if isinstance(one, Histogram) else _family(one) for one in families)


def _family(one: Family) -> str:
    name, labels = one.metric.name, one.metric.labels
    lines = (f"{name}{_labels(labels, values)} {_number(value)}\n" for values, value in one.samples)
    return _head(one.metric) + "".join(lines)


def _histogram(one: Histogram) -> str:
    """Buckets count all that lie at or below their bound, those of smaller ones included."""
    name, bounds, sums = one.metric.name, [*map(_number, one.bounds), "+Inf"], list(accumulate(one.counts))
    buckets = "".join(f'{name}_bucket{{le="{bound}"}} {count}\n' for bound, count in zip(bounds, sums, strict=True))
    return _head(one.metric) + buckets + f"{name}_sum {_number(one.total)}\n{name}_count {sums[-1]}\n"


def _head(metric: Metric) -> str:
    return f"# HELP {metric.name} {_escaped(metric.meaning)}\n# TYPE {metric.name} {metric.kind}\n"


def _labels(names: tuple[str, ...], values: tuple[str, ...]) -> str:
    quoted = [f'{name}="{_escaped(value, quote=True)}"' for name, value in zip(names, values, strict=True)]
    return f"{{{','.join(quoted)}}}" if quoted else ""


def _escaped(text: str, *, quote: bool = False) -> str:
    text = text.replace("\\", "\\\\").replace("\n", "\\n")
    return text.replace('"', '\\"') if quote else text


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else repr(float(value))
