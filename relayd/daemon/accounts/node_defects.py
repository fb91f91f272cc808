"""Node defects: accounts that this node cannot use, though others may, and why: a missing identity, file or package.

Rule: a defect is told to the pool of this process and to nobody else, from the start of the daemon on, and ends as soon
as its cause does. What it is goes to the log and to operators, never to a client.

Theory: a secret that cannot be opened is no answer of an upstream, so it must not rest the account on other nodes.
While there is a defect, the identities and files are read anew every second, in a thread; else files every FILES_EVERY
s, in case they are rotated.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import attrs
import trio

from relayd.config.secrets.account_kinds import ACCOUNT_KINDS
from relayd.config.secrets.recipients import SealError
from relayd.config.secrets.secret import Secret
from relayd.config.snapshot import Account, Snapshot
from relayd.core.alerts.events import AccountUnusable, AccountUsable
from relayd.core.balancing.pool import Pool
from relayd.core.live import Live
from relayd.daemon.accounts.credentials import FILES_EVERY, Credentials
from relayd.daemon.accounts.upstreams import missing_package
from relayd.daemon.events import Events

if TYPE_CHECKING:
    from pathlib import Path

    from relayd.config.secrets.seal import Identity

LOOK = 1.0  # s between looks while there is a defect
IDLE = 10.0  # s between looks while there is none: nobody waits for it

log = logging.getLogger("relayd")


def find_defects(credentials: Credentials, snapshot: Snapshot) -> dict[str, str]:
    """The enabled accounts that this node cannot use, with the reason. May block."""
    enabled = [account for account in snapshot.accounts.values() if account.enabled]
    lacking = {account.id: why for account in enabled if (why := missing_package(account))}
    return lacking | credentials.problems(snapshot)


@attrs.define(eq=False, kw_only=True)
class NodeDefects:
    """Looks for the defects of this node.

    Args:
        credential: an account's opened secret, or why it cannot be had; sync. Knows of tokens that have expired.
        identities: reads this node's identities anew, and names their files. Raises: SealError.
        wall: Unix time, s.
    """

    live: Live
    pool: Pool
    credentials: Credentials
    credential: Callable[[Account], Secret | str]
    identities: Callable[[], tuple[Sequence[Path], Sequence[Identity]]]
    wall: Callable[[], float]
    events: Events = attrs.field(factory=Events)
    _logged: dict[str, str] = attrs.field(factory=dict, init=False)
    _unusable: str = attrs.field(default="", init=False)

    async def run(self) -> None:
        """Look for ever."""
        while True:
            await self.look()
            until = trio.current_time() + (FILES_EVERY if self.credentials.has_files else IDLE)
            await trio.sleep(LOOK)
            while trio.current_time() < until and not self.pool.defects():  # noqa: ASYNC110 - attempts tell nobody
                await trio.sleep(LOOK)

    async def look(self) -> None:
        """Look once; the pool knows then."""
        snapshot = self.live.snapshot
        found = await trio.to_thread.run_sync(self._examine, snapshot)
        for account in snapshot.accounts.values():
            if account.enabled and account.id not in found and ACCOUNT_KINDS[account.kind].refreshes:
                secret = self.credential(account)
                if isinstance(secret, str):
                    found[account.id] = secret
        self.tell(found)

    def tell(self, found: Mapping[str, str]) -> None:
        """Tell the pool, and log what is new. Sync."""
        self.pool.set_defects(found, self.wall())
        for account in sorted(found.keys() - self._logged.keys()):
            self.events.tell(AccountUnusable(account=account, why=found[account]))
        for account in sorted(self._logged.keys() - found.keys()):
            if account in self.live.snapshot.accounts:
                self.events.tell(AccountUsable(account=account))
        self._logged = dict(found)

    def _examine(self, snapshot: Snapshot) -> dict[str, str]:
        found = find_defects(self.credentials, snapshot)
        sealed = any(snapshot.accounts[account].credential.sealed for account in found)
        return find_defects(self.credentials, snapshot) if sealed and self._reload() else found

    def _reload(self) -> bool:
        """Read the identities anew: the file may have come since. Returns whether they are others."""
        before = {identity.public.kid for identity in self.credentials.identities}
        try:
            files, identities = self.identities()
        except SealError as error:
            if str(error) != self._unusable:
                log.warning("identity.unusable", extra={"reason": str(error)})
            self._unusable = str(error)
            return False
        self.credentials.identities, self._unusable = identities, ""
        kids = {identity.public.kid for identity in identities}
        if kids != before:
            log.info("identity.loaded", extra={"files": [str(file) for file in files], "kids": sorted(kids)})
        return kids != before
