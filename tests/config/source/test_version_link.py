"""The link to one of several versions: what is kept, what is refused, what is seen to be changed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from relayd.config.source.provenance import blob_name
from relayd.config.source.pushed import Listing
from relayd.config.source.version_link import NotALink, VersionLink
from relayd.config.source.versions import compared, stage, state_folder

FILES = {"relay.toml": b"schema = 1\n", "keys.d/team/a.toml": b"# a\n", "keys.d/b.toml": b"# b\n"}


def commit(number: int) -> str:
    return f"{number:040x}"


def listing(number: int, files: dict[str, bytes]) -> Listing:
    return Listing(commit=commit(number), files={path: blob_name(data) for path, data in files.items()})


def versions(root: Path) -> VersionLink:
    link = VersionLink(link=root / "relay")
    link.home.mkdir()
    return link


class Store:
    """Blobs by their names, and how many were asked for."""

    def __init__(self, *trees: dict[str, bytes]) -> None:
        self.blobs = {blob_name(data): data for tree in trees for data in tree.values()}
        self.read = 0

    def contents(self, names: list[str]) -> list[bytes]:
        self.read += len(names)
        return [self.blobs[name] for name in names]


def test_a_version_is_whole_before_the_link_leads_to_it(tmp_path: Path) -> None:
    link, store = versions(tmp_path), Store(FILES)
    stage(link, listing(1, FILES), store.contents, None)
    assert link.current() == ""

    link.put_in_place(commit(1))
    assert link.current() == commit(1)
    assert {path: (link.link / path).read_bytes() for path in FILES} == FILES


def test_what_two_commits_have_in_common_is_not_read_again(tmp_path: Path) -> None:
    after = {**FILES, "keys.d/b.toml": b"# changed\n", "keys.d/c.toml": b"# c\n"}
    link, store = versions(tmp_path), Store(FILES, after)
    first = stage(link, listing(1, FILES), store.contents, None)
    link.put_in_place(commit(1))
    link.note(commit(1))
    store.read = 0
    second = stage(link, listing(2, after), store.contents, compared(link, listing(1, FILES)))

    assert store.read == 2
    assert {path: (second / path).read_bytes() for path in after} == after
    assert (first / "keys.d/b.toml").read_bytes() == b"# b\n"
    assert os.path.samefile(first / "relay.toml", second / "relay.toml")


@pytest.mark.parametrize("noted", [True, False])
def test_what_was_changed_on_the_node_is_seen_and_not_taken_over(tmp_path: Path, noted: bool) -> None:
    link, store = versions(tmp_path), Store(FILES)
    place = stage(link, listing(1, FILES), store.contents, None)
    link.put_in_place(commit(1))
    if noted:
        link.note(commit(1))
    assert compared(link, listing(1, FILES)).changed == frozenset()

    with (place / "keys.d/team/a.toml").open("a") as file:  # in place: both names of a link would change
        file.write("enabled = false\n")
    (place / "keys.d/b.toml").unlink()
    (place / "deny.toml").write_text('keys = ["a"]\n')
    (place / "notes.txt").write_text("not of the tree")
    version = compared(link, listing(1, FILES))

    assert version.changed == {"keys.d/team/a.toml", "keys.d/b.toml", "deny.toml"}
    second = stage(link, listing(2, FILES), store.contents, version)
    assert {path: (second / path).read_bytes() for path in FILES} == FILES
    assert not (second / "deny.toml").exists()


def test_an_edit_that_keeps_the_time_and_the_size_by_way_of_a_new_file_is_seen(tmp_path: Path) -> None:
    link, store = versions(tmp_path), Store(FILES)
    place = stage(link, listing(1, FILES), store.contents, None)
    link.put_in_place(commit(1))
    link.note(commit(1))
    path = place / "keys.d/b.toml"
    about = path.stat()
    (place / "new").write_bytes(b"# x\n")
    os.utime(place / "new", ns=(about.st_atime_ns, about.st_mtime_ns))
    os.replace(place / "new", path)

    assert compared(link, listing(1, FILES)).changed == {"keys.d/b.toml"}


def test_the_one_in_place_and_the_newest_others_are_kept(tmp_path: Path) -> None:
    link, store = versions(tmp_path), Store(FILES)
    for number in range(1, 7):
        place = stage(link, listing(number, FILES), store.contents, None)
        os.utime(place, (number, number))
    link.put_in_place(commit(1))
    (link.home / f".new-{commit(9)}").mkdir()
    link.prune()

    kept = {path.name for path in link.home.iterdir()} - {"var"}
    assert kept == {commit(1), commit(5), commit(6)}


def test_the_one_in_place_is_never_discarded(tmp_path: Path) -> None:
    link, store = versions(tmp_path), Store(FILES)
    stage(link, listing(1, FILES), store.contents, None)
    link.put_in_place(commit(1))
    link.discard(link.place(commit(1)))

    assert (link.link / "relay.toml").exists()


def test_a_failure_in_the_middle_leaves_nothing(tmp_path: Path) -> None:
    link = versions(tmp_path)

    def full(names: list[str]) -> list[bytes]:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        stage(link, listing(1, FILES), full, None)
    assert list(link.home.iterdir()) == []


@pytest.mark.parametrize("target", ["elsewhere", "relay.trees", "relay.trees/notacommit", "/etc"])
def test_a_link_of_somebody_else_is_not_ours(tmp_path: Path, target: str) -> None:
    link = versions(tmp_path)
    link.link.symlink_to(target)

    with pytest.raises(NotALink, match="which is not one of"):
        link.put_in_place(commit(1))
    assert os.readlink(link.link) == target


def test_a_pushed_link_is_written_last_and_nothing_goes_through_it(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    link = versions(tmp_path)
    files = {"keys.d/sub/a.toml": b"# a\n"}
    names = {blob_name(data): data for data in files.values()} | {"link": os.fsencode(outside)}
    both = Listing(commit=commit(1), files=listing(1, files).files, links={"keys.d/sub": "link"})

    with pytest.raises(FileExistsError):
        stage(link, both, lambda wanted: [names[name] for name in wanted], None)
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize(
    ("relay", "folder"),
    [
        (b"", "var"),
        (b"not toml", "var"),
        (b'[state]\nurl = "sqlite:data/x.db"', "data"),
        (b'[state]\nurl = "sqlite:x.db"', "var"),
        (b'[state]\nurl = "sqlite:/var/lib/x.db"', "var"),
        (b'[state]\nurl = "sqlite:../x.db"', "var"),
        (b'[state]\nurl = "sqlite:keys.d/x.db"', "var"),
        (b'[state]\nurl = "redis://a/0"', "var"),
        (b"state = 3", "var"),
        (b'[state]\nurl = "sqlite:' + b"0" * 40 + b'/x.db"', "var"),
    ],
)
def test_the_folder_of_the_state_is_a_plain_name_of_its_own(relay: bytes, folder: str) -> None:
    assert state_folder(relay) == folder
