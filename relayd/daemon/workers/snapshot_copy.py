"""Snapshot copies: a running config on its way from the supervisor to its workers, in memory that has a descriptor.

Rule: sync. A worker compiles nothing: it gets the snapshot that its supervisor runs, so that they cannot differ. What
neither can be copied nor should be (secrets that were opened) is left out, and made anew by whoever takes the copy.

Theory: pickle, between two processes of one program and one owner; nobody else has the descriptor. Keys are most of a
large tree, and most of them stay as they were: those that the base has are named only. They come in pieces, each
unpickled in a millisecond or two, because nothing else runs in a process meanwhile.
"""

from __future__ import annotations

import contextlib
import io
import mmap
import os
import pickle
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import attrs

from relayd.config.compile import by_hash, plain_digests
from relayd.config.pattern import Pattern, operators, ours
from relayd.config.snapshot import PREDEFINED_CLIENTS, ApiKey, Snapshot

TOGETHER = 100  # keys in a piece
_LENGTH = 8  # bytes that say how long a piece is
_NO_KEYS: Mapping[Any, Any] = MappingProxyType({})


def copy_of(snapshot: Snapshot, base: Snapshot | None) -> int:
    """A descriptor with a copy, for one who has `base` (None: nothing). Raises: OSError."""
    fd = os.memfd_create("relayd-config", os.MFD_CLOEXEC)
    with open(os.dup(fd), "wb") as file:
        for piece in _pieces(snapshot, base):
            file.write(len(piece).to_bytes(_LENGTH, "big") + piece)
    return fd


def from_copy(fd: int, base: Snapshot | None) -> Snapshot:
    """The snapshot of a copy, without what needs a secret; its descriptor is closed."""
    with contextlib.closing(mmap.mmap(fd, 0, access=mmap.ACCESS_READ)) as memory:  # its position is everybody's
        os.close(fd)
        shell, names, *parts = (pickle.loads(piece) for piece in _read(memory))
    fresh: dict[str, ApiKey] = {name: key for part in parts for name, key in part.items()}
    known = base.keys if base is not None else {}
    keys = {name: fresh[name] if name in fresh else known[name] for name in names}
    found: Snapshot = attrs.evolve(
        shell,
        keys=MappingProxyType(keys),
        keys_by_hash=MappingProxyType(by_hash(keys.values())),
        old_digests=MappingProxyType(plain_digests(keys.values())),
    )
    return found


def _read(memory: mmap.mmap) -> Iterator[bytes]:
    while length := memory.read(_LENGTH):
        yield memory.read(int.from_bytes(length, "big"))


def _pieces(snapshot: Snapshot, base: Snapshot | None) -> Iterator[bytes]:
    known = base.keys if base is not None else {}
    fresh = [(name, key) for name, key in snapshot.keys.items() if not _same(known.get(name), key)]
    yield _pickled(attrs.evolve(snapshot, keys=_NO_KEYS, keys_by_hash=_NO_KEYS, old_digests=_NO_KEYS))
    yield _pickled(list(snapshot.keys))
    for start in range(0, len(fresh), TOGETHER):
        yield _pickled(dict(fresh[start : start + TOGETHER]))


def _same(old: ApiKey | None, new: ApiKey) -> bool:
    return old is new or old == new


def _pickled(value: object) -> bytes:
    file = io.BytesIO()
    _Copier(file, pickle.HIGHEST_PROTOCOL).dump(value)
    return file.getvalue()


class _Copier(pickle.Pickler):
    """Knows the two types in a snapshot that pickle does not."""

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, MappingProxyType):
            return _mapping, (dict(value),)
        if isinstance(value, Pattern):
            return _pattern, (value.pattern, value in _OURS)
        return NotImplemented


def _mapping(values: dict[Any, Any]) -> Mapping[Any, Any]:
    return MappingProxyType(values)


def _pattern(text: str, own: bool) -> Pattern:
    return ours(text) if own else operators(text)


_OURS = {rule.user_agent for rule in PREDEFINED_CLIENTS.values() if rule.user_agent is not None}
