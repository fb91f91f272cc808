"""A link that is down, for one socket and without any privilege."""

from __future__ import annotations

import ctypes
import socket
import struct
from typing import Protocol

_SO_ATTACH_FILTER = 26  # asm-generic/socket.h


class Settable(Protocol):
    """A socket of any kind."""

    def setsockopt(self, level: int, option: int, value: bytes, /) -> object: ...


def go_deaf(sock: Settable) -> None:
    """From now on whatever is sent to this socket is lost, and nothing is acknowledged.

    Theory: a filter that lets no packet pass drops it before TCP has seen it. Source: Linux,
    Documentation/networking/filter.rst; the program is one instruction, BPF_RET with 0.
    """
    program = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))
    told = struct.pack("@HP", 1, ctypes.addressof(program))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, told)
