from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from relayd.config.load import load_tree
from relayd.config.model.document import MAX_FILE
from relayd.config.problems.problem import ConfigError
from relayd.config.source import tree as trees
from relayd.config.source.tree import Reading, read_files, read_tree

RELAY = 'schema = 1\nrealm = "test"\n'


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for folder in ("accounts.d", "keys.d"):
        (tmp_path / folder).mkdir()
    (tmp_path / "relay.toml").write_text(RELAY)
    (tmp_path / "accounts.d" / "a.toml").write_text('kind = "simulator"\n')
    (tmp_path / "keys.d" / "k.toml").write_text(f'hashes = [{{ sha256 = "{"1" * 64}" }}]\n')
    return tmp_path


def found(reading: Reading) -> list[tuple[str, str]]:
    return [(problem.file, problem.code) for problem in reading.problems]


def test_the_files_of_a_tree_are_read_by_their_path(root: Path) -> None:
    (root / "keys.d" / "team").mkdir()
    (root / "keys.d" / "team" / "x.toml").write_bytes(b"x = 1\r\n")
    (root / "README.md").write_text("not config")
    (root / "scripts").mkdir()
    (root / "scripts" / "y.toml").write_text("")

    files = read_files(root)

    assert set(files) == {"relay.toml", "accounts.d/a.toml", "keys.d/k.toml", "keys.d/team/x.toml"}
    assert files["keys.d/team/x.toml"] == b"x = 1\r\n"


def test_dotfiles_and_droppings_are_not_even_opened(root: Path) -> None:
    os.mkfifo(root / "keys.d" / ".hidden.toml")
    os.mkfifo(root / "keys.d" / "k.toml~")
    (root / "keys.d" / ".git").mkdir()
    (root / "keys.d" / ".git" / "x.toml").write_text("x")

    reading = read_tree(root)

    assert set(reading.files) == {"relay.toml", "accounts.d/a.toml", "keys.d/k.toml"}
    assert reading.problems == ()


def test_files_of_a_mistyped_directory_are_there_to_be_warned_of(root: Path) -> None:
    (root / "account.d").mkdir()
    (root / "account.d" / "b.toml").write_text('kind = "simulator"\n')

    assert [problem.code for problem in load_tree(root).problems] == ["W-STRAY-FILE"]


def test_a_missing_directory_and_one_without_relay_toml_say_how_to_begin(tmp_path: Path) -> None:
    for directory in (tmp_path / "missing", tmp_path):
        compiled = load_tree(directory)

        assert [problem.code for problem in compiled.problems] == ["E-NO-RELAY-TOML"]
        assert "relayd init" in compiled.problems[0].hint
        assert compiled.snapshot is None


def test_a_pipe_a_socket_and_a_device_are_problems_and_never_a_hang(root: Path) -> None:
    os.mkfifo(root / "keys.d" / "pipe.toml")
    os.symlink("/dev/zero", root / "keys.d" / "zero.toml")

    assert found(read_tree(root)) == [("keys.d/pipe.toml", "E-UNREADABLE"), ("keys.d/zero.toml", "E-UNREADABLE")]


def test_loops_and_dangling_links_are_problems(root: Path) -> None:
    os.symlink("loop.toml", root / "keys.d" / "loop.toml")
    os.symlink("nowhere.toml", root / "keys.d" / "dangling.toml")
    os.symlink("..", root / "keys.d" / "up")
    os.symlink(".", root / "keys.d" / "here")

    assert {file for file, _ in found(read_tree(root))} >= {"keys.d/loop.toml", "keys.d/dangling.toml", "keys.d/here"}


def test_a_link_out_of_the_tree_is_not_followed(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = tmp_path_factory.mktemp("outside")
    (outside / "secret.toml").write_text("kind = 1")
    os.symlink(outside / "secret.toml", root / "accounts.d" / "b.toml")
    os.symlink(outside, root / "accounts.d" / "more")

    reading = read_tree(root)

    assert found(reading) == [("accounts.d/b.toml", "E-UNREADABLE"), ("accounts.d/more", "E-UNREADABLE")]
    assert "accounts.d/b.toml" not in reading.files


def test_a_mounted_config_map_is_read_through_its_links(root: Path) -> None:
    """Kubernetes: each file is a link into ..data, itself a link to a directory with a date for a name."""
    (root / "..2026_11_22").mkdir()
    (root / "relay.toml").rename(root / "..2026_11_22" / "relay.toml")
    os.symlink("..2026_11_22", root / "..data")
    os.symlink("..data/relay.toml", root / "relay.toml")

    assert read_files(root)["relay.toml"] == RELAY.encode()


def test_a_tree_that_is_itself_a_link_is_read(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    link = tmp_path_factory.mktemp("links") / "current"
    os.symlink(root, link)

    assert load_tree(link).snapshot is not None


@contextlib.contextmanager
def without_root() -> Iterator[None]:
    """Root may read everything; so be nobody for a while."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


def test_files_and_directories_without_permission_are_problems_of_their_own() -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "relay.toml").write_text(RELAY)
        (root / "relay.toml").chmod(0)
        (root / "keys.d").mkdir(mode=0)
        root.chmod(0o755)
        with without_root():
            reading = read_tree(root)

    assert found(reading) == [("keys.d", "E-UNREADABLE"), ("relay.toml", "E-UNREADABLE")]
    assert reading.problems[0].message == "the directory cannot be read: permission denied"


def test_a_file_that_is_too_large_is_read_no_further_than_needed_to_say_so(root: Path) -> None:
    (root / "keys.d" / "k.toml").write_bytes(b"#" * (3 * MAX_FILE))

    assert len(read_files(root)["keys.d/k.toml"]) == MAX_FILE + 1
    assert [problem.code for problem in load_tree(root).problems] == ["E-TOO-LARGE"]


def test_a_tree_that_is_too_large_is_left_off(root: Path) -> None:
    for number in range(trees.MAX_TREE // MAX_FILE + 1):
        with (root / "accounts.d" / f"big{number}.toml").open("wb") as file:
            file.truncate(MAX_FILE)

    reading = read_tree(root)

    assert [code for _, code in found(reading)] == ["E-TOO-LARGE"]
    assert sum(map(len, reading.files.values())) <= trees.MAX_TREE + MAX_FILE


def test_directories_nested_without_end_are_a_problem(root: Path) -> None:
    deep = root / "keys.d" / "/".join("d" * 30)
    deep.mkdir(parents=True)
    (deep / "x.toml").write_text("")

    assert [code for _, code in found(read_tree(root))] == ["E-UNREADABLE"]


def test_problems_of_reading_and_compiling_are_reported_together(root: Path) -> None:
    os.mkfifo(root / "keys.d" / "pipe.toml")
    (root / "accounts.d" / "a.toml").write_text("kind = 1\n")

    assert [problem.code for problem in load_tree(root).problems] == ["E-CHOICE", "E-UNREADABLE"]
    with pytest.raises(ConfigError):
        read_files(root)


def test_a_relay_toml_that_cannot_be_read_is_not_said_to_be_missing(root: Path) -> None:
    (root / "relay.toml").unlink()
    os.mkfifo(root / "relay.toml")

    assert [problem.code for problem in load_tree(root).problems] == ["E-UNREADABLE"]


def test_a_file_name_that_is_no_text_is_a_problem_and_no_crash(root: Path) -> None:
    (root / "keys.d" / os.fsdecode(b"\xff.toml")).write_text(f'hashes = [{{ sha256 = "{"2" * 64}" }}]\n')

    assert [problem.code for problem in load_tree(root).problems] == ["E-NAME"]
