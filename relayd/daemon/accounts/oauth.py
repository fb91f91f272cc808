"""OAuth token refresh: tokens are refreshed early, by one node, once, and stored before they are used.

Rule: a refresh token is used only under the lock (a lease in the state store), after a look at what is stored there and
after the intent was written down. Without the store nothing is refreshed: two nodes that use one refresh token lose the
whole family of tokens. What cannot be refreshed is used for as long as it lasts.

Theory: each account has a Holding: its seed (from git), the tokens in use, and the note of the store that was read last
(token_store.py). `_look` reads the notes every LOOK seconds, so that every node has what one of them fetched; `_rotate`
fetches. Which of two tokens is the newer one, when they are due and what answers mean is decided in core/oauth.py. A
node that dies or is cut off between asking and storing leaves its name in the note (`asking`): whoever comes next says
so, waits for its answer while the tokens in use last, and then tries the old token.

Times are those of the store's clock, so that nodes whose clocks differ agree on when tokens expire.
"""

from __future__ import annotations

import logging
import math
import random
import ssl
from collections.abc import Callable, Iterator

import attrs
import trio

from relayd.config.secrets.account_kinds import ACCOUNT_KINDS
from relayd.config.secrets.recipients import SealError, active_keys
from relayd.config.secrets.secret import Secret
from relayd.config.snapshot import Account, Snapshot
from relayd.core.alerts import events as e
from relayd.core.oauth import RefreshFailed, Tokens, due_at, newer, note_name, parse_tokens, retry_in, utc, waited_until
from relayd.core.quota.limits import Slots
from relayd.daemon.accounts.credentials import Credentials, Opened
from relayd.daemon.accounts.token_endpoint import refresh
from relayd.daemon.accounts.token_store import Ask, Holding, TokenStore
from relayd.daemon.events import Events
from relayd.noun import noun
from relayd.state import contract as c

LOOK = 2.0  # s between two readings of the notes
LOCK_MS = 30_000  # life of the lock: longer than an exchange with the token endpoint (token_endpoint.PATIENCE)
OTHERS = 0.25  # s between looks while another node refreshes
GRACE = 5.0  # s that a node which seems to have died in mid-rotation is given to store what it got
SHIELDED = 5.0  # s that storing new tokens may hold up the end of the daemon
WAIT = 30.0  # s that a call waits for a refresh
AGAIN = 60.0  # s after a refresh in which a 401 is not the token's age, and is not answered by another refresh

log = logging.getLogger("relayd.oauth")


@noun(kw_only=True)
class OAuthStatus:
    """How an account's tokens stand, for `status`. `expires_at`: Unix time, s; `trouble`: "" when all is well; `age`: s
    since they came, None where this process found them."""

    account: str
    generation: int
    expires_at: float | None
    trouble: str
    spent: bool
    age: float | None = None


@attrs.define(eq=False, kw_only=True)
class OAuthKeeper:
    """Keeps the tokens of OAuth accounts fresh, and gives every account what it presents.

    Args:
        snapshot: the current one.
        ask: an operation of the state store; raises StoreUnavailable.
        node: of this process, unlike that of any other that lives or has lived.
        wall: Unix time, s.
        tls: the trust policy of the way to the token endpoint.
        renewed: told that an account has other tokens than before, so that it may serve at once; sync, must not raise.
        follows: another process of this node refreshes what is due, and tells of it; this one only what a call needs.
    """

    credentials: Credentials
    snapshot: Callable[[], Snapshot]
    ask: Ask
    node: str
    wall: Callable[[], float]
    rng: random.Random
    tls: Callable[[], ssl.SSLContext]
    renewed: Callable[[str], None] = lambda account: None
    follows: bool = False
    events: Events = attrs.field(factory=Events)
    _held: dict[str, Holding] = attrs.field(factory=dict, init=False)
    _wake: trio.Event = attrs.field(factory=trio.Event, init=False)
    _store: TokenStore = attrs.field(init=False)
    _nursery: trio.Nursery | None = attrs.field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        self._store = TokenStore(
            credentials=self.credentials, snapshot=self.snapshot, ask=self.ask, wall=self.wall, use=self._use
        )

    # --- what calls ask

    def of(self, account: Account) -> Secret | str:
        """What to present for `account` (of whatever kind), or why that cannot be had. Sync and cheap."""
        snapshot = self.snapshot()
        opened = self.credentials.opened(account, snapshot)
        if isinstance(opened, str):
            return opened
        if not ACCOUNT_KINDS[account.kind].refreshes:
            return opened.presented
        holding = self._holding(account, opened, snapshot)
        # An expired token is still tried while there is hope: the answer to a 401 is a refresh, which the call awaits.
        if holding.trouble and holding.tokens.expired(self._store.now()):
            return _expired_text(holding)
        return holding.tokens.access

    def renewable(self, account: str, rejected: Secret) -> bool:
        """Whether it makes sense to `renew` after a 401 for that access token."""
        holding = self._held.get(account)
        if holding is None:
            return False
        if holding.tokens.access != rejected:
            return True
        if holding.busy:
            return True
        now = trio.current_time()
        old = holding.tokens.expired(self._store.now()) or now >= holding.renewed_at + AGAIN
        able = self._nursery is not None and not holding.spent and not self._obstacle(holding)
        return old and able and now >= holding.retry_at

    async def renew(self, account: str, rejected: Secret) -> bool:
        """The upstream refused `rejected`: wait until there are other tokens. Many callers make one refresh.

        Returns: whether `of` now gives another one.
        """
        if not self.renewable(account, rejected):
            return False
        holding = self._held[account]
        if holding.tokens.access == rejected:
            holding.rejected = True
            refreshed = holding.refreshed
            self._start(holding)
            with trio.move_on_after(WAIT):
                await refreshed.wait()
        return holding.tokens.access != rejected

    def statuses(self) -> list[OAuthStatus]:
        """Every OAuth account of this process, by id."""
        now, clock = self._store.now(), trio.current_time()
        return [
            OAuthStatus(
                account=name,
                generation=holding.tokens.generation,
                expires_at=holding.tokens.expires_at,
                trouble=holding.trouble if holding.tokens.refresh or holding.tokens.expired(now) else "",
                spent=holding.spent,
                age=clock - holding.renewed_at if math.isfinite(holding.renewed_at) else None,
            )
            for name, holding in sorted(self._held.items())
        ]

    def ends(self) -> list[tuple[str, float]]:
        """When access tokens end that cannot be refreshed, Unix time, s, by account."""
        held = sorted(self._held.items())
        return [(name, one.tokens.expires_at) for name, one in held if one.tokens.expires_at and not one.tokens.refresh]

    # --- what goes on by itself

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Look and refresh until cancelled. Started once the notes were read, or the store found away."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                await self._look()
                task_status.started()
                while True:
                    with trio.move_on_after(LOOK):
                        await self._wake.wait()
                    self._wake = trio.Event()
                    await self._look()
            finally:
                self._nursery = None

    async def _look(self) -> None:
        """Follow the config and the notes, and start what is due. Raises nothing but a bug."""
        holdings = list(self._follow())
        if any(holding.tokens.refresh for holding in holdings):
            try:
                await self._store.read(self._held)
                for holding in holdings:
                    if not holding.busy and not self._obstacle(holding):
                        await self._store.repair(holding)
            except (c.StoreUnavailable, SealError):
                pass  # the batcher has logged it; what cannot be sealed is logged at the next refresh
        for holding in holdings:
            self._review(holding)

    def _follow(self) -> Iterator[Holding]:
        """The holding of each OAuth account whose secret can be had; those that left the config are forgotten."""
        snapshot = self.snapshot()
        self.credentials.keep_only(snapshot)
        accounts = {
            name: account for name, account in snapshot.accounts.items() if ACCOUNT_KINDS[account.kind].refreshes
        }
        for gone in self._held.keys() - accounts.keys():
            del self._held[gone]
        for account in accounts.values():
            opened = self.credentials.opened(account, snapshot)
            if not isinstance(opened, str):
                yield self._holding(account, opened, snapshot)

    def _holding(self, account: Account, opened: Opened, snapshot: Snapshot) -> Holding:
        """The holding of an account; a new one when its seed is new. The same seed sealed anew is the same seed."""
        holding = self._held.get(account.id)
        if holding is None or (holding.opened is not opened and holding.opened.whole != opened.whole):
            seed = attrs.evolve(parse_tokens(opened.whole), generation=0)
            holding = self._held[account.id] = Holding(
                account=account,
                opened=opened,
                name=note_name(snapshot.relay.realm, account.id, opened.whole),
                tokens=seed,
                stored=seed,
                due=due_at(seed, self._store.now(), self.rng),
            )
            self._wake.set()
        holding.account, holding.opened = account, opened
        return holding

    def _review(self, holding: Holding) -> None:
        """Start a refresh that is due, and say what keeps one from being done."""
        oauth, deny = self.snapshot().relay.oauth, self.snapshot().deny
        registration = (oauth.token_url, oauth.client_id, holding.account.proxy)
        if holding.registration != registration:  # what failed with another registration may work with this one
            holding.registration, holding.retry_at, holding.spent = registration, -math.inf, False
            holding.failures, holding.trouble = 0, ""
        if holding.busy or not holding.account.enabled or holding.account.id in deny.accounts:
            return
        now = self._store.now()
        why = self._obstacle(holding)
        if not why and not holding.failures:
            holding.trouble = ""
        if why and holding.trouble != why:
            holding.trouble = why
            if holding.tokens.refresh and not self.follows:
                self.events.tell(e.OAuthCannotRefresh(account=holding.account.id, reason=why))
        if self.follows:
            return
        due = holding.due is not None and now >= holding.due
        if due and not why and not holding.spent and trio.current_time() >= holding.retry_at:
            self._start(holding)
        elif holding.trouble and holding.tokens.expired(now) and not holding.expiry_logged:
            holding.expiry_logged = True
            self.events.tell(e.OAuthExpired(account=holding.account.id, reason=_expired_text(holding)))

    def _obstacle(self, holding: Holding) -> str:
        """Why this node cannot refresh an account's tokens; "" when it can."""
        relay = self.snapshot().relay
        if not holding.tokens.refresh:
            return "there is no refresh token (sign in again: relayd account login)"
        if not relay.oauth.client_id:
            return "relay.toml: oauth.client_id is empty"
        own = {identity.public for identity in self.credentials.identities}
        if not own.intersection(active_keys(relay.secrets.recipients)):
            return "no identity of this node is an active recipient, so new tokens could not be stored"
        return holding.unreadable

    # --- refreshing

    def _start(self, holding: Holding) -> None:
        """Have a refresh done, unless one is under way."""
        if self._nursery is not None and not holding.busy:
            holding.busy = True
            self._nursery.start_soon(self._refresh, holding)

    async def _refresh(self, holding: Holding) -> None:
        try:
            await self._rotate(holding)
        except c.StoreUnavailable:
            self._failed(holding, RefreshFailed(reason="the state store is away, and without it nothing is refreshed"))
        except Exception:  # a bug must not end the daemon; its traceback quotes no values
            log.exception("oauth.fault", extra={"account": holding.account.id})
            self._failed(holding, RefreshFailed(reason="an internal error; the log has its traceback"))
        finally:
            holding.busy = False
            holding.refreshed.set()
            holding.refreshed = trio.Event()

    async def _rotate(self, holding: Holding) -> None:
        """Get the next tokens: from another node that is at it, else from the provider. Raises: StoreUnavailable."""
        lock = f"oauth/{holding.name}"
        if not await self._lock(holding, lock):
            return
        try:
            if await self._may_ask(holding):
                await self._ask_provider(holding)
        finally:
            with trio.move_on_after(1, shield=True):
                try:
                    await self.ask(c.Release(holder=self.node, counters=(lock,)))
                except c.StoreUnavailable:
                    pass  # the lock ends by itself

    async def _lock(self, holding: Holding, lock: str) -> bool:
        """Wait for the lock. False when another node has fetched the tokens meanwhile."""
        before = holding.tokens
        slot = Slots(counter=lock, name="token refresh", limit=1, ttl=LOCK_MS)
        while True:
            answer = await self.ask(c.Acquire(holder=self.node, terms=(slot,)))
            if isinstance(answer, c.Granted):
                return True
            if not isinstance(answer, c.Denied):
                raise c.StoreUnavailable("the lock cannot be had")
            await trio.sleep(OTHERS)
            await self._store.read(self._held)
            if holding.tokens is not before:
                return False

    async def _may_ask(self, holding: Holding) -> bool:
        """Read the note under the lock; whether its refresh token is still to be used, and nobody else may have.

        A node that has asked and not stored is dead or cut off. While the tokens in use do, its answer is waited for.
        """
        before = holding.tokens
        await self._store.read(self._held)
        asking, until = holding.note.asking, waited_until(before, holding.note.at)
        if holding.tokens is not before or asking in ("", self.node):
            return holding.tokens is before
        waits = self._store.now() < until and not holding.rejected
        if holding.interrupted != holding.last_note:
            holding.interrupted = holding.last_note
            when = f"from {utc(until)} on" if waits else "now"
            hint = (
                f"its new tokens may be lost; {when} the old refresh token is tried; if that is refused, sign in again"
            )
            extra = {"account": holding.account.id, "node": asking, "hint": hint}
            log.warning("oauth.rotation_interrupted", extra=extra)
        if waits:
            holding.due = until
            return False
        await trio.sleep(GRACE)
        await self._store.read(self._held)
        return holding.tokens is before

    async def _ask_provider(self, holding: Holding) -> None:
        """Use the refresh token. From the written intent to the stored answer nothing is cancelled."""
        if why := self._obstacle(holding):
            self._failed(holding, RefreshFailed(reason=why))
            return
        before = holding.tokens
        with trio.CancelScope(shield=True) as guard:
            if not await self._store.write(holding, before, asking=self.node):
                if holding.tokens is before:
                    self._failed(holding, RefreshFailed(reason="another node wrote at the same time"))
                return
            oauth, proxy = self.snapshot().relay.oauth, holding.account.proxy
            answer = await refresh(oauth, proxy, before, self.tls, self._store.now)
            if isinstance(answer, Tokens):
                await self._keep(holding, answer, guard)
            else:
                await self._refused(holding, answer)

    async def _keep(self, holding: Holding, fresh: Tokens, guard: trio.CancelScope) -> None:
        """Store new tokens, then use them. While the store is away the old ones are used for as long as they last."""
        began, wait, before = trio.current_time(), 0.1, holding.tokens
        try:
            while not await self._kept(holding, fresh):
                if before.expired(self._store.now()) or holding.rejected:
                    self._use(holding, fresh)
                if wait == 0.1:
                    hint = "if this process ends before the store is back, sign in again"
                    log.warning("oauth.not_stored", extra={"account": holding.account.id, "hint": hint})
                guard.shield = trio.current_time() < began + SHIELDED
                await trio.sleep(wait)
                wait = min(2.0, 2 * wait)
        except trio.Cancelled:
            hint = "the new tokens were not stored; sign in again: relayd account login"
            self.events.tell(e.OAuthRotationLost(account=holding.account.id, hint=hint))
            raise
        if holding.stored is fresh:
            self._use(holding, fresh)
            log.info("oauth.refreshed", extra={"account": holding.account.id, "expires": utc(fresh.expires_at or 0.0)})

    async def _kept(self, holding: Holding, fresh: Tokens) -> bool:
        """Whether the note has `fresh`, or something newer. False when the store is away."""
        try:
            while not await self._store.write(holding, fresh):
                if holding.stored is not None and not newer(fresh, holding.stored):
                    return True
        except c.StoreUnavailable:
            return False
        return True

    async def _refused(self, holding: Holding, refused: RefreshFailed) -> None:
        before = holding.tokens
        if not refused.unknown:
            try:
                await self._store.write(holding, before)  # nobody asks any longer
            except c.StoreUnavailable:
                pass
        if holding.tokens is before:
            self._failed(holding, refused)

    def _use(self, holding: Holding, tokens: Tokens, age: float = 0.0) -> None:
        """Present these, which are `age` s old, from now on. Sync."""
        if holding.tokens is tokens:
            return
        holding.tokens, holding.due = tokens, due_at(tokens, self._store.now() - age, self.rng)
        holding.renewed_at = trio.current_time() - age
        if holding.failures or holding.expiry_logged:
            self.events.tell(e.OAuthRecovered(account=holding.account.id, failures=holding.failures))
        holding.failures, holding.trouble, holding.retry_at = 0, "", -math.inf
        holding.spent = holding.rejected = holding.expiry_logged = False
        self.renewed(holding.account.id)

    def _failed(self, holding: Holding, refused: RefreshFailed) -> None:
        """Note a failure; one that is like the last is not a warning again."""
        repeated = holding.trouble == refused.reason and holding.failures > 0
        holding.failures += 1
        holding.trouble, holding.spent = refused.reason, refused.spent
        wait = retry_in(holding.failures, refused.retry_after, self.rng)
        holding.retry_at = trio.current_time() + wait
        expires, account = holding.tokens.expires_at, holding.account.id
        failed = e.OAuthRefreshFailed(
            account=account,
            reason=refused.reason,
            failures=holding.failures,
            expires=None if expires is None else utc(expires),
            hint=_SIGN_IN.format(account) if refused.spent else f"tried again in {wait:.0f} s",
            repeated=repeated,
        )
        self.events.tell(failed)


_SIGN_IN = "sign in again: relayd account login {}"


def _expired_text(holding: Holding) -> str:
    hint = f" ({_SIGN_IN.format(holding.account.id)})" if holding.spent else ""
    return f"the access token expired at {utc(holding.tokens.expires_at or 0.0)}: {holding.trouble}{hint}"
