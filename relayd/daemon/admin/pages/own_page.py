"""Own page: who is signed in, their sessions, and their one-time codes.

Rule: a seed is made on the server, shown to the session that asked for it and to no other, and forgotten after some
minutes. It counts from the moment at which the tree has it; the page only makes sure that the phone has it right.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from typing import Any

import attrs

from relayd.config.secrets.recipients import SealError
from relayd.core.access.enrolment import Enrolment, enrol, qr_svg
from relayd.core.access.sessions import Session, Sessions
from relayd.core.access.sign_in import accepted_step
from relayd.core.live import Live
from relayd.daemon.admin.pages.audit import AuditEntry, AuditTrail
from relayd.daemon.admin.pages.visit import ROOT, Page, PageRoute, Visit
from relayd.wire.call import Reply
from relayd.wire.refusal import Refusal

OWN = f"{ROOT}/me"
CODES = f"{OWN}/codes"
QR = f"{CODES}/qr.svg"
PATIENCE = 600.0  # s that a seed waits for its confirmation
MOST_WAITING = 100


@attrs.define(eq=False, kw_only=True)
class OwnPage:
    """The page of an admin about themselves.

    Args:
        rng: makes that many random bytes, which nobody can guess.
    """

    live: Live
    sessions: Sessions
    audit: AuditTrail
    rng: Callable[[int], bytes] = attrs.field(repr=False)
    _waiting: dict[str, tuple[Enrolment, float]] = attrs.field(factory=dict, init=False, repr=False)  # by session

    def routes(self) -> tuple[PageRoute, ...]:
        return (
            PageRoute(method="GET", pattern=OWN, need="viewer", handler=self.show),
            PageRoute(method="POST", pattern=CODES, need="viewer", handler=self.begin),
            PageRoute(method="GET", pattern=QR, need="viewer", handler=self.qr),
            PageRoute(method="POST", pattern=f"{CODES}/confirm", need="viewer", handler=self.confirm),
        )

    async def show(self, visit: Visit) -> Page:
        """Who is signed in."""
        return self._page(visit)

    async def begin(self, visit: Visit) -> Page:
        """Make a seed. Raises: Refusal 409 where the tree names nobody who could open it."""
        relay, session = self.live.snapshot.relay, _session(visit)
        try:
            made = enrol(visit.visitor.name, relay.realm, relay.secrets.recipients, self.rng)
        except SealError as error:
            raise Refusal(status=409, message=str(error), code="recipients") from None
        self._waiting.pop(session.csrf, None)
        while len(self._waiting) >= MOST_WAITING:
            del self._waiting[next(iter(self._waiting))]
        self._waiting[session.csrf] = (made, visit.now)
        self._note(visit, "codes.make")
        return self._page(visit, made=made)

    async def qr(self, visit: Visit) -> Reply:
        """The picture of the seed that waits. Raises: Refusal 404."""
        made = self._found(visit)
        return Reply(status=200, headers=[(b"content-type", b"image/svg+xml")], body=qr_svg(made.uri))

    async def confirm(self, visit: Visit) -> Page:
        """Look whether the phone shows the right code; then offer what makes it count. Raises: Refusal 404."""
        made = self._found(visit)
        if accepted_step(made.seed, visit.form.get("code", ""), visit.now, -1) is None:
            self._note(visit, "codes.confirm", "wrong one-time code")
            return attrs.evolve(self._page(visit, made=made, wrong=True), status=422)
        del self._waiting[_session(visit).csrf]
        self._note(visit, "codes.confirm")
        return self._page(visit, sealed=made.sealed)

    def _page(self, visit: Visit, **more: Any) -> Page:
        visitor = visit.visitor
        user = next(one for one in self.live.snapshot.relay.admin.users if one.name == visitor.name)
        values: dict[str, Any] = {"made": None, "wrong": False, "sealed": "", **more, "codes": bool(user.totp)}
        values["command"] = f"relayd secret totp {shlex.quote(visitor.name)} --add --sealed {values['sealed']}"
        document = {
            "name": visitor.name,
            "role": visitor.role,
            "email": visitor.email,
            "one_time_codes": values["codes"],
        }
        document["sessions"] = self.sessions.count(visitor)
        return Page(template="me", title="me.title", values=values | document, document=document)

    def _found(self, visit: Visit) -> Enrolment:
        made, at = self._waiting.get(_session(visit).csrf, (None, 0.0))
        if made is None or visit.now - at > PATIENCE:
            raise Refusal(status=404, message="no one-time codes wait for you: begin anew", code="codes")
        return made

    def _note(self, visit: Visit, what: str, result: str = "ok") -> None:
        who = visit.visitor.name
        act = AuditEntry(at=visit.now, who=who, what=what, subject=who, address=visit.address, result=result)
        self.audit.note(act)


def _session(visit: Visit) -> Session:
    assert visit.session is not None
    return visit.session
