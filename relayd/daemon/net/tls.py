"""TLS over another Stream, without losing a byte to cancellation; and the one SSLContext they all share.

Rule: verification is always on; there is no switch for it. No key log is written whatever the environment says, so the
contexts are built here and not by `ssl.create_default_context`, which reads SSLKEYLOGFILE.

Theory: `ssl.SSLObject` talks to two memory buffers, so encrypting and decrypting never wait; only moving ciphertext
does, and that is the inner Stream's sync attempts and async waits. After every `recv` the incoming buffer holds less
than one record: all that came is decrypted at once, hence waiting for the socket never sleeps on text already here.
"""

from __future__ import annotations

import functools
import ssl
from collections.abc import Callable
from copy import copy

import trio

from relayd.daemon.net.stream import READ_SIZE, Stream

# Plaintext encrypted at a time. A body of many megabytes must not stand in memory a second time as ciphertext.
WRITE_SIZE = 65536


@functools.cache
def shared_context(ca_file: str = "") -> ssl.SSLContext:
    """The context for one trust policy: the system's authorities, and those in `ca_file` (PEM) besides.

    Made once, because loading the authorities takes tens of milliseconds and megabytes. TLS 1.2 is the floor, also
    where a distribution's Python leaves it to OpenSSL's settings. Renegotiation is declined, so that writing never has
    to read (RFC 5246 section 7.4.1.1 allows it).

    Raises: OSError when `ca_file` cannot be read or holds no certificate.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # verifies certificate and host name
    context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    if ca_file:
        context.load_verify_locations(ca_file)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    context.options |= ssl.OP_NO_RENEGOTIATION
    return context


class TlsStream:
    """A Stream that speaks TLS to `host` over `inner`, which it owns. Call `handshake` before anything else."""

    def __init__(self, inner: Stream, context: ssl.SSLContext, host: str) -> None:
        self._inner = inner
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        self._unsent = b""  # ciphertext that the socket did not take yet
        self._owed = 0  # plaintext bytes in it that `send` has not yet counted as taken
        self._verdict: bytes | OSError | None = None  # how the stream ended, once text before it has been handed out

    async def handshake(self) -> None:
        """Agree on keys and check the certificate. Raises: ssl.SSLError (an OSError), OSError; then close it."""
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush_all()
                await self._receive_some()
            except ssl.SSLEOFError as exc:
                raise OSError(0, "tls: closed during the handshake") from exc
            except ssl.SSLError:
                self._flush_quietly()  # the alert that tells the peer why
                raise
            else:
                await self._flush_all()
                return

    async def _flush_all(self) -> None:
        while not self._flush():
            await self._inner.writable()

    async def _receive_some(self) -> None:
        while not self._pull():
            await self._inner.readable()

    def _pull(self) -> bool:
        """Move ciphertext in; whether the TLS layer has news (bytes or the end)."""
        cipher = self._inner.recv()
        if cipher is None:
            return False
        if cipher:
            self._incoming.write(cipher)
        else:
            self._incoming.write_eof()
        return True

    def _flush(self) -> bool:
        """Move ciphertext out; whether all of it went."""
        if self._outgoing.pending:
            self._unsent += self._outgoing.read()
        if self._unsent:
            self._unsent = self._unsent[self._inner.send(self._unsent) :]
        return not self._unsent

    def _flush_quietly(self) -> None:
        try:
            self._flush()
        except OSError:
            pass  # the stream is being given up anyway

    def recv(self) -> bytes | None:
        """Text that is there now. Raises: ssl.SSLEOFError when the stream was cut without close_notify."""
        while self._verdict is None and self._pull():  # until the inner stream is empty: it may tell of nothing twice
            text = self._decrypt()
            if text:
                return text
        if isinstance(self._verdict, OSError):
            raise copy(self._verdict)  # which is kept: were it raised, its frames would keep us
        return self._verdict

    def _decrypt(self) -> bytes:
        """All text that the incoming ciphertext holds; what ended the stream is kept as the verdict."""
        pieces = []
        try:
            while piece := self._tls.read(READ_SIZE):
                pieces.append(piece)
                if not self._incoming.pending and not self._tls.pending() and not self._incoming.eof:
                    break
            else:
                self._verdict = b""
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self._verdict = b""
        except OSError as exc:
            self._verdict = exc.with_traceback(None)
        if self._outgoing.pending:  # an answer of the TLS layer itself, such as a key update
            self._flush_quietly()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def send(self, data: bytes | memoryview) -> int:
        """As Stream.send. Text counts as taken once its ciphertext has left: offer the same bytes again after a 0."""
        if not self._flush():
            return 0
        if not self._owed and data:
            self._owed = self._tls.write(memoryview(data)[:WRITE_SIZE])
            if not self._flush():
                return 0
        taken, self._owed = self._owed, 0
        return taken

    def send_two(self, head: bytes, body: bytes) -> int:
        """As Stream.send_two."""
        taken = self.send(head)
        return taken + self.send(body) if taken == len(head) else taken

    async def readable(self) -> None:
        if self._verdict is None:
            await self._inner.readable()
        else:
            await trio.lowlevel.checkpoint()

    async def readable_within(self, seconds: float) -> bool:
        if self._verdict is None:
            return await self._inner.readable_within(seconds)
        await trio.lowlevel.checkpoint()
        return True

    async def writable(self) -> None:
        await self._inner.writable()

    async def ready(self) -> None:
        if self._verdict is None:
            await self._inner.ready()
        else:
            await trio.lowlevel.checkpoint()

    async def carry(self, turn: Callable[[], bool]) -> None:
        await self._inner.carry(turn)

    def close(self) -> None:
        """Say close_notify if the socket takes it now, wait for no answer, close."""
        if self._inner.fileno() >= 0:
            try:
                self._tls.unwrap()
            except (OSError, ValueError):
                pass  # the usual: the peer's close_notify is not here yet; or the handshake never ended
            self._flush_quietly()
            self._inner.close()

    def fileno(self) -> int:
        return self._inner.fileno()
