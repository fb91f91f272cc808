"""Reaching upstreams: do the accounts' origins answer, by the way that calls would take, and what time is it there?

Rule: no credential is sent and no account is charged: a HEAD of the origin, whose answer may be any status at all.
"""

from __future__ import annotations

import email.utils
from collections.abc import Callable, Iterable

import trio

from relayd.config.snapshot import Account, Relay
from relayd.core.checkup import Reached
from relayd.daemon.accounts.upstreams import missing_package, target_at
from relayd.daemon.net.client import Transport
from relayd.daemon.net.request import OUR_NAME, PlainRequest, RequestTarget
from relayd.daemon.net.tls import shared_context
from relayd.daemon.net.transport_errors import TransportError
from relayd.wire.http import Headers

PATIENCE = 10.0  # s for all that one origin is asked
AT_ONCE = 16


def run_reach(accounts: Iterable[Account], relay: Relay, wall: Callable[[], float]) -> list[Reached]:
    """Try each way to an upstream once, on an event loop of its own. Simulators need none.

    Args:
        wall: Unix time, s.
    """
    ways: dict[tuple[str, str], list[Account]] = {}
    for account in accounts:
        if account.kind != "simulator" and account.enabled:
            ways.setdefault((account.base_url or relay.upstream.base_url, account.proxy), []).append(account)
    return trio.run(_reach_all, list(ways.values()), relay, wall)


async def _reach_all(ways: list[list[Account]], relay: Relay, wall: Callable[[], float]) -> list[Reached]:
    found: dict[int, Reached] = {}
    room = trio.CapacityLimiter(AT_ONCE)

    async def one(at: int) -> None:
        async with room:
            found[at] = await _reach(ways[at], relay, wall)

    async with trio.open_nursery() as nursery:
        for at in range(len(ways)):
            nursery.start_soon(one, at)
    return [found[at] for at in range(len(ways))]


async def _reach(accounts: list[Account], relay: Relay, wall: Callable[[], float]) -> Reached:
    first = accounts[0]
    target = target_at(first.base_url or relay.upstream.base_url, "/")
    names, origin = tuple(account.id for account in accounts), str(target.origin)
    if lacking := missing_package(first):
        return Reached(origin=origin, accounts=names, error=lacking)
    began = trio.current_time()
    error, date = f"{origin}: no answer within {PATIENCE:g} s", ""
    with trio.move_on_after(PATIENCE):
        error, date = await _asked(Transport(tls=shared_context(), proxy=first.proxy), target)
    seconds = trio.current_time() - began
    return Reached(origin=origin, accounts=names, error=error, seconds=seconds, ahead=_ahead(date, wall()))


async def _asked(transport: Transport, target: RequestTarget) -> tuple[str, str]:
    """Why there is no answer, and its `Date`; "" each where there is none."""
    headers = [OUR_NAME, (b"accept-encoding", b"identity")]
    timeout = dict.fromkeys(("connect", "write", "read"), PATIENCE)
    try:
        answer = await transport.ask(PlainRequest("HEAD", target, headers, b"", timeout))
    except TransportError as error:
        return str(error), ""
    finally:
        transport.close()
    answer.close()
    return "", (Headers(answer.headers).get(b"date") or b"").decode("latin-1")


def _ahead(date: str, now: float) -> float | None:
    """s that our clock is ahead of a `Date` (RFC 9110 section 5.6.7); None for none that can be read."""
    try:
        return now - email.utils.parsedate_to_datetime(date).timestamp()
    except ValueError:
        return None
