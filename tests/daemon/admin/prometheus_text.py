"""A strict reader of Prometheus's text format, for tests: what it does not know is an error.

Source: Prometheus documentation, "Exposition formats" (text format 0.0.4) and "Metric and label naming".
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import attrs

_HEAD = re.compile(r"# (HELP|TYPE) ([a-zA-Z_:][a-zA-Z0-9_:]*) (.+)")
_SAMPLE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)")
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"(?:,|$)')
_OF_HISTOGRAMS = ("_bucket", "_sum", "_count")


@attrs.define
class Told:
    """One family, as it was read: its values by their labels, of a histogram also by the ending of the name."""

    name: str
    kind: str
    help: str
    samples: dict[tuple[str, ...], float] = attrs.field(factory=dict)
    labels: set[str] = attrs.field(factory=set)

    def value(self, **labels: str) -> float:
        return self.samples[("", *sorted(f"{name}={value}" for name, value in labels.items()))]


def read_text(text: str) -> dict[str, Told]:
    """All families by name. Raises: ValueError."""
    assert text.endswith("\n")
    found: dict[str, Told] = {}
    current: Told | None = None
    helped: tuple[str, str] | None = None
    for line in text.splitlines():
        if head := _HEAD.fullmatch(line):
            word, name, rest = head.groups()
            if word == "HELP":
                helped = name, rest
            elif helped is None or helped[0] != name or name in found:
                raise ValueError(f"TYPE without HELP, or twice: {line}")
            else:
                current = found[name] = Told(name, rest, helped[1])
                helped = None
        elif current is None or helped is not None:
            raise ValueError(f"a sample without its family: {line}")
        else:
            _add(current, line)
    for told in found.values():
        _lint(told)
    return found


def _add(told: Told, line: str) -> None:
    match = _SAMPLE.fullmatch(line)
    if match is None or not match[1].startswith(told.name):
        raise ValueError(f"not a sample of {told.name}: {line}")
    ending, labels = match[1].removeprefix(told.name), _labels(match[2] or "")
    if ending not in (_OF_HISTOGRAMS if told.kind == "histogram" else ("",)):
        raise ValueError(f"not a sample of {told.name}: {line}")
    place = (ending, *sorted(f"{name}={value}" for name, value in labels.items()))
    if place in told.samples:
        raise ValueError(f"twice: {line}")
    told.samples[place] = float(match[3])
    told.labels |= labels.keys()


def _labels(text: str) -> Mapping[str, str]:
    labels, at = {}, 0
    while at < len(text):
        match = _LABEL.match(text, at)
        if match is None or match[1] in labels:
            raise ValueError(f"labels: {text}")
        labels[match[1]], at = match[2], match.end()
    return labels


def _lint(told: Told) -> None:
    """What `promtool check metrics` complains of."""
    wrong = [
        told.kind not in ("counter", "gauge", "histogram"),
        (told.kind == "counter") != told.name.endswith("_total"),
        told.name.endswith(("_bucket", "_count", "_sum", "_info_total")),
        told.name != told.name.lower(),
        re.search(r"_(ms|milliseconds|minutes|hours|kb|mb|percent)(_|$)", told.name) is not None,
        told.kind in told.name.split("_"),
        any(math.isnan(value) for value in told.samples.values()),
    ]
    if any(wrong):
        raise ValueError(f"{told.name} ({told.kind}) breaks the naming rules: {wrong}")
    if told.kind == "histogram":
        _check_buckets(told)


def _check_buckets(told: Told) -> None:
    buckets = {place[1].removeprefix("le="): n for place, n in told.samples.items() if place[0] == "_bucket"}
    bounds, counts = [float(bound) for bound in buckets], list(buckets.values())
    if bounds != sorted(bounds) or counts != sorted(counts) or bounds[-1] != math.inf:
        raise ValueError(f"{told.name}: buckets {buckets}")
    if counts[-1] != told.samples[("_count",)] or ("_sum",) not in told.samples:
        raise ValueError(f"{told.name}: count and sum")
