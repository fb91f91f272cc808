"""Control socket: how `relayd reload`, `rollback`, `resume`, `diff`, `status`, `explain` and `account wake` talk to us.

Rule: for the daemon's own user and root alone: the file has mode 0600 and each peer is asked for its user besides.
Where the node names a group, its members may ask for what a push needs. A request is one line of JSON, the answer is
another; a peer may ask several times. Everything is bounded.

Request: {"verb": "reload", "accept": "", "expect": "", "dry_run": false, "revoked": ["key alice"]}, {"verb":
"rollback", "generation": 3, "allow_unrevoke": false}, {"verb": "resume"}, {"verb": "examine", "tree":
"/srv/relay.trees/COMMIT", "accept": ""}, {"verb": "diff"}, {"verb": "generations"}, {"verb": "status"}, {"verb":
"tree"}, {"verb": "metrics"}, {"verb": "wake", "account": "main"}, {"verb": "explain", "key": "dev", "model": "",
"client": "", "address": "", "endpoint": "messages"}, {"verb": "alerts"}, {"verb": "alert_test", "target": "ops"}.
Answer: {"ok": true, "result" | "diff" | "generations" | "status" | "tree" | "metrics" | "explanation" | "woken" |
"alerts" | "tested": ...}
or {"ok": false, "error": "..."}. A reload's has `refused` besides: those of `revoked` that are refused now.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path
from typing import Any

import trio

from relayd.daemon.net.accepting import Acceptor
from relayd.noun import noun

log = logging.getLogger("relayd.control")

VERBS = (
    "reload", "rollback", "resume", "examine", "diff", "generations", "status", "tree", "metrics", "explain", "wake",
    "alerts", "alert_test",
)  # fmt: skip
PUSH_VERBS = ("reload", "examine", "diff", "status")  # for members of the node's control group
MAX_REQUEST = 64 << 10  # bytes of a line
AT_ONCE = 16  # peers; a further one waits in the backlog
IDLE = 60.0  # s for a peer to ask
_PEERGROUPS = 59  # the module socket does not name it; source: asm-generic/socket.h


class BadRequest(Exception):
    """A request that means nothing; its text is for the peer."""


@noun(kw_only=True)
class ControlSocket:
    """Takes requests, and hands out the answers.

    Args:
        sock, path: the listening socket, and its file, which goes with it.
        answer: the answer to one line, of a peer who may ask for these verbs; it raises BadRequest.
        group: id of the group whose members may push; None for none.
    """

    sock: socket.socket
    path: Path
    answer: Callable[[bytes, Collection[str]], Awaitable[dict[str, Any]]]
    group: int | None = None

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve for ever."""
        ours = os.lstat(self.path).st_ino
        room = trio.CapacityLimiter(AT_ONCE)
        try:
            async with trio.open_nursery() as nursery:

                def admit(peer: socket.socket, _: object) -> None:
                    stream = trio.SocketStream(trio.socket.from_stdlib_socket(peer))
                    nursery.start_soon(_serve_peer, self, stream, room)

                task_status.started()
                await Acceptor(log, "control.accept").accept_always(self.sock, admit)
        finally:
            self.sock.close()
            _unlink(self.path, ours)


def _unlink(path: Path, ours: int) -> None:
    """Remove our file, unless a successor has put its own there."""
    try:
        if os.lstat(path).st_ino == ours:
            os.unlink(path)
    except OSError:
        pass


async def _serve_peer(control: ControlSocket, stream: trio.SocketStream, room: trio.CapacityLimiter) -> None:
    async with stream, room:
        verbs = allowed_verbs(stream.socket, control.group)
        if not verbs:
            log.warning("control.refused", extra={"uid": peer_user(stream.socket)})
        try:
            if verbs:
                await _converse(control, stream, verbs)
            else:
                await _say(stream, {"ok": False, "error": f"the daemon answers root and its own user, {os.geteuid()}"})
        except (trio.BrokenResourceError, trio.TooSlowError):
            pass  # the peer left, or has nothing to ask
        except Exception:
            log.exception("control.failed")


async def _converse(control: ControlSocket, stream: trio.SocketStream, verbs: Collection[str]) -> None:
    buffer = b""
    while True:
        while b"\n" not in buffer:
            with trio.fail_after(IDLE):
                data = await stream.receive_some(MAX_REQUEST)
            if not data:
                return
            buffer += data
            if len(buffer) > MAX_REQUEST:
                await _say(stream, {"ok": False, "error": f"a request has at most {MAX_REQUEST} bytes"})
                return
        line, _, buffer = buffer.partition(b"\n")
        try:
            answer = await control.answer(line, verbs)
        except BadRequest as error:
            answer = {"ok": False, "error": str(error)}
        await _say(stream, answer)


async def _say(stream: trio.SocketStream, answer: dict[str, Any]) -> None:
    with trio.fail_after(IDLE):
        await stream.send_all(json.dumps(answer).encode() + b"\n")


def allowed_verbs(sock: trio.socket.SocketType, group: int | None = None) -> tuple[str, ...]:
    """What the peer may ask for: everything as our own user or root, what a push needs as one of the group."""
    if peer_user(sock) in (os.geteuid(), 0):
        return VERBS
    return PUSH_VERBS if group is not None and group in peer_groups(sock) else ()


def peer_user(sock: trio.socket.SocketType) -> int:
    """The peer's user id, as the kernel knows it. Source: unix(7), SO_PEERCRED: struct ucred {pid, uid, gid}."""
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    user: int = struct.unpack("3i", raw)[1]
    return user


def peer_groups(sock: trio.socket.SocketType) -> frozenset[int]:
    """The peer's groups, the first 256 of them, as the kernel knew them when it connected.

    Source: linux/net/core/sock.c, SO_PEERGROUPS (since 4.13): an array of gid_t; ERANGE where there are more.
    """
    own = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))[2]
    try:
        raw = sock.getsockopt(socket.SOL_SOCKET, _PEERGROUPS, 1024)
    except OSError:
        return frozenset({own})
    return frozenset({own, *struct.unpack(f"{len(raw) // 4}I", raw)})
