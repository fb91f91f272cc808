"""A TLS server in front of another, on loopback."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading

import trustme
from redis_server import RedisServer


class TlsFront:
    """Ends TLS before a redis-server, for the test binary may have been built without it."""

    def __init__(self, server: RedisServer, certificate: trustme.LeafCert) -> None:
        self.target = server.port
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(self.context)
        self.sock = socket.create_server(("127.0.0.1", 0))
        self.port = self.sock.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                raw, _ = self.sock.accept()
                threading.Thread(target=self._join, args=(raw,), daemon=True).start()

    def _join(self, raw: socket.socket) -> None:
        with (
            contextlib.suppress(OSError),
            self.context.wrap_socket(raw, server_side=True) as client,
            socket.create_connection(("127.0.0.1", self.target)) as server,
        ):
            back = threading.Thread(target=self._copy, args=(server, client), daemon=True)
            back.start()
            self._copy(client, server)
            server.shutdown(socket.SHUT_RDWR)
            back.join()

    def _copy(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(65536):
                sink.sendall(piece)
