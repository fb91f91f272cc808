"""Replaying on the command line: where past calls are read from, and how what became of them is told.

Rule: nothing is written, and of a log no more is in memory than where each call's line begins. Lines are in the order
in which calls ended; they are played in the order in which they began.
"""

from __future__ import annotations

import argparse
import gzip
import mmap
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import attrs
import msgspec

from relayd.cli.output import counted, number
from relayd.cli.store import now_ms, open_state
from relayd.cli.tree import Stop
from relayd.config.snapshot import Snapshot
from relayd.core.quota.limits import dollars
from relayd.core.quota.windows import day_of
from relayd.core.replay.comparison import Replay, Tally, replay
from relayd.core.replay.past_call import PastCall, past_call, past_calls
from relayd.noun import noun
from relayd.state.report import LONGEST, days_between

SHOWN = 40  # rows and reasons in a report for people


def replay_files(names: Sequence[str], candidate: Snapshot, base: Snapshot | None = None) -> Replay:
    """Play the calls of some logs. Raises: Stop for what is no such log; OSError."""
    damaged: list[int] = []
    with ExitStack() as stack:
        logs = [_opened(name, stack) for name in names]
        found = replay(_in_order(logs, damaged), candidate, base)
    if not found.calls:
        raise Stop(f"{', '.join(names)}: no line of a call (the log is needed as JSON: log.format, log.access)")
    return attrs.evolve(found, damaged=len(damaged))


def replay_books(args: argparse.Namespace, candidate: Snapshot, base: Snapshot | None = None) -> Replay:
    """Play what the state store has recorded of the last `args.days` days. Raises: Stop."""
    if not 1 <= args.days <= LONGEST:
        raise Stop(f"--days {args.days}: expected 1 to {LONGEST}")
    zone = candidate.relay.state.timezone
    with open_state(args, candidate) as state:
        now = now_ms()
        days = days_between(day_of(now - (args.days - 1) * 86_400_000, zone), day_of(now, zone))
        calls = [call for day in days for call in _day_in_order([*state.rows(day, day)], zone)]
    if not calls:
        raise Stop(f"the books have no call of the last {counted(args.days, 'day')}")
    return replay(calls, candidate, base)


def _day_in_order(rows: Sequence[Any], zone: str) -> list[PastCall]:
    return sorted((call for row in rows for call in past_calls(row, zone)), key=lambda call: call.time)


# --- logs -----------------------------------------------------------------------------------------------------------


def _opened(name: str, stack: ExitStack) -> mmap.mmap | bytes:
    """The bytes of a log, without reading them where it is a plain file."""
    if name == "-":
        return _mapped(_spooled(sys.stdin.buffer, stack), stack)
    file = stack.enter_context(Path(name).open("rb"))  # noqa: SIM115 - the stack closes it
    if file.read(2) == b"\x1f\x8b":
        file.seek(0)
        return _mapped(_spooled(gzip.GzipFile(fileobj=file), stack), stack)
    return _mapped(file, stack)


def _spooled(source: IO[bytes] | gzip.GzipFile, stack: ExitStack) -> IO[bytes]:
    file = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 - the stack closes it
    shutil.copyfileobj(source, file)
    file.flush()
    return file


def _mapped(file: IO[bytes], stack: ExitStack) -> mmap.mmap | bytes:
    if not file.seek(0, 2):
        return b""  # an empty file cannot be mapped
    return stack.enter_context(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _in_order(logs: Sequence[mmap.mmap | bytes], damaged: list[int]) -> Iterator[PastCall]:
    """The calls of all logs by when they began.

    Args:
        damaged: gets where each line began that cannot be read, such as one that was cut off when the disk was full.
    """
    places = sorted(place for which, log in enumerate(logs) for place in _places(log, which))
    for _, which, start, end in places:
        try:
            call = past_call(logs[which][start:end])
        except (ValueError, msgspec.MsgspecError):
            damaged.append(start)
            continue
        if call is not None:
            yield call


_TIME = re.compile(rb'"time":\s*"([^"]*)"')  # the first field of a line as relayd writes it


def _places(log: mmap.mmap | bytes, which: int) -> Iterator[tuple[bytes, int, int, int]]:
    """When each call began, and where its line is. Other lines are left out, also those of other programs."""
    start, size = 0, len(log)
    while start < size:
        end = log.find(b"\n", start)
        end = size if end < 0 else end
        line = log[start:end]
        if b'"call.done"' in line and (when := _TIME.search(line)):
            yield when[1], which, start, end
        start = end + 1


# --- reports --------------------------------------------------------------------------------------------------------


@noun(kw_only=True)
class ReplayReport:
    """What is told of a replay. `base`: the name of what it is compared with; "" for how the calls went."""

    found: Replay
    base: str = ""

    @property
    def summary(self) -> str:
        """One line."""
        found = self.found
        against = f" (against {self.base})" if self.base else ""
        if not any(row.differs for row in found.rows):
            return f"replayed {_calls(found)}{against}: all would end as before"
        parts = [f"{number(found.total('refused'))} refused"]
        if served := found.total("served"):
            parts.append(f"{number(served)} served that were not")
        parts.append(f"{number(found.total('moved'))} moved")
        cost = f" ({_change(found.total('cost_before'), found.total('cost_after'))})" if found.total("repriced") else ""
        parts.append(f"{number(found.total('repriced'))} cost otherwise{cost}")
        return f"replayed {_calls(found)}{against}: {', '.join(parts)}"

    @property
    def notes(self) -> list[str]:
        """What the figures do not say."""
        found, notes = self.found, []
        if left := found.calls - found.judged - found.keyless:
            notes.append(f"{counted(left, 'call')} failed for reasons that no config decides, and are left out")
        if found.damaged:
            notes.append(f"{counted(found.damaged, 'line')} of calls could not be read, and are left out")
        if found.keyless:
            notes.append(f"{counted(found.keyless, 'call')} had no known key, and are left out")
        if found.even:
            notes.append("the books have sums of days only: addresses, clients and limits of hours are not tried")
        return notes

    def as_json(self) -> dict[str, Any]:
        """For programs. Costs are USD, as strings."""
        found = self.found
        return {
            "version": 1,
            "base": self.base or None,
            "calls": found.calls,
            "judged": found.judged,
            "first": found.first.isoformat() if found.first else None,
            "last": found.last.isoformat() if found.last else None,
            **_figures({name: found.total(name) for name in _FIGURES}),
            "rows": [_row(row) for row in found.rows],
            "notes": self.notes,
        }

    def as_text(self) -> str:
        """For people."""
        differing = [row for row in self.found.rows if row.differs]
        lines = [self.summary]
        for row in differing[:SHOWN]:
            lines.append(f"  {row.key}, {row.model or 'no model'}: {_words(row)}")
            lines += [f"    {reason}" for reason in _reasons(row)]
        if len(differing) > SHOWN:
            lines.append(f"  and {counted(len(differing) - SHOWN, 'more pair')} of key and model (--json has all)")
        lines += [f"  note: {note}" for note in self.notes]
        return "\n".join(lines) + "\n"

    def as_markdown(self) -> str:
        """For a comment on a pull request."""
        differing = [row for row in self.found.rows if row.differs]
        lines = [f"**{self.summary[0].upper()}{self.summary[1:]}**", ""]
        if differing:
            lines.append("| key | model | calls | refused | moved | cost otherwise | why |")
            lines.append("|---|---|--:|--:|--:|--:|---|")
        for row in differing[:SHOWN]:
            why = "; ".join(_reasons(row)).replace("|", "\\|")
            price = _change(row.cost_before, row.cost_after) if row.repriced else ""
            cells = (row.key, row.model, number(row.calls), number(row.refused), number(row.moved), price, why)
            lines.append(f"| {' | '.join(cells)} |")
        if len(differing) > SHOWN:
            lines.append(f"\nand {counted(len(differing) - SHOWN, 'more pair')} of key and model")
        lines += [f"\n{note[0].upper()}{note[1:]}." for note in self.notes]
        return "\n".join(lines) + "\n"


_FIGURES = ("refused", "served", "moved", "repriced", "cost_before", "cost_after")


def _figures(values: Mapping[str, int]) -> dict[str, Any]:
    return {name: dollars(value)[1:] if name.startswith("cost") else value for name, value in values.items()}


def _row(row: Tally) -> dict[str, Any]:
    figures = _figures({name: getattr(row, name) for name in _FIGURES})
    return {
        "key": row.key,
        "model": row.model,
        "calls": row.calls,
        **figures,
        "reasons": dict(row.reasons.most_common()),
        "ways": dict(row.ways.most_common()),
    }


def _calls(found: Replay) -> str:
    first, last = found.first, found.last
    assert first is not None
    assert last is not None
    days = f"of {first:%Y-%m-%d}" if first.date() == last.date() else f"from {first:%Y-%m-%d} to {last:%Y-%m-%d}"
    return f"{counted(found.calls, 'call')} {days}"


def _words(row: Tally) -> str:
    found = [f"{number(row.refused)} of {counted(row.calls, 'call')} refused"] if row.refused else []
    if row.served:
        found.append(f"{number(row.served)} served that were not")
    if row.moved:
        found.append(f"{number(row.moved)} moved")
    if row.repriced:
        found.append(f"{number(row.repriced)} cost otherwise ({_change(row.cost_before, row.cost_after)})")
    return ", ".join(found)


def _reasons(row: Tally) -> list[str]:
    whys = [*row.reasons.most_common(5), *row.ways.most_common(5)]
    return [f"{number(count)}: {why}" for why, count in whys]


def _change(before: int, after: int) -> str:
    return f"{dollars(before)} -> {dollars(after)}"
