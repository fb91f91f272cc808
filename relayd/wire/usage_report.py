"""Usage reports: the `usage` object of an answer, read as far as it can be read.

Rule: any JSON value may stand in any place. What is a number is taken, what is not is named in `doubts`, and nothing
is raised: one field that is not what the API documents must not hide the others.

Theory: counts are JSON integers; compatible servers and proxies also write `100.0` and `"100"`. More than ABSURD
tokens, or less than none, is no count of one call. Source: API docs, "Usage"; official SDK 2.12.0, BetaUsage.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import attrs

from relayd.noun import noun

ABSURD = 1_000_000_000  # tokens; the largest context holds a million
MOST_ITERATIONS = 1000  # entries that are read one by one; a server-side tool loop has some ten
LONGEST_NAME = 128  # characters of a model's name

_DIGITS = re.compile(r"\s*(\d{1,20})(?:\.0*)?\s*\Z", re.ASCII)

# The fields with counts, and what lies in each: a field of it ("" is itself), and the name in Usage; "writes" is the
# total of both kinds of cache writes.
_COUNTS = {
    "input_tokens": (("", "input"),),
    "cache_creation_input_tokens": (("", "writes"),),
    "cache_creation": (
        ("ephemeral_5m_input_tokens", "cache_write_5m"),
        ("ephemeral_1h_input_tokens", "cache_write_1h"),
    ),
    "cache_read_input_tokens": (("", "cache_read"),),
    "output_tokens": (("", "output"),),
    "output_tokens_details": (("thinking_tokens", "thinking"),),
    "server_tool_use": (("web_search_requests", "web_searches"), ("web_fetch_requests", "web_fetches")),
}
_TEXTS = frozenset({"service_tier", "inference_geo", "speed"})
# What one inference of several says; the rest stands at the top level alone.
_OF_AN_ENTRY = {name: lying for name, lying in _COUNTS.items() if name != "server_tool_use"}


@noun(kw_only=True)
class UsageReport:
    """One report.

    Args:
        counts: what was read, by the names of Usage and "writes"; a field that is missing or null is left out.
        doubts: names of what was there and could not be read.
        kind, model: of an entry of `iterations`; "" where it says none.
        iterations: one report for each inference behind the answer; None where the report does not speak of them.
    """

    counts: Mapping[str, int]
    texts: Mapping[str, str]
    doubts: frozenset[str] = frozenset()
    kind: str = ""
    model: str = ""
    iterations: tuple[UsageReport, ...] | None = None


def read_report(value: object) -> UsageReport:
    """The `usage` of an answer or an event."""
    report = _read(value, _COUNTS)
    listed = value.get("iterations") if isinstance(value, dict) else None
    if listed is None:
        return report
    if not isinstance(listed, list):
        return attrs.evolve(report, doubts=report.doubts | {"iterations"})
    entries = tuple(_read_entry(entry) for entry in listed[:MOST_ITERATIONS])
    doubts = report.doubts.union(*(entry.doubts for entry in entries))
    if len(listed) > MOST_ITERATIONS:
        doubts |= {"iterations"}
    return attrs.evolve(report, iterations=entries, doubts=doubts)


def _read_entry(value: object) -> UsageReport:
    return attrs.evolve(_read(value, _OF_AN_ENTRY), kind=text_of(value, "type"), model=model_of(value))


def _read(value: object, wanted: Mapping[str, tuple[tuple[str, str], ...]]) -> UsageReport:
    if not isinstance(value, dict):
        return UsageReport(counts={}, texts={}, doubts=frozenset({"input", "output"}))
    counts: dict[str, int] = {}
    doubts: set[str] = set()
    for field in wanted.keys() & value.keys():
        outer = value[field]
        for inner, name in wanted[field]:
            # What is no object stands in the way of what should lie there.
            found = outer.get(inner) if inner and isinstance(outer, dict) else outer
            count = found if type(found) is int and 0 <= found <= ABSURD else read_count(found)
            if count is not None:
                counts[name] = count
            elif found is not None:
                doubts.add("cache_write_5m" if name == "writes" else name)
    texts = {name: value[name] for name in _TEXTS & value.keys() if value[name] is not None}
    for name in [name for name, text in texts.items() if not isinstance(text, str)]:
        del texts[name]
        doubts.add(name)
    return UsageReport(counts=counts, texts=texts, doubts=frozenset(doubts))


def read_count(value: object) -> int | None:
    """A count, however it is written; None when it is none, or absurd."""
    count: int | None = None
    match value:
        case bool():
            pass
        case int():
            count = value
        case float() if value.is_integer():
            count = int(value)
        case str() if found := _DIGITS.match(value):
            count = int(found[1])
    return count if count is not None and 0 <= count <= ABSURD else None


def text_of(value: object, name: str) -> str:
    """A text field of a JSON object; "" when it has none."""
    found = value.get(name) if isinstance(value, dict) else None
    return found if isinstance(found, str) else ""


def model_of(value: object) -> str:
    """The `model` that an object names; "" when it names none, or nothing that could be a name."""
    return model_name(text_of(value, "model"))


def model_name(found: object) -> str:
    """What stands as the name of a model; "" for nothing that could be one."""
    return found if isinstance(found, str) and len(found) <= LONGEST_NAME and found.isprintable() else ""
