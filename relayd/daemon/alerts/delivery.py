"""Delivery: one notice to one target, once. Whether and when it is tried again is decided in core/alerts/book.py.

Rule: nothing is raised for what a network or a receiver can do.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable

from relayd.config.snapshot import Alert, Relay
from relayd.core.alerts.book import Notice
from relayd.daemon.accounts.credentials import Credentials
from relayd.daemon.alerts.apprise_process import deliver_by_apprise
from relayd.daemon.alerts.destination import NoDestination, Undelivered, opened
from relayd.daemon.net.late import load
from relayd.noun import noun

Tls = Callable[[], ssl.SSLContext]


@noun(kw_only=True)
class Sender:
    """Sends notices.

    Args:
        tls: the trust policy.
        wall: Unix time, s.
    """

    credentials: Credentials
    tls: Tls
    wall: Callable[[], float]

    async def send(self, notice: Notice, target: Alert, relay: Relay) -> Undelivered | None:
        """Deliver a notice; None when it has arrived."""
        try:
            destination = await opened(notice.target, target, relay, self.credentials)
        except NoDestination as error:
            return Undelivered(reason=str(error))
        if target.format == "apprise":
            reason = await deliver_by_apprise(notice, destination.url, relay.realm, private=target.allow_private)
            return Undelivered(reason=reason) if reason else None
        await load("relayd.daemon.alerts.webhook")  # it brings httpx2
        from relayd.daemon.alerts.webhook import post

        return await post(notice, target, destination, relay.realm, self.tls(), self.wall)
