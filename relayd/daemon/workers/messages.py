"""Messages between a node's supervisor and its workers, and their form on the socket.

Rule: pure. A message is its name and its fields; descriptors go beside it. Both ends are of one version, for workers
are forked from what their supervisor has loaded: fields may change freely.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

import attrs
import msgspec

from relayd.core.alerts.limit_watch import NearLimits
from relayd.core.receipt import Receipt
from relayd.daemon.net.server import ServerStatistics
from relayd.noun import noun

# -- from the supervisor ---------------------------------------------------------------------------------------------


@noun(kw_only=True)
class Follow:
    """A config, whose copy lies in the descriptor beside it.

    Args:
        number: of this order; `OrderDone` names it.
        at_once: run it now; else prepare it and wait for `Commit`.
    """

    number: int
    at_once: bool = False


@noun(kw_only=True)
class Commit:
    """Run what was prepared, or (not `run`) forget it."""

    number: int
    run: bool = True


@noun(kw_only=True)
class ListenOn:
    """Accept on the socket beside this. `socket`: names it."""

    socket: int


@noun(kw_only=True)
class UnlistenOn:
    """Accept on it no more."""

    socket: int


@noun(kw_only=True)
class DrainWorker:
    """Finish the calls that there are.

    Args:
        gently: the node serves on.
        patience: s, then the calls are cut.
        stay: s that the worker goes on as it is once its supervisor is gone; 0 = it begins at once.
    """

    patience: float
    gently: bool = False
    stay: float = 0.0


@noun(kw_only=True)
class StopAhead:
    """The node is about to stop, and /readyz says so; until then all goes on."""


@noun(kw_only=True)
class CutCalls:
    """End the calls that are left, now."""


@noun(kw_only=True)
class ReopenLog:
    """The log's file was moved."""


@noun(kw_only=True)
class AskReport:
    """Say how you are."""

    number: int


@noun(kw_only=True)
class ToldOffers:
    """What upstreams have answered of their models, as pickle has it: offers by account."""

    pickled: bytes


# -- from a worker ---------------------------------------------------------------------------------------------------


@noun(kw_only=True)
class WorkerUp:
    """It serves. `life`: names the process in the state store."""

    life: str


@noun(kw_only=True)
class OrderDone:
    """An order was carried out, or (`reasons`) could not be."""

    number: int
    reasons: tuple[str, ...] = ()


@noun(kw_only=True)
class Leaving:
    """It was told to end by somebody else than its supervisor."""


@noun(kw_only=True)
class EndedCalls:
    """Calls that have ended."""

    receipts: tuple[Receipt, ...]


@noun(kw_only=True)
class CountedFigures:
    """A metric of a worker, by its name.

    Args:
        samples: values of its labels, in their order, with what is counted; of a histogram () with the sum.
        counts: of a histogram's buckets.
    """

    name: str
    samples: tuple[tuple[tuple[str, ...], float], ...]
    counts: tuple[int, ...] = ()


@noun(kw_only=True)
class WorkerReport:
    """How a worker is.

    Args:
        number: of the question; 0 = nobody asked.
        calls, tasks: under way.
        connections: open now; accepted and turned away since its start.
        cpu: s that it has computed.
        memory: bytes, resident.
        descriptors: that are open; None where nobody can tell.
        accounts: attempts under way, by account.
        used: when an attempt on an account began, Unix time, s, of those that it has used lately.
        revision: of the config that it runs.
        configs: that its calls hold.
        store: why its way to the state store is broken; "" while it is not.
        log: why its lines of the log cannot be written; "" while they can.
        figures: metrics that add up over processes.
        near: keys that its calls have brought near a limit since the last report.
    """

    number: int = 0
    calls: int = 0
    connections: ServerStatistics = ServerStatistics()
    tasks: int = 0
    cpu: float = 0.0
    memory: int = 0
    descriptors: int | None = None
    accounts: Mapping[str, int] = attrs.field(factory=dict)
    used: Mapping[str, float] = attrs.field(factory=dict)
    revision: str = ""
    configs: int = 1
    store: str = ""
    log: str = ""
    figures: tuple[CountedFigures, ...] = ()
    near: NearLimits = NearLimits()


# -- from both -------------------------------------------------------------------------------------------------------


@noun(kw_only=True)
class BadKeySeen:
    """A key was refused, which had come from this address."""

    address: str


WorkerOrder = (
    Follow
    | Commit
    | ListenOn
    | UnlistenOn
    | DrainWorker
    | StopAhead
    | CutCalls
    | ReopenLog
    | AskReport
    | ToldOffers
    | BadKeySeen
)


@noun(kw_only=True)
class ToldEvents:
    """Events, as pickle has them: their types are many."""

    pickled: bytes


WorkerSaying = ToldEvents | WorkerUp | OrderDone | Leaving | EndedCalls | WorkerReport | BadKeySeen
ChannelMessage = WorkerOrder | WorkerSaying

_TYPES: tuple[type, ...] = get_args(ChannelMessage)
_CODES: Mapping[type, bytes] = {kind: bytes([number]) for number, kind in enumerate(_TYPES)}
_DECODERS: list[msgspec.msgpack.Decoder[Any]] = [msgspec.msgpack.Decoder(kind) for kind in _TYPES]
_encode = msgspec.msgpack.encode


def encoded(message: ChannelMessage) -> bytes:
    """A message as one datagram."""
    return _CODES[type(message)] + _encode(message)


def decoded(data: bytes) -> ChannelMessage:
    """The message in a datagram."""
    found: ChannelMessage = _DECODERS[data[0]].decode(memoryview(data)[1:])
    return found


WorkerStage = Literal["starting", "serving", "draining"]
