"""The contract of the state stores: what can be asked of them, and what they answer.

Rule: integers only (ms, tokens, micro-USD), each at most 2^53 - 1: records and terms bound what they are given, and a
counter that would grow beyond it stays there. Time is the store's own clock: whoever asks passes
durations, never "now". A store answers a batch of operations in order, at one instant, in one round trip, and each
operation wholly or not at all.

Theory: whatever changes a counter carries the id of its call, so that asking twice is the same as asking once. A call
is *open* from its admission until it is settled; then its id is remembered for SETTLED_MS, which is how long a second
settlement (a retry, a journal) can be told from a first. An open call whose time runs out was left by a node that died:
any node may reap it, and should the true settlement still come, it replaces what the reaper booked.

Both back ends mean the same by all of this: tests/state/test_machine.py drives them and an independent oracle.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import Protocol

import attrs

from relayd.core.quota.limits import LEASE_MS, Calendar, Rolling, Slots, Term, TermLevel, bounded
from relayd.core.quota.usage_record import DIMENSIONS, UsageRecord
from relayd.core.quota.windows import FOREVER
from relayd.noun import noun

BUCKETS = 60  # of a rolling window: an event is forgotten up to 1/60 of the window late, and never early

SETTLED_MS = 6 * 3_600_000  # about 150 bytes a call in Redis: at a million calls a day, 40 MB
REAPED_MS = 7 * 86_400_000  # reaped calls are few, and a node may be cut off for days
CALLS_MS = 7 * 86_400_000  # recent calls are kept for so long
MOST_LOOKED_AT = 2_000  # recent calls that one question goes through
USAGE_MS = 400 * 86_400_000  # the usage of a day is kept for a year and a month
MOST_HOLDING = 256  # open calls of a key that are looked at when one more is denied
BACKWARD_MS = 5_000  # a clock that steps back by less than this is held; more is believed (a wrong clock was set right)
# What a clock that was set right by more than that has left behind. What it dated more than its own window ahead is
# dropped; calls that it admitted are as long from being reaped as the longest lease may be (`state.lease`).
LONGEST_LEASE_MS = 3_600_000
# Errors of a file system that no waiting ends.
FORBIDDING = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ELOOP})


class StoreUnavailable(Exception):
    """The store did not answer in time, or cannot work. Whether it did what was asked is unknown."""


class StoreRefused(StoreUnavailable):
    """The store will have nothing of us as long as nobody changes something: a wrong password, a certificate that does
    not hold, a missing permission. At a start that is a fault of the configuration."""


class StoreMisfit(Exception):
    """The store cannot be used as configured: a wrong URL, a missing package, a database of a newer relayd."""


@noun(kw_only=True)
class KeptCall:
    """A recent call: what it is found by, and a text that says all of it.

    Args:
        at: Unix ms at which it began.
        client: id of the client rule that matched, or "".
        body: JSON; no prompt, no secret.
    """

    id: str
    at: int
    key: str = ""
    account: str = ""
    model: str = ""
    client: str = ""
    outcome: str = ""
    status: int = 0
    body: str = ""


# -- operations ----------------------------------------------------------------------------------------------------


@noun(kw_only=True)
class Admit:
    """Check all terms, then charge all of them, or none.

    Args:
        call: a random id of the client's request.
        terms: with distinct counters.
        orphan: what is booked if nobody settles the call. What is reserved is reserved by its key.
        ttl: ms until it may be reaped, unless it is renewed.
        likely: ms until it will likely be settled.
    """

    call: str
    terms: tuple[Term, ...]
    orphan: UsageRecord
    ttl: int = LEASE_MS
    likely: int = attrs.field(default=0, converter=bounded)


@noun(kw_only=True)
class Settle:
    """Put what a call really took in the place of what was reserved, and book it. Counts once.

    Args:
        record: what is booked; its tokens and cost are charged to the terms of the call, and its requests too (0 gives
            the request back).
        terms: of a call that was admitted elsewhere, during an outage: they are charged here when the id is unknown.
        at: Unix ms of that admission.
    """

    call: str
    record: UsageRecord
    terms: tuple[Term, ...] = ()
    at: int = attrs.field(default=0, converter=bounded)


@noun(kw_only=True)
class Void:
    """Undo an admission of which nobody knows whether it took place; one that is still on its way will be refused."""

    call: str


@noun(kw_only=True)
class Renew:
    """A heartbeat of open calls and leases.

    Args:
        calls: ids, each with what the call consumed up to now, or None.
        leases: pairs of counter and holder.
        ttl: ms from now.
    """

    calls: tuple[tuple[str, UsageRecord | None], ...] = ()
    leases: tuple[tuple[str, str], ...] = ()
    ttl: int = LEASE_MS


@noun(kw_only=True)
class Acquire:
    """Like Admit for something that needs no settlement, such as an attempt on an account or a lock.

    A holder that has the slot already keeps it, with a new time to live. Rolling and calendar terms are charged anew.
    """

    holder: str
    terms: tuple[Term, ...]


@noun(kw_only=True)
class Release:
    """Give slots back."""

    holder: str
    counters: tuple[str, ...]


@noun(kw_only=True)
class Pin:
    """Tie a name to a value: a conversation to its account, a file to its owner.

    Args:
        ttl: ms, or None for as long as nobody unpins it.
        keep: leave a pin that exists as it is (its time to live too), and answer it.
    """

    name: str
    value: str
    ttl: int | None = None
    keep: bool = False


@noun(kw_only=True)
class GetPin:
    """Look a pin up; `ttl` (ms) starts its time to live anew if it has one."""

    name: str
    ttl: int | None = None


@noun(kw_only=True)
class Unpin:
    """Forget a pin."""

    name: str


@noun(kw_only=True)
class Publish:
    """Share a text under a topic: an account's health, a sealed run-time token.

    Args:
        expect: the version that must be current (0: none may exist), or None to overwrite whatever is there.
    """

    topic: str
    name: str
    body: str
    expect: int | None = None


@noun(kw_only=True)
class Gather:
    """All texts of a topic that were published after version `since`. A topic that has not come so far began anew, in a
    store that had lost it: then all of them are told."""

    topic: str
    since: int = 0


@noun(kw_only=True)
class Beat:
    """This node lives, and says `body`."""

    node: str
    body: str
    ttl: int


@noun(kw_only=True)
class Nodes:
    """Which nodes live?"""


@noun(kw_only=True)
class Reap:
    """Settle at most `limit` open calls whose time ran out, at their last checkpoint if it knows of any tokens, else as
    orphans.

    Args:
        look: only tell them, the same way; whoever asks settles them one by one.
        owner: of a process that is dead. All its calls then, and only those, which are known by an id that begins so;
            their time need not have run out.
        leases: counters of slots that are taken from it too.
    """

    limit: int = 100
    look: bool = False
    owner: str = ""
    leases: tuple[str, ...] = ()


@noun(kw_only=True)
class Peek:
    """How do terms stand? Nothing is charged."""

    terms: tuple[Term, ...]


@noun(kw_only=True)
class Report:
    """Usage from `first` to `last`, days YYYY-MM-DD, both included; at most 400 days.

    Args:
        keys: of these alone; () for all.
        account: of this one alone; "" for all.
        by: what tells rows apart; they are added up over the rest, which is "" in them.
        most: so many rows, the dearest first, then those of most requests; 0 for all, by their names.
    """

    first: str
    last: str
    keys: tuple[str, ...] = ()
    account: str = ""
    by: tuple[str, ...] = DIMENSIONS
    most: int = 0


@noun(kw_only=True)
class KeepCalls:
    """Remember recent calls. One of an id that is kept already takes its place.

    Args:
        most: so many are kept, the newest; 0 forgets all.
    """

    calls: tuple[KeptCall, ...]
    most: int


@noun(kw_only=True)
class FindCalls:
    """Recent calls, the newest first: those whose fields are what is given; "" and 0 stand for any.

    Args:
        before: only such that began before that call, by (at, id): where a question goes on.
        limit: at most so many. Fewer come where many were looked through: see `FoundCalls.after`.
    """

    limit: int = 100
    before: tuple[int, str] | None = None
    id: str = ""
    key: str = ""
    account: str = ""
    model: str = ""
    client: str = ""
    outcome: str = ""
    status: int = 0


@noun(kw_only=True)
class Ping:
    """Are you there, and what time is it?"""


Op = (
    Admit | Settle | Void | Renew | Acquire | Release | Pin | GetPin | Unpin | Publish | Gather | Beat | Nodes | Reap
    | Peek | Report | KeepCalls | FindCalls | Ping
)  # fmt: skip


# -- answers -------------------------------------------------------------------------------------------------------


@noun(kw_only=True)
class Granted:
    """To Admit and Acquire: charged. `levels` are in the order of the terms, this call included; empty when the call
    had been admitted before (`again`)."""

    now: int
    levels: tuple[TermLevel, ...] = ()
    again: bool = False


@noun(kw_only=True)
class Denied:
    """To Admit and Acquire: nothing was charged.

    Args:
        term: index of the term that stays exceeded longest.
        retry: ms until it has room if nothing else happens; exact. `FOREVER - now` when it never will.
        held: only what open calls of the key have reserved is in the way (of tokens or cost). `retry` is then when
            enough of them will likely have been settled, if they give back all of it.
    """

    term: int
    retry: int
    now: int
    held: bool = False


@noun(kw_only=True)
class Stale:
    """To Admit and Acquire: a calendar term is not of today by the store's clock. Make the terms anew with `now`."""

    now: int


@noun(kw_only=True)
class Closed:
    """To Admit: the call was settled or voided before."""


@noun(kw_only=True)
class Settled:
    """To Settle and Void: "settled", "again" (was done before), "unknown" (never admitted here, booked now) or
    "corrected" (the reaper had booked it)."""

    outcome: str


@noun(kw_only=True)
class Renewed:
    """To Renew: the call ids and holders whose time had run out. They hold nothing any more."""

    lost: tuple[str, ...] = ()


@noun(kw_only=True)
class Done:
    """To what has nothing to tell."""


@noun(kw_only=True)
class Pinned:
    """To Pin and GetPin: the value that holds now; None when there is not one."""

    value: str | None


@noun(kw_only=True)
class Note:
    """One published text."""

    name: str
    version: int
    body: str


@noun(kw_only=True)
class Published:
    """To Publish: the note that holds now; `ok` tells whether it is ours."""

    ok: bool
    note: Note | None


@noun(kw_only=True)
class Gathered:
    """To Gather, by rising version. The last version is the next `since`. `now`: the store's clock, Unix ms."""

    now: int
    notes: tuple[Note, ...]


@noun(kw_only=True)
class Alive:
    """One node, and when it was last heard (Unix ms)."""

    node: str
    body: str
    seen: int


@noun(kw_only=True)
class NodeList:
    """To Nodes, by name."""

    nodes: tuple[Alive, ...]


@noun(kw_only=True)
class Reaped:
    """To Reap: the calls, each with what is booked of it. As many as `limit`: ask again."""

    calls: tuple[tuple[str, UsageRecord], ...]


@noun(kw_only=True)
class TermLevels:
    """To Peek, in the order of the terms."""

    now: int
    levels: tuple[TermLevel, ...]


@noun(kw_only=True)
class Reported:
    """To Report: one record per day, key, account and model, in that order."""

    rows: tuple[UsageRecord, ...]


@noun(kw_only=True)
class FoundCalls:
    """To FindCalls, the newest first.

    Args:
        after: from where to ask on; None when there are no more.
    """

    calls: tuple[KeptCall, ...]
    after: tuple[int, str] | None = None


@noun(kw_only=True)
class Pong:
    """To Ping."""

    now: int


@noun(kw_only=True)
class Failed:
    """The store is well, but could not carry out this operation, which changed nothing. It would fail again."""

    reason: str


Answer = (
    Granted | Denied | Stale | Closed | Settled | Renewed | Done | Pinned | Published | Gathered | NodeList | Reaped
    | TermLevels | Reported | FoundCalls | Pong | Failed
)  # fmt: skip


class Store(Protocol):
    """A back end. Sync, used by one thread at a time."""

    @property
    def name(self) -> str:
        """For people and logs: scheme and address, never a password."""
        ...

    @property
    def deadline(self) -> float:
        """Seconds after which whoever waits for an answer should give up."""
        ...

    @property
    def life(self) -> str:
        """Names what holds the data; another name than before means that some of it may be lost. "" cannot tell."""
        ...

    @property
    def damaged(self) -> tuple[str, ...]:
        """What was found unreadable and set aside since the start, with the reason; the latest of it."""
        ...

    def apply(self, batch: Sequence[Op]) -> list[Answer]:
        """Carry out a batch in order, at one instant. One answer per operation.

        Raises: StoreUnavailable. Then nothing is known of any operation of the batch.
        """
        ...

    def check(self) -> list[str]:
        """Connect, and say what a person should know, such as an eviction policy that loses counters.

        Raises: StoreUnavailable (StoreRefused where waiting does not help), StoreMisfit.
        """
        ...

    def close(self) -> None:
        """Let go of the connection. Idempotent; `apply` opens a new one."""
        ...


def can_be_held(term: Term) -> bool:
    """Whether what is charged to a term at admission is an estimate, of which a settlement gives something back."""
    return not isinstance(term, Slots) and term.unit != "requests"


def likely_retry(term: Rolling | Calendar, used: int, held: Sequence[tuple[int, int]], now: int) -> int | None:
    """ms until open calls will likely have made room for a term; None when they cannot.

    Args:
        used: of the term, with what they hold of it.
        held: pairs of the time (Unix ms) when a call will likely be settled and what it holds, by rising time.
    """
    for at, amount in held:
        used -= amount
        if used + term.cost <= term.limit:
            return max(at - now, 1)
    return None


def bucket_length(window: int) -> int:
    """Length of a rolling window's buckets, ms."""
    return max(1, -(-window // BUCKETS))


def never(now: int) -> int:
    """The `retry` of a term that will never have room."""
    return FOREVER - now


def left_behind(checkpoint: UsageRecord | None, orphan: UsageRecord) -> UsageRecord:
    """What a reaper books. Once anything was heard the prompt is known exactly, and the estimate, which takes all of it
    for written to the dearest cache, says nothing more."""
    return orphan if checkpoint is None or checkpoint.tokens == 0 else checkpoint


Place = tuple[int, str]  # of a call among others: (at, id)
CALL_FILTERS = ("key", "account", "model", "client", "outcome", "status")


def is_wanted(call: KeptCall, wanted: FindCalls) -> bool:
    """Whether a call is one of those that were asked for."""
    return all(getattr(wanted, name) in ("", 0, getattr(call, name)) for name in CALL_FILTERS)


def page_end(places: Sequence[Place], limit: int, after: Place | None) -> Place | None:
    """From where to ask on when the first `limit` of some calls are told.

    Args:
        places: of calls that are wanted, in order.
        after: the last place that was looked at; None when there are no more.
    """
    return places[limit - 1] if len(places) > limit else after
