"""The control socket: who may ask, what is understood, what is bounded."""

from __future__ import annotations

import json
import os
import random
import resource
import socket
import struct
import time
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from reload_world import FAST, World, living, make_tree

from relayd.cli import main as relayd
from relayd.config.snapshot import Cooldown, State
from relayd.core.balancing.failover import judge
from relayd.core.balancing.outcomes import Answered
from relayd.daemon.admin.control_socket import MAX_REQUEST, PUSH_VERBS, VERBS, allowed_verbs, peer_groups, peer_user
from relayd.daemon.node import open_control
from relayd.daemon.paths import (
    control_socket,
    control_sockets,
    generation_store,
    log_file,
    state_login,
    state_password,
    text_setting,
)

REFUSED = Answered(status=401, error_type="authentication_error", message="invalid x-api-key")


async def ask(world: World, *lines: bytes) -> list[dict[str, Any]]:
    """The answers to some lines on one connection, until the daemon ends it or all are answered."""
    stream = await trio.open_unix_socket(str(world.control_path))
    buffer = b""
    with trio.fail_after(30):
        async with stream:
            try:
                await stream.send_all(b"".join(line + b"\n" for line in lines))
                while buffer.count(b"\n") < len(lines):
                    data = await stream.receive_some(65536)
                    if not data:
                        break
                    buffer += data
            except trio.BrokenResourceError:
                pass
    return [json.loads(line) for line in buffer.splitlines()]


async def test_several_requests_on_a_connection_are_answered_in_order(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    async with living(tree, watch=False) as world:
        tree.account(more="priority = 3")
        status, reload, metrics = await ask(
            world, b'{"verb":"status"}', b'{"verb":"reload","dry_run":false}', b'{"verb":"metrics"}'
        )

        assert status["status"]["running"]["generation"] == 1
        assert (reload["ok"], reload["result"]["result"], reload["result"]["generation"]) == (True, "applied", 2)
        assert "relayd_config_generation 2\n" in metrics["metrics"]


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (b"hello", "the request is not JSON"),
        (b"[]", "the request is not a JSON object"),
        (b"{}", f"verb: None is not one of {', '.join(VERBS)}"),
        (b'{"verb":"stop"}', f"verb: 'stop' is not one of {', '.join(VERBS)}"),
        (
            b'{"verb":"wake","account":"nobody"}',
            "account: the daemon runs no account 'nobody' (was the tree reloaded?)",
        ),
        (b'{"verb":"wake","account":1}', "account: expected account, each a text"),
        (b'{"verb":"explain","key":"nobody"}', "key: the daemon runs no key 'nobody' (was the tree reloaded?)"),
        (b'{"verb":"reload","force":true}', "force: unknown field"),
        (b'{"verb":"reload","accept":1}', "accept: expected str"),
        (b'{"verb":"reload","dry_run":1}', "dry_run: expected bool"),
        (b'{"verb":"reload","revoked":"key a"}', "revoked: expected a list of texts"),
        (b'{"verb":"reload","revoked":[1]}', "revoked: expected a list of texts"),
        (b'{"verb":"rollback","generation":"1"}', "generation: expected int"),
        (b'{"verb":"rollback","generation":true}', "generation: expected int"),
    ],
)
async def test_what_is_not_understood_is_refused_in_words_and_the_next_line_is_served(
    tmp_path: Path, line: bytes, error: str
) -> None:
    async with living(make_tree(tmp_path / "tree"), watch=False) as world:
        answers = await ask(world, line, b'{"verb":"metrics"}')

        assert answers[0] == {"ok": False, "error": error}
        assert answers[1]["ok"] is True


async def test_a_line_without_an_end_is_bounded(tmp_path: Path) -> None:
    async with living(make_tree(tmp_path / "tree"), watch=False) as world:
        (answer,) = await ask(world, b"x" * (MAX_REQUEST + 100))

        assert answer == {"ok": False, "error": f"a request has at most {MAX_REQUEST} bytes"}
        assert (await ask(world, b'{"verb":"metrics"}'))[0]["ok"]


async def test_the_socket_is_for_its_user_alone_and_goes_with_the_daemon(tmp_path: Path) -> None:
    async with living(make_tree(tmp_path / "tree"), watch=False) as world:
        path = world.control_path
        assert os.stat(path).st_mode & 0o777 == 0o600
        with pytest.raises(OSError, match="another relayd is listening there"):
            open_control(path)
    assert not path.exists()


class Peer:
    """A socket whose peer has some user id, group and further groups."""

    def __init__(self, user: int, group: int = 700, *more: int) -> None:
        self.user, self.group, self.more = user, group, more

    def getsockopt(self, level: int, option: int, size: int) -> bytes:
        assert level == socket.SOL_SOCKET
        if option == socket.SO_PEERCRED:
            return struct.pack("3i", 1234, self.user, self.group)[:size]
        return struct.pack(f"{len(self.more)}I", *self.more)


def test_our_own_user_and_root_are_let_in_and_nobody_else() -> None:
    stranger = os.geteuid() + 12345

    verbs = [allowed_verbs(Peer(user)) for user in (os.geteuid(), 0, stranger)]  # type: ignore[arg-type]
    assert verbs == [VERBS, VERBS, ()]


@pytest.mark.parametrize(
    ("groups", "verbs"), [((700,), ()), ((800,), PUSH_VERBS), ((700, 900, 800), PUSH_VERBS), ((700, 900), ())]
)
def test_members_of_the_control_group_may_ask_for_what_a_push_needs(
    groups: tuple[int, ...], verbs: tuple[str, ...]
) -> None:
    peer = Peer(os.geteuid() + 12345, *groups)

    assert allowed_verbs(peer, 800) == verbs  # type: ignore[arg-type]
    assert allowed_verbs(peer) == ()  # type: ignore[arg-type]


def test_the_kernel_says_who_the_peer_is() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    with ours, theirs:
        assert peer_user(trio.socket.from_stdlib_socket(ours)) == os.geteuid()
        assert peer_groups(trio.socket.from_stdlib_socket(ours)) == {os.getegid(), *os.getgroups()}


def test_the_socket_of_a_dead_daemon_is_replaced_and_other_files_are_not(tmp_path: Path) -> None:
    path = tmp_path / "c.sock"
    open_control(path).close()  # the file stays behind
    open_control(path).close()
    path.unlink()
    path.write_text("mine")

    with pytest.raises(OSError, match=r"c\.sock: the file exists and is not a socket"):
        open_control(path)
    assert path.read_text() == "mine"


def test_a_path_that_is_too_long_for_a_socket_is_told_of(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="longer than 107 bytes"):
        open_control(tmp_path / ("x" * 120))


def test_where_the_socket_and_the_store_are() -> None:
    tree = Path("/srv/tree")

    assert control_socket("/a/b", "sqlite:x.db", tree, {"RUNTIME_DIRECTORY": "/run/r"}) == Path("/a/b")
    assert control_socket("", "sqlite:x.db", tree, {"RUNTIME_DIRECTORY": "/run/r:/run/s"}) == Path("/run/r/relayd.sock")
    assert control_socket("", "sqlite:/var/lib/r/x.db", tree, {}) == Path("/var/lib/r/relayd.sock")
    assert control_socket("", "redis://h", tree, {}) == Path("/srv/tree/var/relayd.sock")
    assert control_socket("", "redis://h", tree, {"STATE_DIRECTORY": "/var/lib/s:/x"}) == Path("/var/lib/s/relayd.sock")
    assert generation_store("sqlite:/var/lib/r/x.db", tree, "/var/lib/s") == Path("/var/lib/r/generations")
    assert generation_store("redis://h", tree, "/var/lib/s") == Path("/var/lib/s/generations")
    assert generation_store("redis://h", tree) == Path("/srv/tree/var/generations")
    assert control_sockets("/a/b", tree, {}) == [Path("/a/b")]


def test_a_command_looks_beside_the_state_that_relay_toml_names_then_in_the_usual_places(tmp_path: Path) -> None:
    (tmp_path / "relay.toml").write_text('[state]\nurl = "sqlite:/data/r.db"\n[server]\nunknown = 3\n')
    usual = [tmp_path / "var/relayd.sock", Path("/run/relayd/relayd.sock")]

    assert control_sockets("", tmp_path, {}) == [Path("/data/relayd.sock"), *usual]
    of_tree = Path("/data/relayd.sock")  # a command for another state must still see the daemon of this tree
    assert control_sockets("", tmp_path, {"RELAYD_STATE_URL": "redis://h"}) == [usual[0], of_tree, usual[1]]
    elsewhere = control_sockets("", tmp_path, {}, "sqlite:/elsewhere/x.db")
    assert elsewhere == [Path("/elsewhere/relayd.sock"), of_tree, *usual]
    assert control_sockets("", tmp_path / "nowhere", {})[0] == tmp_path / "nowhere/var/relayd.sock"


@pytest.mark.parametrize("text", [b"", b"\xff", b"realm = ", b"realm = 3", b'[realm]\nx = "y"'])
def test_a_setting_that_cannot_be_read_is_empty(text: bytes) -> None:
    assert text_setting(text, "realm") == ""
    assert text_setting(text, "realm", "deeper") == ""


def test_the_environment_has_the_password_of_the_state_or_else_the_first_line_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.write_text(" first \nsecond\n")

    assert state_password("", {}) == ""
    here = {"RELAYD_CREDENTIALS": str(tmp_path)}
    assert state_password("password", here) == state_password(str(path), here) == "first"
    assert state_password("password", {**here, "RELAYD_STATE_PASSWORD": ""}) == ""
    own = tmp_path / "own"
    own.write_text("mine")
    assert state_password("password", {**here, "RELAYD_STATE_PASSWORD_FILE": str(own)}) == "mine"
    with pytest.raises(ValueError, match=r"relay\.toml: state\.password_file: x: no such file or directory"):
        state_password("x", here)
    with pytest.raises(ValueError, match=r"^RELAYD_STATE_PASSWORD_FILE: /nowhere/x: no such file or directory"):
        state_password("password", {**here, "RELAYD_STATE_PASSWORD_FILE": "/nowhere/x"})


def test_a_file_outside_the_nodes_directories_is_no_password(tmp_path: Path) -> None:
    """Its first line would be sent to the store."""
    (tmp_path / "shadow").write_text("root:x:0")
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "link").symlink_to(tmp_path / "shadow")
    here = {"RELAYD_CREDENTIALS": str(tmp_path / "own")}

    with pytest.raises(ValueError, match="not in a directory of credentials"):
        state_password(str(tmp_path / "shadow"), here)
    with pytest.raises(ValueError, match="leads out of"):
        state_password("link", here)


@pytest.mark.parametrize("url", ["redis://db.example:6379", "rediss://u@10.0.0.9", "redis+cluster://127.0.0.1,evil"])
def test_a_password_goes_to_another_machine_only_when_the_node_names_it(url: str) -> None:
    here = {"RELAYD_STATE_PASSWORD": "secret"}

    assert state_login(url, State(url="sqlite:x"), here) == (url, "secret")
    assert state_login("", State(url=url), {}) == (url, "")
    with pytest.raises(ValueError, match="set RELAYD_STATE_URL on this node") as caught:
        state_login("", State(url=url), here)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("url", ["redis://127.0.0.1:6379/2", "redis://u@[::1]", "redis+sentinel://localhost/mymaster"])
def test_a_store_on_this_machine_may_be_named_by_the_tree(url: str) -> None:
    assert state_login("", State(url=url), {"RELAYD_STATE_PASSWORD": "secret"}) == (url, "secret")


def test_the_log_lies_in_the_nodes_directory_of_logs(tmp_path: Path) -> None:
    own, here = tmp_path / "logs", {"RELAYD_LOG_DIR": str(tmp_path / "logs"), "LOGS_DIRECTORY": "/else"}
    own.mkdir()
    (own / "out").symlink_to(tmp_path / "tree")

    assert log_file("", here) is None
    assert log_file("relayd.log", here) == log_file(str(own / "relayd.log"), here) == own / "relayd.log"
    assert log_file("x.log", {"LOGS_DIRECTORY": f"{own}:/b"}) == own / "x.log"
    assert log_file("x.log", {}) == Path("/var/log/relayd/x.log")
    for name in ("/etc/cron.d/x", str(tmp_path / "x"), "../x", "out/keys.d/x.toml", "out"):
        with pytest.raises(ValueError, match=r"^relay\.toml: log\.file: "):
            log_file(name, here)


# Accounts.


async def test_explain_knows_what_only_the_daemon_knows_and_wake_ends_a_rest(tmp_path: Path) -> None:
    async with living(make_tree(tmp_path / "tree"), watch=False) as world:
        pool, now = world.sources.pool, time.time()
        lease = pool.begin("a", "", now)
        verdict = judge(REFUSED, cooldown=Cooldown(), now=now)
        pool.observe(lease, verdict, None, now, random.Random(1))
        pool.end(lease, now)
        asked = b'{"verb":"explain","key":"k0","model":"claude-haiku-4-5"}'

        resting, woken, awake = await ask(world, asked, b'{"verb":"wake","account":"a"}', asked)

    assert resting["explanation"]["served"] is False
    assert resting["explanation"]["accounts"][0]["reason"].endswith("invalid x-api-key (401)")
    assert woken["woken"] == {"account": "a", "rested": "invalid x-api-key (401)"}
    assert awake["explanation"]["served"] is True


async def test_the_commands_ask_the_daemon(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RELAYD_CREDENTIALS", str(tmp_path))
    tree = make_tree(tmp_path / "tree")
    tree.write("accounts.d/a.toml", 'kind = "api-key"\n[credential]\nfile = "missing"\n')
    async with living(tree, watch=False) as world:
        where = ["--config", str(tree.root), "--control", str(world.control_path)]
        store = ["--state", f"sqlite:{tree.root.parent}/{tree.root.name}.node/relayd.db"]

        def run(*words: str) -> int:
            return relayd([*words, *where, *store])

        explained = await trio.to_thread.run_sync(
            run, "explain", "--key", "k0", "--model", "claude-haiku-4-5", "--json"
        )
        told = json.loads(capfd.readouterr().out)
        woken = await trio.to_thread.run_sync(run, "account", "wake", "a")

    assert (explained, told["served"], told["health"]) == (1, False, "as the daemon has it")
    assert told["accounts"][0]["reason"].startswith("cannot be used on this node: ")
    assert "missing: no such file" in told["accounts"][0]["reason"]
    assert woken == 0
    assert capfd.readouterr().out == "a: awake on every node (it did not rest)\n"


async def test_without_descriptors_a_command_waits_and_the_daemon_lives(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    async with living(tree, watch=False, pace=attrs.evolve(FAST, proof=3600.0)) as world:  # it opens no file meanwhile
        await world.until(lambda: world.cluster.known)
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        with world.log_file.open() as log, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
            lowest = peer.fileno() + 1
            resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, before[1]))  # not one more
            try:
                peer.connect(str(world.control_path))
                await world.until(lambda: "control.accept" in log.read())
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, before)
            peer.settimeout(0)
            peer.send(b'{"verb":"status"}\n')
            with trio.fail_after(30):
                await trio.lowlevel.wait_readable(peer)
            assert peer.recv(100).startswith(b'{"ok": true')
        assert (await ask(world, b'{"verb":"status"}'))[0]["ok"]
