from __future__ import annotations

import random
import stat
from pathlib import Path

import attrs
import pytest
from bench.kill_store import torture
from hypothesis import given, settings
from hypothesis import strategies as st

from relayd.config.source.history import KEEP, Generation, Meta, Skipped, decode, encode, load, newest, save, stored

FILES = {"relay.toml": b"schema = 1\n", "keys.d/k.toml": b"x = 1\r\n\0\xff", "deny.toml": b""}


def meta(number: int = 1, **fields: object) -> Meta:
    return attrs.evolve(Meta(digest=f"{number:064x}", realm="test"), **fields)


def test_what_is_stored_is_read_back_as_it_was(tmp_path: Path) -> None:
    told = meta(commit="c" * 40, dirty=("keys.d/k.toml",), saved=12.5, trigger="signal", accepted=True)

    number = save(tmp_path / "last-good", FILES, told)
    found, skipped = newest(tmp_path / "last-good")

    assert found == Generation(number=number, meta=told, files=FILES)
    assert skipped == ()


def test_it_is_for_our_eyes_only(tmp_path: Path) -> None:
    directory = tmp_path / "a" / "last-good"
    save(directory, FILES, meta())

    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert stat.S_IMODE((directory / "generation-1").stat().st_mode) == 0o600


def test_only_so_many_are_kept_and_the_newest_comes_first(tmp_path: Path) -> None:
    for number in range(1, KEEP + 4):
        save(tmp_path, FILES, meta(number))

    assert [one.number for one in stored(tmp_path)] == list(range(KEEP + 3, 3, -1))
    assert newest(tmp_path)[0].number == KEEP + 3


def test_the_same_tree_is_not_stored_twice_in_a_row(tmp_path: Path) -> None:
    assert [save(tmp_path, FILES, meta(number)) for number in (1, 1, 2, 1)] == [1, 1, 2, 3]


def test_another_realms_trees_are_passed_over(tmp_path: Path) -> None:
    save(tmp_path, FILES, meta(1))
    save(tmp_path, FILES, meta(2, realm="other"))

    found, skipped = newest(tmp_path, realm="test")

    assert found is not None
    assert found.number == 1
    assert [one.reason for one in skipped] == ["it is of realm other, not test"]


def test_there_may_be_none(tmp_path: Path) -> None:
    assert newest(tmp_path / "nowhere") == (None, ())
    assert stored(tmp_path) == []
    assert isinstance(load(tmp_path, 7), Skipped)


def test_a_broken_one_is_passed_over_for_the_one_before(tmp_path: Path) -> None:
    save(tmp_path, FILES, meta(1))
    save(tmp_path, {"relay.toml": b"2"}, meta(2))
    path = tmp_path / "generation-2"
    path.write_bytes(path.read_bytes()[:-1] + b"3")

    found, skipped = newest(tmp_path)

    assert found is not None
    assert found.files == FILES
    assert skipped == (Skipped(number=2, reason="its digest is wrong: it was cut off or altered"),)


def test_a_number_is_not_used_again_after_a_broken_one(tmp_path: Path) -> None:
    (tmp_path / "generation-9").write_bytes(b"nonsense")

    assert save(tmp_path, FILES, meta()) == 10


def test_what_a_dead_process_left_behind_is_tidied_away_and_foreign_files_are_not(tmp_path: Path) -> None:
    save(tmp_path, FILES, meta())
    (tmp_path / ".generation-7.01234567.tmp").write_bytes(b"half")
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "generation-x").write_text("mine")

    save(tmp_path, FILES, meta(2))

    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["generation-1", "generation-2", "generation-x", "notes.txt"]


def test_links_and_pipes_are_not_opened(tmp_path: Path) -> None:
    save(tmp_path / "other", FILES, meta())
    (tmp_path / "generation-1").symlink_to(tmp_path / "other" / "generation-1")

    assert isinstance(load(tmp_path, 1), Skipped)


def test_a_directory_that_cannot_be_made_is_an_oserror(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(OSError):
        save(tmp_path / "file" / "last-good", FILES, meta())


@settings(deadline=None, max_examples=60)
@given(
    files=st.dictionaries(
        st.text(st.characters(codec="utf-8"), min_size=1, max_size=8), st.binary(max_size=40), max_size=4
    ),
    data=st.data(),
)
def test_a_generation_is_whole_or_is_none(files: dict[str, bytes], data: st.DataObject) -> None:
    """Cut anywhere, or one byte altered: never other files than those that were stored."""
    raw = encode(files, meta())
    assert decode(raw) == (meta(), files)
    cut = data.draw(st.integers(0, len(raw) - 1))
    with pytest.raises(ValueError):
        decode(raw[:cut])
    altered = bytearray(raw)
    altered[cut] ^= data.draw(st.integers(1, 255))
    with pytest.raises(ValueError):
        decode(bytes(altered))
    with pytest.raises(ValueError):
        decode(raw + b"x")


def test_however_writing_was_torn_a_whole_generation_is_found_or_none(tmp_path: Path) -> None:
    """The states in which a power cut can leave the directory: the temporary file in any length, with or without the
    rename; and, on a file system that renames before it writes, the final name in any length."""
    rng = random.Random(5)
    for trial in range(200):
        directory = tmp_path / str(trial)
        known = {}
        for number in range(1, rng.randrange(0, 4) + 1):
            known[number] = {"relay.toml": b"%d" % number}
            save(directory, known[number], meta(number))
        raw = encode({"relay.toml": b"last"}, meta(99))
        torn = raw[: rng.randrange(len(raw) + 1)]
        directory.mkdir(exist_ok=True)
        name = rng.choice([".generation-7.01234567.tmp", f"generation-{len(known) + 1}"])
        (directory / name).write_bytes(torn)

        found, _ = newest(directory)

        whole = {"relay.toml": b"last"} if torn == raw and name.startswith("generation") else None
        expected = whole or (known[max(known)] if known else None)
        assert (found.files if found else None) == expected


def test_killed_at_any_moment_of_storing_the_newest_generation_is_whole(tmp_path: Path) -> None:
    assert torture(tmp_path, kills=6) > 6
