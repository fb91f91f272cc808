"""A provider: a Claude API that knows whose credential is good, with a token endpoint that ends a family of tokens when
one is used twice. It remembers what it was asked, and can be made to refuse.
"""

from __future__ import annotations

import http.server
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import attrs


@attrs.define(eq=False)
class Provider:
    """Families of tokens, one for each sign-in, and what was asked."""

    lock: threading.Lock = attrs.field(factory=threading.Lock)
    current: dict[str, str] = attrs.field(factory=dict)  # refresh token: its family
    used: dict[str, str] = attrs.field(factory=dict)
    access: dict[str, str] = attrs.field(factory=dict)
    revoked: set[str] = attrs.field(factory=set)
    posts: list[str] = attrs.field(factory=list)
    refused: int = 0  # calls answered 401
    keys: set[str] = attrs.field(factory=set)  # API keys that are good
    served: Counter[str] = attrs.field(factory=Counter)  # calls answered 200, by family or API key
    release: Callable[[], bool] = lambda: True  # a refresh is answered once this is so
    hold: float = 10.0  # s, or after so long; the daemon waits 20
    presented: str = ""  # the access token of the last call
    made: int = 0
    url: str = ""

    def sign_in(self, family: str, life: float = 3600.0) -> dict[str, Any]:
        return self._tokens(family) | {"expires_at": int(time.time() + life)}

    def _tokens(self, family: str) -> dict[str, Any]:
        self.made += 1
        access, refresh = f"sk-ant-oat01-{family}-{self.made}-{'a' * 20}", f"sk-ant-ort01-{family}-{self.made}"
        self.access[access], self.current[refresh] = family, family
        return {"access_token": access, "refresh_token": refresh}

    def rotate(self, refresh: str) -> tuple[int, dict[str, Any]]:
        with self.lock:
            self.posts.append(refresh)
            if refresh in self.used:
                self.revoked.add(self.used[refresh])
            family = self.current.pop(refresh, None)
            if family is None or family in self.revoked:
                return 400, {"error": "invalid_grant"}
            self.used[refresh] = family
            return 200, self._tokens(family) | {"expires_in": 3600}

    def call(self, bearer: str, api_key: str = "") -> str:
        """Whose the call is, by family or API key; "" for a credential that is not good."""
        with self.lock:
            family, self.presented = self.access.get(bearer, ""), bearer
            whose = api_key if api_key in self.keys else "" if family in self.revoked else family
            if whose:
                self.served[whose] += 1
            else:
                self.refused += 1
            return whose


class Serving(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 600  # s that a connection may be idle
    provider: Provider

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        if self.path == "/token":
            status, told = self.provider.rotate(json.loads(body)["refresh_token"])
            end = time.monotonic() + self.provider.hold
            while not self.provider.release() and time.monotonic() < end:
                time.sleep(0.01)
        else:
            status, told = self._called()
        answer = json.dumps(told).encode()
        try:
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)
        except OSError:
            self.close_connection = True  # whoever asked is gone

    do_GET = do_POST

    def _called(self) -> tuple[int, dict[str, Any]]:
        bearer = self.headers.get("authorization", "").removeprefix("Bearer ")
        if not self.provider.call(bearer, self.headers.get("x-api-key", "")):
            return 401, {"type": "error", "error": {"type": "authentication_error", "message": "invalid x-api-key"}}
        if "/batches" in self.path:
            return 200, {"type": "message_batch", "id": "msgbatch_1", "processing_status": "in_progress"}
        usage = {"input_tokens": 1, "output_tokens": 1}
        return 200, {"type": "message", "id": "msg_1", "stop_reason": "end_turn", "usage": usage}

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name of the overridden one
        """Nothing."""


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256


@contextmanager
def provider(sockets: Sequence[socket.socket] = ()) -> Iterator[Provider]:
    """A provider for the length of a block. `sockets`: that listen already, all on one port, in place of its own."""
    found = Provider()
    serving = type("One", (Serving,), {"provider": found})
    servers = [_on(sock, serving) for sock in sockets] or [Server(("127.0.0.1", 0), serving)]
    threads = [threading.Thread(target=server.serve_forever, args=(0.02,)) for server in servers]
    for thread in threads:
        thread.start()
    found.url = f"http://127.0.0.1:{servers[0].socket.getsockname()[1]}"
    try:
        yield found
    finally:
        for server, thread in zip(servers, threads, strict=True):
            server.shutdown()
            thread.join()
            server.server_close()


def _on(sock: socket.socket, serving: type[Serving]) -> Server:
    server = Server(sock.getsockname(), serving, bind_and_activate=False)
    server.socket.close()
    server.socket = sock
    server.server_name, server.server_port = sock.getsockname()
    return server
