"""Shared sockets: the listening sockets of a node that has workers, and who accepts on them: they, or this process.

Rule: sync. The sockets are this process's, and the workers have copies: nothing that waits in their queues is lost with
a worker, and a new one finds them where the old one left them. Who takes a connection is settled among those who accept
(see Board.has_turn).
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from itertools import count

import attrs

from relayd.daemon.net.server import HttpServer
from relayd.daemon.workers.channel import Channel
from relayd.daemon.workers.messages import ListenOn, UnlistenOn
from relayd.daemon.workers.roster import Roster


@attrs.define(eq=False)
class SharedSockets:
    """All of them, by numbers that the workers know them by.

    Args:
        server: this process's own, which accepts while no worker does.
        accepts: whether it does.
        closed: the node takes nothing more.
    """

    server: HttpServer
    roster: Roster
    accepts: bool = attrs.field(default=True, init=False)
    closed: bool = attrs.field(default=False, init=False)
    _open: dict[int, socket.socket] = attrs.field(factory=dict, init=False, repr=False)
    _here: dict[int, socket.socket] = attrs.field(factory=dict, init=False, repr=False)  # copies, of our own server
    _next: Callable[[], int] = attrs.field(factory=lambda: count(1).__next__, init=False, repr=False)

    def listen(self, sock: socket.socket) -> None:
        """Accept on one more socket, which is owned from now on."""
        if self.closed:
            sock.close()
            return
        number = self._next()
        self._open[number] = sock
        if self.accepts:
            self._accept_here(number)
        for worker in self.roster.workers:
            if not worker.leaving:
                worker.channel.post(ListenOn(socket=number), (sock.fileno(),))

    def unlisten(self, sock: socket.socket) -> None:
        """Accept no more on it, and close it."""
        for number in [number for number, ours in self._open.items() if ours is sock]:
            del self._open[number]
            if number in self._here:
                self.server.unlisten(self._here.pop(number))
            self.roster.post_all(UnlistenOn(socket=number))
        sock.close()

    def give(self, channel: Channel) -> None:
        """Have a new worker accept on all of them."""
        for number, sock in self._open.items():
            channel.post(ListenOn(socket=number), (sock.fileno(),))

    def take_over(self) -> None:
        """Accept here from now on."""
        self.accepts = True
        for number in self._open:
            self._accept_here(number)

    def leave_to_workers(self) -> None:
        """Accept no more here. The connections that this process has go on until they end."""
        self.accepts = False
        for copy in self._here.values():
            self.server.unlisten(copy)
        self._here.clear()

    def close(self) -> None:
        """Accept no more, anywhere; the workers have been told so."""
        self.closed = True
        for sock in self._open.values():
            sock.close()
        self._open.clear()

    def let_go(self) -> None:
        """Leave them open, for whoever comes after us."""
        self.closed = True
        self._open.clear()

    def _accept_here(self, number: int) -> None:
        copy = self._here[number] = self._open[number].dup()
        self.server.listen(copy)
