"""What clients do with HTTP itself is understood: compressed bodies, offers to upgrade, names with underscores."""

from __future__ import annotations

import gzip
import random
import sys
import zlib
from functools import partial

import brotli
import pytest
from builders import KEY, api_key, snapshot
from fakes import ASK, House, Reception, Told, answering, message, relaying, through, upstream_account
from scripted import serving

from relayd.config.snapshot import Server, Size
from relayd.wire.content_coding import CODINGS
from relayd.wire.h1 import MAX_LINE

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

PACK = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "br": partial(brotli.compress, quality=5),
    "zstd": zstd.compress,
}
PATHS = ("/v1/messages", "/v1/messages/count_tokens", "/v1/chat/completions", "/openai/v1/responses")
OPENAI = PATHS[2:]
# Longer than what is read on the loop, and hard to compress, so that it is decoded in a thread and in portions.
LONG = ASK[:-1] + b', "metadata": {"padding": "%b"}}' % random.Random(4).randbytes(1 << 20).hex().encode()


def wording(told: Told, path: str) -> str:
    """The message of a refusal, which has the form of the path's dialect."""
    assert told["content-type"] == "application/json"
    if path in OPENAI or path == "/v1/models":
        assert told.json["error"].keys() == {"message", "type", "param", "code"}
    else:
        assert told.json["type"] == "error"
    return str(told.json["error"]["message"])


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("body", [ASK, LONG], ids=["short", "long"])
async def test_a_compressed_body_goes_upstream_as_it_was_before(coding: str, body: bytes) -> None:
    async with serving(reception := Reception([answering(body=message())])) as upstream, through(upstream) as house:
        packed = PACK[coding](body)
        assert (await house.ask(packed, content_encoding=coding)).status == 200
        assert (await house.receipt()).bytes_in == len(packed)
        assert house.app.calls.bodies.used == 0
    asked = reception.asked[0]
    assert asked.body == body
    assert asked.all("content-encoding") == []
    assert asked.all("content-length") == [str(len(body))]


@pytest.mark.parametrize("path", PATHS)
async def test_a_compressed_body_is_understood_in_each_dialect(path: str) -> None:
    body = ASK.replace(b"messages", b"input") if "responses" in path else ASK
    async with relaying(snapshot()) as house:
        assert (await house.ask(zstd.compress(body), path, content_encoding="zstd")).status == 200


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("coding", "packed", "status", "said"),
    [
        ("compress", ASK, 415, "content-encoding: 'compress' is not understood (want gzip, deflate, br, zstd or none)"),
        ("gzip, br", ASK, 415, "content-encoding: 'gzip, br' is not understood"),
        ("gzip", ASK, 400, "request body: gzip that is damaged"),
        ("zstd", zstd.compress(ASK)[:-3], 400, "request body: zstd that is cut off"),
        ("br", brotli.compress(bytes(3_000_000)), 413, "request body larger than 100000 bytes once decoded"),
    ],
)
async def test_what_cannot_be_decoded_is_refused_in_the_dialect(
    path: str, coding: str, packed: bytes, status: int, said: str
) -> None:
    async with relaying(snapshot(relay={"server": Server(max_request_body=Size(100_000))})) as house:
        told = await house.ask(packed, path, content_encoding=coding)
        assert (told.status, wording(told, path)[: len(said)]) == (status, said)
        assert ("accept-encoding" in told) == (status == 415)


async def test_a_bomb_is_refused_by_its_proportion_and_its_memory_given_back() -> None:
    async with relaying(snapshot()) as house:
        bomb = zstd.compress(b'{"model": "' + bytes(16 << 20))
        told = await house.ask(bomb, content_encoding="zstd")
        assert told.error[:2] == (413, "request_too_large")
        await house.receipt()
        assert house.app.calls.bodies.used == 0


async def test_what_is_decoded_counts_as_memory_of_its_key() -> None:
    server = Server(max_request_body=Size(300_000), body_memory=Size(300_000))
    async with relaying(snapshot(relay={"server": server})) as house:
        body = ASK + b" " * (299_000 - len(ASK))
        told = await house.ask(zstd.compress(body), content_encoding="zstd")
        assert told.status == 200
        house.app.calls.bodies.take("another", api_key(id="another"), server, 10_000)
        told = await house.ask(zstd.compress(body), content_encoding="zstd")
        assert told.error[:2] == (529, "overloaded_error")


async def test_an_unknown_key_learns_nothing_of_codings() -> None:
    async with relaying(snapshot()) as house:
        assert (await house.ask(ASK, key="sk-relay-no", content_encoding="compress")).status == 401


async def asked_raw(house: House, wire: bytes) -> Told:
    client = await house.connect()
    await client.send(wire)
    return await client.answer()


H2C = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABk\r\n"


async def test_an_offer_of_http_2_is_answered_in_http_1_on_a_connection_that_stays() -> None:
    async with serving(reception := Reception([answering(body=message())])) as upstream, through(upstream) as house:
        client = await house.connect()
        head = b"POST /v1/messages HTTP/1.1\r\nHost: a\r\nx-api-key: %b\r\n%bContent-Length: %d\r\n\r\n"
        for _ in range(2):
            await client.send(head % (KEY.encode(), H2C, len(ASK)) + ASK)
            told = await client.answer()
            assert told.status == 200
            assert "upgrade" not in told
    for asked in reception.asked:
        assert not asked.all("upgrade")
        assert not asked.all("http2-settings")


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/responses", "/openai/v1/responses"])
async def test_a_websocket_is_told_that_http_is_spoken_here(path: str) -> None:
    shake = "GET {} HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: eA==\r\n\r\n"
    async with relaying(snapshot()) as house:
        client = await house.connect()
        await client.send(shake.format(path).encode() + b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n")
        told = await client.answer()
        assert told.status == 426
        assert (told["upgrade"], told["connection"]) == ("HTTP/1.1", "upgrade, close")
        assert "WebSocket" in told.json["error"]["message"]
        assert not await client.more()  # what follows a handshake is no request


@pytest.mark.parametrize("path", ["/v1/messages", *OPENAI])
@pytest.mark.parametrize(
    ("field", "status", "said"),
    [
        (b"X Team: a", 400, "malformed request: request head: header line 2: not a header name"),
        (b"X-Team: a\x01", 400, "malformed request: request head: header x-team: a control character in its value"),
        (b"Content-Length: 1\r\nTransfer-Encoding: chunked", 400, "malformed request: both content-length and"),
        (b"X-Team: " + b"a" * MAX_LINE, 431, "malformed request: request head: header x-team: a line longer"),
        (b"Transfer-Encoding: gzip", 501, "malformed request: transfer-encoding other than chunked"),
    ],
)
async def test_a_framing_error_has_the_form_of_its_path(path: str, field: bytes, status: int, said: str) -> None:
    async with relaying(snapshot()) as house:
        told = await asked_raw(house, b"POST %b HTTP/1.1\r\nHost: a\r\n%b\r\n\r\n" % (path.encode(), field))
        assert (told.status, wording(told, path)[: len(said)]) == (status, said)


async def test_names_with_underscores_travel_and_impostors_do_not() -> None:
    async with serving(reception := Reception([answering(body=message())])) as upstream:
        tree = snapshot(
            accounts=(upstream_account("a", upstream.port),), keys=(api_key(allowed_ips=("192.0.2.0/24",)),)
        )
        async with relaying(tree) as house:
            lines = [b"POST /v1/messages HTTP/1.1", b"host: a", b"x-api-key: " + KEY.encode(), b"session_id: abc"]
            size = b"content-length: %d" % len(ASK)
            told = await asked_raw(house, b"\r\n".join([*lines, size, b"X_Forwarded_For: 192.0.2.1", b"", ASK]))
            assert told.error[:2] == (403, "permission_error")
            lines += [size, b"x-forwarded-for: 192.0.2.1", b"transfer_encoding: chunked", b"content_length: 1"]
            told = await asked_raw(house, b"\r\n".join([*lines, b"x_api_key: sk-other", b"cf_ray: 1", b"", ASK]))
            assert told.status == 200
    (asked,) = reception.asked
    assert asked.body == ASK
    assert asked.all("session_id") == ["abc"]
    assert [name for name, _ in asked.pairs if "_" in name] == ["session_id"]
