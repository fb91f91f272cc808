"""Adoption: what follows a swap, in every part of the daemon that keeps something from one config to the next.

Rule: sync, after the swap; a failure here does not undo it. Calls in flight go on under their own config, unless their
key was revoked and the policy says so.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs

from relayd.config.snapshot import Snapshot
from relayd.core.balancing.pool import Pool
from relayd.core.in_flight import InFlight
from relayd.daemon.access_log import AccessLog
from relayd.daemon.accounts.upstreams import Upstreams
from relayd.daemon.log_output import Output
from relayd.daemon.log_setup import set_log


@attrs.define(eq=False, kw_only=True)
class Adoption:
    """Tells the parts of the daemon of a new config.

    Args:
        in_flight: the calls that a revocation may cut.
        output, access: the log, whose settings may change.
        wall: Unix time, s.
    """

    pool: Pool
    in_flight: InFlight
    upstreams: Upstreams
    output: Output
    access: AccessLog
    wall: Callable[[], float]

    def adopt(self, old: Snapshot, new: Snapshot) -> None:
        """`new` runs now."""
        self.pool.adopt(new, self.wall())
        self.in_flight.revoked(old, new)
        set_log(new.relay.log, self.output, self.access)
        self.upstreams.keep_only(new)
