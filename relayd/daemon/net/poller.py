"""The poller: one edge-triggered epoll of our own for all streams; each socket is registered once for its life.

Rule: only trio's public lowlevel calls are used. What is told by the poller is sync and must not raise: an exception
here would end every stream.

Theory: trio arms its own epoll anew for each wait, at the price of a system call, five frames and a few objects. Here
trio waits for one descriptor, that of the epoll; an edge is told to its stream, which notes it and wakes whoever waits.
They are told between the loop's wait and its pass (trio's instruments are called there), so that who is woken has its
turn in this pass; a task would have to be woken first, and they in the pass after it.
An edge that comes while nobody waits stays noted. Hang-ups are edges too. A socket leaves the epoll before it is
closed: else a child process that was just forked, and holds a copy of it, would keep its edges coming under a number
that is another stream's by then.
"""

from __future__ import annotations

import select
from collections.abc import Callable

import trio

from relayd.daemon.net.patience import Patience

# Streams that are told in one go before other tasks have a turn; the others' edges wait in the epoll.
TOLD_PER_TURN = 256

IN, OUT = 0x001, 0x004
BROKEN = 0x008 | 0x010  # EPOLLERR, EPOLLHUP: writing is over, too
OVER = 0x2000 | BROKEN  # EPOLLRDHUP: the peer will send no more
_ALL = IN | OUT | 0x2000 | 1 << 31  # EPOLLET

Told = Callable[[int], None]


class Poller(trio.abc.Instrument):
    """The streams of one trio run. `patience` is for those waits of theirs that have a time. `single`: the last edges
    were those of one stream, so that in all likelihood only one call is moving."""

    def __init__(self) -> None:
        self.patience = Patience()
        self.single = False
        self._epoll = select.epoll()
        self._told: dict[int, Told] = {}
        self._fault: BaseException | None = None
        self._listening = trio.CancelScope()

    def add(self, number: int, told: Told) -> None:
        """Tell the edges of a descriptor, the first of which says how it is now. Raises: OSError."""
        self._epoll.register(number, _ALL)
        self._told[number] = told

    def discard(self, number: int) -> None:
        """Tell no more. To be called before the descriptor is closed."""
        if self._told.pop(number, None) is not None and not self._epoll.closed:
            self._epoll.unregister(number)

    async def run(self) -> None:
        """Have edges told until cancelled. Raises: what a stream has raised when it was told."""
        number = self._epoll.fileno()
        trio.lowlevel.add_instrument(self)
        try:
            with self._listening:
                while True:
                    await trio.lowlevel.wait_readable(number)  # all of it: the loop does not sleep over edges
            assert self._fault is not None
            raise self._fault
        finally:
            trio.lowlevel.remove_instrument(self)
            self._epoll.close()

    def after_io_wait(self, timeout: float) -> None:
        """Tell the edges there are. Called by trio, between a wait for events and the tasks that they woke."""
        try:
            edges = self._epoll.poll(0, TOLD_PER_TURN)
            if not edges:
                return
            self.single = len(edges) == 1
            for descriptor, flags in edges:
                tell = self._told.get(descriptor)
                if tell is not None:
                    tell(flags)
        except BaseException as error:  # trio would go on without us, and no stream would hear of anything
            self._fault = error
            self._listening.cancel()  # the edge may have come after the wait, which then does not end by it


# The poller of a trio run, made by the first stream of it; None where there is no epoll, and streams wait as trio does.
current: trio.lowlevel.RunVar[Poller | None] = trio.lowlevel.RunVar("relayd_poller")


def current_poller() -> Poller | None:
    """This run's poller."""
    try:
        return current.get()
    except LookupError:
        poller = Poller() if hasattr(select, "epoll") else None
        current.set(poller)
        if poller is not None:
            trio.lowlevel.spawn_system_task(poller.run)
            trio.lowlevel.spawn_system_task(poller.patience.run)
        return poller


def moves_alone() -> bool:
    """Whether, as far as the streams of this run tell, only one call is moving now."""
    poller = current_poller()
    return poller is not None and poller.single
