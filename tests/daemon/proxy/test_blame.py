"""Who is to blame for an answer, over real sockets: the account, the call, the upstream, or this node."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from booked import booked
from builders import account, api_key, snapshot
from fakes import (
    ASK,
    ASK_STREAM,
    House,
    Reception,
    answering,
    credential_of,
    events_of,
    failing,
    message,
    recorded_stream,
    relaying,
    streaming,
    upstream_account,
)
from ports import refusing_port
from scripted import Conversation, Script, serving
from test_counting import rows
from trio.testing import MockClock

from relayd.config.secrets.secret import Secret
from relayd.config.snapshot import Account, Limits, Routing, Seconds, Upstream
from relayd.core.receipt import Receipt
from relayd.wire.anthropic import error_body
from relayd.wire.usage import Usage

PAGE = b"<!DOCTYPE html><title>Attention Required! | Cloudflare</title>Sorry, you have been blocked"
FIREWALL = answering(403, PAGE, content_type="text/html; charset=UTF-8")
LONG = failing(429, "rate_limit_error", "Extra usage is required for long context requests.")
DISABLED = failing(400, "invalid_request_error", "This organization has been disabled.")
GOOD = answering(body=message())
COUNT = "/v1/messages/count_tokens"


@asynccontextmanager
async def relaying_to(*scripts: Script, affinity: float = 0.0) -> AsyncIterator[House]:
    """A relay whose accounts a, b, ... have these upstreams, tried in this order."""
    routing = Routing(strategy="priority", affinity=Seconds(affinity))
    async with AsyncExitStack() as stack:
        upstreams = [await stack.enter_async_context(serving(script)) for script in scripts]
        accounts = [
            upstream_account(name, one.port, priority=place)
            for place, (name, one) in enumerate(zip("abcd", upstreams, strict=False))
        ]
        tree = snapshot(accounts=tuple(accounts), relay={"routing": routing})
        yield await stack.enter_async_context(relaying(tree))


def tried(receipt: Receipt) -> list[tuple[str, int]]:
    return [(attempt.account, attempt.status) for attempt in receipt.attempts]


def resting(house: House) -> list[str]:
    """The accounts that would not serve now."""
    found = house.pool.explain(house.live.snapshot, ("default",), "claude-haiku-4-5", now=house.wall())
    return [one.account for one in found if not one.ok]


# The call's own.


@pytest.mark.parametrize("path", ["/v1/messages", COUNT])
async def test_a_firewall_that_dislikes_a_prompt_rests_nobody_and_its_page_is_delivered(path: str) -> None:
    upstreams = [Reception([FIREWALL]) for _ in range(3)]
    async with relaying_to(*upstreams) as house:
        for _ in range(9):
            told = await house.ask(path=path)
            assert (told.status, told.body) == (403, PAGE)
        receipt = await house.receipt(9)
        assert resting(house) == []
    assert tried(receipt) == [("a", 403), ("b", 403)]  # the second one settles it
    assert upstreams[2].asked == []


async def test_what_no_accounts_plan_includes_is_delivered_as_it_was_said() -> None:
    async with relaying_to(*(Reception([LONG]) for _ in range(3))) as house:
        told = await house.ask()
        assert told.error == (429, "rate_limit_error", "Extra usage is required for long context requests.")
        assert resting(house) == []


async def test_what_another_accounts_plan_includes_is_served_there_and_the_first_serves_the_rest() -> None:
    async with relaying_to(Reception([LONG, GOOD]), Reception([GOOD])) as house:
        first, second = await house.ask(), await house.ask()
        receipt = await house.receipt(2)
    assert (first.status, second.status) == (200, 200)
    assert tried(house.receipts.receipts[0]) == [("a", 429), ("b", 200)]
    assert tried(receipt) == [("a", 200)]


@pytest.mark.parametrize("size", [1, 2])
async def test_a_denial_that_says_nothing_of_a_credential_is_the_calls_once_two_accounts_give_it(size: int) -> None:
    denial = failing(403, "permission_error", "not in your region")
    async with relaying_to(*(Reception([denial]) for _ in range(size))) as house:
        told = await house.ask()
        assert resting(house) == []
    if size == 1:
        said = "account a: the upstream rejected its credential: not in your region (403)"
        assert told.error == (502, "api_error", said)
    else:
        assert told.error == (403, "permission_error", "not in your region")


# The account's.


async def test_a_conversation_leaves_an_account_that_was_closed() -> None:
    first = Reception([GOOD, DISABLED])
    async with relaying_to(first, Reception([GOOD]), affinity=3600.0) as house:
        for _ in range(3):
            assert (await house.ask()).status == 200
        await house.receipts.wait_for(3)
        assert resting(house) == ["a"]
    assert [tried(one) for one in house.receipts.receipts] == [[("a", 200)], [("a", 400), ("b", 200)], [("b", 200)]]
    assert len(first.asked) == 2


async def test_a_rejected_credential_is_named_in_the_upstreams_words_and_never_quoted() -> None:
    refusing = Reception([failing(401, "authentication_error", "invalid x-api-key: sk-ant-test-a")])
    async with relaying_to(refusing) as house:
        told = await house.ask()
        receipt = await house.receipt()
    assert told.error[2].startswith("account a: the upstream rejected its credential: invalid x-api-key: ")
    assert "sk-ant-test-a" not in told.body.decode() + repr(receipt)


# A success that is none.


@pytest.mark.parametrize("path", ["/v1/messages", COUNT])
async def test_an_error_in_a_success_is_answered_by_its_status(path: str) -> None:
    hidden = answering(200, error_body("overloaded_error", "Overloaded", "req_1"))
    async with relaying_to(Reception([hidden])) as house:
        told = await house.ask(path=path)
        receipt = await house.receipt()
    assert told.error == (529, "overloaded_error", "Overloaded")
    assert receipt.outcome == "upstream"


@pytest.mark.parametrize(("body", "what"), [(PAGE, "an HTML page"), (b"", "an empty body"), (b"[]", "a body that")])
async def test_a_success_without_an_answer_is_a_502_that_says_what_came(body: bytes, what: str) -> None:
    async with relaying_to(Reception([answering(200, body)])) as house:
        told = await house.ask()
    assert told.error[:2] == (502, "api_error")
    assert told.error[2].startswith(f"account a: 200 with {what}")


async def test_a_stream_whose_events_have_no_names_is_read_by_their_type_and_passed_on_as_it_is() -> None:
    nameless = [event.partition(b"\n")[2] for event in events_of(recorded_stream())]
    async with relaying_to(Reception([streaming(*nameless)]), Reception([streaming(recorded_stream())])) as house:
        told = await house.ask(ASK_STREAM)
        receipt = await house.receipt()
    assert told.body == b"".join(nameless)
    assert (receipt.outcome, tried(receipt)) == ("ok", [("a", 200)])
    assert receipt.usage != Usage()


async def test_a_nameless_stream_is_counted_as_a_named_one_however_it_is_cut() -> None:
    whole = b"".join(event.partition(b"\n")[2] for event in events_of(recorded_stream()))
    pieces = [whole[at : at + 7] for at in range(0, len(whole), 7)]
    async with relaying_to(Reception([streaming(*pieces), streaming(recorded_stream())])) as house:
        assert (await house.ask(ASK_STREAM)).body == whole
        await house.ask(ASK_STREAM)
        await house.receipts.wait_for(2)
    first, second = house.receipts.receipts
    assert first.usage == second.usage
    assert (first.outcome, second.outcome) == ("ok", "ok")


# This node's.


async def test_what_this_node_lacks_is_no_clients_business() -> None:
    why = "sealed for recipient k2, but only k1 is loaded (see RELAYD_IDENTITY)"

    def credential(one: Account) -> Secret | str:
        return why if one.id == "a" else credential_of(one)

    good = Reception([GOOD])
    async with serving(good) as upstream:
        lacking = upstream_account("a", upstream.port)
        tree = snapshot(accounts=(lacking, attrs.evolve(upstream_account("b", upstream.port), enabled=False)))
        async with relaying(tree, credential=credential) as house:
            first, second = await house.ask(), await house.ask()
            assert house.pool.defects() == {"a": why}
            assert house.pool.snapshot_health("a")["account"]["gate"] == {}
            assert "a" not in house.pool.take_changed()
    for told in (first, second):
        assert told.error[:2] == (529, "overloaded_error")
        assert "a: cannot be used on this node" in told.error[2]
        assert "recipient" not in told.error[2]
        assert "RELAYD" not in told.error[2]
    assert good.asked == []


# The upstream's.


async def test_an_unreachable_upstream_names_the_account_and_the_cause() -> None:
    with refusing_port() as nobody:
        async with relaying(snapshot(accounts=(upstream_account("main", nobody),))) as house:
            told = await house.ask()
            receipt = await house.receipt()
    assert told.error == (502, "api_error", "account main: upstream unreachable: connection refused")
    assert receipt.reason == told.error[2]


async def test_a_name_that_nobody_knows_is_said_to_be_one(monkeypatch: pytest.MonkeyPatch) -> None:
    look_up = socket.getaddrinfo

    def knowing_all_others(host: str | bytes | None, *args: Any, **more: Any) -> Any:  # whatever name server there is
        if host in ("nobody.invalid", b"nobody.invalid"):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return look_up(host, *args, **more)

    monkeypatch.setattr(socket, "getaddrinfo", knowing_all_others)
    tree = snapshot(accounts=(account("main", kind="api-key", base_url="http://nobody.invalid"),))
    async with relaying(tree) as house:
        told = await house.ask()
    assert told.error[2].startswith("account main: upstream unreachable: dns: ")


# What may have been done already.


async def test_what_creates_an_object_is_not_sent_twice_when_a_connection_dies(tmp_path: Path) -> None:
    created: list[bytes] = []

    async def script(peer: Conversation) -> None:
        """The first request of a connection is answered, the second one is read and the connection closed."""
        created.append(await peer.request())
        await peer.send(answering(200, b'{"id":"msgbatch_%d","type":"message_batch"}' % len(created)))
        if more := await peer.request():
            created.append(more)

    batch = b'{"requests":[{"custom_id":"1","params":%b}]}' % ASK
    async with serving(script) as upstream:
        keys = (api_key(endpoints=("messages", "batches")),)
        async with booked(snapshot(keys=keys, accounts=(upstream_account("a", upstream.port),)), tmp_path) as world:
            for _ in range(2):
                told = await world.house.ask(batch, "/v1/messages/batches")
                assert told.status == 200
            assert upstream.accepted == 2
    assert len(created) == 2


async def silent_but_reading(peer: Conversation) -> None:
    while await peer.request():
        await peer.until_peer_leaves()


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_that_was_lost_is_booked_by_its_estimate(
    stream: bool, tmp_path: Path, jumping_clock: MockClock
) -> None:
    patience = Upstream(first_byte_timeout=Seconds(5.0), plain_timeout=Seconds(5.0))
    async with serving(silent_but_reading) as upstream:
        accounts = (upstream_account("a", upstream.port), upstream_account("b", upstream.port))
        tree = snapshot(
            keys=(api_key(limits=Limits(daily_tokens=10**6)),), accounts=accounts, relay={"upstream": patience}
        )
        async with booked(tree, tmp_path) as world:
            told = await world.house.ask(ASK_STREAM if stream else ASK)
            receipt = await world.house.receipt()
            await trio.sleep(1)
            (row,) = rows(world)
    assert told.status == 504
    assert len(receipt.attempts) == 2  # generated twice, and no third time
    assert row.input > 0
    assert row.output == (0 if stream else 2 * 100)  # max_tokens, for each of the two
    assert row.cost > 0
    assert (row.requests, row.errors) == (1, 1)


async def test_a_plain_answer_may_take_longer_than_the_head_of_a_stream(jumping_clock: MockClock) -> None:
    async def slow(peer: Conversation) -> None:
        while await peer.request():
            await trio.sleep(3)
            await peer.send(GOOD)

    patience = Upstream(first_byte_timeout=Seconds(2.0), plain_timeout=Seconds(4.0))
    async with serving(slow) as upstream:
        tree = snapshot(accounts=(upstream_account("a", upstream.port),), relay={"upstream": patience})
        async with relaying(tree) as house:
            plain, streamed = await house.ask(), await house.ask(ASK_STREAM)
    assert (plain.status, streamed.status) == (200, 504)
    assert Upstream().plain_timeout == 600
