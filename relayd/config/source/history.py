"""Config history: the last trees that were good, kept on disk for a node that restarts onto a broken one.

Rule: the bytes of the tree as they were read; sealed secrets stay sealed, and nothing else is written. A generation is
one file, made beside its place, synced and renamed, with a digest over all of it: after a power cut at any moment each
one is whole or is not there. Sync; runs in a worker thread.

Format: `relayd-generation 1 SHA256\n`, then what the digest is of: one line of JSON (the meta fields and, for each
file, path and length), then the files' bytes one after the other.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

import attrs

from relayd.config.atomic import remove_staged, replace_file
from relayd.noun import noun

KEEP = 5
_NAME = re.compile(r"generation-([0-9]{1,12})")
_HEAD = re.compile(rb"relayd-generation 1 ([0-9a-f]{64})\n")
_LARGEST = 80 << 20  # bytes; a tree has at most 64 MiB


@noun(kw_only=True)
class Meta:
    """What is known of a stored tree.

    Args:
        digest: of the tree, 64 hex digits.
        realm: a store may be shared by mistake; a node takes nothing of another realm.
        commit, dirty: its provenance.
        saved: Unix time, s.
        trigger: what made the daemon load it.
        accepted: a person had to accept it.
    """

    digest: str
    realm: str
    commit: str = ""
    dirty: tuple[str, ...] | None = None
    saved: float = 0.0
    trigger: str = ""
    accepted: bool = False


@noun(kw_only=True)
class Generation:
    """One stored tree."""

    number: int
    meta: Meta
    files: dict[str, bytes] = attrs.field(repr=False)


@noun(kw_only=True)
class Summary:
    """One stored tree without its bytes. `size`: bytes of its files."""

    number: int
    meta: Meta
    files: int
    size: int


@noun(kw_only=True)
class Skipped:
    """A stored tree that cannot be used, and why."""

    number: int
    reason: str


def save(directory: Path, files: Mapping[str, bytes], meta: Meta) -> int:
    """Store a tree as the newest generation and forget all but KEEP. Returns its number.

    A tree with the digest of the newest one is not stored twice. Raises: OSError.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    remove_staged(directory)
    numbers = _numbers(directory)
    last = load(directory, numbers[-1]) if numbers else None
    if isinstance(last, Generation) and (last.meta.digest, last.meta.realm) == (meta.digest, meta.realm):
        return last.number
    number = numbers[-1] + 1 if numbers else 1
    replace_file(directory / f"generation-{number}", encode(files, meta), mode=0o600)
    for old in _numbers(directory)[:-KEEP]:
        (directory / f"generation-{old}").unlink(missing_ok=True)
    return number


def newest(directory: Path, *, realm: str = "") -> tuple[Generation | None, tuple[Skipped, ...]]:
    """The newest generation that is whole (and of that realm, if one is given), and what was passed over for it."""
    skipped: list[Skipped] = []
    for number in reversed(_numbers(directory)):
        found = load(directory, number)
        if isinstance(found, Generation) and realm and found.meta.realm != realm:
            found = Skipped(number=number, reason=f"it is of realm {found.meta.realm}, not {realm}")
        if isinstance(found, Generation):
            return found, tuple(skipped)
        skipped.append(found)
    return None, tuple(skipped)


def stored(directory: Path) -> list[Generation | Skipped]:
    """Every generation, the newest first."""
    return [load(directory, number) for number in reversed(_numbers(directory))]


def summaries(directory: Path) -> list[Summary | Skipped]:
    """What is stored, the newest first; one tree at a time is in memory."""
    return [_summary(load(directory, number)) for number in reversed(_numbers(directory))]


def _summary(one: Generation | Skipped) -> Summary | Skipped:
    if isinstance(one, Skipped):
        return one
    return Summary(number=one.number, meta=one.meta, files=len(one.files), size=sum(map(len, one.files.values())))


def load(directory: Path, number: int) -> Generation | Skipped:
    """One generation, or why it cannot be used."""
    path = directory / f"generation-{number}"
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
        with open(descriptor, "rb") as file:
            raw = file.read(_LARGEST + 1)
    except OSError as error:
        return Skipped(number=number, reason=f"it cannot be read: {(error.strerror or str(error)).lower()}")
    try:
        meta, files = decode(raw)
    except ValueError as error:
        return Skipped(number=number, reason=str(error))
    return Generation(number=number, meta=meta, files=files)


def encode(files: Mapping[str, bytes], meta: Meta) -> bytes:
    """A generation as bytes."""
    ordered = sorted(files.items())
    index = {"meta": attrs.asdict(meta), "files": [[path, len(data)] for path, data in ordered]}
    body = json.dumps(index).encode() + b"\n" + b"".join(data for _, data in ordered)
    return b"relayd-generation 1 %s\n" % hashlib.sha256(body).hexdigest().encode() + body


def decode(raw: bytes) -> tuple[Meta, dict[str, bytes]]:
    """The inverse of `encode`. Raises: ValueError, which says what is wrong."""
    head = _HEAD.match(raw)
    if head is None:
        raise ValueError("it does not begin like a generation")
    body = raw[head.end() :]
    if hashlib.sha256(body).hexdigest().encode() != head[1]:
        raise ValueError("its digest is wrong: it was cut off or altered")
    line, _, rest = body.partition(b"\n")
    try:
        index = json.loads(line)
        fields = index["meta"]
        dirty = fields.get("dirty")
        known = {field.name for field in attrs.fields(Meta)}
        known_fields = {name: value for name, value in fields.items() if name in known}
        meta = Meta(**{**known_fields, "dirty": None if dirty is None else tuple(dirty)})
        return meta, _files(index["files"], rest)
    except (KeyError, TypeError) as error:
        raise ValueError(f"its index is not understood: {error}") from None


def _files(listed: list[list[object]], rest: bytes) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    at = 0
    for path, length in listed:
        if not isinstance(path, str) or not isinstance(length, int) or not 0 <= length <= len(rest) - at:
            raise ValueError("its index does not fit its bytes")
        files[path] = rest[at : at + length]
        at += length
    return files


def _numbers(directory: Path) -> list[int]:
    """The numbers of what is stored, in order; none where the directory does not exist."""
    try:
        names = os.listdir(directory)
    except OSError:
        return []
    return sorted(int(match[1]) for match in map(_NAME.fullmatch, names) if match)
