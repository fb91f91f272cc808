"""Reaching upstreams: do the accounts' origins answer, by the way that calls would take, and what time is it there?

Rule: no credential is sent and no account is charged: a HEAD of the origin, whose answer may be any status at all.
"""

from __future__ import annotations

import email.utils
from collections.abc import Callable, Iterable

import httpx2
import trio

from relayd.config.snapshot import Account, Relay
from relayd.core.checkup import Reached
from relayd.daemon.accounts.upstreams import missing_package, url_of
from relayd.daemon.net.client import Transport, open_client
from relayd.daemon.net.request import target_of
from relayd.daemon.net.tls import shared_context

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
    url = url_of(first.base_url or relay.upstream.base_url, "/")
    names, origin = tuple(account.id for account in accounts), str(target_of(url).origin)
    if lacking := missing_package(first):
        return Reached(origin=origin, accounts=names, error=lacking)
    began = trio.current_time()
    error, date = f"{origin}: no answer within {PATIENCE:g} s", ""
    with trio.move_on_after(PATIENCE):
        error, date = await _asked(Transport(tls=shared_context(), proxy=first.proxy), url)
    seconds = trio.current_time() - began
    return Reached(origin=origin, accounts=names, error=error, seconds=seconds, ahead=_ahead(date, wall()))


async def _asked(transport: Transport, url: httpx2.URL) -> tuple[str, str]:
    """Why there is no answer, and its `Date`; "" each where there is none."""
    timeout = httpx2.Timeout(PATIENCE)
    async with open_client(transport, timeout) as client:
        try:
            answer = await client.head(url)
        except httpx2.TransportError as error:
            return str(error), ""
        return "", answer.headers.get("date", "")


def _ahead(date: str, now: float) -> float | None:
    """s that our clock is ahead of a `Date` (RFC 9110 section 5.6.7); None for none that can be read."""
    try:
        return now - email.utils.parsedate_to_datetime(date).timestamp()
    except ValueError:
        return None
