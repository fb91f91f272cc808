"""Trace queue: receipts of calls that wait to be sent as traces, and the thread that sends them.

Rule: bounded, and a call never waits: the loop appends, or counts what it drops. Whatever the collector does (dead,
slow, refusing), only this thread finds out.

Theory: a thread that builds spans holds the interpreter's lock for up to 5 ms at a time, and the loop would wait for
it. So it gives the lock up after each span (`breathe`), and few spans are encoded at once.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence

import attrs

from relayd.core.receipt import Receipt
from relayd.daemon.telemetry.settings import TraceSettings

log = logging.getLogger("relayd.telemetry")


@attrs.define(eq=False, kw_only=True)
class TraceQueue:
    """The way of receipts to a collector.

    Args:
        send: makes traces of some and sends them, in the queue's thread; "" once the collector has taken them, else why
            it has not. Must not raise.
        give_up: ends a `send` that still waits, from another thread.

    Attributes:
        sent, dropped, failed: receipts; `dropped` found the queue full, `failed` the collector did not take.
    """

    settings: TraceSettings
    send: Callable[[Sequence[Receipt]], str]
    give_up: Callable[[], None]
    sent: int = attrs.field(default=0, init=False)
    dropped: int = attrs.field(default=0, init=False)
    failed: int = attrs.field(default=0, init=False)
    _waiting: deque[Receipt] = attrs.field(factory=deque, init=False)
    _ending: threading.Event = attrs.field(factory=threading.Event, init=False)
    _thread: threading.Thread | None = attrs.field(default=None, init=False)
    _reason: str = attrs.field(default="", init=False)  # why the collector took nothing, the last time

    @property
    def queued(self) -> int:
        """Receipts that wait."""
        return len(self._waiting)

    def record(self, receipt: Receipt) -> None:
        """Take one receipt, on the loop. Sync, does not raise or wait."""
        if len(self._waiting) < self.settings.most:
            self._waiting.append(receipt)
        else:
            self.dropped += 1

    def start(self) -> None:
        """Begin to send."""
        self._thread = threading.Thread(target=self._work, name="relayd-telemetry", daemon=True)
        self._thread.start()

    def stop(self, patience: float = 2.0) -> None:
        """Send what waits, for so many s; what is left then is lost."""
        self._ending.set()
        if self._thread is not None:
            self._thread.join(patience)
        self.give_up()

    def _work(self) -> None:
        while not self._ending.wait(self.settings.pause):
            self._send_all()
        self._send_all()

    def _send_all(self) -> None:
        while self._waiting:
            some = [self._waiting.popleft() for _ in range(min(len(self._waiting), self.settings.together))]
            reason = self.send(some)
            if reason:
                self.failed += len(some)
            else:
                self.sent += len(some)
            self._tell(reason)

    def _tell(self, reason: str) -> None:
        """Say once that the collector does not take traces, and once that it does again."""
        if reason and not self._reason:
            log.warning("telemetry.refused", extra={"reason": reason})
        elif self._reason and not reason:
            log.info("telemetry.accepted", extra={"failed": self.failed, "dropped": self.dropped})
        self._reason = reason
