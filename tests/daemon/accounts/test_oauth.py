"""OAuth at run time, against a token server that ends a family of tokens when a refresh token is used twice."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import attrs
import pytest
import trio
from oauth_nodes import IDENTITY, NOON, Clock, Node, node, sqlite_pump, tree
from token_server import TokenServer, token_server
from trio.testing import MockClock

from relayd.config.secrets.seal import new_identity
from relayd.config.secrets.secret import Secret
from relayd.daemon.accounts import token_store
from relayd.daemon.accounts.token_store import TOPIC
from relayd.state import contract as c
from relayd.state.sqlite import SqliteStore


@pytest.fixture
def fast() -> MockClock:
    """Time jumps to the next deadline once nothing has happened for 5 ms: all is in this process and this thread."""
    return MockClock(autojump_threshold=0.005)


@pytest.fixture
async def clock() -> Clock:
    return Clock()


@pytest.fixture
async def server(clock: Clock) -> AsyncIterator[TokenServer]:
    async with token_server(clock) as found:
        yield found


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


def notes(store: Path) -> list[c.Note]:
    with contextlib.closing(SqliteStore(str(store), clock=lambda: int(NOON * 1000))) as opened:
        (answer,) = opened.apply([c.Gather(topic=TOPIC)])
    assert isinstance(answer, c.Gathered)
    return list(answer.notes)


def events(caplog: pytest.LogCaptureFixture, name: str) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.getMessage() == name]


async def test_four_nodes_and_a_hundred_waiters_make_one_request(store: Path) -> None:
    began = time.monotonic()

    def clock() -> float:  # for threads, which have no trio clock
        return NOON + time.monotonic() - began

    async with token_server(clock) as server:
        seed = server.sign_in()
        server.families["f"].access.clear()  # the provider has revoked the access token
        await _hundred_waiters(server, seed, clock, store)


async def _hundred_waiters(
    server: TokenServer, seed: dict[str, object], clock: Callable[[], float], store: Path
) -> None:
    config, outcomes = tree(server, seed), []
    old = Secret(str(seed["access_token"]))
    async with (
        node(config, sqlite_pump(store, clock, threaded=True), clock, "n1") as one,
        node(config, sqlite_pump(store, clock, threaded=True), clock, "n2") as two,
        node(config, sqlite_pump(store, clock, threaded=True), clock, "n3") as three,
        node(config, sqlite_pump(store, clock, threaded=True), clock, "n4") as four,
    ):
        nodes = [one, two, three, four]

        async def wait(at: Node) -> None:
            outcomes.append(await at.keeper.renew("max", old))

        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                for number in range(100):
                    nursery.start_soon(wait, nodes[number % 4])

        assert outcomes == [True] * 100
        assert len(server.posts) == 1
        assert not server.families["f"].revoked
        assert len({at.token() for at in nodes}) == 1
        assert all(server.accepts(at.token()) for at in nodes)
        assert all(at.renewed == ["max"] for at in nodes)


async def test_a_token_is_refreshed_at_four_fifths_of_its_life_by_one_node_of_four(
    fast: MockClock, server: TokenServer, clock: Clock, store: Path
) -> None:
    config = tree(server, server.sign_in())
    async with (
        node(config, sqlite_pump(store, clock), clock, "n1") as one,
        node(config, sqlite_pump(store, clock), clock, "n2") as two,
        node(config, sqlite_pump(store, clock), clock, "n3") as three,
        node(config, sqlite_pump(store, clock), clock, "n4") as four,
    ):
        nodes = [one, two, three, four]
        clock.moved += 3600 * 0.74
        await trio.sleep(6)
        assert server.posts == []
        clock.moved += 3600 * 0.12
        seed = one.token()
        for at in nodes:
            await at.until(lambda at=at: at.token() != seed)
        assert len(server.posts) == 1
        for _ in range(3):  # and so on, with the token that the last refresh gave
            before = one.token()
            clock.moved += 3600 * 0.9
            for at in nodes:
                await at.until(lambda at=at, before=before: at.token() != before)
        assert len(server.posts) == 4
        assert not server.families["f"].revoked


async def test_what_is_sent_is_a_refresh_and_nothing_follows_a_redirect(
    fast: MockClock, server: TokenServer, clock: Clock, store: Path, caplog: pytest.LogCaptureFixture
) -> None:
    seed = server.sign_in(life=60)
    server.answer = (302, "")
    async with node(tree(server, seed), sqlite_pump(store, clock), clock) as one:
        await one.until(lambda: bool(events(caplog, "oauth.refresh_failed")))
        sent = server.posts[0]
        assert sent == {"grant_type": "refresh_token", "refresh_token": seed["refresh_token"], "client_id": "ours"}
        assert b"content-type: application/json" in server.heads[0]
        assert "redirect" in events(caplog, "oauth.refresh_failed")[0].reason  # type: ignore[attr-defined]
        server.answer = None
        await one.until(lambda: one.token() != seed["access_token"])


async def test_new_tokens_are_stored_sealed_before_they_are_used(
    fast: MockClock, server: TokenServer, clock: Clock, store: Path
) -> None:
    seed = server.sign_in(life=60)
    used_when_stored: list[str] = []
    async with node(tree(server, seed), sqlite_pump(store, clock), clock) as one:

        def watch(op: c.Op) -> bool:
            if isinstance(op, c.Publish) and '"sealed":"rlsec1.' in op.body:
                used_when_stored.append(one.token())
            return False

        one.state.dies_at = watch
        await one.until(lambda: one.token() != seed["access_token"])
        new = one.token()
    assert used_when_stored == [seed["access_token"]]
    (note,) = notes(store)
    family = server.families["f"]
    for secret in (new, family.refresh, seed["access_token"], seed["refresh_token"]):
        assert secret not in note.body


async def test_a_restarted_node_goes_on_with_the_stored_tokens(
    fast: MockClock, server: TokenServer, clock: Clock, store: Path
) -> None:
    seed = server.sign_in(life=60)
    config = tree(server, seed)
    async with node(config, sqlite_pump(store, clock), clock) as one:
        await one.until(lambda: one.token() != seed["access_token"])
        token = one.token()
    async with node(config, sqlite_pump(store, clock), clock) as again:
        assert again.token() == token
        clock.moved += 3600
        await again.until(lambda: again.token() != token)
    assert not server.families["f"].revoked
    assert [post["refresh_token"] for post in server.posts] == [
        seed["refresh_token"],
        sorted(server.families["f"].used)[1],
    ]


async def test_tokens_stored_before_they_were_sealed_for_a_token_endpoint_are_used_on(
    fast: MockClock, server: TokenServer, clock: Clock, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed = server.sign_in(life=60)
    config = tree(server, seed)
    with monkeypatch.context() as older:
        bound = token_store.runtime_binding
        older.setattr(token_store, "runtime_binding", lambda *of: attrs.evolve(bound(*of), token_url=""))
        async with node(config, sqlite_pump(store, clock), clock) as one:
            await one.until(lambda: one.token() != seed["access_token"])
            token = one.token()
    async with node(config, sqlite_pump(store, clock), clock) as again:
        assert again.token() == token
        clock.moved += 3600
        await again.until(lambda: again.token() != token)


async def test_a_crash_between_asking_and_storing_loses_that_rotation_alone_and_is_told(
    fast: MockClock, server: TokenServer, clock: Clock, store: Path, caplog: pytest.LogCaptureFixture
) -> None:
    seed = server.sign_in(life=60)
    config = tree(server, seed)

    def storing(op: c.Op) -> bool:
        return isinstance(op, c.Publish) and '"sealed":"rlsec1.' in op.body

    async with node(config, sqlite_pump(store, clock), clock, "dies", dies_at=storing):
        await trio.sleep(100)
        pytest.fail("it lives")
    assert len(server.posts) == 1
    async with node(config, sqlite_pump(store, clock), clock, "heir") as heir:
        await heir.until(lambda: bool(events(caplog, "oauth.refresh_failed")))
        (told,) = events(caplog, "oauth.rotation_interrupted")
        assert told.levelno == logging.WARNING
        assert told.node.startswith("dies-")  # type: ignore[attr-defined]
        (failed,) = events(caplog, "oauth.refresh_failed")
        assert failed.hint == "sign in again: relayd account login max"  # type: ignore[attr-defined]
        clock.moved += 3600
        await heir.until(lambda: not isinstance(heir.keeper.of(config.accounts["max"]), Secret))
        assert "sign in again" in heir.why_not()
        await trio.sleep(40)  # and the provider is not asked again and again
        assert len(server.posts) == 2
        fresh = server.sign_in("g")
        heir.config = tree(server, fresh)
        assert heir.token() == fresh["access_token"]


async def test_a_node_that_is_cut_off_in_mid_rotation_is_waited_for_while_the_old_token_lasts(
    fast: MockClock, server: TokenServer, clock: Clock, store: Path, caplog: pytest.LogCaptureFixture
) -> None:
    seed = server.sign_in(life=400)
    server.hold = trio.Event()
    config = tree(server, seed)
    async with (
        node(config, sqlite_pump(store, clock), clock, "other", away=True) as other,
        node(config, sqlite_pump(store, clock), clock, "apart") as apart,
    ):
        await apart.until(lambda: bool(server.posts), 400)
        apart.state.away, other.state.away = True, False
        server.hold.set()
        await other.until(lambda: bool(events(caplog, "oauth.rotation_interrupted")))  # its lock has run out
        await trio.sleep(20)
        assert (other.token(), len(server.posts)) == (seed["access_token"], 1)
        apart.state.away = False
        await other.until(lambda: other.token() != seed["access_token"])
        assert other.token() == apart.token()
        assert server.accepts(other.token())
    assert len(server.posts) == 1
    (told,) = events(caplog, "oauth.rotation_interrupted")
    assert told.node.startswith("apart-")  # type: ignore[attr-defined]


async def test_a_crash_before_the_request_was_sent_costs_nothing(
    fast: MockClock, server: TokenServer, clock: Clock, store: Path, caplog: pytest.LogCaptureFixture
) -> None:
    seed = server.sign_in(life=60)
    config = tree(server, seed)
    async with node(config, sqlite_pump(store, clock), clock, "first") as first:
        # The intent is written; then the process ends, before the provider hears of it.
        first.keeper._held["max"].due = None
        await first.keeper._store.write(first.keeper._held["max"], first.keeper._held["max"].tokens, asking="gone-1")
    async with node(config, sqlite_pump(store, clock), clock, "heir") as heir:
        await heir.until(lambda: heir.token() != seed["access_token"])
    assert events(caplog, "oauth.rotation_interrupted")
    assert not server.families["f"].revoked


async def test_a_new_seed_wins_and_going_back_finds_the_old_tokens_again(
    fast: MockClock, server: TokenServer, clock: Clock, store: Path
) -> None:
    old_seed, new_seed = server.sign_in("old", life=60), server.sign_in("new")
    old_tree, new_tree = tree(server, old_seed), tree(server, new_seed)
    async with node(old_tree, sqlite_pump(store, clock), clock) as one:
        await one.until(lambda: one.token() != old_seed["access_token"])
        rotated = one.token()
        one.config = tree(server, old_seed)  # sealed anew, as `secret reseal` does: the same seed
        assert one.token() == rotated
        one.config = new_tree
        assert one.token() == new_seed["access_token"]
        clock.moved += 3400
        await one.until(lambda: one.token() != new_seed["access_token"])
        one.config = old_tree  # a rollback
        await one.until(lambda: one.token() not in (old_seed["access_token"], new_seed["access_token"]))
        await one.until(lambda: server.accepts(one.token()))
    assert not any(family.revoked for family in server.families.values())


async def test_nodes_with_an_old_and_a_new_tree_do_not_disturb_each_other(
    fast: MockClock, server: TokenServer, clock: Clock, store: Path
) -> None:
    old_seed, new_seed = server.sign_in("old", life=60), server.sign_in("new", life=60)
    async with (
        node(tree(server, old_seed), sqlite_pump(store, clock), clock, "n1") as behind,
        node(tree(server, new_seed), sqlite_pump(store, clock), clock, "n2") as ahead,
    ):
        await behind.until(lambda: behind.token() != old_seed["access_token"])
        await ahead.until(lambda: ahead.token() != new_seed["access_token"])
        behind.config = ahead.config  # it has pulled
        await behind.until(lambda: behind.token() == ahead.token())
    assert len(server.posts) == 2
    assert not any(family.revoked for family in server.families.values())


async def test_tokens_of_a_seed_that_nobody_uses_are_erased_after_a_week(
    fast: MockClock, server: TokenServer, clock: Clock, store: Path
) -> None:
    seed = server.sign_in("old", life=60)
    async with node(tree(server, seed), sqlite_pump(store, clock), clock) as one:
        await one.until(lambda: one.token() != seed["access_token"])
        one.config = tree(server, server.sign_in("new", life=30 * 86400))
        await trio.sleep(6)
        assert [bool(note.body) for note in notes(store)] == [True]
        clock.moved += 8 * 86400
        await one.until(lambda: not notes(store)[0].body)


async def test_a_node_whose_clock_is_an_hour_ahead_does_not_refresh_for_ever(
    fast: MockClock, server: TokenServer, clock: Clock, store: Path
) -> None:
    config = tree(server, server.sign_in())
    pump = sqlite_pump(store, clock)  # its clock is the store's: that of the others
    async with (
        node(config, sqlite_pump(store, clock), clock, "right") as right,
        node(config, pump, lambda: clock() + 4000, "ahead") as ahead,
    ):
        await trio.sleep(20)
        assert server.posts == []
        clock.moved += 3400
        await right.until(lambda: right.token() == ahead.token() and len(server.posts) == 1)
        await trio.sleep(20)
        assert len(server.posts) == 1


async def test_calls_under_way_when_tokens_expire_are_all_served(
    fast: MockClock, server: TokenServer, clock: Clock, store: Path
) -> None:
    server.life = 1000.0
    seed = server.sign_in()
    config = tree(server, seed)
    served = 0
    async with (
        node(config, sqlite_pump(store, clock), clock, "n1") as one,
        node(config, sqlite_pump(store, clock), clock, "n2") as two,
    ):

        async def call(at: Node) -> None:
            nonlocal served
            for _ in range(2):  # as a call does: present, and after a 401 once more
                token = at.token()
                if server.accepts(token):
                    served += 1
                    return
                await at.keeper.renew("max", Secret(token))
                clock.moved += 0.1

        with trio.fail_after(200):
            for round_number in range(5):
                if round_number % 2:
                    server.families["f"].access.clear()  # revoked by the provider, long before its time
                    await trio.sleep(61)
                else:
                    clock.moved += 1100
                async with trio.open_nursery() as nursery:
                    for number in range(50):
                        nursery.start_soon(call, (one, two)[number % 2])
    assert served == 250
    assert not server.families["f"].revoked
    assert len(server.posts) == server.families["f"].rotations <= 6


async def test_a_failed_refresh_is_tried_again_and_rests_the_account_only_once_the_token_has_expired(
    fast: MockClock, server: TokenServer, clock: Clock, store: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    seed = server.sign_in(life=500)
    server.answer = (503, json.dumps({"error": "busy", "secret": seed["refresh_token"]}))
    async with node(tree(server, seed), sqlite_pump(store, clock), clock) as one:
        clock.moved += 450
        await one.until(lambda: len(server.posts) >= 3)
        assert one.token() == seed["access_token"]
        clock.moved += 60
        await one.until(lambda: not isinstance(one.keeper.of(one.config.accounts["max"]), Secret))
        assert one.why_not() == "the access token expired at 2027-01-15T08:08:20Z: the token endpoint answered 503"
        server.answer = None
        await one.until(lambda: isinstance(one.keeper.of(one.config.accounts["max"]), Secret), 700)
        assert server.accepts(one.token())
        assert one.renewed == ["max"]
    warned = [record for record in events(caplog, "oauth.refresh_failed") if record.levelno == logging.WARNING]
    assert len(warned) == 1
    assert len(events(caplog, "oauth.expired")) == 1
    assert len(events(caplog, "oauth.recovered")) == 1
    assert str(seed["refresh_token"]) not in caplog.text + str([vars(record) for record in caplog.records])


async def test_without_the_store_nothing_is_refreshed_and_what_is_there_is_used(
    fast: MockClock, server: TokenServer, clock: Clock, store: Path
) -> None:
    seed = server.sign_in(life=300)
    config = tree(server, seed)
    async with node(config, sqlite_pump(store, clock), clock, away=True) as one:
        clock.moved += 280
        await trio.sleep(10)
        assert (one.token(), server.posts) == (seed["access_token"], [])
        one.state.away = False
        await one.until(lambda: one.token() != seed["access_token"], 400)
    assert len(server.posts) == 1


async def test_when_the_store_goes_away_in_mid_rotation_the_tokens_are_stored_once_it_is_back(
    fast: MockClock, server: TokenServer, clock: Clock, store: Path, caplog: pytest.LogCaptureFixture
) -> None:
    seed = server.sign_in(life=300)
    server.hold = trio.Event()
    async with node(tree(server, seed), sqlite_pump(store, clock), clock) as one:
        clock.moved += 280
        await one.until(lambda: bool(server.posts))
        one.state.away = True
        server.hold.set()
        await one.until(lambda: bool(events(caplog, "oauth.not_stored")))
        assert one.token() == seed["access_token"]
        clock.moved += 100  # the old token ends: better the new one than none
        await one.until(lambda: one.token() != seed["access_token"])
        one.state.away = False
        await one.until(lambda: '"sealed":"rlsec1.' in notes(store)[0].body)
    assert len(server.posts) == 1


async def test_a_store_that_was_emptied_is_given_the_tokens_again(
    fast: MockClock, server: TokenServer, clock: Clock, store: Path
) -> None:
    seed = server.sign_in(life=60)
    config = tree(server, seed)
    async with node(config, sqlite_pump(store, clock), clock) as one:
        await one.until(lambda: one.token() != seed["access_token"])
        _sql(store, "DELETE FROM notes")
        await one.until(lambda: bool(notes(store)))
        token = one.token()
    async with node(config, sqlite_pump(store, clock), clock) as again:
        assert again.token() == token


def _sql(store: Path, statement: str, *values: object) -> None:
    import sqlite3

    connection = sqlite3.connect(store)
    connection.execute(statement, values)
    connection.commit()
    connection.close()


async def test_tokens_put_into_the_store_by_one_who_does_not_know_the_seed_are_not_used(
    fast: MockClock, server: TokenServer, clock: Clock, store: Path, caplog: pytest.LogCaptureFixture
) -> None:
    seed, theirs = server.sign_in("ours", life=60), server.sign_in("theirs", life=60)
    async with node(tree(server, theirs), sqlite_pump(store, clock), clock) as thief:
        await thief.until(lambda: thief.token() != theirs["access_token"])
    body = notes(store)[0].body
    _sql(store, "DELETE FROM notes")
    async with node(tree(server, seed), sqlite_pump(store, clock), clock) as one:
        await one.until(lambda: one.token() != seed["access_token"])
        token = one.token()
        _sql(store, "UPDATE notes SET body = ?, version = version + 1", body)
        await one.until(lambda: bool(events(caplog, "oauth.note_refused")))
        await one.until(lambda: notes(store)[0].body != body)
        assert one.token() == token


async def test_stored_tokens_are_sealed_for_a_new_recipient_without_a_refresh(
    fast: MockClock, server: TokenServer, clock: Clock, store: Path
) -> None:
    other = new_identity(os.urandom)
    seed = server.sign_in(life=60)
    async with node(tree(server, seed), sqlite_pump(store, clock), clock) as one:
        await one.until(lambda: one.token() != seed["access_token"])
        before = notes(store)[0]
        one.config = tree(server, seed, recipients=[IDENTITY, other])
        await one.until(lambda: notes(store)[0].body != before.body)
        token = one.token()
    await trio.sleep(5)
    assert len(server.posts) == 1
    config = tree(server, seed, identity=other, recipients=[IDENTITY, other])
    async with node(config, sqlite_pump(store, clock), clock, identities=[other]) as two:
        assert two.token() == token


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"client_id": ""}, "oauth.client_id is empty"),
        ({"recipients": [new_identity(os.urandom)]}, "no identity of this node is an active recipient"),
        ({"seed": "no refresh"}, "there is no refresh token"),
    ],
)
async def test_what_keeps_a_node_from_refreshing_is_said_and_the_token_is_used_while_it_lasts(
    fast: MockClock, server: TokenServer, clock: Clock, store: Path, change: dict[str, object], why: str
) -> None:
    seed = server.sign_in(life=60)
    if change.pop("seed", ""):
        del seed["refresh_token"]
    async with node(tree(server, seed, **change), sqlite_pump(store, clock), clock) as one:  # type: ignore[arg-type]
        await trio.sleep(5)
        assert one.token() == seed["access_token"]
        assert not await one.keeper.renew("max", Secret(one.token()))
        clock.moved += 100
        await one.until(lambda: not isinstance(one.keeper.of(one.config.accounts["max"]), Secret))
        assert why in one.why_not()
    assert server.posts == []


async def test_a_long_lived_access_token_alone_needs_no_state_and_no_registration(
    fast: MockClock, server: TokenServer, clock: Clock, store: Path
) -> None:
    config = tree(server, "sk-ant-oat01-alone", client_id="")
    async with node(config, sqlite_pump(store, clock), clock) as one:
        await trio.sleep(5)
        assert one.token() == "sk-ant-oat01-alone"
        assert one.state.asked == []
        assert [status.trouble for status in one.keeper.statuses()] == [""]


async def test_a_401_right_after_a_refresh_is_not_answered_by_another(
    fast: MockClock, server: TokenServer, clock: Clock, store: Path
) -> None:
    seed = server.sign_in()
    async with node(tree(server, seed), sqlite_pump(store, clock), clock) as one:
        assert await one.keeper.renew("max", Secret(str(seed["access_token"])))
        new = Secret(one.token())
        assert not one.keeper.renewable("max", new)
        assert not await one.keeper.renew("max", new)
        assert one.keeper.renewable("max", Secret(str(seed["access_token"])))  # others still came with the old one
        await trio.sleep(61)
        assert await one.keeper.renew("max", new)
    assert len(server.posts) == 2


async def test_a_lost_answer_leaves_a_mark_until_a_person_signs_in_again(
    fast: MockClock, server: TokenServer, clock: Clock, store: Path, caplog: pytest.LogCaptureFixture
) -> None:
    seed = server.sign_in(life=60)
    server.lose_answers = 1
    async with node(tree(server, seed), sqlite_pump(store, clock), clock) as one:
        await one.until(lambda: bool(events(caplog, "oauth.refresh_failed")))
        assert json.loads(notes(store)[0].body)["asking"].startswith("n1-")
        await one.until(lambda: len(events(caplog, "oauth.refresh_failed")) == 2)
        assert [record.hint for record in events(caplog, "oauth.refresh_failed")][1].startswith("sign in again")  # type: ignore[attr-defined]


async def test_a_provider_that_does_not_rotate_keeps_the_refresh_token(
    fast: MockClock, server: TokenServer, clock: Clock, store: Path
) -> None:
    server.rotates = False
    seed = server.sign_in(life=60)
    async with node(tree(server, seed), sqlite_pump(store, clock), clock) as one:
        await one.until(lambda: one.token() != seed["access_token"])
        clock.moved += 3500
        await one.until(lambda: len(server.posts) == 2)
    assert {post["refresh_token"] for post in server.posts} == {seed["refresh_token"]}


@pytest.mark.parametrize("why", ["disabled", "denied"])
async def test_accounts_out_of_service_are_not_refreshed(
    fast: MockClock, server: TokenServer, clock: Clock, store: Path, why: str
) -> None:
    config = tree(server, server.sign_in(life=60), enabled=why != "disabled")
    if why == "denied":
        config = attrs.evolve(config, deny=attrs.evolve(config.deny, accounts=("max",)))
    async with node(config, sqlite_pump(store, clock), clock):
        await trio.sleep(10)
    assert server.posts == []


async def test_the_end_of_the_daemon_waits_for_a_rotation_under_way(fast: MockClock, store: Path) -> None:
    clock = Clock()
    async with token_server(clock) as server:
        seed = server.sign_in(life=-1)
        server.hold = trio.Event()
        async with trio.open_nursery() as nursery:
            async with node(tree(server, seed), sqlite_pump(store, clock), clock) as one:
                await one.until(lambda: bool(server.posts))
                nursery.start_soon(_soon, server.hold.set)
            assert '"sealed":"rlsec1.' in notes(store)[0].body


async def _soon(act: Callable[[], None]) -> None:
    await trio.sleep(0.1)
    act()


async def test_a_worker_leaves_what_is_due_to_its_supervisor_and_refreshes_only_what_a_call_needs(
    fast: MockClock, server: TokenServer, clock: Clock, store: Path, caplog: pytest.LogCaptureFixture
) -> None:
    seed = server.sign_in(life=30)
    config = tree(server, seed)
    async with node(config, sqlite_pump(store, clock), clock) as worker:
        worker.keeper.follows = True
        await trio.sleep(40)  # nobody leads here: the token ends, and the worker says nothing of it
        assert server.posts == []
        assert events(caplog, "oauth.expired") == []
        assert await worker.keeper.renew("max", Secret(worker.token()))  # an upstream has refused it
        assert len(server.posts) == 1
        async with node(config, sqlite_pump(store, clock), clock, "supervisor"):
            second = worker.token()
            clock.moved += 3500  # new tokens last an hour
            await worker.until(lambda: worker.token() != second)
    assert len(server.posts) == 2
