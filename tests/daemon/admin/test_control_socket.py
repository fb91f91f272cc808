"""The control socket: who may ask, what is understood, what is bounded."""

from __future__ import annotations

import json
import os
import resource
import socket
import struct
from pathlib import Path
from typing import Any

import pytest
import trio
from reload_world import World, living, make_tree

from relayd.daemon.admin.control_socket import MAX_REQUEST, allowed, open_control, peer_user
from relayd.daemon.paths import control_socket, control_sockets, generation_store, text_setting


async def ask(world: World, *lines: bytes) -> list[dict[str, Any]]:
    """The answers to some lines on one connection, until the daemon ends it or all are answered."""
    stream = await trio.open_unix_socket(str(world.reloading.control_path))
    buffer = b""
    with trio.fail_after(5):
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
        (b"hello", "the request is no JSON"),
        (b"[]", "the request is no JSON object"),
        (b"{}", "verb: None is none of reload, rollback, resume, diff, generations, status, metrics"),
        (b'{"verb":"stop"}', "verb: 'stop' is none of reload, rollback, resume, diff, generations, status, metrics"),
        (b'{"verb":"reload","force":true}', "force: unknown field"),
        (b'{"verb":"reload","accept":1}', "accept: expected str"),
        (b'{"verb":"reload","dry_run":1}', "dry_run: expected bool"),
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
        path = world.reloading.control_path
        assert os.stat(path).st_mode & 0o777 == 0o600
        with pytest.raises(OSError, match="another relayd is listening there"):
            open_control(path)
    assert not path.exists()


class Peer:
    """A socket whose peer has some user id."""

    def __init__(self, user: int) -> None:
        self.user = user

    def getsockopt(self, level: int, option: int, size: int) -> bytes:
        assert (level, option) == (socket.SOL_SOCKET, socket.SO_PEERCRED)
        return struct.pack("3i", 1234, self.user, 0)[:size]


def test_our_own_user_and_root_are_let_in_and_nobody_else() -> None:
    stranger = os.geteuid() + 12345

    assert [allowed(Peer(user)) for user in (os.geteuid(), 0, stranger)] == [True, True, False]  # type: ignore[arg-type]


def test_the_kernel_says_who_the_peer_is() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    with ours, theirs:
        assert peer_user(trio.socket.from_stdlib_socket(ours)) == os.geteuid()


def test_the_socket_of_a_dead_daemon_is_replaced_and_other_files_are_not(tmp_path: Path) -> None:
    path = tmp_path / "c.sock"
    open_control(path).close()  # the file stays behind
    open_control(path).close()
    path.unlink()
    path.write_text("mine")

    with pytest.raises(OSError, match=r"c\.sock: there is a file that is no socket"):
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
    assert control_sockets("", tmp_path, {"RELAYD_STATE_URL": "redis://h"}) == usual
    assert control_sockets("", tmp_path / "nowhere", {})[0] == tmp_path / "nowhere/var/relayd.sock"


@pytest.mark.parametrize("text", [b"", b"\xff", b"realm = ", b"realm = 3", b'[realm]\nx = "y"'])
def test_a_setting_that_cannot_be_read_is_empty(text: bytes) -> None:
    assert text_setting(text, "realm") == ""
    assert text_setting(text, "realm", "deeper") == ""


async def test_without_descriptors_a_command_waits_and_the_daemon_lives(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    async with living(tree, watch=False) as world:
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        with world.log_file.open() as log, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
            lowest = peer.fileno() + 1
            resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, before[1]))  # not one more
            try:
                peer.connect(str(world.reloading.control_path))
                await world.until(lambda: "control.accept" in log.read())
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, before)
            peer.settimeout(0)
            peer.send(b'{"verb":"status"}\n')
            with trio.fail_after(5):
                await trio.lowlevel.wait_readable(peer)
            assert peer.recv(100).startswith(b'{"ok": true')
        assert (await ask(world, b'{"verb":"status"}'))[0]["ok"]
