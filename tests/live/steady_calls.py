"""Calls that never cease, for tests in which something is restarted under them: what each got, and how long it took.

with steady_calls(Way(url)) as calls:
    restart()
    calls.wait_for(20)  # more
assert calls.failures == []
"""

from __future__ import annotations

import contextlib
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import attrs
import httpx2
from builders import KEY
from waiting import PATIENCE, wait_until

ASK = {"model": "claude-sonnet-5-5", "max_tokens": 4000, "messages": [{"role": "user", "content": "hi"}]}


@attrs.frozen
class Way:
    """How calls get there.

    Args:
        name: of the site, where that is not in the URL; for TLS and in the head.
        verify: who is trusted to say so.
        address: of this machine, from which they come.
    """

    url: str
    name: str = ""
    verify: ssl.SSLContext | None = None
    address: str = "127.0.0.1"
    headers: Mapping[str, str] = MappingProxyType({})

    def client(self, *, keep: bool = True) -> httpx2.Client:
        """A client; with `keep` one that keeps its connection."""
        limits = httpx2.Limits(max_keepalive_connections=1 if keep else 0)
        transport = httpx2.HTTPTransport(
            local_address=self.address, limits=limits, verify=self.verify or ssl.create_default_context()
        )
        named = {"host": self.name} if self.name else {}
        headers = {"x-api-key": KEY, **named, **self.headers}
        return httpx2.Client(base_url=self.url, transport=transport, headers=headers, timeout=PATIENCE)

    @property
    def extensions(self) -> dict[str, str]:
        """Of each request."""
        return {"sni_hostname": self.name} if self.name else {}


@attrs.define(eq=False)
class SteadyCalls:
    """Some clients that keep their connection, and some that make one for each call."""

    way: Way
    took: list[float] = attrs.field(factory=list)  # s, of calls that ended well
    failures: list[str] = attrs.field(factory=list)
    _over: threading.Event = attrs.field(factory=threading.Event)
    _threads: list[threading.Thread] = attrs.field(factory=list)

    def start(self, clients: int, pause: float) -> None:
        """Begin to call."""
        for number in range(clients):
            way = {"keep": number % 2 == 0, "pause": pause}
            self._threads.append(threading.Thread(target=self.work, kwargs=way))
            self._threads[-1].start()

    def wait_for(self, more: int) -> None:
        """Wait until so many more calls have ended. Raises: AssertionError."""
        aim = len(self.took) + more
        wait_until(lambda: len(self.took) >= aim or self.failures, f"{more} more calls")

    def work(self, *, keep: bool, pause: float) -> None:
        """Call until it is over."""
        with self.way.client(keep=keep) as client:
            while not self._over.wait(pause):
                began = time.monotonic()
                try:
                    answer = client.post("/v1/messages", json=ASK, extensions=self.way.extensions)
                except httpx2.HTTPError as error:
                    self.failures.append(repr(error))
                    continue
                if answer.status_code == 200 and answer.json()["stop_reason"] == "end_turn":
                    self.took.append(time.monotonic() - began)
                else:
                    self.failures.append(f"{answer.status_code} {answer.text}")

    def stop(self) -> None:
        """Begin no further call, and wait for those under way."""
        self._over.set()
        for thread in self._threads:
            thread.join()


@contextlib.contextmanager
def steady_calls(way: Way, *, clients: int = 4, pause: float = 0.02) -> Iterator[SteadyCalls]:
    """Call for the length of a block."""
    calls = SteadyCalls(way)
    calls.start(clients, pause)
    try:
        calls.wait_for(clients)
        yield calls
    finally:
        calls.stop()


@attrs.define(eq=False)
class StreamedCall:
    """A stream that is read in the background.

    Args:
        pieces: how many came.
        served: its id in the log of whoever serves it.
    """

    way: Way
    headers: Mapping[str, str] = MappingProxyType({})
    model: str = "claude-sonnet-5-5"
    body: bytes = b""
    pieces: int = 0
    served: str = ""
    fault: str = ""
    _thread: threading.Thread = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._thread = threading.Thread(target=self._read)
        self._thread.start()
        wait_until(lambda: self.pieces or self.fault, "the first event")

    def _read(self) -> None:
        ask = {**ASK, "model": self.model, "stream": True}
        more: dict[str, Any] = {"headers": dict(self.headers), "extensions": self.way.extensions}
        try:
            with self.way.client() as client, client.stream("POST", "/v1/messages", json=ask, **more) as answer:
                self.served = answer.headers["relayd-request-id"]
                for piece in answer.iter_raw():
                    self.body += piece
                    self.pieces += 1
        except httpx2.HTTPError as error:
            self.fault = repr(error)

    def running(self) -> bool:
        """Whether it has not ended."""
        return self._thread.is_alive()

    def whole(self) -> bool:
        """Wait for its end; whether it ended as streams do."""
        self._thread.join(PATIENCE)
        return not self.fault and b"event: message_stop" in self.body
