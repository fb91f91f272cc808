"""Sealed streams: files of any length that only the recipients of a tree can open, such as backups.

Rule: what comes out of a reader has been authenticated, and a stream that was cut does not end well. Nothing here holds
more than two chunks.

Theory: a value holds at most 16 KiB, so a value holds the key of the stream: 32 random bytes, sealed and bound as any
secret is. The body is chunks under that key; each nonce is the chunk's number and whether it is the last one, so that
chunks cannot be left out, doubled or put elsewhere, and the end is part of what is authenticated. The head, the sealed
key included, is authenticated with every chunk.
Source: Hoang, Reyhanitabar, Rogaway, Vizar, "Online Authenticated-Encryption and its Nonce-Reuse Misuse-Resistance"
(2015), STREAM; RFC 8439 (ChaCha20-Poly1305). The format is in docs/backup.md.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, BinaryIO

import attrs

from relayd.config.secrets.binding import Binding
from relayd.config.secrets.recipients import PublicKey, SealError, b64, sha256, unb64
from relayd.config.secrets.seal import Identity, open_sealed, seal
from relayd.config.secrets.secret import Secret
from relayd.noun import noun

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

MAGIC = b"relayd-backup 1\n"
CHUNK = 65536  # bytes in clear
_TAG = 16  # Poly1305
_KEY = 32
_LONGEST = 65536  # bytes of a line of the head


@noun(kw_only=True)
class StreamHead:
    """What a stream says of itself in clear.

    Args:
        realm: whose it is, so that whoever opens it knows which identity to look for.
        id: random; the key is bound to it.
        created: UTC, RFC 3339.
    """

    realm: str
    id: str
    created: str

    @property
    def binding(self) -> Binding:
        """What the stream's key is sealed for."""
        return Binding(realm=self.realm, kind="backup", id=self.id, field="key")

    def encode(self) -> bytes:
        """A line of JSON."""
        return json.dumps(attrs.asdict(self), ensure_ascii=True).encode() + b"\n"


class SealingWriter(io.RawIOBase):
    """Encrypts what is written to it. `finish` writes the end; a stream without it cannot be opened.

    Args:
        file: takes the bytes; it stays open.
        rng: random bytes.
    Raises: SealError as `seal` does.
    """

    def __init__(
        self, file: BinaryIO, head: StreamHead, recipients: Sequence[PublicKey], rng: Callable[[int], bytes]
    ) -> None:
        key = rng(_KEY)
        sealed = seal(Secret(b64(key)), head.binding, recipients, rng)
        text = MAGIC + head.encode() + sealed.encode() + b"\n"
        self._cipher, self._head = _cipher(key), sha256(text)
        self._file, self._number, self._waiting = file, 0, bytearray()
        file.write(text)

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        piece = memoryview(data)  # type: ignore[arg-type]  # the buffer protocol has no name before Python 3.12
        self._waiting += piece
        while len(self._waiting) > CHUNK:  # never the last one: only `finish` knows that it is
            self._put(bytes(self._waiting[:CHUNK]), last=False)
            del self._waiting[:CHUNK]
        return piece.nbytes

    def finish(self) -> None:
        """Write the last chunk."""
        self._put(bytes(self._waiting), last=True)
        self._waiting.clear()

    def _put(self, piece: bytes, *, last: bool) -> None:
        self._file.write(self._cipher.encrypt(_nonce(self._number, last), piece, self._head))
        self._number += 1


def read_head(file: BinaryIO) -> tuple[StreamHead, str, bytes]:
    """The head of a stream, its sealed key, and the bytes of both. Raises: SealError (E-SEAL-FORMAT)."""
    magic, line, sealed = (file.readline(_LONGEST) for _ in range(3))
    if magic != MAGIC:
        known = magic.startswith(b"relayd-backup ")
        why = "made by a newer relayd (update relayd)" if known else "not a backup of relayd"
        raise SealError("E-SEAL-FORMAT", why)
    try:
        told = json.loads(line)
        head = StreamHead(realm=str(told["realm"]), id=str(told["id"]), created=str(told["created"]))
        return head, sealed.decode("ascii").rstrip("\n"), magic + line + sealed
    except (ValueError, KeyError, TypeError):
        raise SealError("E-SEAL-FORMAT", "the head of the backup cannot be read: it was cut or edited") from None


class OpeningReader(io.RawIOBase):
    """Decrypts a stream, whose head has been read.

    Args:
        file: behind the head.
        head, sealed, text: as `read_head` gave them.
    Raises: SealError as `open_sealed` does, and from `read` E-SEAL-TAMPERED.
    """

    def __init__(
        self, file: BinaryIO, head: StreamHead, sealed: str, text: bytes, identities: Sequence[Identity]
    ) -> None:
        key = unb64(open_sealed(sealed, head.binding, identities).reveal())
        if key is None or len(key) != _KEY:
            raise SealError("E-SEAL-TAMPERED", "the key of the backup is none")
        self._cipher, self._head, self._file = _cipher(key), sha256(text), file
        self._number, self._clear, self._ended = 0, memoryview(b""), False
        self._ahead = file.read(CHUNK + _TAG)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        room = memoryview(buffer)  # type: ignore[arg-type]
        while not self._clear and not self._ended:
            self._next()
        piece = self._clear[: room.nbytes]
        room[: len(piece)] = piece
        self._clear = self._clear[len(piece) :]
        return len(piece)

    def _next(self) -> None:
        from cryptography.exceptions import InvalidTag

        sealed, self._ahead = self._ahead, self._file.read(CHUNK + _TAG)
        last = not self._ahead
        try:
            self._clear = memoryview(self._cipher.decrypt(_nonce(self._number, last), sealed, self._head))
        except (InvalidTag, ValueError):
            raise SealError("E-SEAL-TAMPERED", "the backup was cut or altered (use another copy)") from None
        self._number += 1
        self._ended = last


def _nonce(number: int, last: bool) -> bytes:
    return number.to_bytes(11, "big") + bytes([last])


def _cipher(key: bytes) -> ChaCha20Poly1305:
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    return ChaCha20Poly1305(key)
