"""Early signals: those that come while the event loop does not listen.

Rule: a handler only writes down that it was called; what follows is decided by the loop.
"""

from __future__ import annotations

import signal

import attrs

STOPS = signal.SIGTERM, signal.SIGINT


@attrs.define
class EarlySignals:
    """Hears signals while the event loop does not. Their default would end the process.

    SIGHUP: a reload that is asked for during the start is not lost. SIGTERM and SIGINT: the same for a stop; and once
    the loop has stopped listening, no further one interrupts the closing of the state.

    Args:
        reload: whether a SIGHUP has come.
        stop: whether a SIGTERM or SIGINT has.
        anew: whether the program is to begin anew once the loop has ended.
    """

    reload: bool = False
    stop: bool = False
    anew: bool = False

    def install(self) -> None:
        """Listen from now on; the event loop's own receiver takes over."""
        signal.signal(signal.SIGHUP, self._note)

    def hear_stops(self) -> None:
        """Listen for SIGTERM and SIGINT too. Not earlier than need be: until then a start can be interrupted."""
        for number in STOPS:
            signal.signal(number, self._note)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)  # the program before us may have left one waiting

    def ignore_stops(self) -> None:
        """All is done; what the interpreter still tidies up is not to be interrupted either."""
        for number in STOPS:
            signal.signal(number, signal.SIG_IGN)

    def _note(self, number: int, frame: object) -> None:
        self.reload = self.reload or number == signal.SIGHUP
        self.stop = self.stop or number != signal.SIGHUP
