"""Signing in with OAuth for an account: the address to consent at, then the code that comes back, sealed into its file.

Rule: verifier and state stay in this process; the tokens leave it only as a sealed value, through the same two steps as
every other edit. A sign-in belongs to the session that began it, and its code is taken once.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs
import trio

from relayd.config.edit.toml_edit import EditError
from relayd.config.edit.wanted import id_of
from relayd.config.edit.wanted_accounts import seal_account
from relayd.config.secrets.secret import Secret
from relayd.daemon.accounts.code_grant import LoginError, SignIn, begin, exchange, read_answer
from relayd.daemon.admin.pages.drafts import Waiting
from relayd.daemon.admin.pages.edit_flow import EditFlow
from relayd.daemon.admin.pages.visit import ROOT, Page, PageRoute, Visit
from relayd.wire.refusal import Refusal

ANYWHERE = "http://127.0.0.1/callback"  # where nobody listens: the browser's address bar shows the answer


@attrs.define(eq=False, kw_only=True)
class AccountSignIn:
    """Sign-ins under way.

    Args:
        asked: by the token of its form, the account and what must be remembered.
        rng: makes that many random bytes.
    """

    flow: EditFlow
    asked: Waiting[tuple[str, SignIn]]
    rng: Callable[[int], bytes] = attrs.field(repr=False)

    def routes(self) -> tuple[PageRoute, ...]:
        return (
            PageRoute(method="POST", pattern=f"{ROOT}/edit/sign-in", need="editor", handler=self.start),
            PageRoute(method="POST", pattern=f"{ROOT}/edit/sign-in-code", need="editor", handler=self.finish),
        )

    async def start(self, visit: Visit) -> Page:
        """Where to consent, and a field for what comes back. Raises: Refusal 400."""
        assert visit.session is not None
        oauth = self.flow.live.snapshot.relay.oauth
        if not oauth.client_id:
            message = "relay.toml: [oauth].client_id is empty (sign-in needs an OAuth registration of your own)"
            raise Refusal(status=400, message=message, code="edit")
        account = _account(visit)
        ask = begin(oauth, oauth.redirect_uri or ANYWHERE, self.rng)
        token = self.asked.keep(visit.session.csrf, (account, ask), visit.now)
        values = {"account": account, "url": ask.authorize_url, "token": token}
        return Page(template="edit_sign_in", title="edit.sign_in", values=values)

    async def finish(self, visit: Visit) -> Page:
        """Tokens for the code, and the edit that seals them. Raises: Refusal 400, 409, 502."""
        assert visit.session is not None
        found = self.asked.take(visit.session.csrf, visit.form.get("token", ""), visit.now)
        if found is None:
            raise Refusal(status=409, message="this sign-in is no longer there: begin it again", code="draft")
        account, ask = found
        oauth, now = self.flow.live.snapshot.relay.oauth, visit.now
        try:
            code = read_answer(visit.form.get("code", ""), ask, pasted=True)
        except LoginError as error:
            raise Refusal(status=400, message=str(error), code="sign_in") from None

        def tokens() -> Secret:
            return exchange(oauth, ask, code, lambda: now)

        try:
            secret = await trio.to_thread.run_sync(tokens)
        except LoginError as error:
            raise Refusal(status=502, message=str(error), code="sign_in") from None
        return await self.flow.show(visit, seal_account(account, secret, login=True))


def _account(visit: Visit) -> str:
    try:
        return id_of(visit.form)
    except EditError as error:
        raise Refusal(status=400, message=str(error), code="edit") from None
