"""The site: from a request to a page, and who is let in.

Rule: in this order: the Host header, the path, who is signed in, what they may, and for whatever changes something the
origin of the request and the token of its form. Nothing that a handler could forget. A session is looked at again at
each request, against the newest snapshot. A page is written in a thread: a large one takes longer than a call may wait.

Theory: a browser sends cookies along with whatever any site makes it ask. So a POST needs two proofs that one of our
own pages sent it: its Origin (or Sec-Fetch-Site), and a token that only our pages show to this session.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable, Mapping, Sequence
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit

import attrs

from relayd.config.model.addresses import is_loopback
from relayd.config.snapshot import Snapshot
from relayd.core.access.addresses import client_address, forwarded_address, inside
from relayd.core.access.auth import best_state
from relayd.core.access.sessions import Session, Sessions, Visitor, admin_visitor, key_visitor
from relayd.core.live import Live
from relayd.daemon.admin.pages.language import LANGUAGES, preferred
from relayd.daemon.admin.pages.render import STATIC_ROOT, error_page, page_reply, static_reply
from relayd.daemon.admin.pages.visit import FIRST, ROOT, Form, Page, PageRoute, Visit, see_other
from relayd.daemon.beside import Beside
from relayd.daemon.net.exchange import Exchange
from relayd.wire.call import Reply
from relayd.wire.http import Headers
from relayd.wire.refusal import Refusal

MAX_FORM = 256 << 10  # bytes
MAX_FIELDS = 200
LANGUAGE_COOKIE = "relayd-language"
SIGN_IN = f"{ROOT}/sign-in"

HARD = (
    (
        b"content-security-policy",
        b"default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self';"
        b" form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), microphone=(), geolocation=()"),
)
NO_STORE = (b"cache-control", b"no-store")
_SUFFIXES: dict[str, Form] = {".json": "json", ".csv": "csv"}
_RANKS = {"key": 1, "viewer": 2, "editor": 3}


@attrs.define(eq=False, kw_only=True)
class Site:
    """All pages of one daemon.

    Args:
        routes: the first that matches answers.
        wall: Unix time, s.
        beside: where pages are written.
    """

    live: Live
    sessions: Sessions
    routes: Sequence[PageRoute]
    wall: Callable[[], float]
    beside: Beside = attrs.field(repr=False)
    _by_proxy: dict[str, Session] = attrs.field(factory=dict, repr=False, init=False)

    async def answer(self, exchange: Exchange) -> Reply:
        """Answer a request for a path under ROOT, whatever it is."""
        visit = None
        try:
            self._require_host(exchange)
            path = exchange.head.path
            if path.startswith(f"{STATIC_ROOT}/"):
                reply = static_reply(path.removeprefix(f"{STATIC_ROOT}/"))
                return attrs.evolve(reply, headers=[*reply.headers, *HARD])
            visit = self._visit(exchange)
            reply = await self._reply(exchange, visit)
        except Refusal as refusal:
            shown = visit or Visit(method="GET", path=ROOT, language=preferred(_accepted(exchange.head.headers)))
            if shown.as_form == "csv":
                shown = attrs.evolve(shown, as_form="json")
            reply = page_reply(error_page(refusal), shown)
        return attrs.evolve(reply, headers=[*reply.headers, *HARD, NO_STORE])

    async def _reply(self, exchange: Exchange, visit: Visit) -> Reply:
        if (language := visit.query.get("lang")) in LANGUAGES:
            kept = f"{LANGUAGE_COOKIE}={language}; Path={ROOT}; Max-Age=31536000; SameSite=Lax"
            return see_other(visit.url(lang=None), [(b"set-cookie", kept.encode())])
        route, captured = self._route(visit)
        visit = attrs.evolve(visit, captured=captured)
        if route.need != "nobody":
            refused = self._refuse_visitor(route, visit)
            if refused is not None:
                return refused
        if route.method == "POST":
            visit = attrs.evolve(visit, form=await self._form(exchange, visit))
        answered = await route.handler(visit)
        if not isinstance(answered, Page):
            return answered
        return await self.beside.run(page_reply, answered, visit)

    # Who asks for what

    def _visit(self, exchange: Exchange) -> Visit:
        head, now = exchange.head, self.wall()
        cookies = _cookies(head.headers)
        secure = self._secure(exchange)
        path, form = head.path.rstrip("/") or ROOT, "html"
        for suffix, other in _SUFFIXES.items():
            if path.endswith(suffix):
                path, form = path.removesuffix(suffix), other
        if path == FIRST:
            path = ROOT
        visit = Visit(
            method="GET" if head.method == "HEAD" else head.method,
            path=path,
            as_form=form,  # type: ignore[arg-type]
            query=dict(parse_qsl(head.query, max_num_fields=50, errors="replace")),
            cookies=cookies,
            language=preferred(_accepted(head.headers), cookies.get(LANGUAGE_COOKIE, "")),
            address=self._address(exchange),
            secure=secure,
            now=now,
        )
        return attrs.evolve(visit, session=self._session(exchange, cookies.get(session_cookie(secure=secure), ""), now))

    def _session(self, exchange: Exchange, token: str, now: float) -> Session | None:
        """Of the cookie, or of a proxy that has signed somebody in."""
        snapshot = self.live.snapshot
        named = self._named_by_proxy(exchange, snapshot)
        if named is not None:
            return self._proxied(named, now)
        return self.sessions.find(token, lambda visitor: current(visitor, snapshot, now), now)

    def _named_by_proxy(self, exchange: Exchange, snapshot: Snapshot) -> Visitor | None:
        relay = snapshot.relay
        header = relay.admin.proxy_user_header.lower().encode()
        if not header or not self._by_trusted_proxy(exchange):
            return None
        named = [value for name, value in exchange.head.headers if name == header]
        if len(named) != 1:
            return None
        text = named[0].decode("utf-8", "replace")
        return next((admin_visitor(user) for user in relay.admin.users if user.name == text), None)

    def _proxied(self, visitor: Visitor, now: float) -> Session:
        """The one session of a visitor whom a proxy names; it has a token for its forms, and no cookie."""
        session = self._by_proxy.get(visitor.name)
        if session is None or session.visitor != visitor:
            csrf = self.sessions.rng(32).hex()
            session = self._by_proxy[visitor.name] = Session(visitor=visitor, csrf=csrf, made=now, used=now)
        session.used = now
        return session

    def _route(self, visit: Visit) -> tuple[PageRoute, dict[str, str]]:
        """Raises: Refusal 404, 405."""
        allowed = set()
        for route in self.routes:
            captured = route.match(visit.path)
            if captured is not None and route.method == visit.method:
                return route, captured
            if captured is not None:
                allowed.add(route.method)
        if allowed:
            words = ", ".join(sorted(allowed))
            message = f"method {visit.method} is not allowed here (use {words})"
            raise Refusal(status=405, message=message, headers=((b"allow", words.encode()),))
        raise Refusal(status=404, message="there is no such page", code="unknown_path")

    def _refuse_visitor(self, route: PageRoute, visit: Visit) -> Reply | None:
        """Where to send whoever may not see this page; None for those who may. Raises: Refusal 401, 403."""
        if visit.session is None:
            if visit.as_form == "html" and visit.method == "GET":
                back = quote(visit.url(), safe="/")
                return see_other(SIGN_IN + (f"?next={back}" if visit.path != ROOT else ""))
            raise Refusal(status=401, message="not signed in, or no longer", code="session")
        role = visit.visitor.role
        if _RANKS[role] < _RANKS[route.need]:
            if role == "key" and visit.path == ROOT and visit.as_form == "html":
                return see_other(f"{ROOT}/my-key")
            raise Refusal(
                status=403, message=f"{visit.visitor.name} is {_ROLES[role]} and may not do this", code="role"
            )
        return None

    # What may change something

    async def _form(self, exchange: Exchange, visit: Visit) -> dict[str, str]:
        """The fields of a POST that one of our pages has sent. Raises: Refusal 400, 403, 413, 415."""
        headers = exchange.head.headers
        if not same_origin(headers, secure=visit.secure):
            raise Refusal(status=403, message="this request does not come from a page of this relay", code="origin")
        body = await exchange.body(MAX_FORM)
        kind = headers.text(b"content-type").partition(";")[0].strip().lower()
        if body and kind != "application/x-www-form-urlencoded":
            raise Refusal(status=415, message="expected the fields of a form", code="form")
        try:
            pairs = parse_qsl(
                body.decode(), keep_blank_values=True, strict_parsing=bool(body), max_num_fields=MAX_FIELDS
            )
        except ValueError:
            raise Refusal(status=400, message="the form cannot be read", code="form") from None
        fields = dict(pairs)
        given = fields.pop("csrf", "")
        if (
            visit.session is not None
            and visit.path != SIGN_IN
            and not hmac.compare_digest(given.encode(), visit.session.csrf.encode())
        ):
            message = "the form is from another session: go back, load the page again, and send it once more"
            raise Refusal(status=403, message=message, code="csrf")
        return fields

    # The way here

    def _require_host(self, exchange: Exchange) -> None:
        """Raises: Refusal 421. Source: RFC 9110 section 15.5.20."""
        host = exchange.head.headers.text(b"host")
        if not allowed_host(host, self.live.snapshot.relay.admin.hosts):
            message = "host: the pages are not served under this name (add it to [admin].hosts)"
            raise Refusal(status=421, message=message, code="host")

    def _address(self, exchange: Exchange) -> str:
        trusted = self.live.snapshot.relay.server.trusted_proxies
        return client_address(exchange.peer, exchange.head.headers, trusted)

    def _secure(self, exchange: Exchange) -> bool:
        """Whether a trusted proxy says that the browser came over TLS."""
        told = exchange.head.headers.text(b"x-forwarded-proto").lower()
        return told == "https" and self._by_trusted_proxy(exchange)

    def _by_trusted_proxy(self, exchange: Exchange) -> bool:
        """A unix socket is as trusted as whoever may open it."""
        return not exchange.peer or inside(exchange.peer, self.live.snapshot.relay.server.trusted_proxies)


_ROLES = {"viewer": "a viewer", "editor": "an editor", "key": "the holder of a key"}
_LOCAL = re.compile(r"localhost\.?", re.ASCII | re.IGNORECASE)


def allowed_host(host: str, names: Sequence[str]) -> bool:
    """Whether a Host header is one of ours: a name that the tree lists, localhost, or an address, which no name server
    can point elsewhere."""
    if forwarded_address(host):
        return True
    name, _, port = host.partition(":")
    if port and not (port.isascii() and port.isdigit()):
        return False
    return name.lower().rstrip(".") in names or _LOCAL.fullmatch(name) is not None or is_loopback(name)


def same_origin(headers: Headers, *, secure: bool) -> bool:
    """Whether a page of ours has sent a request: by its Origin, else by Sec-Fetch-Site. A request with neither comes
    from no browser of these years. Source: Fetch standard, "Origin header"; Fetch Metadata."""
    origin = headers.text(b"origin")
    if origin:
        parts = urlsplit(origin)
        return parts.netloc.lower() == headers.text(b"host").lower() and (parts.scheme == "https" or not secure)
    return headers.text(b"sec-fetch-site") == "same-origin"


def session_cookie(*, secure: bool) -> str:
    """The name of the session's cookie; over TLS one that no other host can have set. Source: RFC 6265bis, prefixes."""
    return "__Host-relayd" if secure else "relayd-session"


def current(visitor: Visitor, snapshot: Snapshot, now: float) -> Visitor | None:
    """A visitor as the tree knows them now; None when it does not."""
    if visitor.role != "key":
        return next((admin_visitor(user) for user in snapshot.relay.admin.users if user.name == visitor.name), None)
    key = snapshot.keys.get(visitor.name)
    return key_visitor(key) if key is not None and best_state(key, snapshot, now) == "active" else None


def _accepted(headers: Headers) -> str:
    return headers.text(b"accept-language")


def _cookies(headers: Headers) -> Mapping[str, str]:
    cookies: dict[str, Any] = SimpleCookie()
    try:
        cookies.load("; ".join(value.decode("latin-1") for name, value in headers if name == b"cookie"))  # type: ignore[attr-defined]
    except CookieError:
        return {}
    return {name: morsel.value for name, morsel in cookies.items()}
