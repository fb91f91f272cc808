"""Call: what a client asks for, whatever its dialect; Dialect: how a client's words become a Call and back.

Rule: a dialect is pure. It never sees a socket, an account or the time.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, Protocol, get_args

import attrs

from relayd.noun import noun
from relayd.wire.http import HeaderPairs, RequestHead
from relayd.wire.named_models import NOTHING_NAMED, NamedModels
from relayd.wire.refusal import Refusal
from relayd.wire.resumed import NOTHING_RESUMED, Resumed

NO_ALIASES: Mapping[str, str] = MappingProxyType({})

ObjectType = Literal["batches", "files", "skills"]
OBJECTS = frozenset(get_args(ObjectType))
Endpoint = Literal["messages", "count_tokens", "models", ObjectType]
Language = Literal["anthropic", "openai"]


@noun(kw_only=True)
class Call:
    """One request for the upstream.

    Args:
        endpoint: what is asked of the upstream.
        language: in which family of dialects the client asked for it; a key may be limited to one of them.
        method, path, query: what to ask of the upstream, in the Claude API's own terms.
        model: as the client named it, before aliases; "" where the endpoint has none.
        stream: whether the client asked for server-sent events.
        max_tokens: the client's cap on output tokens; None when it gave none.
        room: `max_tokens` as it is sent, where the dialect chose it; None when it is the client's.
        fast: the body asks for a `speed`, which may have its price.
        wide: bytes that the body has more than characters (peek.wide_bytes); they hold more tokens.
        named: the models that the body names besides its own.
        resumed: what it takes up that an upstream keeps.
        user_id: `metadata.user_id`, where the body gives one.
        session: the client's own name for the conversation, where the body gives one beside `user_id`.
        body: the bytes for the upstream, as Claude API JSON (translated where the dialect is not native).
        reply_hints: what the dialect's translator must know of the request; nobody else reads it.
    """

    endpoint: Endpoint
    language: Language = "anthropic"
    method: str = "POST"
    path: str = "/v1/messages"
    query: str = ""
    model: str = ""
    stream: bool = False
    max_tokens: int | None = None
    room: int | None = None
    fast: bool = False
    wide: int = 0
    named: NamedModels = NOTHING_NAMED
    resumed: Resumed = NOTHING_RESUMED
    user_id: str = ""
    session: str = ""
    body: bytes = attrs.field(default=b"", repr=False)
    reply_hints: object | None = attrs.field(default=None, repr=False)


@noun(kw_only=True)
class Reply:
    """A whole answer to a client, ready for the edge (which adds the framing headers)."""

    status: int
    headers: HeaderPairs
    body: bytes


class Translator(Protocol):
    """Turns one upstream answer into the client's dialect, piece by piece, in constant memory.

    The native dialect needs none (`Dialect.translator` answers None): bytes pass as they are.
    """

    def head(self, status: int, headers: HeaderPairs) -> HeaderPairs:
        """The client's response headers, of a streamed or a whole answer (content-type and what else differs)."""
        ...

    def whole(self, status: int, body: bytes) -> bytes:
        """A complete, non-streamed answer or upstream error (any status), translated.

        Raises: Refusal (502) when a success cannot be read.
        """
        ...

    def feed(self, data: bytes) -> bytes:
        """Stream bytes in, cut anywhere; the client's stream bytes out (maybe none)."""
        ...

    def finish(self) -> bytes:
        """The upstream's stream ended; what is still owed to the client. An unfinished message yields an error."""
        ...

    def unsigned(self, body: bytes) -> bytes | None:
        """The request again without the thinking of earlier answers, for an upstream that refuses its signatures.

        The client is told so. None when there is no thinking in it.
        """
        ...

    def fail(self, refusal: Refusal) -> bytes:
        """The stream is cut: the client's form of an error event. Nothing follows it."""
        ...


class Dialect(Protocol):
    """A client's language on one path."""

    @property
    def name(self) -> str: ...

    @property
    def endpoint(self) -> Endpoint:
        """What its calls ask of the upstream."""
        ...

    @property
    def language(self) -> Language: ...

    def parse(
        self, head: RequestHead, body: bytes, *, now: float = 0.0, aliases: Mapping[str, str] = NO_ALIASES
    ) -> Call:
        """Read a call.

        Args:
            now: Unix time, s, where an answer must say when it was made.
            aliases: the operator's model names; they tell a translating dialect what the model can do.

        Raises: Refusal (400) on a body that cannot be understood.
        """
        ...

    def refuse(self, refusal: Refusal, request_id: str) -> Reply:
        """Our "no" as a whole answer."""
        ...

    def upstream_headers(self, head: RequestHead) -> HeaderPairs:
        """The headers that travel on, without credential and framing."""
        ...

    def translator(self, call: Call) -> Translator | None:
        """How the answer to `call` is put into this dialect; None where bytes pass unchanged."""
        ...
