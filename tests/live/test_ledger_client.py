"""The ledger's client: a connection that its server gives up is a fault, unless it was idle for too long."""

from __future__ import annotations

import re

from ledger import Client, Reply, getting
from scripted import OK, Conversation, serving


async def answer_once(conversation: Conversation) -> None:
    """And close, though the head did not say so."""
    await conversation.request()
    await conversation.send(OK)


async def second_reply(patience: float) -> Reply:
    """Of a client whose connection has been closed after the first one."""
    async with serving(answer_once) as upstream:
        client = Client(upstream.port, patience=patience)
        assert (await client.ask(getting("/"))).whole
        await upstream.all_closed()
        reply = await client.ask(getting("/"))
        await client.close()
        return reply


async def test_a_connection_that_was_idle_for_long_is_not_used_again() -> None:
    reply = await second_reply(patience=0.0)
    assert (reply.status, reply.fault) == (200, "")


async def test_a_connection_that_was_promised_and_ended_is_a_fault_that_tells_how_long_it_was_kept() -> None:
    reply = await second_reply(patience=60.0)
    assert reply.status == 0
    assert reply.fault.partition(" on ")[0] in ("EOFError()", "BrokenResourceError()") or "reset" in reply.fault
    assert re.search(r" on a connection kept for \d+\.\d{3} s$", reply.fault)


async def test_a_connection_that_was_opened_before_is_the_one_that_is_used() -> None:
    async with serving(answer_once) as upstream:
        client = Client(upstream.port)
        await client.open()
        assert (await client.ask(getting("/"))).whole
        await client.close()
        assert upstream.accepted == 1
