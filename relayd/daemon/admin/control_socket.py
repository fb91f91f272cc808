"""Control: the socket through which `relayd reload`, `rollback`, `resume` and `status` talk to the daemon.

Rule: for the daemon's own user and root alone: the file has mode 0600 and each peer is asked for its user besides. A
request is one line of JSON, the answer is another; a peer may ask several times. Everything is bounded.

Request: {"verb": "reload", "accept": "", "expect": "", "dry_run": false}, {"verb": "rollback", "generation": 3,
"allow_unrevoke": false}, {"verb": "resume"}, {"verb": "diff"}, {"verb": "generations"}, {"verb": "status"},
{"verb": "metrics"}.
Answer: {"ok": true, "result" | "diff" | "generations" | "status" | "metrics": ...} or {"ok": false, "error": "..."}.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import stat
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import trio

from relayd.daemon.admin.scrape import scrape
from relayd.daemon.admin.status import (
    StatusSources,
    diff_document,
    generations_document,
    result_document,
    status_document,
)
from relayd.daemon.net.accepting import Acceptor
from relayd.daemon.paths import MAX_PATH
from relayd.daemon.reload.history import History
from relayd.daemon.reload.reloader import Reloader
from relayd.daemon.reload.requests import Operation, Reload, Resume, Rollback, Trigger

log = logging.getLogger("relayd.control")

VERBS = ("reload", "rollback", "resume", "diff", "generations", "status", "metrics")
MAX_REQUEST = 64 << 10  # bytes of a line
AT_ONCE = 16  # peers; a further one waits in the backlog
IDLE = 60.0  # s for a peer to ask


class BadRequest(Exception):
    """A request that means nothing; its text is for the peer."""


@attrs.frozen(kw_only=True)
class ControlSocket:
    """Answers requests."""

    reloader: Reloader
    sources: StatusSources
    vault: History
    wall: Callable[[], float]

    async def answer(self, line: bytes) -> dict[str, Any]:
        """The answer to one line. Raises: BadRequest."""
        asked = _parsed(line)
        match asked.pop("verb", None):
            case "reload":
                return await self._ask("command", _request(Reload, asked))
            case "rollback":
                return await self._ask("rollback", _request(Rollback, asked))
            case "resume":
                return await self._ask("resume", _request(Resume, asked))
            case "diff":
                # What is compared is what runs, with all that waits for a restart or was denied meanwhile, and the
                # tree as the daemon itself reads it. Nobody else knows the one, and nobody else's reading counts.
                result = await self.reloader.poke("command", Reload(dry_run=True)).wait()
                return {"ok": True, "diff": diff_document(self.sources, result)}
            case "generations":
                stored = await trio.to_thread.run_sync(self.vault.listed)
                return {"ok": True, "generations": generations_document(stored, self.reloader)}
            case "status":
                await self.sources.fleet.look_now()
                return {"ok": True, "status": status_document(self.sources, self.wall())}
            case "metrics":
                return {"ok": True, "metrics": await scrape(self.sources, self.wall)}
            case verb:
                raise BadRequest(f"verb: {verb!r} is none of {', '.join(VERBS)}")

    async def _ask(self, trigger: Trigger, request: Operation) -> dict[str, Any]:
        result = await self.reloader.poke(trigger, request).wait()
        return {"ok": True, "result": result_document(result)}


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        asked = json.loads(line)
    except ValueError:
        raise BadRequest("the request is no JSON") from None
    if not isinstance(asked, dict):
        raise BadRequest("the request is no JSON object")
    return asked


def _request(kind: type[Operation], fields: dict[str, Any]) -> Operation:
    """A request from its JSON fields; each must be known and of its type."""
    known = {field.name: field.default for field in attrs.fields(kind)}
    for name, value in fields.items():
        if name not in known:
            raise BadRequest(f"{name}: unknown field")
        expected = int if name == "generation" else type(known[name])
        if type(value) is not expected and not (name == "generation" and value is None):
            raise BadRequest(f"{name}: expected {expected.__name__}")
    return kind(**fields)


def open_control(path: Path) -> socket.socket:
    """The listening socket, for our user alone. A dead daemon's file is replaced, a live one's is not.

    Raises: OSError, naming the path.
    """
    try:
        if len(os.fsencode(path)) > MAX_PATH:
            raise OSError(f"the path is longer than {MAX_PATH} bytes (choose a shorter one with --control)")
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _remove_stale(path)
        return _bound(path)
    except OSError as error:
        raise OSError(f"control socket {path}: {error.strerror or error}") from error


def _bound(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        before = os.umask(0o177)  # so that the file never has another mode, not even for a moment
        try:
            sock.bind(str(path))
        finally:
            os.umask(before)
        sock.listen(AT_ONCE)
    except BaseException:
        sock.close()
        raise
    return sock


def _remove_stale(path: Path) -> None:
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise OSError("there is a file that is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            os.unlink(path)
            return
    raise OSError("another relayd is listening there (stop it, or choose another path with --control)")


async def serve_control(
    control: ControlSocket,
    sock: socket.socket,
    path: Path,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve for ever; the file goes with it."""
    ours = os.lstat(path).st_ino
    places = trio.CapacityLimiter(AT_ONCE)
    try:
        async with trio.open_nursery() as nursery:

            def admit(peer: socket.socket, _: object) -> None:
                stream = trio.SocketStream(trio.socket.from_stdlib_socket(peer))
                nursery.start_soon(_serve_peer, control, stream, places)

            task_status.started()
            await Acceptor(log, "control.accept").accept_always(sock, admit)
    finally:
        sock.close()
        _unlink(path, ours)


def _unlink(path: Path, ours: int) -> None:
    """Remove our file, unless a successor has put its own there."""
    try:
        if os.lstat(path).st_ino == ours:
            os.unlink(path)
    except OSError:
        pass


async def _serve_peer(control: ControlSocket, stream: trio.SocketStream, places: trio.CapacityLimiter) -> None:
    async with stream, places:
        if not allowed(stream.socket):
            log.warning("control.refused", extra={"uid": peer_user(stream.socket)})
        try:
            if allowed(stream.socket):
                await _converse(control, stream)
            else:
                await _say(stream, {"ok": False, "error": f"the daemon answers root and its own user, {os.geteuid()}"})
        except (trio.BrokenResourceError, trio.TooSlowError):
            pass  # the peer left, or has nothing to ask
        except Exception:
            log.exception("control.failed")


async def _converse(control: ControlSocket, stream: trio.SocketStream) -> None:
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
            answer = await control.answer(line)
        except BadRequest as error:
            answer = {"ok": False, "error": str(error)}
        await _say(stream, answer)


async def _say(stream: trio.SocketStream, answer: dict[str, Any]) -> None:
    with trio.fail_after(IDLE):
        await stream.send_all(json.dumps(answer).encode() + b"\n")


def allowed(sock: trio.socket.SocketType) -> bool:
    """Whether the peer is our own user or root."""
    return peer_user(sock) in (os.geteuid(), 0)


def peer_user(sock: trio.socket.SocketType) -> int:
    """The peer's user id, as the kernel knows it. Source: unix(7), SO_PEERCRED: struct ucred {pid, uid, gid}."""
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    user: int = struct.unpack("3i", raw)[1]
    return user
