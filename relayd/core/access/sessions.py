"""Sessions: who is signed in to the admin pages, as a browser's cookie says.

Rule: the cookie holds 256 random bits, we hold their hash; nothing about the visitor is believed but this. A session
ends when it was idle or old for too long, when its owner signs out, and at the first look after its owner has left the
tree or was changed there. One node's own memory, bounded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Literal

import attrs

from relayd.config.snapshot import AdminUser, ApiKey
from relayd.noun import noun

SESSION_IDLE = 30 * 60.0  # s without a request
SESSION_AGE = 12 * 3600.0  # s, however busy
MOST_SESSIONS = 1000
MOST_OF_ONE = 20  # of one visitor; the oldest goes

VisitorRole = Literal["viewer", "editor", "key"]


@noun(kw_only=True)
class Visitor:
    """Somebody who is signed in.

    Args:
        name: of the admin, or the id of the API key.
        role: "key" is a key holder, who sees only its own use.
        stamp: of what the tree says about them; another one ends their sessions.
    """

    name: str
    role: VisitorRole
    email: str = ""
    stamp: bytes = attrs.field(default=b"", repr=False)


def admin_visitor(user: AdminUser) -> Visitor:
    """A person of [[admin.users]]."""
    stamp = _stamp("admin", user.name, user.password_hash, user.totp, user.role, user.email)
    return Visitor(name=user.name, role=user.role, email=user.email, stamp=stamp)


def key_visitor(key: ApiKey) -> Visitor:
    """The holder of an API key."""
    return Visitor(name=key.id, role="key", stamp=_stamp("key", key.id, *(entry.sha256 for entry in key.hashes)))


def _stamp(*parts: str) -> bytes:
    return hashlib.sha256("\0".join(parts).encode()).digest()


@attrs.define(eq=False, kw_only=True)
class Session:
    """One browser of one visitor.

    Args:
        csrf: what its forms must send along.
        made, used: Unix time, s.
    """

    visitor: Visitor
    csrf: str = attrs.field(repr=False)
    made: float
    used: float


@attrs.define(eq=False)
class Sessions:
    """All of one node.

    Args:
        rng: makes that many random bytes.
    """

    rng: Callable[[int], bytes] = attrs.field(repr=False)
    _open: dict[bytes, Session] = attrs.field(factory=dict, repr=False, init=False)

    def open(self, visitor: Visitor, now: float) -> tuple[str, Session]:
        """A new session, and the cookie's value, which is known to nobody else."""
        self._make_room(visitor, now)
        token = self.rng(32).hex()
        session = Session(visitor=visitor, csrf=self.rng(32).hex(), made=now, used=now)
        self._open[_key(token)] = session
        return token, session

    def find(self, token: str, current: Callable[[Visitor], Visitor | None], now: float) -> Session | None:
        """The session of a cookie, used at this moment; None when there is none that counts.

        Args:
            current: the same visitor as the tree knows them now.
        """
        session = self._open.get(_key(token)) if token else None
        if session is None:
            return None
        known = current(session.visitor)
        if known is None or known.stamp != session.visitor.stamp or not _alive(session, now):
            del self._open[_key(token)]
            return None
        session.used = max(session.used, now)
        return session

    def close(self, token: str) -> None:
        """Sign out. Idempotent."""
        self._open.pop(_key(token), None)

    def close_all(self, visitor: Visitor) -> int:
        """Sign a visitor out everywhere. Returns how many sessions that were."""
        theirs = [key for key, one in self._open.items() if _same(one.visitor, visitor)]
        for key in theirs:
            del self._open[key]
        return len(theirs)

    def count(self, visitor: Visitor) -> int:
        """The open sessions of a visitor."""
        return sum(_same(one.visitor, visitor) for one in self._open.values())

    def _make_room(self, visitor: Visitor, now: float) -> None:
        for key in [key for key, one in self._open.items() if not _alive(one, now)]:
            del self._open[key]
        theirs = [key for key, one in self._open.items() if _same(one.visitor, visitor)]
        for key in theirs[: max(0, len(theirs) - MOST_OF_ONE + 1)]:
            del self._open[key]
        if len(self._open) >= MOST_SESSIONS:
            del self._open[next(iter(self._open))]


def _same(one: Visitor, other: Visitor) -> bool:
    return one.name == other.name and (one.role == "key") == (other.role == "key")


def _alive(session: Session, now: float) -> bool:
    """A clock that was set back ends no session early by more than it was set back."""
    return now - session.used < SESSION_IDLE and now - session.made < SESSION_AGE


def _key(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
