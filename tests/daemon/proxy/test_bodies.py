"""While a body comes: its sender may lose the right to be served, memory and descriptors may run out."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import trio
from builders import KEY, OTHER_KEY, api_key, changed, snapshot
from fakes import ASK, PATIENCE, House, Reception, answering, message, relaying, upstream_account, wire
from scripted import serving

from relayd.config.snapshot import Deny, Limits, Server, Size

PADDED = ASK[:-1] + b" " * 60_000 + b"}"
HALF = len(PADDED) // 2


async def half_sent(house: House, key: str = KEY, path: str = "/v1/messages"):
    """A client whose body has come to the half. The relay reads on."""
    client, request = await house.connect(), wire("POST", path, PADDED, x_api_key=key)
    await client.send(request[: len(request) - HALF])
    with trio.fail_after(PATIENCE):
        while house.app.calls.bodies.used < HALF:
            await trio.lowlevel.checkpoint()
    return client, request[len(request) - HALF :]


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens", "/v1/chat/completions"])
@pytest.mark.parametrize("deny", [Deny(keys=("dev",)), Deny(ips=("127.0.0.1",))])
async def test_what_is_revoked_while_a_body_comes_is_not_served(path: str, deny: Deny) -> None:
    tree = snapshot()
    async with relaying(tree) as house:
        client, rest = await half_sent(house, path=path)
        house.live.swap(changed(tree, deny=deny, revision="000000000001"))
        await client.send(rest)
        told = await client.answer()
    assert told.status == (401 if deny.keys else 403)


async def test_what_is_taken_from_a_key_while_a_body_comes_is_gone() -> None:
    tree = snapshot()
    async with relaying(tree) as house:
        client, rest = await half_sent(house)
        newer = snapshot(keys=(api_key(models=("claude-haiku-*",)),))
        house.live.swap(changed(newer, revision="000000000001"))
        await client.send(rest)
        assert (await client.answer()).error[:2] == (403, "permission_error")


async def test_a_key_of_one_call_at_once_does_not_fill_the_memory_with_bodies() -> None:
    server = Server(max_request_body=Size(len(PADDED)))
    keys = (api_key(limits=Limits(concurrency=1)), api_key(OTHER_KEY, id="other"))
    async with relaying(snapshot(keys=keys, relay={"server": server}), memory=1 << 20) as house:
        first, rest = await half_sent(house)
        told = await house.ask(PADDED)
        assert told.error[:2] == (429, "rate_limit_error")
        assert told["retry-after"] == "1"
        assert (await house.ask(PADDED, key=OTHER_KEY)).status == 200
        await first.send(rest)
        assert (await first.answer()).status == 200
        assert (await house.ask(PADDED)).status == 200
        await house.receipt(4)
        assert house.app.calls.bodies.used == 0


async def test_all_bodies_together_take_no_more_than_their_memory() -> None:
    server = Server(max_request_body=Size(len(PADDED)), body_memory=Size(len(PADDED)))
    keys = (api_key(), api_key(OTHER_KEY, id="other"))
    async with relaying(snapshot(keys=keys, relay={"server": server})) as house:
        first, _ = await half_sent(house)
        told = await house.ask(PADDED, key=OTHER_KEY)
        assert told.error[:2] == (529, "overloaded_error")
        chunks = (
            b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in (PADDED[:HALF], PADDED[HALF:])) + b"0\r\n\r\n"
        )
        client = await house.connect()
        await client.send(
            b"POST /v1/messages HTTP/1.1\r\nhost: a\r\nx-api-key: %b\r\ntransfer-encoding: chunked\r\n\r\n%b"
            % (OTHER_KEY.encode(), chunks)
        )
        assert (await client.answer()).status == 529  # also where the length is not known before
        await first.leave("reset")
        await house.receipt(3)
        assert (await house.ask(PADDED, key=OTHER_KEY)).status == 200


@contextmanager
def no_descriptor_left() -> Iterator[None]:
    """For the length of the block this process can open nothing."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = max(int(name) for name in os.listdir("/proc/self/fd")) + 2
    filling: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    try:
        while True:
            try:
                filling.append(os.open(os.devnull, os.O_RDONLY))
            except OSError:
                break
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for number in filling:
            os.close(number)


async def test_a_lack_of_descriptors_is_ours_and_blamed_on_no_account() -> None:
    async with serving(Reception([answering(body=message())])) as upstream:
        tree = snapshot(accounts=(upstream_account("a", upstream.port), upstream_account("b", upstream.port)))
        async with relaying(tree) as house:
            client = await house.connect()
            assert (await client.get("/livez")).status == 200
            with no_descriptor_left():
                told = await client.ask()
            receipt = await house.receipt()
            assert told.error[:2] == (503, "api_error")
            assert "too many open files" in told.error[2]
            assert told["retry-after"] == "1"
            assert len(receipt.attempts) == 1
            for _ in range(20):  # far more than would open a breaker
                with no_descriptor_left():
                    assert (await client.ask()).status == 503
            assert (await client.ask()).status == 200
