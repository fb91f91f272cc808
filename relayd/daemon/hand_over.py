"""Hand-over: the program begins anew in the same process, with the listening sockets that it has.

Rule: not before the program on disk has shown that it starts and takes the tree: there is no way back. Sync, but for
that question; called when the event loop has ended.

Theory: execve(2) keeps the process, its pid and the descriptors that are meant to stay; all else is that of a start.
The sockets go by their addresses, so that [server].listen means the same before and after. The old workers serve on
meanwhile; once the new ones do, they are told to finish, by descriptors that name them for certain (pidfd_open(2)).
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import MutableMapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import attrs
import msgspec
import trio

from relayd.daemon.net.listen import Sockets
from relayd.daemon.signals import STOPS
from relayd.noun import noun

VARIABLE = "RELAYD_HANDED_OVER"
PATIENCE = 60.0  # s for the program on disk to answer
LAST_WORDS = 10.0  # s for calls that are cut to be told so, booked and journaled
_QUIET = signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2  # until the new program listens to them


async def why_not(tree: Path | None) -> str:
    """Why the program on disk should not take over; "" when it may. `tree`: a directory that it has to take."""
    questions = [["--version"], *([["check", str(tree)]] if tree is not None else [])]
    for words in questions:
        try:
            with trio.fail_after(PATIENCE):
                answer = await trio.run_process(
                    [sys.executable, "-m", "relayd", *words], capture_stdout=True, capture_stderr=True, check=False
                )
        except (OSError, trio.TooSlowError) as error:
            return f"relayd {words[0]}: {str(error) or 'it does not answer'}"
        if answer.returncode:
            said = (answer.stderr or answer.stdout).decode("utf-8", "replace").strip()
            return f"relayd {words[0]}: exit status {answer.returncode}: {said[-500:]}"
    return ""


@noun(kw_only=True)
class HandedOver:
    """What is left of the program that this process was before; nothing where it was none.

    Args:
        public: listening sockets, by the addresses that were asked for.
        workers: descriptors of its workers, which serve on.
        leaving: descriptors of those that were told to finish, by it or by one before it.
    """

    public: Sockets = attrs.field(factory=dict)
    workers: tuple[int, ...] = ()
    leaving: tuple[int, ...] = ()


@attrs.define(eq=False)
class OldWorkers:
    """Workers of the programs that this process was before. Owns their descriptors."""

    serving: list[int]
    leaving: list[int]
    _waiting: trio.CancelScope = attrs.field(factory=trio.CancelScope, init=False, repr=False)

    async def see_off(self) -> None:
        """Have them finish, and wait until they have. Cancelled, it has them cut the calls that are left."""
        _terminate(self.serving)
        self.leaving, self.serving = [*self.leaving, *self.serving], []
        with self._waiting:
            try:
                await self._all_gone()
            except trio.Cancelled:
                if not self._waiting.cancel_called:
                    _terminate(self.leaving)
                    with trio.move_on_after(LAST_WORDS, shield=True):
                        await self._all_gone()
                raise

    def keep(self) -> None:
        """Leave them to the program that comes after us. Sync."""
        self._waiting.cancel()

    async def _all_gone(self) -> None:
        while self.leaving:
            await trio.lowlevel.wait_readable(self.leaving[0])
            os.close(self.leaving.pop(0))


def _terminate(workers: Sequence[int]) -> None:
    for fd in workers:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(fd, signal.SIGTERM)


def begin_anew(public: Sockets, workers: Sequence[int], leaving: Sequence[int], *, stop: bool) -> NoReturn:
    """Become the program on disk. Raises: OSError.

    Args:
        workers: pids; 0 for one that was still being made, and was told to finish as all others were.
        leaving: descriptors, as HandedOver has them.
        stop: somebody has asked for one, which the new program has to hear of.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    for number in STOPS:
        signal.signal(number, _keep)
    if stop:
        _keep(signal.SIGTERM, None)
    for number in _QUIET:
        signal.signal(number, signal.SIG_IGN)
    given = {address: [sock.fileno() for sock in group] for address, group in public.items()}
    old: list[int] = []
    for pid in filter(None, workers):
        with contextlib.suppress(ProcessLookupError):
            old.append(os.pidfd_open(pid))
    for fd in (*old, *leaving, *(fd for group in given.values() for fd in group)):
        os.set_inheritable(fd, True)
    said = msgspec.json.encode({"public": given, "workers": old, "leaving": list(leaving)}).decode()
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, VARIABLE: said})


def _keep(number: int, frame: object) -> None:
    """Have a stop wait for the new program: what is blocked stays pending, also over execve(2)."""
    signal.pthread_kill(threading.get_ident(), number)


def take_over(environ: MutableMapping[str, str]) -> HandedOver:
    """What the program left that we were before. The variable goes out of `environ`."""
    said = environ.pop(VARIABLE, "")
    if not said:
        return HandedOver()
    given: dict[str, Any] = msgspec.json.decode(said)
    for fd in (*given["workers"], *given["leaving"], *(fd for group in given["public"].values() for fd in group)):
        os.set_inheritable(fd, False)
    public = {address: [socket.socket(fileno=fd) for fd in group] for address, group in given["public"].items()}
    return HandedOver(public=public, workers=tuple(given["workers"]), leaving=tuple(given["leaving"]))
