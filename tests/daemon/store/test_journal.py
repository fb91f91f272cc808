import contextlib
import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from operations import record

from relayd.core.quota.limits import Calendar, Rolling, Slots
from relayd.daemon.store.journal import Journal, JournalEntry, decode_lines, encode_entry
from relayd.state.contract import Settle, Void


def settlement(call: str = "c1") -> Settle:
    terms = (
        Rolling(counter="key/dev/tokens/1m", name="", unit="tokens", limit=5, cost=0, window=60_000),
        Calendar(counter="key/dev/cost/day", name="", unit="cost", limit=5, cost=0, start=1, end=2),
    )
    return Settle(call=call, record=record(), terms=terms, at=1_700_000_000_000)


def entries_of(journal: Journal) -> list[JournalEntry]:
    return [entry for _, entries in journal.pending() for entry in entries]


def test_what_is_appended_comes_back_in_order(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    assert journal.append([settlement("c1"), Void(call="c2")])
    assert journal.append([settlement("é\n")])
    assert entries_of(journal) == [settlement("c1"), Void(call="c2"), settlement("é\n")]
    journal.close()


def test_slots_are_not_journaled_for_nobody_holds_them_any_more() -> None:
    entry = Settle(call="c", record=record(), terms=(Slots(counter="s", name="", limit=1),), at=5)
    assert list(decode_lines(encode_entry(entry))) == [Settle(call="c", record=record(), at=5)]


@settings(deadline=None, max_examples=200)
@given(st.lists(st.text(max_size=8), min_size=1, max_size=4), st.data())
def test_a_file_torn_anywhere_keeps_every_whole_line(calls: list[str], data: st.DataObject) -> None:
    lines = [encode_entry(settlement(call)) for call in calls]
    raw = b"".join(lines)
    cut = data.draw(st.integers(0, len(raw)))
    whole = [entry for entry in decode_lines(raw[:cut]) if entry is not None]
    ends = [sum(map(len, lines[: n + 1])) for n in range(len(lines))]
    # A line is whole with its last byte before the newline.
    expected = [settlement(call) for call, end in zip(calls, ends, strict=True) if cut >= end - 1]
    assert whole == expected


@settings(deadline=None, max_examples=200)
@given(st.integers(0, 10_000), st.integers(1, 255))
def test_a_flipped_bit_never_changes_an_entry(position: int, flip: int) -> None:
    lines = [encode_entry(settlement("a")), encode_entry(settlement("b"))]
    raw = bytearray(b"".join(lines))
    raw[position % len(raw)] ^= flip
    assert all(entry in (None, settlement("a"), settlement("b")) for entry in decode_lines(bytes(raw)))


def test_reading_goes_on_behind_a_torn_line(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append([settlement("a")])
    (path,) = tmp_path.glob("*.journal")
    with path.open("ab") as file:
        file.write(encode_entry(settlement("torn"))[:40] + b"\n")
    journal.append([settlement("b")])
    assert entries_of(journal) == [settlement("a"), settlement("b")]
    assert journal.damaged == 1
    journal.close()


def test_what_is_forgotten_is_gone_and_the_file_goes_on(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append([settlement("a")])
    assert not journal.empty
    for path, _ in journal.pending():
        journal.forget(path)
    assert journal.empty
    journal.append([settlement("b")])
    assert entries_of(journal) == [settlement("b")]
    journal.close()


@pytest.mark.parametrize("whose", ["our own", "a dead process's"])
def test_a_file_that_cannot_be_emptied_is_told_and_not_replayed_again(
    whose: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    journal, dead = Journal(tmp_path), Journal(tmp_path)
    if whose == "our own":
        journal.append([settlement("a")])
    else:
        dead.append([settlement("a")])
        os.close(dead._file)  # as the kernel does
    with monkeypatch.context() as broken:
        broken.setattr(os, "ftruncate", refuse)
        broken.setattr(Path, "unlink", refuse)
        ((path, _),) = journal.pending()
        assert journal.forget(path) == []
        assert "Read-only file system" in journal.problem
        assert journal.pending() == []
        if whose == "our own":
            journal.append([settlement("b")])
            assert entries_of(journal) == [settlement("b")]
            journal.forget(path)
    assert journal.pending() == []
    assert journal.empty, "it was emptied as soon as it could be"
    journal.close()


def test_two_processes_write_two_files_and_neither_reads_the_others(tmp_path: Path) -> None:
    first, second = Journal(tmp_path), Journal(tmp_path)
    first.append([settlement("a")])
    second.append([settlement("b")])
    assert entries_of(first) == [settlement("a")]
    assert entries_of(second) == [settlement("b")]
    first.close()
    second.close()


def test_the_file_of_a_killed_process_is_replayed_by_another(tmp_path: Path) -> None:
    code = (
        "import os, sys; sys.path.insert(0, sys.argv[2]); import import_paths; import_paths.add()\n"
        "from test_journal import Journal, Path, settlement\n"
        "journal = Journal(Path(sys.argv[1])); journal.append([settlement('a')]); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), str(Path(__file__).parents[2])], timeout=60, check=False
    )
    assert done.returncode == -9
    other = Journal(tmp_path)
    other.append([settlement("b")])
    assert sorted(entry.call for entry in entries_of(other)) == ["a", "b"]
    for path, _ in other.pending():
        other.forget(path)
    assert other.empty
    other.close()
    assert list(tmp_path.iterdir()) == []


def test_only_the_owner_can_read_the_files(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    journal.append([settlement()])
    (path,) = (tmp_path / "j").iterdir()
    assert path.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "j").stat().st_mode & 0o777 == 0o700
    journal.close()


@contextlib.contextmanager
def room_for(size: int) -> Iterator[None]:
    """Writing beyond `size` bytes of a file fails, as on a full disk, for root too."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_is_said_and_survived(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    assert journal.append([settlement("a")])
    with room_for(len(encode_entry(settlement("a"))) + 50):
        kept = journal.append([settlement("b")])
    assert not kept
    assert "settlements-0.journal" in journal.problem
    # What did not fit left no torn half behind, and is still known.
    assert sorted(entry.call for entry in entries_of(journal)) == ["a", "b"]
    assert journal.damaged == 0
    assert journal.append([settlement("c")])
    assert journal.problem == ""
    assert [entry.call for entry in entries_of(journal)] == ["a", "b", "c"]
    journal.close()


def test_a_directory_that_cannot_be_made_is_said_and_survived(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    journal = Journal(tmp_path / "file" / "journal")
    assert not journal.append([settlement("a")])
    assert journal.problem
    assert not journal.empty
    assert entries_of(journal) == [settlement("a")]
    journal.forget(None)
    assert journal.empty
    journal.close()


@pytest.mark.parametrize("gone", ["deleted", "covered"])
def test_a_file_that_nobody_finds_any_more_is_written_anew_with_all_that_it_held(tmp_path: Path, gone: str) -> None:
    """Its directory was deleted, or another disk was mounted over it."""
    directory = tmp_path / "journal"
    journal = Journal(directory)
    assert journal.append([settlement("c1"), settlement("c2")])
    directory.rename(tmp_path / "before")
    if gone == "covered":
        directory.mkdir()

    assert journal.append([settlement("c3")])
    assert entries_of(journal) == [settlement("c1"), settlement("c2"), settlement("c3")]
    assert list((tmp_path / "before").iterdir()), "what lay there is nobody's to delete"
    journal.close()


def test_what_a_deleted_file_held_is_replayed(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    assert journal.append([settlement("c1"), settlement("c2")])
    shutil.rmtree(tmp_path / "journal")

    assert entries_of(journal) == [settlement("c1"), settlement("c2")]
    journal.forget(None)
    assert entries_of(journal) == []
    journal.close()


def test_a_journal_that_was_never_needed_leaves_nothing_on_disk(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "none")
    assert journal.empty
    assert journal.pending() == []
    journal.close()
    assert not os.path.exists(tmp_path / "none")


def test_an_empty_file_on_a_disk_that_turned_read_only_stays_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(tmp_path / "journal")
    assert journal.append([settlement("c1")])
    for path, _ in journal.pending():
        journal.forget(path)

    def refuse(path: Path, missing_ok: bool = False) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr(Path, "unlink", refuse)
    journal.close()
    monkeypatch.undo()
    heir = Journal(tmp_path / "journal")
    assert heir.append([settlement("c2")]), "the lock on it was given up"
    heir.close()
    assert len(list((tmp_path / "journal").iterdir())) == 1
