"""Webhooks: one notice posted to one URL, once.

Rule: relayd's own client, to an address that was checked; no redirect, no environment proxy, no answer's text in a log.
Nothing is raised for what a network or a receiver can do.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable

import httpx2
import msgspec
import trio

from relayd.config.snapshot import Alert
from relayd.core.alerts.book import Notice
from relayd.core.alerts.notice import discord, document, slack
from relayd.core.alerts.signature import signed_headers
from relayd.core.balancing.headroom import retry_after
from relayd.daemon.alerts.destination import PRIVATE, Destination, Undelivered, checked_look_up
from relayd.daemon.net.client import Transport
from relayd.daemon.net.connect import ConnectFailed, Resolver
from relayd.daemon.net.httpx2_transport import open_client
from relayd.daemon.net.request import OUR_NAME
from relayd.wire.http import HeaderPairs, Headers

PATIENCE = 10.0  # s for the whole exchange; less than the life of the lease of whoever tells


async def post(
    notice: Notice, target: Alert, to: Destination, realm: str, tls: ssl.SSLContext, wall: Callable[[], float]
) -> Undelivered | None:
    """Post a notice; None when it has arrived.

    Args:
        wall: Unix time, s.
    """
    now = wall()
    body = _body(notice, target, realm, now)
    headers: HeaderPairs = [
        (b"content-type", b"application/json"),
        OUR_NAME,
        (b"connection", b"close"),
        *(signed_headers(notice.id, body, now, to.key) if target.format == "json" else ()),
    ]
    try:
        url = httpx2.URL(to.url.reveal())
    except (httpx2.InvalidURL, ValueError):
        return Undelivered(reason="the URL cannot be read")
    if url.scheme != "https" and not (url.scheme == "http" and target.allow_private):
        return Undelivered(reason="the URL is not https (http needs allow_private = true)")
    try:
        with trio.fail_after(PATIENCE):
            return _judged(*await _exchange(url, headers, body, tls, private=target.allow_private), wall())
    except trio.TooSlowError:
        return Undelivered(reason=f"no answer within {PATIENCE:g} s", unknown=True)
    except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.UnsupportedProtocol) as error:
        return Undelivered(reason=f"no connection: {_cause(error, url)}")
    except httpx2.TransportError as error:
        return Undelivered(reason=f"no answer: {_cause(error, url)}", unknown=True)


async def _exchange(
    url: httpx2.URL, headers: HeaderPairs, body: bytes, tls: ssl.SSLContext, *, private: bool
) -> tuple[int, Headers]:
    """Raises: httpx2.TransportError."""
    resolver = Resolver(look_up=checked_look_up(private))
    transport = Transport(tls=tls, resolver=resolver, idle_per_origin=0)
    async with (
        open_client(transport, httpx2.Timeout(PATIENCE)) as client,
        client.stream("POST", url, headers=headers, content=body) as response,
    ):
        return response.status_code, Headers(list(response.headers.raw))  # its body is nobody's business


def _body(notice: Notice, target: Alert, realm: str, now: float) -> bytes:
    match target.format:
        case "slack":
            return msgspec.json.encode(slack(notice, realm))
        case "discord":
            return msgspec.json.encode(discord(notice, realm))
    return msgspec.json.encode(document(notice, realm, now))


def _judged(status: int, headers: Headers, now: float) -> Undelivered | None:
    if 200 <= status < 300:
        return None
    if 300 <= status < 400:
        return Undelivered(reason=f"status {status}: redirects are not followed")
    return Undelivered(reason=f"status {status}", asked=retry_after(headers, now) or 0.0)


def _cause(error: Exception, url: httpx2.URL) -> str:
    """What went wrong, without where."""
    inner = error.__cause__
    told = str(inner) if isinstance(inner, ConnectFailed) else str(error)
    host = url.raw_host.decode("ascii")  # as it is told: a name of other letters is written in these
    if host and host in told:  # it stands first: "https://host:443: what is wrong"
        told = told.split(host, 1)[1].partition(": ")[2].replace(host, "...")  # and maybe in what a certificate lacks
    return PRIVATE if PRIVATE.lower() in told else told
