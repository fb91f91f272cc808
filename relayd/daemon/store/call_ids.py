"""Call ids: sortable names of calls.

Rule: an id says whose it is first, and ids of one process ascend.

Theory: the store keeps the id of every call for hours, in the order of ids. Names that ascend are put next to each
other, so that a batch changes one page of its tables; random ones change a page each, every one of which is written
to the log and again into the file (SQLite docs, "Clustered Indexes and the WITHOUT ROWID Optimization").
"""

from __future__ import annotations

from collections.abc import Callable

import attrs

TICKS = 16_000  # a second: more than a process has calls, so that names seldom run ahead of the clock
_ROOM = 1 << 44  # 11 digits: 34 years of ticks


@attrs.define(eq=False)
class CallIds:
    """Makes them, in the form that the API's own request ids have.

    Args:
        owner: how the ids of this process begin.
        wall: Unix time, s.
        random: so many random bytes, as `os.urandom` gives them. Nobody shall guess the next id from the last.
    """

    owner: str
    wall: Callable[[], float]
    random: Callable[[int], bytes]
    _last: int = attrs.field(default=0, init=False)

    def new(self) -> str:
        """A fresh id: whose it is, when it was made (or the moment after the last one), and 20 random bits."""
        self._last = max(self._last + 1, int(self.wall() * TICKS))
        return f"{self.owner}{self._last % _ROOM:011x}{self.random(3).hex()[1:]}"
