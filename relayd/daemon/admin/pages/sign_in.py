"""Sign-in: people with a password and a one-time code, holders of a key with the key.

Rule: a guess costs the same whether the name exists or not, is counted before it is looked at, and is answered with one
text whatever was wrong. Passwords are hashed in a thread, two at a time.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs
import trio

from relayd.config.secrets.binding import totp_binding
from relayd.config.secrets.password_hash import hash_password, password_fits
from relayd.config.secrets.recipients import SealError
from relayd.config.secrets.seal import Identity, open_sealed
from relayd.config.secrets.secret import Secret
from relayd.config.snapshot import AdminUser
from relayd.core.access.auth import authenticate
from relayd.core.access.sessions import SESSION_AGE, Sessions, Visitor, admin_visitor, key_visitor
from relayd.core.access.sign_in import Guess, LockOut, accepted_step, device_proof, known_device, read_seed
from relayd.core.live import Live
from relayd.daemon.admin.pages.audit import AuditEntry, AuditTrail
from relayd.daemon.admin.pages.site import SIGN_IN, session_cookie
from relayd.daemon.admin.pages.visit import ROOT, Page, PageRoute, Visit, own_path, see_other
from relayd.daemon.log import tell_refused
from relayd.wire.call import Reply
from relayd.wire.http import HeaderPairs, Headers
from relayd.wire.refusal import Refusal

DEVICE_COOKIE = "relayd-device"
DEVICE_AGE = 180 * 86_400  # s
MOST_WAITING = 20  # for the two threads; a page of guesses waits for itself alone


@attrs.define(eq=False, kw_only=True)
class SignInPages:
    """The pages on which sessions begin and end.

    Args:
        identities: that open sealed one-time seeds.
        rng: makes that many random bytes.
    """

    live: Live
    sessions: Sessions
    audit: AuditTrail
    identities: Callable[[], tuple[Identity, ...]]
    rng: Callable[[int], bytes] = attrs.field(repr=False)
    lock_out: LockOut = attrs.field(factory=LockOut)
    _steps: dict[str, int] = attrs.field(factory=dict, init=False)  # by name, the newest one-time code used
    _nobody: str = attrs.field(default="", init=False, repr=False)  # hash of a password that nobody has
    _threads: trio.CapacityLimiter = attrs.field(factory=lambda: trio.CapacityLimiter(2), init=False)

    def routes(self) -> tuple[PageRoute, ...]:
        return (
            PageRoute(method="GET", pattern=SIGN_IN, need="nobody", handler=self.show),
            PageRoute(method="POST", pattern=SIGN_IN, need="nobody", handler=self.sign_in),
            PageRoute(method="POST", pattern=f"{ROOT}/sign-out", need="key", handler=self.sign_out),
            PageRoute(
                method="POST", pattern=f"{ROOT}/sign-out-everywhere", need="key", handler=self.sign_out_everywhere
            ),
        )

    async def show(self, visit: Visit) -> Page | Reply:
        """The form; what to do where there is no user yet; the first page for those who are signed in."""
        if visit.session is not None:
            return see_other(own_path(visit.query.get("next", "")))
        return self._form(visit)

    async def sign_in(self, visit: Visit) -> Page | Reply:
        """Open a session. Raises: Refusal 429."""
        if not self.live.snapshot.relay.admin.users:
            return self._form(visit)
        if key := visit.form.get("key", "").strip():
            return self._sign_in_key(visit, key)
        name = visit.form.get("name", "").strip()[:200]
        user = next((one for one in self.live.snapshot.relay.admin.users if one.name == name), None)
        device = known_device(user, visit.cookies.get(DEVICE_COOKIE, "")) if user is not None else ""
        guess = Guess(name=name, address=visit.address, device=device)
        self._require_patience(guess, visit)
        self.lock_out.failed(guess, visit.now)
        if not await self._fits(user, Secret(visit.form.get("password", ""))):
            return self._failed(visit, name, "wrong name or password")
        assert user is not None
        if user.totp and not self._code_fits(user, visit.form.get("code", ""), visit.now):
            return self._failed(visit, name, "wrong one-time code")
        self.lock_out.succeeded(guess)
        proof = device_proof(user, device or self.rng(16).hex())
        return self._begin(visit, admin_visitor(user), [_cookie(DEVICE_COOKIE, proof, visit, DEVICE_AGE)])

    async def sign_out(self, visit: Visit) -> Reply:
        """End this session."""
        self.sessions.close(visit.cookies.get(session_cookie(secure=visit.secure), ""))
        self._note(visit, visit.visitor.name, "sign-out")
        return see_other(SIGN_IN, [_cookie(session_cookie(secure=visit.secure), "", visit, 0)])

    async def sign_out_everywhere(self, visit: Visit) -> Reply:
        """End all sessions of this visitor, also this one."""
        ended = self.sessions.close_all(visit.visitor)
        self._note(visit, visit.visitor.name, "sign-out", subject=f"{ended} sessions")
        return see_other(SIGN_IN, [_cookie(session_cookie(secure=visit.secure), "", visit, 0)])

    def _sign_in_key(self, visit: Visit, key: str) -> Page | Reply:
        """A key has 256 random bits: it needs no slow hash, and guessing it no lock-out but the usual throttle."""
        guess = Guess(name="(key)", address=visit.address)
        self._require_patience(guess, visit)
        try:
            found = authenticate(
                Headers([(b"x-api-key", key.encode("utf-8", "replace"))]), self.live.snapshot, visit.address, visit.now
            )
        except Refusal as refusal:
            self.lock_out.failed(guess, visit.now)
            return self._failed(visit, "(key)", refusal.message, key=True)
        return self._begin(visit, key_visitor(found), [])

    def _begin(self, visit: Visit, visitor: Visitor, cookies: HeaderPairs) -> Reply:
        """A fresh session; one that the browser had ends, so that nobody can have planted it."""
        self.sessions.close(visit.cookies.get(session_cookie(secure=visit.secure), ""))
        token, _ = self.sessions.open(visitor, visit.now)
        self._note(visit, visitor.name, "sign-in", subject="key" if visitor.role == "key" else "")
        first = f"{ROOT}/my-key" if visitor.role == "key" else own_path(visit.form.get("next", ""))
        cookie = _cookie(session_cookie(secure=visit.secure), token, visit, round(SESSION_AGE))
        return see_other(first, [cookie, *cookies])

    def _failed(self, visit: Visit, name: str, why: str, *, key: bool = False) -> Page:
        self._note(visit, name, "sign-in", result=why)
        tell_refused(visit.address, "sign-in", why)
        return attrs.evolve(self._form(visit, "sign_in.wrong_key" if key else "sign_in.wrong"), status=401)

    def _form(self, visit: Visit, wrong: str = "") -> Page:
        values = {
            "wrong": wrong,
            "next": own_path(visit.query.get("next") or visit.form.get("next", "")),
            "name": visit.form.get("name", ""),
            "users": bool(self.live.snapshot.relay.admin.users),
            "codes": any(user.totp for user in self.live.snapshot.relay.admin.users),
        }
        return Page(template="sign_in", title="sign_in.title", values=values)

    def _require_patience(self, guess: Guess, visit: Visit) -> None:
        wait = self.lock_out.wait(guess, visit.now)
        if wait > 0 or self._threads.statistics().tasks_waiting >= MOST_WAITING:
            seconds = int(wait) + 1
            message = f"too many failed sign-ins: try again in {seconds} s"
            self._note(visit, guess.name, "sign-in", result="held off")
            tell_refused(visit.address, "sign-in", "held off")
            raise Refusal(status=429, message=message, retry_after=seconds, code="sign_in")

    async def _fits(self, user: AdminUser | None, password: Secret) -> bool:
        if not self._nobody:
            self._nobody = await trio.to_thread.run_sync(hash_password, Secret(self.rng(16).hex()), self.rng)
        wanted = user.password_hash if user is not None else self._nobody
        return await trio.to_thread.run_sync(password_fits, password, wanted, limiter=self._threads)

    def _code_fits(self, user: AdminUser, code: str, now: float) -> bool:
        """Whether a one-time code is right; each counts once. Raises: Refusal 503 where its seed cannot be opened."""
        binding = totp_binding(self.live.snapshot.relay.realm, user.name)
        try:
            seed = read_seed(open_sealed(user.totp, binding, self.identities()).reveal())
        except (SealError, ValueError):
            message = "this node cannot open the seed of your one-time codes (it has no identity for it)"
            raise Refusal(status=503, message=message, code="totp") from None
        step = accepted_step(seed, code, now, self._steps.get(user.name, -1))
        if step is not None:
            self._steps[user.name] = step
        return step is not None

    def _note(self, visit: Visit, who: str, what: str, *, subject: str = "", result: str = "ok") -> None:
        act = AuditEntry(at=visit.now, who=who, what=what, subject=subject, address=visit.address, result=result)
        self.audit.note(act)


def _cookie(name: str, value: str, visit: Visit, age: int) -> tuple[bytes, bytes]:
    """A cookie that no script reads and no other site sends along."""
    path = "/" if name.startswith("__Host-") else ROOT
    secure = "; Secure" if visit.secure else ""
    return b"set-cookie", f"{name}={value}; Path={path}; Max-Age={age}; HttpOnly; SameSite=Strict{secure}".encode()
