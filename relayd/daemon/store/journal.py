"""Settlement journal: settlements that the store could not take, kept on disk until it can.

Rule: append only, each batch fsynced before anyone is told that it is kept. Replaying an entry twice is harmless, for
the store knows settled calls by their id; so nothing here has to be atomic.

Theory: a line is `LENGTH CRC PAYLOAD`, in hex and JSON. A line that does not add up was torn by a crash or a full disk:
it was never promised, and reading goes on behind it. Each process writes a file of its own and holds a lock on it;
files without an owner, left by a process that died, are replayed by any other.

A full disk is survived, and a read-only one: entries wait in memory, are tried again with the next ones, and `problem`
says so. What was replayed from a file that cannot be emptied is known, and `problem` names the file.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import msgspec

from relayd.core.quota.limits import Calendar, Rolling, Term
from relayd.state.contract import Settle, Void
from relayd.state.rows import from_row, to_row

JournalEntry = Settle | Void

# With no disk to write to, this many settlements (about 500 bytes each) are kept in memory; then the oldest are lost.
MOST_WAITING = 20_000

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


def encode_entry(entry: JournalEntry) -> bytes:
    """One line."""
    match entry:
        case Void():
            document: list[Any] = ["void", entry.call]
        case Settle():
            terms = [_term_row(term) for term in entry.terms if isinstance(term, (Rolling, Calendar))]
            document = ["settle", entry.call, to_row(entry.record), terms, entry.at]
    payload = _encode(document)
    return b"%08x %08x %s\n" % (len(payload), zlib.crc32(payload), payload)


def _term_row(term: Rolling | Calendar) -> list[str | int]:
    if isinstance(term, Rolling):
        return ["R", term.counter, term.unit, term.limit, term.window, 0]
    return ["C", term.counter, term.unit, term.limit, term.start, term.end]


def _term(row: list[Any]) -> Term:
    kind, counter, unit, limit, first, second = row
    if kind == "R":
        return Rolling(counter=counter, name="", unit=unit, limit=limit, cost=0, window=first)
    return Calendar(counter=counter, name="", unit=unit, limit=limit, cost=0, start=first, end=second)


def decode_lines(raw: bytes) -> Iterator[JournalEntry | None]:
    """The entries of a file; None for each line that does not add up."""
    for line in raw.split(b"\n"):
        if line:
            yield _decode_line(line)


def _decode_line(line: bytes) -> JournalEntry | None:
    try:
        length, checksum, payload = int(line[:8], 16), int(line[9:17], 16), line[18:]
        if len(payload) != length or zlib.crc32(payload) != checksum:
            return None
        match _decode(payload):
            case ["void", str(call)]:
                return Void(call=call)
            case ["settle", str(call), list(row), list(terms), int(at)]:
                return Settle(call=call, record=from_row(row), terms=tuple(_term(term) for term in terms), at=at)
    except (ValueError, TypeError, OverflowError, RecursionError):  # msgspec.DecodeError is a ValueError
        pass
    return None


@attrs.define(eq=False)
class Journal:
    """The journal of one process, in a directory that others on the host share. Used by one thread.

    Args:
        directory: made when missing.
    """

    directory: Path
    problem: str = attrs.field(default="", init=False)  # why entries are only in memory; "" when all is well
    dropped: int = attrs.field(default=0, init=False)  # entries lost to a full memory beside a full disk
    refused: list[tuple[JournalEntry, str]] = attrs.field(factory=list, init=False)  # and why
    _waiting: list[bytes] = attrs.field(factory=list, repr=False, init=False)
    _read_up_to: dict[Path, int] = attrs.field(factory=dict, repr=False, init=False)  # bytes
    _replayed: dict[Path, int] = attrs.field(factory=dict, repr=False, init=False)  # bytes of files that stay
    _damaged: dict[Path, list[bytes]] = attrs.field(factory=dict, repr=False, init=False)  # in files not yet forgotten
    _damaged_before: int = attrs.field(default=0, init=False)
    _file: int = attrs.field(default=-1, init=False)
    _path: Path | None = attrs.field(default=None, init=False)

    def append(self, entries: list[JournalEntry]) -> bool:
        """Keep entries. Returns whether they are on disk; if not, `problem` says why and they wait in memory.

        What cannot be written down at all goes to `refused`.
        """
        for entry in entries:
            try:
                self._waiting.append(encode_entry(entry))
            except (ValueError, TypeError, OverflowError, RecursionError) as error:
                self.refused.append((entry, f"{type(error).__name__}: {error}"))
        if len(self._waiting) > MOST_WAITING:
            self.dropped += len(self._waiting) - MOST_WAITING
            del self._waiting[:-MOST_WAITING]
        try:
            self._leave_lost_file()
            self._write(b"".join(self._waiting))
        except OSError as error:
            self.problem = f"{self._path or self.directory}: {error.strerror or error}"
            return False
        self._waiting.clear()
        self.problem = ""
        return True

    @property
    def waiting(self) -> int:
        """Entries that are in memory alone."""
        return len(self._waiting)

    @property
    def damaged(self) -> int:
        """Lines that did not add up, each counted once."""
        return self._damaged_before + sum(map(len, self._damaged.values()))

    @property
    def empty(self) -> bool:
        """Whether nothing waits to be replayed, here or in files without an owner."""
        return not self._waiting and not any(path.stat().st_size for path in self._files())

    def pending(self) -> list[tuple[Path | None, list[JournalEntry]]]:
        """What is to be replayed: pairs of a file (None: memory) and its entries. `forget` each once it is replayed."""
        found: list[tuple[Path | None, list[JournalEntry]]] = []
        self._leave_lost_file()
        if self._waiting:
            found.append((None, [entry for line in self._waiting for entry in decode_lines(line) if entry]))
        for path in self._files():
            entries = self._read(path)
            if entries:
                found.append((path, entries))
            elif path in self._replayed:  # maybe it can be emptied by now
                self.forget(path)
        return found

    def forget(self, path: Path | None) -> list[bytes]:
        """The entries of that file have been replayed. Returns: its damaged lines, which are gone with it."""
        if path is None:
            self._waiting.clear()
            self.problem = ""
            return []
        damaged = self._damaged.pop(path, [])
        self._damaged_before += len(damaged)
        self._replayed[path] = self._read_up_to.pop(path, 0)
        try:
            if path == self._path:
                os.ftruncate(self._file, 0)  # not synced: an entry that comes back is replayed without harm
            else:
                path.unlink(missing_ok=True)
        except OSError as error:
            self.problem = f"{path}: {error.strerror or error}"
            return damaged
        del self._replayed[path]
        return damaged

    def close(self) -> None:
        """Give the file up. An empty one is deleted, where that can be."""
        if self._file >= 0:
            if self._path is not None and os.fstat(self._file).st_size == 0 and _same(self._file, self._path):
                with contextlib.suppress(OSError):  # of a disk that turned read-only
                    self._path.unlink(missing_ok=True)
            os.close(self._file)
            self._file = -1

    def _files(self) -> list[Path]:
        """Our own file, and those without an owner."""
        if not self.directory.is_dir():
            return []
        every = sorted(self.directory.glob("settlements-*.journal"))
        return [path for path in every if path == self._path or not _is_owned(path)]

    def _read(self, path: Path) -> list[JournalEntry]:
        try:
            raw = path.read_bytes()
        except OSError:
            return []
        done = self._replayed.get(path, 0)
        lines = [line for line in raw[done if done <= len(raw) else 0 :].split(b"\n") if line]
        self._read_up_to[path] = len(raw)
        entries = [_decode_line(line) for line in lines]
        self._damaged[path] = [line for line, entry in zip(lines, entries, strict=True) if entry is None]
        return [entry for entry in entries if entry is not None]

    def _write(self, block: bytes) -> None:
        """All of it, synced; or, when that fails, nothing of it."""
        if self._file < 0:
            self._claim()
        end = os.fstat(self._file).st_size
        try:
            rest = memoryview(block)
            while rest:
                rest = rest[os.write(self._file, rest) :]
            os.fsync(self._file)
        except OSError:
            os.ftruncate(self._file, end)
            raise

    def _leave_lost_file(self) -> None:
        """Give up a file that nobody would find any more; what it held waits again. To replay a line twice is harmless.

        Its directory was deleted, or another disk was mounted over it, because this one cannot be written.
        """
        if self._file < 0 or self._path is None or _same(self._file, self._path):
            return
        held = os.pread(self._file, os.fstat(self._file).st_size, 0)[self._replayed.pop(self._path, 0) :]
        self._waiting[:0] = [line + b"\n" for line in held.split(b"\n") if line]
        os.close(self._file)
        self._file, self._path = -1, None

    def _claim(self) -> None:
        """Take the first file that nobody holds."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for number in range(1000):
            path = self.directory / f"settlements-{number}.journal"
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            if _lock(file) and _same(file, path):
                self._file, self._path = file, path
                return
            os.close(file)
        raise OSError(f"{self.directory}: a thousand journals are in use")


def _lock(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _same(file: int, path: Path) -> bool:
    """Whether the path still names the file: another process may have replayed and deleted it meanwhile."""
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except OSError:
        return False


def _is_owned(path: Path) -> bool:
    try:
        file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return True  # gone, or not ours to read
    try:
        return not _lock(file)
    finally:
        os.close(file)
