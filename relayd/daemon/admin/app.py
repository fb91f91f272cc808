"""Admin application, behind the admin listener: metrics, and status, report and reload for programs; pages for people.

Rule: outside the pages a request carries its own proof (a bearer token), there are no cookies, so nothing that a
browser does unasked can act there; what is asked under /web is the site's business. Whatever acts is written to the log
with the name of the token. Answers are never cached.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl

import attrs
import msgspec

from relayd.config.snapshot import Admin, AdminToken
from relayd.core.access.addresses import client_address
from relayd.core.access.admin_tokens import Role, authorise, may_scrape
from relayd.core.access.throttle import BadKeys
from relayd.core.quota.windows import day_of
from relayd.daemon.admin.books import from_books
from relayd.daemon.admin.documents import result_document
from relayd.daemon.admin.pages.site import Site
from relayd.daemon.admin.pages.visit import ROOT, see_other
from relayd.daemon.admin.scrape import scrape
from relayd.daemon.admin.status import status_document
from relayd.daemon.admin.status_sources import StatusSources
from relayd.daemon.log import scrub, tell_refused
from relayd.daemon.net.exchange import Exchange
from relayd.daemon.reload.requests import Reload, ReloadOutcome, ReloadResult, RequestQueue
from relayd.state.contract import Report
from relayd.state.report import DayError, owners_of, report_document, span, split_dimensions
from relayd.wire.anthropic import JSON
from relayd.wire.call import Reply
from relayd.wire.json_escapes import NOT_JSON
from relayd.wire.refusal import Refusal

log = logging.getLogger("relayd.admin")

MAX_BODY = 64 << 10  # bytes of a request
METRICS = (b"content-type", b"text/plain; version=0.0.4; charset=utf-8")
_HARD = [(b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff")]

# What a reload came to, as a status. Source: RFC 9110 section 15; 412 stands for an expectation that was not met.
STATUS: dict[ReloadOutcome, int] = {"applied": 200, "unchanged": 200, "held": 409, "rejected": 422, "busy": 503}


@attrs.define(eq=False, kw_only=True)
class AdminApp:
    """Serves programs that watch and steer one daemon.

    Args:
        wall: Unix time, s.
        new_id: a fresh id for an answer.
    """

    queue: RequestQueue
    sources: StatusSources
    site: Site
    wall: Callable[[], float]
    new_id: Callable[[], str]
    bad_tokens: BadKeys = attrs.field(factory=lambda: BadKeys("invalid tokens"))

    async def serve(self, exchange: Exchange) -> None:
        """Answer one request."""
        path = exchange.head.path
        if path == ROOT or path.startswith(f"{ROOT}/"):
            await exchange.reply(self._named(await self.site.answer(exchange)))
            return
        try:
            reply = await self._answer(exchange)
        except Refusal as refusal:
            reply = self.refuse(refusal.let_go(), exchange.head.path)
        await exchange.reply(reply)

    async def _answer(self, exchange: Exchange) -> Reply:
        match exchange.head.path:
            case "/metrics":
                _allow(exchange, "GET")
                self._scrape(exchange)
                return self._reply(200, (await scrape(self.sources, self.wall)).encode(), METRICS)
            case "/api/status":
                _allow(exchange, "GET")
                self._visitor(exchange, "viewer")
                await self.sources.look_now()
                return self._json(200, status_document(self.sources, self.wall()))
            case "/api/report":
                _allow(exchange, "GET")
                self._visitor(exchange, "viewer")
                return self._json(200, await self._report(exchange.head.query))
            case "/api/reload":
                _allow(exchange, "POST")
                return await self._reload(exchange, self._visitor(exchange, "editor"))
            case "/":
                _allow(exchange, "GET")
                if _for_a_person(exchange):
                    return see_other(ROOT)
                return self._json(200, {"name": "relayd", "paths": [ROOT, "/metrics", "/api/status", "/api/report"]})
            case path:
                raise Refusal(status=404, message=f"unknown path {scrub(ascii(path[:200])[1:-1])}", code="unknown_path")

    # Authorisation

    def _visitor(self, exchange: Exchange, need: Role) -> AdminToken:
        """Raises: Refusal 401, 403; 429 to an address that keeps sending wrong tokens."""
        with self._guessing(exchange):
            return authorise(exchange.head.headers, self._admin, need)

    def _scrape(self, exchange: Exchange) -> None:
        with self._guessing(exchange) as address:
            may_scrape(exchange.head.headers, self._admin, address)

    @contextmanager
    def _guessing(self, exchange: Exchange) -> Iterator[str]:
        """Counts wrong tokens by address, which it gives. Raises: Refusal 429."""
        address, now = self._address(exchange), self.wall()
        try:
            yield address
        except Refusal as refusal:
            answer = self.bad_tokens.answer(refusal, address, now)
            if answer.status == 401:
                tell_refused(address, "token", refusal.message)
            raise answer from None

    @property
    def _admin(self) -> Admin:
        return self.sources.live.snapshot.relay.admin

    def _address(self, exchange: Exchange) -> str:
        trusted = self.sources.live.snapshot.relay.server.trusted_proxies
        return client_address(exchange.peer, exchange.head.headers, trusted)

    # Requests

    async def _reload(self, exchange: Exchange, token: AdminToken) -> Reply:
        operation = _reload_operation(await exchange.body(MAX_BODY))
        result = await self.queue.request("http", operation).wait()
        asked = {"dry_run": operation.dry_run, "accept": operation.accept}
        log.info("admin.reload", extra={"token": token.name, "result": result.result, **asked})
        return self._json(_status_of(result), result_document(result))

    async def _report(self, query: str) -> dict[str, Any]:
        asked = _fields(query, "day", "from", "to", "by")
        zone = self.sources.live.snapshot.relay.state.timezone
        try:
            first, last = span(asked["day"], asked["from"], asked["to"], day_of(round(self.wall() * 1000), zone))
            by = split_dimensions(asked["by"] or "key")
        except DayError as error:
            raise Refusal(status=400, message=scrub(str(error)[:300]), code="query") from None
        wanted = Report(first=first, last=last)
        owners = owners_of(self.sources.live.snapshot) if "owner" in by else {}
        return await from_books(
            self.sources.reader, wanted, lambda rows: report_document(rows, first, last, by, owners)
        )

    # Answers

    def refuse(self, refusal: Refusal, path: str) -> Reply:
        """A "no" as JSON, for the server and for us."""
        body = {"error": {"status": refusal.status, "code": refusal.code or refusal.kind, "message": refusal.message}}
        headers = list(refusal.headers)
        if refusal.retry_after is not None:
            headers.append((b"retry-after", str(refusal.retry_after).encode()))
        return self._json(refusal.status, body, headers)

    def _json(self, status: int, body: object, headers: Iterable[tuple[bytes, bytes]] = ()) -> Reply:
        return self._reply(status, msgspec.json.encode(body) + b"\n", JSON, *headers)

    def _reply(self, status: int, body: bytes, *headers: tuple[bytes, bytes]) -> Reply:
        return self._named(Reply(status=status, headers=[*headers, *_HARD], body=body))

    def _named(self, reply: Reply) -> Reply:
        return attrs.evolve(reply, headers=[*reply.headers, (b"relayd-request-id", self.new_id().encode())])


def _for_a_person(exchange: Exchange) -> bool:
    """Whether a browser asks."""
    return any(name == b"accept" and b"text/html" in value for name, value in exchange.head.headers)


def _allow(exchange: Exchange, method: str) -> None:
    if exchange.head.method not in (method, "HEAD" if method == "GET" else method):
        raise Refusal(
            status=405,
            message=f"method {exchange.head.method} is not allowed here (use {method})",
            headers=((b"allow", b"GET, HEAD" if method == "GET" else b"POST"),),
        )


def _reload_operation(body: bytes) -> Reload:
    """What to reload; without a body the tree as it is. Raises: Refusal 400."""
    if not body.strip():
        return Reload()
    try:
        asked = msgspec.json.decode(body, type=dict[str, Any])
    except NOT_JSON:
        raise Refusal(status=400, message="the body is not a JSON object", code="body") from None
    known: dict[str, type] = {"accept": str, "expect": str, "dry_run": bool}
    for name, value in asked.items():
        if name not in known or type(value) is not known[name]:
            shown = scrub(ascii(name[:80]))
            raise Refusal(status=400, message=f"{shown}: expected accept, expect (texts) or dry_run (a boolean)")
    return Reload(**asked)


def _status_of(result: ReloadResult) -> int:
    return int(HTTPStatus.PRECONDITION_FAILED) if result.unexpected else STATUS[result.result]


def _fields(query: str, *names: str) -> dict[str, str]:
    """The fields of a query, "" for those left out. Raises: Refusal 400 for one that is unknown or given twice."""
    found: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True, max_num_fields=20, errors="replace"):
        if name not in names or name in found:
            raise Refusal(status=400, message=f"query: expected {', '.join(names)}, each at most once", code="query")
        found[name] = value
    return {name: found.get(name, "") for name in names}
