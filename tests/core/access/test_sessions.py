"""Sessions: how they end, and that they are bounded."""

from __future__ import annotations

import itertools

from relayd.config.snapshot import AdminUser
from relayd.core.access.sessions import (
    MOST_OF_ONE,
    MOST_SESSIONS,
    SESSION_AGE,
    SESSION_IDLE,
    Sessions,
    Visitor,
    admin_visitor,
)

ALICE = AdminUser(name="alice", password_hash="scrypt$1", role="editor")


def sessions() -> Sessions:
    numbers = itertools.count(1)
    return Sessions(lambda size: next(numbers).to_bytes(size, "big"))


def the_same(visitor: Visitor) -> Visitor:
    return visitor


def test_a_session_is_found_by_its_cookie_alone() -> None:
    all_of_them = sessions()
    token, session = all_of_them.open(admin_visitor(ALICE), 0.0)
    assert len(token) == 64
    assert all_of_them.find(token, the_same, 1.0) is session
    assert all_of_them.find(token[:-1] + "x", the_same, 1.0) is None
    assert all_of_them.find("", the_same, 1.0) is None
    assert token not in repr(all_of_them)
    assert session.csrf not in repr(session)


def test_an_idle_session_ends_and_a_busy_one_lives_only_so_long() -> None:
    all_of_them = sessions()
    token, _ = all_of_them.open(admin_visitor(ALICE), 0.0)
    now = 0.0
    while now + SESSION_IDLE / 2 < SESSION_AGE:
        now += SESSION_IDLE / 2
        assert all_of_them.find(token, the_same, now)
    assert all_of_them.find(token, the_same, SESSION_AGE) is None
    token, _ = all_of_them.open(admin_visitor(ALICE), 0.0)
    assert all_of_them.find(token, the_same, SESSION_IDLE) is None


def test_a_change_in_the_tree_ends_a_session_at_once() -> None:
    for changed in (
        None,
        admin_visitor(AdminUser(name="alice", password_hash="scrypt$2", role="editor")),
        admin_visitor(AdminUser(name="alice", password_hash="scrypt$1", role="viewer")),
    ):
        all_of_them = sessions()
        token, _ = all_of_them.open(admin_visitor(ALICE), 0.0)
        assert all_of_them.find(token, lambda _, now=changed: now, 1.0) is None
        assert all_of_them.find(token, the_same, 1.0) is None, "it does not come back"


def test_signing_out_everywhere_ends_no_other_persons_sessions() -> None:
    all_of_them = sessions()
    alice, bob = admin_visitor(ALICE), Visitor(name="bob", role="viewer")
    tokens = [all_of_them.open(alice, 0.0)[0] for _ in range(3)]
    other, _ = all_of_them.open(bob, 0.0)
    a_key_of_that_name, _ = all_of_them.open(Visitor(name="alice", role="key"), 0.0)
    assert all_of_them.close_all(alice) == 3
    assert [all_of_them.find(token, the_same, 1.0) for token in tokens] == [None] * 3
    assert all_of_them.find(other, the_same, 1.0)
    assert all_of_them.find(a_key_of_that_name, the_same, 1.0)


def test_sessions_are_bounded_and_one_visitor_displaces_only_itself() -> None:
    all_of_them = sessions()
    other, _ = all_of_them.open(Visitor(name="bob", role="viewer"), 0.0)
    tokens = [all_of_them.open(admin_visitor(ALICE), 0.0)[0] for _ in range(MOST_OF_ONE + 5)]
    assert all_of_them.count(admin_visitor(ALICE)) == MOST_OF_ONE
    assert all_of_them.find(tokens[0], the_same, 1.0) is None
    assert all_of_them.find(other, the_same, 1.0)
    for number in range(MOST_SESSIONS):
        all_of_them.open(Visitor(name=f"key{number}", role="key"), 1.0)
    assert len(all_of_them._open) == MOST_SESSIONS
