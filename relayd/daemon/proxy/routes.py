"""Routes: which path is spoken in which dialect, and the answers that need no upstream.

Rule: exact matching on the canonical path (wire/api_paths.py), so that a spelling keeps every restriction of its path.
The Host header decides nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module

import attrs
import msgspec

from relayd.core.access.owned_paths import COLLECTIONS, ObjectRequest, asked, check_served
from relayd.daemon.log import scrub
from relayd.noun import noun
from relayd.wire.anthropic import JSON, Native
from relayd.wire.api_paths import canonical, meant
from relayd.wire.call import Dialect, Reply
from relayd.wire.http import RequestHead
from relayd.wire.refusal import Refusal

MESSAGES = Native()
COUNT_TOKENS = Native(endpoint="count_tokens", path="/v1/messages/count_tokens")


@noun
class LateDialect:
    """A dialect whose translator is loaded when it is first asked for (net/late.py)."""

    module: str
    name: str

    def loaded(self) -> Dialect:
        """The dialect itself."""
        dialect: Dialect = getattr(import_module(self.module), self.name)
        return dialect


_CHAT, _RESPONSES = "relayd.wire.openai.chat", "relayd.wire.openai.responses"
_OPENAI = ("/v1", "/openai/v1")
# What is posted where, by canonical path.
DIALECTS: Mapping[str, Dialect | LateDialect] = {
    "/v1/messages": MESSAGES,
    "/v1/messages/count_tokens": COUNT_TOKENS,
    **{f"{base}/chat/completions": LateDialect(_CHAT, "OPENAI_CHAT") for base in _OPENAI},
    **{f"{base}/responses": LateDialect(_RESPONSES, "OPENAI_RESPONSES") for base in _OPENAI},
    **{f"{base}/responses/compact": LateDialect(_RESPONSES, "OPENAI_COMPACT") for base in _OPENAI},
    **{f"{base}/responses/input_tokens": LateDialect(_RESPONSES, "OPENAI_COUNT") for base in _OPENAI},
}


@noun(kw_only=True)
class Models:
    """The models of a key; `one` is the id asked for, "" for the list. `openai` forces that shape."""

    one: str = ""
    openai: bool = False


@noun(kw_only=True)
class Local:
    """An answer that needs neither key nor upstream."""

    name: str  # "health", "live", "ready", "root"


@noun
class OwnUsage:
    """What the caller's key has used, and what it may."""


Target = Dialect | LateDialect | Models | Local | ObjectRequest | OwnUsage

_LOCAL = {
    "/": Local(name="root"),
    "/health": Local(name="health"),
    "/livez": Local(name="live"),
    "/readyz": Local(name="ready"),
}
KNOWN = (*DIALECTS, "/v1/models", "/openai/v1/models", *COLLECTIONS, "/usage", *_LOCAL)


def find(head: RequestHead) -> Target:
    """What serves a request.

    Raises: Refusal 404 for an unknown path, 405 (with `allow`) for a wrong method.
    """
    path = canonical(head.path)
    if path == "/" != head.path and head.method != "GET":
        raise unknown(head.path)  # a base URL, without what is asked for
    if path in _LOCAL:
        _allow(head, "GET")
        return _LOCAL[path]
    dialect = DIALECTS.get(path)
    if dialect is not None:
        _allow(head, "POST")
        return dialect
    if path == "/usage":
        _allow(head, "GET")
        return OwnUsage()
    about = asked(head.method, path)
    if isinstance(about, tuple):
        _allow(head, *about)
    elif about is not None:
        return about
    return _models(head, path)


def _models(head: RequestHead, path: str) -> Models:
    for prefix, openai in (("/v1/models", "anthropic-version" not in _names(head)), ("/openai/v1/models", True)):
        if path == prefix or (path.startswith(prefix + "/") and path.count("/") == prefix.count("/") + 1):
            _allow(head, "GET")
            return Models(one=path[len(prefix) + 1 :], openai=openai)
    check_served(path)
    raise unknown(head.path)


def unknown(path: str) -> Refusal:
    """The refusal of a path that nothing serves; it says which was probably meant."""
    guess = meant(path, KNOWN)
    hint = f"did you mean {guess}?" if guess else "GET / says where to point a client"
    message = f"unknown path {scrub(ascii(path[:200])[1:-1])} ({hint})"
    return Refusal(status=404, message=message, code="unknown_path")


def _names(head: RequestHead) -> set[str]:
    return {name.decode("latin-1") for name, _ in head.headers}


def _allow(head: RequestHead, *methods: str) -> None:
    if head.method not in methods:
        allowed = ", ".join((*methods, "HEAD", "OPTIONS")).encode()
        raise Refusal(
            status=405,
            message=f"method {head.method} is not allowed here (use {' or '.join(methods)})",
            headers=((b"allow", allowed),),
        )


def local(target: Local, *, draining: bool, unready: Callable[[], Sequence[str]] = tuple, address: str = "") -> Reply:
    """Health and the root page.

    `/livez` says that the loop turns; `/readyz` is 503 while the daemon drains, or cannot serve, so that load balancers
    look elsewhere.

    Args:
        unready: what keeps calls from being served here, in words that anybody may read.
        address: of this relay, as the client knows it.
    """
    if target.name == "root":
        return _root(address)
    if target.name == "live":
        return _json(200, {"status": "alive"})
    if target.name != "ready" or draining:
        return _json(503 if target.name == "ready" else 200, {"status": "draining" if draining else "ok"})
    reasons = list(unready())
    return _json(503, {"status": "unready", "reasons": reasons}) if reasons else _json(200, {"status": "ok"})


def _root(address: str) -> Reply:
    """What this is and where to point a client: JSON, in three lines for a person."""
    about = {"name": "relayd", "docs": "a relay for the Claude API; its keys (sk-relay-...) come from whoever runs it"}
    lines = (
        about,
        {"anthropic": f"ANTHROPIC_BASE_URL={address}/api"},
        {"openai": f"OPENAI_BASE_URL={address}/openai/v1"},
    )
    reply = _json(200, {})
    return attrs.evolve(reply, body=b"{%b}\n" % b",\n ".join(msgspec.json.encode(line)[1:-1] for line in lines))


def _json(status: int, body: Mapping[str, object]) -> Reply:
    return Reply(status=status, headers=[JSON, (b"cache-control", b"no-store")], body=msgspec.json.encode(body))
