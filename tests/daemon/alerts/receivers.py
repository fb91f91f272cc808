"""Webhook receivers on real sockets: they keep what they got, and answer as they are told.

with receiving() as receiver:
    receiver.answers += [500, (429, {"retry-after": "2"})]    # then 200 for ever
    ...
    assert receiver.told == ["begins account/main"]
"""

from __future__ import annotations

import contextlib
import http.server
import json
import ssl
import threading
import time
from collections.abc import Iterator
from typing import Any

import attrs


@attrs.define(eq=False)
class Receiver:
    """What came, and what is answered."""

    port: int = 0
    scheme: str = "http"
    answers: list[Any] = attrs.field(factory=list)
    got: list[tuple[str, dict[str, str], bytes]] = attrs.field(factory=list)  # path, headers, body
    hold: threading.Event = attrs.field(factory=threading.Event)  # set: answers are given

    @property
    def url(self) -> str:
        return f"{self.scheme}://localhost:{self.port}/hook/a-secret-path"

    @property
    def documents(self) -> list[Any]:
        return [json.loads(body) for _, _, body in list(self.got)]

    @property
    def told(self) -> list[str]:
        """All that JSON notices told: `saying condition`."""
        return [f"{one['saying']} {one['condition']}" for document in self.documents for one in document["events"]]

    def wait_for(self, count: int, patience: float = 60.0) -> list[str]:
        """Wait until so many things were told."""
        deadline = time.monotonic() + patience
        while len(self.told) < count:
            assert time.monotonic() < deadline, f"only {self.told} came"
            time.sleep(0.02)
        return self.told


def _handler(receiver: Receiver) -> type[http.server.BaseHTTPRequestHandler]:
    class Hook(http.server.BaseHTTPRequestHandler):
        timeout = 600  # s that a connection may be idle

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            receiver.got.append((self.path, {name.lower(): value for name, value in self.headers.items()}, body))
            receiver.hold.wait(60)
            answer = receiver.answers.pop(0) if receiver.answers else 200
            status, headers = answer if isinstance(answer, tuple) else (answer, {})
            with contextlib.suppress(OSError):
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", "0")
                self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name of the overridden one
            """Nothing."""

    return Hook


@contextlib.contextmanager
def receiving(context: ssl.SSLContext | None = None) -> Iterator[Receiver]:
    """A receiver for the length of a block. `context`: of a server, for TLS."""
    receiver = Receiver(scheme="https" if context else "http")
    receiver.hold.set()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(receiver))
    server.daemon_threads = True
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    receiver.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield receiver
    finally:
        receiver.hold.set()
        server.shutdown()
        thread.join()
        server.server_close()
