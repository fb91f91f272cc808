"""Acts on an account: a test call, a rest, and the end of a rest.

Rule: none of it changes the tree. A rest and its end are told to the other nodes like any other turn of an account's
health; each act is in the audit trail.
"""

from __future__ import annotations

import attrs

from relayd.daemon.accounts.account_test import AccountCheck, check_account, model_to_test
from relayd.daemon.accounts.oauth import OAuthKeeper
from relayd.daemon.admin.pages.accounts import RESTS, AccountPages
from relayd.daemon.admin.pages.audit import AuditEntry, AuditTrail
from relayd.daemon.admin.pages.visit import ROOT, Page, PageRoute, Visit
from relayd.daemon.admin.status_sources import StatusSources
from relayd.wire.refusal import Refusal


@attrs.define(eq=False, kw_only=True)
class AccountActs:
    """What an editor does with an account that is there."""

    sources: StatusSources
    keeper: OAuthKeeper
    pages: AccountPages
    audit: AuditTrail
    _tested: set[str] = attrs.field(factory=set, init=False)

    def routes(self) -> tuple[PageRoute, ...]:
        acts = {"test": self.test, "rest": self.rest, "wake": self.wake}
        return tuple(
            PageRoute(method="POST", pattern=f"{ROOT}/accounts/{{account}}/{name}", need="editor", handler=handler)
            for name, handler in acts.items()
        )

    async def test(self, visit: Visit) -> Page:
        """The smallest real call; one that works ends the account's rest. Raises: Refusal 404, 409."""
        account, snapshot = self.pages.account(visit.captured["account"]), self.sources.live.snapshot
        credential = self.keeper.of(account)
        if isinstance(credential, str):
            check = AccountCheck(ok=False, status=0, message=credential)
        elif account.id in self._tested:
            raise Refusal(status=409, message="a test of this account is under way", code="test")
        else:
            self._tested.add(account.id)
            try:
                check = await check_account(account, credential, snapshot.relay, model_to_test(account))
            finally:
                self._tested.discard(account.id)
        if check.ok and account.id in self.sources.live.snapshot.accounts:
            self.sources.pool.restore(account.id, visit.now)
        self._note(visit, "account.test", "ok" if check.ok else f"{check.status}: {check.message}")
        return await self.pages.page(visit, account.id, check=check)

    async def rest(self, visit: Visit) -> Page:
        """Let it serve nobody for a while. Raises: Refusal 400, 404."""
        account = self.pages.account(visit.captured["account"])
        wanted = visit.form.get("seconds", "")
        if wanted not in map(str, RESTS):
            raise Refusal(status=400, message=f"seconds: expected one of {', '.join(map(str, RESTS))}", code="form")
        self.sources.pool.rest(account.id, float(wanted), f"at the wish of {visit.visitor.name}", visit.now)
        self._note(visit, "account.rest", f"ok: for {wanted} s")
        return await self.pages.page(visit, account.id, done="rested")

    async def wake(self, visit: Visit) -> Page:
        """End its rest, on every node. Raises: Refusal 404."""
        account = self.pages.account(visit.captured["account"])
        self.sources.pool.wake(account.id, visit.now)
        self._note(visit, "account.wake", "ok")
        return await self.pages.page(visit, account.id, done="woken")

    def _note(self, visit: Visit, what: str, result: str) -> None:
        act = AuditEntry(
            at=visit.now,
            who=visit.visitor.name,
            what=what,
            subject=visit.captured["account"],
            address=visit.address,
            result=result,
        )
        self.audit.note(act)
