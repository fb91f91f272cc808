"""relayd backup and restore, tried by running a daemon on what came back."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import attrs
import httpx2
import pytest
from builders import KEY
from cli_tree import Ran, Tree
from daemon import PATIENCE, Daemon, key_text, running, write_tree
from fleet import noon_zone
from patient import FOUND, PROGRAM
from redis_server import RedisServer
from redis_server import running as redis_running

from relayd.cli.archive import BUNDLE, STATE, ArchiveManifest, listed, write_archive
from relayd.config.secrets.identity import write_identity
from relayd.config.secrets.seal import Identity, new_identity
from relayd.config.secrets.sealed_stream import StreamHead
from relayd.config.source.history import Meta, save
from relayd.config.source.tree import read_files
from relayd.core.quota.usage_record import UsageRecord
from relayd.daemon.store.journal import Journal
from relayd.state.contract import Settle
from relayd.state.sqlite import SqliteStore

ASK = {"model": "claude-sonnet-5-5", "max_tokens": 100, "messages": [{"role": "user", "content": "hi"}]}
LIMITS = "[limits]\ndaily_requests = 3\n"


@attrs.frozen
class Machine:
    """A machine with a config tree, that may have an identity."""

    root: Path
    tree: Tree
    identity: Path

    @property
    def database(self) -> Path:
        return self.tree.root / "var/relayd.db"

    def back_up(self, *words: str) -> Path:
        file = self.root / "relayd.backup"
        ran = self.tree.run("backup", str(file), "--force", *words)
        assert ran.code == 0, ran.all
        return file

    def restore(self, file: Path, *words: str) -> Ran:
        return self.tree.run("restore", str(file), "--identity", str(self.identity), *words)


def empty_machine(root: Path, identity: Path) -> Machine:
    root.mkdir()
    return Machine(root, Tree(root / "tree"), identity)


def new_machine(root: Path, identity: Identity, file: Path) -> Machine:
    secrets = f'[secrets]\nrecipients = [{{ name = "prod", public = "{identity.public.text}" }}]\n'
    secrets += f'[state]\ntimezone = "{noon_zone()}"\n'
    return Machine(root, Tree(write_tree(root, relay=secrets, keys={"dev": key_text(more=LIMITS)})), file)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    identity, file = new_identity(os.urandom), tmp_path / "identity"
    write_identity(file, tmp_path / "tree", identity)
    (tmp_path / "one").mkdir()
    return new_machine(tmp_path / "one", identity, file)


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with redis_running() as found:
        yield found


def status_of_a_call(daemon: Daemon) -> int:
    headers = {"x-api-key": KEY}
    return httpx2.post(
        f"{daemon.url}/v1/messages", json=ASK, headers=headers, trust_env=False, timeout=PATIENCE
    ).status_code


def booked(machine: Machine, *words: str) -> dict[str, int]:
    found = machine.tree.run("report", "--json", *words).json
    return {name: found[name] for name in ("requests", "tokens")}


def book(machine: Machine) -> None:
    """One call in the books, without a daemon."""
    with contextlib.closing(SqliteStore(str(machine.database), clock=lambda: 1_800_000_000_000)) as store:
        store.apply([Settle(call="c", record=UsageRecord(day="2027-01-15", key="dev", account="sim", model="m"))])


def test_a_daemon_on_an_empty_machine_goes_on_where_the_backup_was_made(machine: Machine, tmp_path: Path) -> None:
    with running(machine.tree.root) as daemon:
        assert [status_of_a_call(daemon) for _ in range(2)] == [200, 200]
        machine.tree.run("status")  # the books are written by then
        daemon.wait_until(lambda: booked(machine)["requests"] == 2, "two calls in the books")
        file = machine.back_up()  # beside the running daemon
        assert status_of_a_call(daemon) == 200  # which goes on
    assert file.stat().st_mode & 0o777 == 0o600
    other = empty_machine(tmp_path / "two", machine.identity)

    dry = other.restore(file, "--dry-run")
    assert dry.code == 0
    assert "would: write the state to" in dry.out
    assert not other.tree.root.exists()

    assert other.restore(file).code == 0
    assert other.tree.content == machine.tree.content
    assert booked(other)["requests"] == 2
    with running(other.tree.root) as daemon:
        assert [status_of_a_call(daemon) for _ in range(2)] == [200, 429]


def test_a_state_moves_to_redis_and_back_and_limits_hold_on_the_way(
    machine: Machine, tmp_path: Path, server: RedisServer
) -> None:
    with running(machine.tree.root) as daemon:
        assert status_of_a_call(daemon) == 200
    on_redis = empty_machine(tmp_path / "two", machine.identity)
    state = ("--state", server.url)
    assert on_redis.restore(machine.back_up(), *state).code == 0
    with running(on_redis.tree.root, *state, environment=FOUND, program=PROGRAM) as daemon:
        assert status_of_a_call(daemon) == 200
        daemon.wait_until(lambda: booked(on_redis, *state)["requests"] == 2, "two calls in the books")
    stored = Meta(digest="5" * 64, realm="test", saved=0.0, trigger="boot")
    save(on_redis.tree.root / "var/generations", read_files(on_redis.tree.root), stored)
    file = on_redis.back_up(*state)
    taken = on_redis.restore(file, *state, "--force")  # what is there was just backed up
    assert taken.code == 0, taken.all
    back = empty_machine(tmp_path / "three", machine.identity)
    assert back.restore(file).code == 0
    with running(back.tree.root) as daemon:
        assert [status_of_a_call(daemon) for _ in range(2)] == [200, 429]
    assert booked(back, "--by", "key")["requests"] == 3
    whole = back.restore(file, "--dry-run", "--json").json["steps"]
    assert "generations" in whole[-1]["conflict"]
    alone = back.restore(file, "--only", "state", "--dry-run", "--json").json["steps"]
    assert [(step["part"], step["conflict"]) for step in alone] == [("state", "a state is there")]


def test_nothing_is_overwritten_without_force_and_with_it_what_was_there_is_kept(
    machine: Machine, server: RedisServer
) -> None:
    book(machine)
    file = machine.back_up()
    machine.tree.write("keys.d/later.toml", key_text("sk-relay-" + "1" * 49))
    before = machine.database.read_bytes()

    refused = machine.restore(file)
    assert refused.code == 1
    assert "in the way: a tree that differs in 1 file" in refused.out
    assert "in the way: a state is there" in refused.out
    assert (machine.tree.root / "keys.d/later.toml").exists()
    assert machine.database.read_bytes() == before
    assert machine.restore(file, "--only", "tree", "--dry-run", "--json").json["done"] is False

    forced = machine.restore(file, "--force")
    assert forced.code == 0
    assert not (machine.tree.root / "keys.d/later.toml").exists()
    (kept,) = machine.root.glob("tree.before-restore-*")
    assert (kept / "keys.d/later.toml").exists()
    (old,) = machine.database.parent.glob("relayd.db.before-restore-*Z")
    assert old.read_bytes() == before
    with running(machine.tree.root) as daemon:
        assert status_of_a_call(daemon) == 200
        running_on_it = machine.restore(file, "--force")
        assert running_on_it.code == 1
        assert "a daemon runs on" in running_on_it.err
    with contextlib.closing(sqlite3.connect(machine.database)) as connection:
        assert connection.execute("SELECT sum(requests) FROM books").fetchone() == (2,)


def test_the_history_of_the_tree_comes_along(machine: Machine, tmp_path: Path) -> None:
    def git(*words: str, at: Path = machine.tree.root) -> str:
        who = ("-c", "user.name=t", "-c", "user.email=t@example.com")
        return subprocess.run(["git", *who, *words], cwd=at, check=True, capture_output=True, text=True).stdout

    git("init", "-q", "-b", "trunk")
    machine.tree.write("README.md", "not config\n")
    git("add", "README.md", "relay.toml", "keys.d", "accounts.d")
    git("commit", "-qm", "first")
    machine.tree.write("keys.d/dev.toml", key_text(more="# not committed\n" + LIMITS))
    other = empty_machine(tmp_path / "two", machine.identity)
    assert other.restore(machine.back_up()).code == 0
    assert git("log", "--format=%s %H", at=other.tree.root) == git("log", "--format=%s %H")
    assert git("status", "--porcelain", at=other.tree.root).split() == ["M", "keys.d/dev.toml"]
    assert other.tree.read("README.md") == "not config\n"
    assert git("branch", "--show-current", at=other.tree.root) == "trunk\n"


def test_a_state_of_an_older_version_is_brought_up_to_date_and_the_journal_replayed(
    machine: Machine, tmp_path: Path
) -> None:
    machine.database.parent.mkdir()
    journal = Journal(machine.database.parent / "journal")
    waiting = UsageRecord(day="2027-01-15", key="dev", account="sim", model="m", cost=5)
    assert journal.append([Settle(call="waiting", record=waiting)])
    journal.close()
    with contextlib.closing(sqlite3.connect(machine.database)) as connection:
        connection.executescript((Path(__file__).parents[1] / "state/v2.sql").read_text())
    file = machine.back_up()
    other = empty_machine(tmp_path / "two", machine.identity)
    assert other.restore(file, "--json").json["tables"] == 2
    with running(other.tree.root) as daemon:
        assert status_of_a_call(daemon) == 200
    with contextlib.closing(sqlite3.connect(other.database)) as connection:
        assert connection.execute("SELECT sum(cost) FROM books WHERE day = '2027-01-15'").fetchone() == (3 + 5,)


def test_whoever_has_no_identity_or_a_damaged_file_restores_nothing(machine: Machine, tmp_path: Path) -> None:
    file = machine.back_up()
    other = empty_machine(tmp_path / "two", machine.identity)
    stranger = tmp_path / "stranger"
    write_identity(stranger, machine.tree.root, new_identity(os.urandom))
    refused = attrs.evolve(other, identity=stranger).restore(file)
    assert refused.code == 1
    assert "sealed for recipient" in refused.err
    raw = bytearray(file.read_bytes())
    raw[-40] ^= 1
    file.write_bytes(raw)
    damaged = other.restore(file)
    assert damaged.code == 1
    assert "the backup was cut or altered" in damaged.err
    assert KEY.encode() not in raw
    assert b"keys.d" not in raw
    assert list(other.root.iterdir()) == []


def test_without_a_recipient_there_is_no_backup(tmp_path: Path) -> None:
    tree = Tree(write_tree(tmp_path))
    ran = tree.run("backup", str(tmp_path / "b"))
    assert ran.code == 1
    assert "no active recipient" in ran.err
    assert not (tmp_path / "b").exists()


def forged(file: Path, folder: Path, identity: Identity, *, lie: str) -> None:
    """A well sealed archive that says something else than it holds."""
    manifest = ArchiveManifest(relayd="1", realm="test", created="2026-11-22T00:00:00Z", files=listed(folder))
    files = manifest.files
    if lie == "sum":
        files = (attrs.evolve(files[0], sha256="0" * 64), *files[1:])
    if lie == "place":
        (folder.parent / "up").write_bytes(b"")
        files = (*files, attrs.evolve(files[0], name="tree/../../up", size=0))
    if lie == "format":
        manifest = attrs.evolve(manifest, format=2)
    head = StreamHead(realm="test", id="x", created=manifest.created)
    with file.open("wb") as out:
        write_archive(out, folder, attrs.evolve(manifest, files=files), head, [identity.public], os.urandom)


@pytest.mark.parametrize(
    ("lie", "said"),
    [("sum", "has another sum"), ("place", "does not name so"), ("format", "newer (update relayd)")],
)
def test_an_archive_that_lies_is_found_out_before_anything_is_written(tmp_path: Path, lie: str, said: str) -> None:
    identity, file = new_identity(os.urandom), tmp_path / "identity"
    write_identity(file, tmp_path / "tree", identity)
    folder = tmp_path / "folder"
    (folder / "tree").mkdir(parents=True)
    (folder / "tree/relay.toml").write_text('schema = 1\nrealm = "test"\n')
    forged(tmp_path / "b", folder, identity, lie=lie)
    other = empty_machine(tmp_path / "two", file)
    ran = other.restore(tmp_path / "b")
    assert ran.code == 1
    assert said in ran.err
    assert list(other.root.iterdir()) == []


def test_what_is_in_a_backup_is_what_its_manifest_says(machine: Machine) -> None:
    book(machine)
    told = machine.tree.run("backup", str(machine.root / "b"), "--json").json
    names = {one["name"] for one in told["files"]}
    assert {"tree/relay.toml", "tree/keys.d/dev.toml", STATE} <= names
    assert BUNDLE not in names
    assert not tarfile.is_tarfile(machine.root / "b")
