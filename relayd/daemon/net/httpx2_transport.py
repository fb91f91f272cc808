"""The httpx2 transport: the HTTP client for whoever speaks httpx2.

Rule: a relay at rest and its calls do without it; import it late (`late.load`), for httpx2 takes 4 MB and 0.1 s.

Theory: request and answer change their form here and nothing else, and what goes wrong is told in httpx2's own errors.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, contextmanager
from http.cookiejar import CookieJar, DefaultCookiePolicy

import httpx2

from relayd.daemon.net import transport_errors as errors
from relayd.daemon.net.connect import Origin
from relayd.daemon.net.request import DEFAULT_PORTS, NO_URL, Asking, PlainRequest, RequestTarget, UpstreamAnswer
from relayd.daemon.net.transport_errors import TransportError


class Httpx2Transport(httpx2.AsyncBaseTransport):
    """A transport of ours, as httpx2 has them. At its end it closes what it stands on.

    Timeouts are httpx2's, where "read" counts for the head and between the pieces of a body. A request's extensions may
    hold more: "first_byte" in "timeout", for the head alone, and "repeatable", as in `PlainRequest`.
    """

    def __init__(self, transport: Asking) -> None:
        self._transport = transport

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send `request` and wait for the head of its answer, which is returned whatever its status.

        Raises: httpx2.TransportError, whose text names the origin and the cause, never a header or a credential.
        """
        with _in_its_words():
            answer = await self._transport.ask(await _plain(request))
        return httpx2.Response(answer.status, headers=answer.headers, stream=_AnswerBody(answer), request=request)

    async def aclose(self) -> None:
        self._transport.close()


def open_client(transport: Asking, timeout: httpx2.Timeout) -> httpx2.AsyncClient:
    """A client that closes `transport` at its end. Use it with `async with`.

    It follows no redirect, keeps no cookie and takes nothing from the environment.
    """
    return httpx2.AsyncClient(
        transport=Httpx2Transport(transport),
        timeout=timeout,
        follow_redirects=False,
        trust_env=False,
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        headers={"accept-encoding": "identity"},
    )


class _AnswerBody(httpx2.AsyncByteStream):
    def __init__(self, answer: UpstreamAnswer) -> None:
        self._answer = answer

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with _in_its_words():
            async with aclosing(self._answer.__aiter__()) as pieces:
                async for piece in pieces:
                    yield piece

    async def aclose(self) -> None:
        self._answer.close()


@contextmanager
def _in_its_words() -> Iterator[None]:
    """Raises: httpx2.TransportError in place of ours."""
    try:
        yield
    except TransportError as error:
        twin = next(twin for kind, twin in _TWINS if isinstance(error, kind))
        raise twin(str(error)) from error.__cause__


_TWINS: tuple[tuple[type[TransportError], type[httpx2.TransportError]], ...] = (
    (errors.ProxyError, httpx2.ProxyError),
    (errors.UnsupportedProtocol, httpx2.UnsupportedProtocol),
    (errors.ConnectError, httpx2.ConnectError),
    (errors.ReadError, httpx2.ReadError),
    (errors.SendError, httpx2.WriteError),
    (errors.ConnectTimeout, httpx2.ConnectTimeout),
    (errors.ReadTimeout, httpx2.ReadTimeout),
    (errors.WriteTimeout, httpx2.WriteTimeout),
    (errors.LocalProtocolError, httpx2.LocalProtocolError),
    (errors.RemoteProtocolError, httpx2.RemoteProtocolError),
    (TransportError, httpx2.TransportError),
)


async def _plain(request: httpx2.Request) -> PlainRequest:
    """The same request without httpx2's nouns, its body read."""
    body = request.read() if isinstance(request.stream, httpx2.SyncByteStream) else await request.aread()
    extensions = request.extensions
    return PlainRequest(
        request.method,
        _target_of(request.url),
        request.headers.raw,
        body,
        extensions.get("timeout") or {},
        extensions.get("repeatable", True),
    )


def _target_of(url: httpx2.URL) -> RequestTarget:
    host = url.raw_host.decode("ascii")
    if url.scheme not in DEFAULT_PORTS or not host:
        raise errors.UnsupportedProtocol(NO_URL)
    return RequestTarget(Origin(url.scheme, host, url.port or DEFAULT_PORTS[url.scheme]), url.raw_path, url.netloc)
