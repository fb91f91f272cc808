"""Control socket: how `relayd reload`, `rollback`, `resume`, `diff`, `status`, `explain` and `account wake` talk to us.

Rule: for the daemon's own user and root alone: the file has mode 0600 and each peer is asked for its user besides.
Where the node names a group, its members may ask for what a push needs. A request is one line of JSON, the answer is
another; a peer may ask several times. Everything is bounded.

Request: {"verb": "reload", "accept": "", "expect": "", "dry_run": false, "revoked": ["key alice"]}, {"verb":
"rollback", "generation": 3, "allow_unrevoke": false}, {"verb": "resume"}, {"verb": "examine", "tree":
"/srv/relay.trees/COMMIT", "accept": ""}, {"verb": "diff"}, {"verb": "generations"}, {"verb": "status"}, {"verb":
"tree"}, {"verb": "metrics"}, {"verb": "wake", "account": "main"}, {"verb": "explain", "key": "dev", "model": "",
"client": "", "address": "", "endpoint": "messages"}.
Answer: {"ok": true, "result" | "diff" | "generations" | "status" | "tree" | "metrics" | "explanation" | "woken": ...}
or {"ok": false, "error": "..."}. A reload's has `refused` besides: those of `revoked` that are refused now.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import struct
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import attrs
import trio

from relayd.config.guard import refuses
from relayd.core.explanation import ENDPOINTS, explanation
from relayd.daemon.admin.documents import history_document, origin_document, result_document
from relayd.daemon.admin.scrape import scrape
from relayd.daemon.admin.status import StatusSources, status_document
from relayd.daemon.net.accepting import Acceptor
from relayd.daemon.reload.examination import why_not_examined
from relayd.daemon.reload.history import History
from relayd.daemon.reload.requests import (
    Examine,
    Operation,
    Reload,
    ReloadResult,
    RequestQueue,
    Resume,
    Rollback,
    Trigger,
)

log = logging.getLogger("relayd.control")

VERBS = (
    "reload", "rollback", "resume", "examine", "diff", "generations", "status", "tree", "metrics", "explain", "wake",
)  # fmt: skip
PUSH_VERBS = ("reload", "examine", "diff", "status")  # for members of the node's control group
MAX_REQUEST = 64 << 10  # bytes of a line
AT_ONCE = 16  # peers; a further one waits in the backlog
IDLE = 60.0  # s for a peer to ask
_PEERGROUPS = 59  # the module socket does not name it; source: asm-generic/socket.h


Kind = TypeVar("Kind", Reload, Rollback, Resume)


class BadRequest(Exception):
    """A request that means nothing; its text is for the peer."""


@attrs.frozen(kw_only=True)
class ControlSocket:
    """Answers requests.

    Args:
        sock, path: the listening socket, and its file, which goes with it.
        group: id of the group whose members may push; None for none.
        wall: Unix time, s.
    """

    sock: socket.socket
    path: Path
    queue: RequestQueue
    history: History
    sources: StatusSources
    wall: Callable[[], float]
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

    async def answer(self, line: bytes, verbs: Collection[str] = VERBS) -> dict[str, Any]:
        """The answer to one line. `verbs`: what this peer may ask for. Raises: BadRequest."""
        asked = _parsed(line)
        verb = asked.pop("verb", None)
        if verb in VERBS and verb not in verbs:
            raise BadRequest(f"verb: {verb!r} is for root and the daemon's own user ({', '.join(verbs)} are for all)")
        match verb:
            case "reload":
                return await self._reload(_reload_operation(asked))
            case "rollback":
                return await self._ask("rollback", _operation(Rollback, asked))
            case "resume":
                return await self._ask("resume", _operation(Resume, asked))
            case "examine":
                return await self._examine(asked)
            case "diff":
                # What is compared is what runs, with all that waits for a restart or was denied meanwhile, and the
                # tree as the daemon itself reads it. Nobody else knows the one, and nobody else's reading counts.
                result = await self.queue.request("command", Reload(dry_run=True)).wait()
                return {"ok": True, "diff": self._diff(result)}
            case "generations":
                stored = await trio.to_thread.run_sync(self.history.listed)
                return {"ok": True, "generations": history_document(stored, self.sources.record)}
            case "tree":
                return {"ok": True, "tree": self.sources.tree}
            case "status":
                await self.sources.cluster.look_now()
                return {"ok": True, "status": status_document(self.sources, self.wall())}
            case "metrics":
                return {"ok": True, "metrics": await scrape(self.sources, self.wall)}
            case "explain":
                return {"ok": True, "explanation": self._explain(asked)}
            case "wake":
                return {"ok": True, "woken": self._wake(asked)}
            case _:
                raise BadRequest(f"verb: {verb!r} is not one of {', '.join(VERBS)}")

    async def _reload(self, operation: Reload) -> dict[str, Any]:
        answer = await self._ask("command", operation)
        running = self.sources.live.snapshot
        return {**answer, "refused": [name for name in operation.revoked if refuses(running, name)]}

    async def _ask(self, trigger: Trigger, operation: Operation) -> dict[str, Any]:
        result = await self.queue.request(trigger, operation).wait()
        return {"ok": True, "result": result_document(result)}

    async def _examine(self, asked: dict[str, Any]) -> dict[str, Any]:
        """What would become of a tree that is not in place yet. Raises: BadRequest."""
        texts = _texts(asked, "tree", "accept")
        look = partial(why_not_examined, Path(self.sources.tree), Path(texts["tree"]))
        if why := await trio.to_thread.run_sync(look):
            raise BadRequest(f"tree: {why}")
        return await self._ask("command", Examine(**texts))

    def _explain(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Why a call would go where, by what runs. Raises: BadRequest."""
        snapshot = self.sources.live.snapshot
        texts = _texts(asked, "key", "model", "client", "address", "endpoint")
        if texts["key"] not in snapshot.keys:
            raise BadRequest(f"key: the daemon runs no key {texts['key']!r} (was the tree reloaded?)")
        texts["endpoint"] = texts["endpoint"] or "messages"
        if texts["endpoint"] not in ENDPOINTS:
            raise BadRequest(f"endpoint: expected one of {', '.join(ENDPOINTS)}")
        return explanation(snapshot, self.sources.pool, now=self.wall(), **texts)

    def _wake(self, asked: dict[str, Any]) -> dict[str, Any]:
        """End an account's rest; the store tells the other nodes. Raises: BadRequest."""
        name, pool = _texts(asked, "account")["account"], self.sources.pool
        if name not in self.sources.live.snapshot.accounts:
            raise BadRequest(f"account: the daemon runs no account {name!r} (was the tree reloaded?)")
        rested = pool.resting(name, self.wall())
        pool.wake(name, self.wall())
        log.info("account.woken", extra={"account": name, "rested": rested[2] if rested else ""})
        return {"account": name, "rested": rested[2] if rested else ""}

    def _diff(self, result: ReloadResult) -> dict[str, Any]:
        """What runs, and what the tree on disk would change of it, given the result of a dry run."""
        return {
            "tree": self.sources.tree,
            "running": origin_document(self.sources.record.origin, self.sources.live.generation),
            "candidate": result_document(result),
        }


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        asked = json.loads(line)
    except ValueError:
        raise BadRequest("the request is not JSON") from None
    if not isinstance(asked, dict):
        raise BadRequest("the request is not a JSON object")
    return asked


def _texts(asked: dict[str, Any], *names: str) -> dict[str, str]:
    """The fields of a request, each a text, "" for those left out. Raises: BadRequest."""
    for name, value in asked.items():
        if name not in names or not isinstance(value, str):
            raise BadRequest(f"{name}: expected {', '.join(names)}, each a text")
    return {name: asked.get(name, "") for name in names}


def _reload_operation(asked: dict[str, Any]) -> Reload:
    """A reload from its JSON fields. Raises: BadRequest."""
    revoked = asked.pop("revoked", [])
    if not isinstance(revoked, list) or not all(isinstance(name, str) for name in revoked):
        raise BadRequest("revoked: expected a list of texts")
    return attrs.evolve(_operation(Reload, asked), revoked=tuple(revoked))


def _operation(kind: type[Kind], fields: dict[str, Any]) -> Kind:
    """An operation from its JSON fields; each must be known and of its type."""
    known = {field.name: field.default for field in attrs.fields(kind)}
    for name, value in fields.items():
        if name not in known:
            raise BadRequest(f"{name}: unknown field")
        expected = int if name == "generation" else type(known[name])
        if type(value) is not expected and not (name == "generation" and value is None):
            raise BadRequest(f"{name}: expected {expected.__name__}")
    return kind(**fields)


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
