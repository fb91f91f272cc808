"""Reading a tree that somebody is writing: real files, real git; only the clock is ours."""

from __future__ import annotations

import os
import random
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import attrs
import pytest
from bench.coherence_flipflop import generation_of, git, torture

from relayd.config.compile import compile_tree
from relayd.config.source.provenance import write_manifest
from relayd.config.source.tree import (
    EMPTY_GRACE,
    QUIET,
    FileCache,
    Tree,
    Unstable,
    read_coherent,
    read_files,
    signature,
)

RELAY = 'schema = 1\nrealm = "test"\n'


@attrs.define
class Clock:
    """Time that passes only by sleeping. `then` is called after each sleep, with the number of sleeps so far.

    It starts at the real time, because file times are real, or later, so that the tree looks quiet.
    """

    now: float = attrs.field(factory=time.time)
    then: Callable[[int], None] = lambda number: None
    slept: float = 0.0
    sleeps: int = 0

    def sleep(self, seconds: float) -> None:
        assert seconds >= 0
        self.now += seconds
        self.slept += seconds
        self.sleeps += 1
        self.then(self.sleeps)


def read(root: Path, clock: Clock | None = None, *, patience: float = 20.0, **more: object) -> Tree | Unstable:
    clock = clock or Clock(now=time.time() + 3600)
    return read_coherent(root, wall=lambda: clock.now, sleep=clock.sleep, deadline=clock.now + patience, **more)


def tree_of(found: Tree | Unstable) -> Tree:
    assert isinstance(found, Tree), found
    return found


def reason_of(found: Tree | Unstable) -> str:
    assert isinstance(found, Unstable), found
    return found.reason


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    for folder in ("accounts.d", "keys.d"):
        (root / folder).mkdir(parents=True)
    (root / "relay.toml").write_text(RELAY)
    (root / "accounts.d" / "a.toml").write_text('kind = "simulator"\n')
    (root / "keys.d" / "k.toml").write_text(f'hashes = [{{ sha256 = "{"1" * 64}" }}]\n')
    return root


@pytest.fixture
def repo(root: Path) -> Path:
    git(root, "init", "-q", "-b", "main")
    git(root, "add", "-A")
    git(root, "commit", "-qm", "first")
    return root


# --- a directory that holds still


def test_what_is_read_is_what_lies_there_and_its_digest_begins_with_the_revision(root: Path) -> None:
    tree = tree_of(read(root))

    assert tree.files == read_files(root)
    assert tree.problems == ()
    assert tree.digest[:12] == compile_tree(tree.files).revision
    assert len(tree.digest) == 64


def test_scenarios_and_strays_are_no_part_of_the_digest(root: Path) -> None:
    before = tree_of(read(root)).digest
    (root / "tests.d").mkdir()
    (root / "tests.d" / "x.toml").write_text("")
    (root / "keys.d" / "notes.txt").write_text("x")

    assert tree_of(read(root)).digest == before


def test_a_file_that_cannot_be_read_makes_another_digest(root: Path) -> None:
    before = tree_of(read(root)).digest
    os.mkfifo(root / "keys.d" / "pipe.toml")

    after = tree_of(read(root))

    assert after.digest != before
    assert [problem.code for problem in after.problems] == ["E-UNREADABLE"]


def test_a_missing_directory_is_a_tree_with_a_problem(tmp_path: Path) -> None:
    assert [problem.code for problem in tree_of(read(tmp_path / "missing")).problems] == ["E-NO-RELAY-TOML"]


# --- quiet


def test_a_tree_that_was_just_changed_is_read_after_the_quiet_period(root: Path) -> None:
    clock = Clock()

    tree_of(read(root, clock))

    assert 0 < clock.slept <= QUIET + 0.1


def test_a_tree_that_was_changed_long_ago_is_read_at_once(root: Path) -> None:
    clock = Clock(now=time.time() + 10)

    tree_of(read(root, clock))

    assert clock.slept == 0


def test_file_times_of_another_clock_delay_no_longer_than_the_quiet_period(root: Path) -> None:
    """Our clock is an hour slow, or the file server's fast: what was seen to stand still is quiet."""
    clock = Clock(now=time.time() - 3600)

    tree_of(read(root, clock))

    assert clock.slept <= 3 * QUIET


def while_writing(path: Path, pieces: int, pause: float, look: Callable[[], Tree | Unstable]) -> Tree | Unstable:
    """What is read while somebody appends to a file, in place, with pauses."""

    def write() -> None:
        for number in range(pieces):
            with path.open("a") as file:
                file.write(f"# part {number}\n")
            time.sleep(pause)

    path.write_text("")
    writer = threading.Thread(target=write)
    writer.start()
    try:
        return look()
    finally:
        writer.join()


def test_a_slow_writer_is_waited_for(root: Path) -> None:
    path = root / "keys.d" / "k.toml"

    def look() -> Tree | Unstable:
        return read_coherent(root, quiet=0.4, wall=time.time, sleep=time.sleep, deadline=time.time() + 20)

    tree = tree_of(while_writing(path, 6, 0.05, look))

    assert tree.files["keys.d/k.toml"].decode() == "".join(f"# part {number}\n" for number in range(6))


def test_a_tree_that_never_holds_still_is_given_up_at_the_deadline(root: Path) -> None:
    def look() -> Tree | Unstable:
        return read_coherent(root, quiet=0.4, wall=time.time, sleep=time.sleep, deadline=time.time() + 0.3)

    assert reason_of(while_writing(root / "keys.d" / "k.toml", 20, 0.03, look)) == "the tree was changed a moment ago"


def test_a_clock_that_is_set_back_meanwhile_prolongs_no_reading(root: Path) -> None:
    merge = root / ".git" / "MERGE_HEAD"
    git(root, "init", "-q", "-b", "main")
    merge.write_text("0" * 40)
    clock = Clock()

    def set_back(sleeps: int) -> None:
        clock.now -= 3600.0 if sleeps == 2 else 0.0

    clock.then = set_back
    assert reason_of(read(root, clock, patience=5)) == "a git merge is not finished (MERGE_HEAD)"
    assert clock.slept <= 5.01


def test_an_empty_file_is_not_believed_for_a_while(root: Path) -> None:
    path = root / "keys.d" / "k.toml"
    content = path.read_bytes()
    path.write_bytes(b"")
    clock = Clock(then=lambda sleeps: path.write_bytes(content) if sleeps == 3 else None)

    assert tree_of(read(root, clock)).files["keys.d/k.toml"] == content


def test_a_file_that_stays_empty_is_read_as_it_is_and_the_compiler_says_so(root: Path) -> None:
    (root / "keys.d" / "k.toml").write_bytes(b"")
    clock = Clock()

    tree = tree_of(read(root, clock))

    assert EMPTY_GRACE - 0.5 < clock.slept < EMPTY_GRACE + 0.5
    assert "E-EMPTY-FILE" in {problem.code for problem in compile_tree(tree.files).problems}


def test_a_file_that_is_replaced_between_looking_and_opening_is_noticed(root: Path) -> None:
    """The second scan sees it: a hook on the clock's last look replaces a file after the first."""
    replaced = []

    class Late(Clock):
        pass

    clock = Late(now=time.time() + 3600)

    def wall() -> float:
        if len(replaced) < 2:  # the clock is asked between the scan and the reading
            other = root / "keys.d" / ".new"
            other.write_text(f'hashes = [{{ sha256 = "{"2" * 64}" }}]\n')
            os.replace(other, root / "keys.d" / "k.toml")
            replaced.append(True)
        return clock.now

    tree = read_coherent(root, wall=wall, sleep=clock.sleep, deadline=clock.now + 10)

    assert clock.sleeps >= 1
    assert b"2" * 64 in tree_of(tree).files["keys.d/k.toml"]


# --- the cache


def test_only_what_was_touched_is_read_again(root: Path) -> None:
    cache = FileCache()
    first = tree_of(read(root, cache=cache))
    (root / "relay.toml").write_text(RELAY + "# changed\n")
    second = tree_of(read(root, cache=cache))

    assert second.files["keys.d/k.toml"] is first.files["keys.d/k.toml"]
    assert second.files["relay.toml"] == (root / "relay.toml").read_bytes()


def test_a_change_that_restores_size_and_mtime_is_seen(root: Path) -> None:
    cache, path = FileCache(), root / "relay.toml"
    tree_of(read(root, cache=cache))
    before = path.stat()
    time.sleep(0.02)  # ctime is as coarse as the kernel's tick
    path.write_text(RELAY.replace("test", "tset"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    assert b"tset" in tree_of(read(root, cache=cache)).files["relay.toml"]


def test_a_file_written_a_moment_ago_is_not_remembered(root: Path) -> None:
    cache = FileCache()
    tree_of(read(root, Clock(now=time.time() + QUIET), quiet=0.0, cache=cache))

    assert cache.files == {}


def test_what_is_gone_is_forgotten(root: Path) -> None:
    cache = FileCache()
    tree_of(read(root, cache=cache))
    (root / "keys.d" / "k.toml").unlink()
    tree_of(read(root, cache=cache))

    assert "keys.d/k.toml" not in cache.files


# --- git


def test_while_git_holds_a_lock_nothing_is_read(repo: Path) -> None:
    for lock in ("index.lock", "HEAD.lock", "refs/heads/main.lock"):
        path = repo / ".git" / lock
        path.write_text("")

        assert reason_of(read(repo, Clock(), patience=3)) == f"git is at work ({lock} is held)"
        path.unlink()
    tree_of(read(repo))


def test_a_lock_that_is_taken_and_released_only_delays(repo: Path) -> None:
    lock = repo / ".git" / "index.lock"
    lock.write_text("")
    clock = Clock(then=lambda sleeps: lock.unlink() if sleeps == 2 else None)

    tree_of(read(repo, clock))

    assert clock.sleeps >= 2


def test_a_stale_lock_is_a_warning_and_no_obstacle(repo: Path) -> None:
    lock = repo / ".git" / "index.lock"
    lock.write_text("")
    os.utime(lock, (time.time() - 120, time.time() - 120))

    tree = tree_of(read(repo, Clock()))

    assert [problem.code for problem in tree.problems] == ["W-GIT-STALE-LOCK"]
    assert tree.provenance.dirty == ()


def conflict(repo: Path) -> None:
    """A merge that stops in the middle of a file."""
    path = repo / "relay.toml"
    git(repo, "checkout", "-qb", "side")
    path.write_text(RELAY + "# side\n")
    git(repo, "commit", "-qam", "side")
    git(repo, "checkout", "-q", "main")
    path.write_text(RELAY + "# main\n")
    git(repo, "commit", "-qam", "main")


def fails(repo: Path, *words: str) -> None:
    with pytest.raises(Exception, match="returned non-zero"):
        git(repo, *words)


def test_an_unfinished_merge_is_waited_for_and_its_end_is_seen(repo: Path) -> None:
    conflict(repo)
    fails(repo, "merge", "side")

    assert reason_of(read(repo, patience=5)) == "a git merge is not finished (MERGE_HEAD)"
    git(repo, "merge", "--abort")
    assert tree_of(read(repo)).files["relay.toml"].endswith(b"# main\n")


def test_an_unfinished_rebase_and_cherry_pick_are_waited_for_too(repo: Path) -> None:
    conflict(repo)
    fails(repo, "rebase", "side")
    assert "a git rebase is not finished" in reason_of(read(repo, patience=1))
    git(repo, "rebase", "--abort")
    fails(repo, "cherry-pick", "side")
    assert "a git cherry-pick is not finished" in reason_of(read(repo, patience=1))
    git(repo, "cherry-pick", "--abort")
    tree_of(read(repo))


def test_people_may_check_what_they_are_merging(repo: Path) -> None:
    conflict(repo)
    fails(repo, "merge", "side")

    tree = tree_of(read(repo, git="locks"))

    assert "E-MERGE-MARKER" in {problem.code for problem in compile_tree(tree.files).problems}


def test_in_a_hook_the_commits_own_lock_does_not_count(repo: Path) -> None:
    (repo / ".git" / "index.lock").write_text("")

    tree_of(read(repo, git="ignore"))


def test_git_going_to_and_fro_never_makes_a_mixture_nor_a_wrong_commit(tmp_path: Path) -> None:
    count = torture(tmp_path / "repo", 4.0, naive=False, quiet=0.1)

    assert count.good > 0
    assert (count.mixed, count.wrong_commit) == (0, 0)


# --- sources that are flipped, and copies that take their time

FILES = 40


def generation(folder: Path, number: int) -> None:
    """A tree whose files all say which generation they are of; the second has one more."""
    (folder / "accounts.d").mkdir(parents=True)
    content = f"# generation {number}\n"
    (folder / "relay.toml").write_text(content)
    for name in [f"a{index}" for index in range(FILES)] + (["extra"] if number == 2 else []):
        (folder / "accounts.d" / f"{name}.toml").write_text(content)


def while_flipping(flip: Callable[[int], None], look: Callable[[], Tree | Unstable], seconds: float = 1.0) -> int:
    """How many readings succeeded while somebody flipped between two generations. None of them may be a mixture."""
    stop, rng = threading.Event(), random.Random(3)

    def flipper() -> None:
        number = 1
        while not stop.wait(rng.choice((0.0, 0.002, 0.02))):
            number = 3 - number
            flip(number)

    thread = threading.Thread(target=flipper)
    thread.start()
    good, end = 0, time.monotonic() + seconds
    try:
        while time.monotonic() < end or (good == 0 and time.monotonic() < end + 60):
            found = look()
            if isinstance(found, Tree):
                good += 1
                assert generation_of(found.files, FILES) in (1, 2)
    finally:
        stop.set()
        thread.join()
    return good


def test_a_link_that_is_flipped_shows_one_side_or_the_other(tmp_path: Path) -> None:
    for number in (1, 2):
        generation(tmp_path / "trees" / str(number), number)
    link = tmp_path / "current"
    link.symlink_to("trees/1")

    def flip(number: int) -> None:
        (tmp_path / "next").symlink_to(f"trees/{number}")
        os.replace(tmp_path / "next", link)

    assert while_flipping(flip, lambda: read_now(link)) > 0


def read_now(root: Path) -> Tree | Unstable:
    return read_coherent(root, wall=time.time, sleep=time.sleep, deadline=0)


def test_a_link_that_is_flipped_needs_no_quiet_period(tmp_path: Path) -> None:
    generation(tmp_path / "1", 1)
    (tmp_path / "current").symlink_to("1")
    clock = Clock()

    tree_of(read(tmp_path / "current", clock))

    assert clock.slept == 0


def test_a_mounted_config_map_is_swapped_whole(tmp_path: Path) -> None:
    """As the kubelet does it: a new directory, a link to it, renamed over ..data; then the old directory goes."""
    mount = tmp_path / "mount"
    mount.mkdir()
    serial = iter(range(1_000_000))

    def swap(number: int) -> None:
        name = f"..2026_11_22_{next(serial)}"
        generation(mount / name, number)
        old = os.readlink(mount / "..data") if (mount / "..data").is_symlink() else ""
        (mount / "..data_tmp").symlink_to(name)
        os.replace(mount / "..data_tmp", mount / "..data")
        if old:
            shutil.rmtree(mount / old)

    swap(1)
    (mount / "relay.toml").symlink_to("..data/relay.toml")
    (mount / "accounts.d").symlink_to("..data/accounts.d")

    assert while_flipping(swap, lambda: read_now(mount)) > 0
    tree = tree_of(read(mount))
    assert not any(".." in path for path in tree.files)
    assert tree.provenance.source == "configmap"
    assert tree.provenance.commit.startswith("2026_11_22_")


def test_the_flat_names_of_a_config_map_stand_for_sub_directories(tmp_path: Path) -> None:
    for name, text in {
        "relay.toml": RELAY,
        "accounts.d__a.toml": 'kind = "simulator"\n',
        "keys.d__my__key.toml": f'hashes = [{{ sha256 = "{"1" * 64}" }}]\n',
    }.items():
        (tmp_path / name).write_text(text)

    snapshot = compile_tree(tree_of(read(tmp_path)).files).require()

    assert (set(snapshot.accounts), set(snapshot.keys)) == ({"a"}, {"my__key"})


def test_a_flat_name_beside_the_file_it_stands_for_is_an_error(root: Path) -> None:
    (root / "keys.d__k.toml").write_text("x = 1\n")

    assert [(problem.code, problem.file) for problem in tree_of(read(root)).problems] == [("E-DUP-ID", "keys.d/k.toml")]


@pytest.mark.parametrize("manifest_first", [True, False])
def test_a_slow_copy_with_a_manifest_is_loaded_whole_or_not_at_all(tmp_path: Path, manifest_first: bool) -> None:
    """rsync that pauses for minutes between files: no quiet period helps, the manifest does."""
    target = tmp_path / "target"
    for number in (1, 2):
        generation(tmp_path / str(number), number)
        (tmp_path / str(number) / "manifest.toml").write_text(write_manifest(read_files(tmp_path / str(number)), "c1"))
    shutil.copytree(tmp_path / "1", target)
    new = sorted(path.relative_to(tmp_path / "2") for path in (tmp_path / "2").rglob("*.toml"))
    new.sort(key=lambda path: (path.name == "manifest.toml") != manifest_first)

    seen = [generation_of(tree_of(read(target)).files, FILES)]
    for path in new:
        shutil.copy(tmp_path / "2" / path, target / path)
        found = read(target, patience=0)
        seen.append(generation_of(found.files, FILES) if isinstance(found, Tree) else 0)

    assert (seen[0], seen[-1]) == (1, 2)
    assert seen == sorted(seen, key=lambda one: (1, 0, 2).index(one))
    assert seen.count(0) >= FILES
    assert tree_of(read(target)).provenance.commit == "c1"


def test_a_manifest_that_does_not_match_says_where(root: Path) -> None:
    files = read_files(root)
    (root / "manifest.toml").write_text(write_manifest(files))
    tree_of(read(root))

    (root / "keys.d" / "more.toml").write_text("x")
    assert reason_of(read(root, patience=0)) == "keys.d/more.toml is not listed in manifest.toml"
    (root / "keys.d" / "more.toml").unlink()
    (root / "accounts.d" / "a.toml").write_text("x")
    assert reason_of(read(root, patience=0)) == "accounts.d/a.toml differs from what manifest.toml says"
    (root / "accounts.d" / "a.toml").unlink()
    assert reason_of(read(root, patience=0)) == "accounts.d/a.toml is missing, but manifest.toml lists it"
    (root / "manifest.toml").write_text("[fil")
    assert reason_of(read(root, patience=0)) == "manifest.toml is not whole"
    (root / "manifest.toml").write_text("files = 3")
    assert reason_of(read(root, patience=0)) == "manifest.toml has no [files]"


# --- the stat signature


def test_the_signature_stays_while_nothing_is_touched(repo: Path) -> None:
    before = signature(repo)
    read_files(repo)
    git(repo, "status")

    assert signature(repo) == before


def test_a_reading_carries_the_signature_of_what_was_read(repo: Path) -> None:
    tree = tree_of(read(repo))
    assert tree.signature == signature(repo)

    (repo / "relay.toml").write_text(RELAY + "# changed\n")
    assert tree.signature != signature(repo)


def test_editor_droppings_do_not_change_the_signature(repo: Path) -> None:
    before = signature(repo)
    for name in (".k.toml.swp", "4913", "k.toml~", ".#k.toml", "#k.toml#"):
        (repo / "keys.d" / name).write_text("x")
    (repo / "var").mkdir()

    assert signature(repo) == before


@pytest.mark.parametrize(
    "change",
    [
        lambda root: (root / "keys.d" / "k.toml").write_text("x"),
        lambda root: (root / "keys.d" / "new.toml").write_text("x"),
        lambda root: (root / "keys.d" / "k.toml").unlink(),
        lambda root: os.replace(shutil.copy(root / "relay.toml", root / ".new"), root / "relay.toml"),
        lambda root: (root / "keys.d" / "k.toml").chmod(0o600),
        lambda root: (root / "manifest.toml").write_text(""),
        lambda root: git(root, "commit", "--allow-empty", "-qm", "empty"),
        lambda root: (root / ".git" / "MERGE_HEAD").write_text(""),
        lambda root: (root / "accounts.d").rename(root / "elsewhere"),
    ],
    ids=["edit", "new", "gone", "replaced", "permission", "manifest", "commit", "merge", "folder"],
)
def test_whatever_may_matter_changes_the_signature(repo: Path, change: Callable[[Path], object]) -> None:
    before = signature(repo)
    change(repo)

    assert signature(repo) != before


def test_a_missing_tree_has_a_signature_too(tmp_path: Path) -> None:
    before = signature(tmp_path / "missing")
    (tmp_path / "missing").mkdir()

    assert signature(tmp_path / "missing") != before


def test_twenty_thousand_files_are_the_most(root: Path) -> None:
    for number in range(20_000):
        (root / "keys.d" / f"x{number}.toml").touch()

    tree = tree_of(read(root))

    assert [problem.code for problem in tree.problems] == ["E-TOO-LARGE"]
    assert len(tree.files) == 20_000
