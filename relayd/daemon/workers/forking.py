"""Forking: how a supervisor has workers made by its fork server (daemon/fork_server.py).

Rule: a fork server that is gone is started anew with the next worker, unless another version lies on disk by then;
those that it had forked live on.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence

import attrs
import trio

from relayd.config.source.own_commit import version_text
from relayd.noun import noun

LARGEST_START = 64 << 10  # bytes: a node's settings
MOST_FDS = 4
SERVER = "relayd.daemon.fork_server"
PATIENCE = 60.0  # s for it to load, on a machine that is busy with other things

log = logging.getLogger("relayd.workers")


@noun(kw_only=True)
class ForkServerUp:
    """It has loaded everything. `version`: of what it has loaded."""

    pid: int
    version: str


@noun(kw_only=True)
class Forked:
    """A worker was made, or (`why`) could not be."""

    pid: int = 0
    why: str = ""


@noun(kw_only=True)
class Exited:
    """One has ended. `code`: its exit status, or minus the signal that ended it."""

    pid: int
    code: int


class ForkFailed(Exception):
    """No worker could be made. Its text says why."""


@attrs.define(eq=False)
class ForkClient:
    """Asks for workers.

    Args:
        ended: hears of each that has ended; sync.
        version: of this program, which is to be theirs.
    """

    ended: Callable[[Exited], None]
    version: str = attrs.field(factory=version_text)
    _sock: socket.socket | None = attrs.field(default=None, init=False, repr=False)
    _process: subprocess.Popen[bytes] | None = attrs.field(default=None, init=False, repr=False)
    _answers: trio.MemorySendChannel[Forked | ForkServerUp] | None = attrs.field(default=None, init=False, repr=False)
    _one: trio.Lock = attrs.field(factory=trio.Lock, init=False, repr=False)

    async def fork(self, start: object, fds: Sequence[int], nursery: trio.Nursery) -> int:
        """A new worker's pid. Raises: ForkFailed.

        Args:
            start: what it is told, picklable.
            fds: what it gets copies of.
            nursery: where the fork server is listened to.
        """
        async with self._one:
            try:
                sock = self._sock or await self._launch(nursery)
                self._answers, told = trio.open_memory_channel[Forked | ForkServerUp](1)
                socket.send_fds(sock, [pickle.dumps(start)], fds)
                with trio.fail_after(PATIENCE):
                    forked = await told.receive()
            except (OSError, trio.EndOfChannel, trio.TooSlowError) as error:
                self._drop()
                raise ForkFailed(f"the fork server does not answer: {str(error) or type(error).__name__}") from None
            assert isinstance(forked, Forked)
            if forked.why:
                raise ForkFailed(forked.why)
            return forked.pid

    async def _launch(self, nursery: trio.Nursery) -> socket.socket:
        """Start it and wait until it has loaded everything."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        self._sock = ours
        environment = {name: value for name, value in os.environ.items() if name != "NOTIFY_SOCKET"}
        environment["PYTHONPATH"] = os.pathsep.join(place for place in sys.path if place)  # the very same program
        with theirs:
            fd, null = theirs.fileno(), subprocess.DEVNULL
            command = [sys.executable, "-P", "-m", SERVER, str(fd)]
            process = self._process = await trio.to_thread.run_sync(
                lambda: subprocess.Popen(command, pass_fds=[fd], stdin=null, env=environment)
            )
        self._answers, told = trio.open_memory_channel[Forked | ForkServerUp](1)
        nursery.start_soon(self._attend, ours, process)
        with trio.fail_after(PATIENCE):
            server = await told.receive()
        assert isinstance(server, ForkServerUp)
        if server.version != self.version:
            self._drop()
            hint = "workers would not be of this version: restart, or begin anew with SIGUSR2"
            raise ForkFailed(f"{server.version} is installed now, and this is {self.version} [{hint}]")
        log.info("worker.fork_server", extra={"pid": server.pid})
        return ours

    async def _attend(self, sock: socket.socket, process: subprocess.Popen[bytes]) -> None:
        """Hear a fork server until it is gone or dropped."""
        await self._listen(sock)
        died = sock is self._sock
        if died:
            self._drop()
        code = await trio.to_thread.run_sync(process.wait, abandon_on_cancel=True)
        if died:
            extra = {"pid": process.pid, "code": code, "hint": "another is started with the next worker"}
            log.warning("worker.fork_server_died", extra=extra)

    async def _listen(self, sock: socket.socket) -> None:
        while sock.fileno() >= 0:
            try:
                data = sock.recv(LARGEST_START)
            except BlockingIOError:
                with contextlib.suppress(trio.ClosedResourceError):
                    await trio.lowlevel.wait_readable(sock)
                continue
            except OSError:
                return
            if not data:
                return
            said = pickle.loads(data)
            if isinstance(said, Exited):
                self.ended(said)
            elif self._answers is not None:
                self._answers.send_nowait(said)

    def _drop(self) -> None:
        """It is of no use any more; those that it has forked live on. Whoever waits for it is told."""
        if self._answers is not None:
            self._answers.close()
            self._answers = None
        if self._process is not None:
            self._process.kill()
        self.close()

    def close(self) -> None:
        """Let the fork server go: it ends by itself."""
        self._process = None
        if self._sock is not None:
            trio.lowlevel.notify_closing(self._sock)
            self._sock.close()
            self._sock = None
