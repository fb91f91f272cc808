"""Attacks by way of HTTP: S2, S3, S8, S12, S13, S14, S18, S24, S25 of docs/security.md."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from builders import KEY, api_key, headers, snapshot
from fakes import ASK, MODEL, Reception, answering, message, relaying, upstream_account
from hypothesis import given
from hypothesis import strategies as st
from scripted import serving

from relayd.config.snapshot import Admin, Deny, Server
from relayd.daemon.proxy.reply import cors_headers
from relayd.daemon.proxy.routes import DIALECTS, find
from relayd.wire.api_paths import canonical
from relayd.wire.h1 import FramingError, parse_head
from relayd.wire.http import RequestHead
from relayd.wire.refusal import Refusal

BODIES = {
    "/v1/messages": ASK,
    "/v1/messages/count_tokens": ASK,
    "/v1/chat/completions": json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}).encode(),
    "/v1/responses": json.dumps({"model": MODEL, "input": "hi"}).encode(),
}
PREFIXES = {
    "/v1/messages": (
        "/api/v1/messages", "/v1/v1/messages", "/api/v1/v1/messages", "/api/messages", "/messages", "//v1/messages",
        "/v1/messages/", "/claude/v1/messages", "/anthropic/v1/messages", "/api//v1//messages",
    ),
    "/v1/messages/count_tokens": (
        "/api/v1/messages/count_tokens", "/v1/v1/messages/count_tokens", "/api/messages/count_tokens",
    ),
    "/v1/chat/completions": (
        "/openai/v1/chat/completions", "/openai/claude/v1/chat/completions", "/openai/chat/completions",
        "/chat/completions", "/claude/v1/chat/completions", "/openai/v1/chat/completions/",
    ),
    "/v1/responses": (
        "/openai/v1/responses", "/openai/claude/v1/responses", "/api/v1/responses", "/openai/responses", "/responses",
    ),
}  # fmt: skip
SPELLINGS = [(path, spelling) for path, others in PREFIXES.items() for spelling in (path, *others)]


@pytest.mark.parametrize("host", ["a/b", "a?b", "a#@b", "localhost:4000/#@x", "a\\b", "a b", "a\tb", "", "a,b", "a@b"])
def test_s2_a_host_that_could_be_read_as_a_path_is_refused_or_decides_nothing(host: str) -> None:
    wire = f"POST /v1/messages HTTP/1.1\r\nhost: {host}\r\ncontent-length: 0\r\n\r\n".encode()
    try:
        head = parse_head(wire)
    except FramingError:
        return
    else:
        assert head.path == "/v1/messages"
        assert find(head) is DIALECTS["/v1/messages"]
        assert not set(host) & set("/?#\\ \t@")


@pytest.mark.parametrize(
    "wire",
    [
        b"GET /health HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
        b"GET /health HTTP/1.1\r\n\r\n",
        b"GET http://a/health HTTP/1.1\r\nhost: b\r\n\r\n",
        b"GET http://a@b/health HTTP/1.1\r\nhost: a@b\r\n\r\n",
        b"GET //a/health HTTP/1.1\r\nhost: a\r\nhost : b\r\n\r\n",
        b"CONNECT a:1 HTTP/1.1\r\nhost: a\r\n\r\n",
    ],
)
async def test_s2_two_hosts_none_and_targets_that_name_one_are_refused(wire: bytes) -> None:
    async with relaying(snapshot()) as house:
        client = await house.connect()
        await client.send(wire)
        assert (await client.answer()).status in (400, 404, 405, 501)


_started: list[str] = []
_WATCHED = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty", "pty.spawn")
_watching = [False]


def _hook(event: str, args: Any) -> None:
    if _watching[0] and event in _WATCHED:
        _started.append(event)


@contextmanager
def watching_for_processes() -> Iterator[list[str]]:
    """Notes every process that is started in the block. An audit hook stays for ever, so it is added once."""
    if _hook not in _installed:
        sys.addaudithook(_hook)
        _installed.append(_hook)
    _started.clear()
    _watching[0] = True
    try:
        yield _started
    finally:
        _watching[0] = False


_installed: list[Any] = []
COMMANDS = ("$(id)", "`id`", "; id", "| id", "--upload-pack=id", "-oProxyCommand=id", "ext::sh -c id", "\n id")


async def test_s3_no_route_starts_a_process_whatever_it_is_asked() -> None:
    paths = [*DIALECTS, "/v1/models", "/usage", "/health", "/", "/v1/files", "/v1/messages/batches", "/preview", "/git"]
    async with relaying(
        snapshot(keys=(api_key(endpoints=("messages", "openai", "models", "files", "batches")),))
    ) as house:
        client = await house.connect()
        with watching_for_processes() as started:
            for path in paths:
                for command in COMMANDS:
                    body = json.dumps({"model": command, "input": command, "messages": [{"role": command}]}).encode()
                    words = command.strip()
                    await client.ask(body, path, user_agent=words, x_forwarded_for=words, anthropic_beta=words)
                    await client.get(f"{path}?q={words.encode().hex()}", user_agent=words)
    assert started == []


def test_s3_the_watch_notices_a_process() -> None:
    import subprocess

    with watching_for_processes() as started:
        subprocess.run([sys.executable, "-c", ""], check=True)
    assert started


@pytest.mark.parametrize("path", BODIES)
async def test_s8_nothing_that_a_client_names_is_fetched(path: str) -> None:
    there = Reception([answering(body=b"{}")])
    async with serving(there) as named:
        url = f"http://127.0.0.1:{named.port}/x.png"
        blocks = [
            {"type": "image", "source": {"type": "url", "url": url}},
            {"type": "image_url", "image_url": {"url": url}},
            {"type": "input_image", "image_url": url},
            {"type": "document", "source": {"type": "url", "url": url}},
        ]
        for block in blocks:
            body = json.loads(BODIES[path])
            turn = [{"role": "user", "content": [block]}]
            body |= {"input": turn} if "input" in body else {"messages": turn}
            body |= {"mcp_servers": [{"type": "url", "url": url, "name": "x"}], "callback": url, "webhook": url}
            async with relaying(snapshot()) as house:
                await house.ask(json.dumps(body).encode(), path, origin=url, referer=url, x_callback=url)
    assert there.asked == []


NO_KEY = {"none": {}, "forged": {"x_api_key": "sk-relay-" + "0" * 49}, "another's": {"x_api_key": "sk-ant-api03-x"}}


@pytest.mark.parametrize("presented", NO_KEY)
async def test_s12_every_route_but_health_asks_for_a_key(presented: str) -> None:
    for path, body in BODIES.items():
        async with relaying(snapshot()) as house:  # each its own: bad keys are held off after a while
            for spelling in (path, *PREFIXES[path]):
                assert (await house.ask(body, spelling, key="", **NO_KEY[presented])).status == 401
    async with relaying(snapshot()) as house:
        for path in ("/v1/models", "/v1/models/x", "/openai/v1/models", "/usage", "/v1/files", "/v1/messages/batches"):
            assert (await house.get(path, key="", **NO_KEY[presented])).status == 401
        for path in ("/health", "/livez", "/readyz", "/"):
            assert (await house.get(path, key="", **NO_KEY[presented])).status == 200


def test_s12_both_listeners_are_on_loopback_unless_the_tree_says_otherwise() -> None:
    assert Server().listen == ("127.0.0.1:3000",)
    assert Admin().listen == "127.0.0.1:3001"
    assert Server().cors_origins == ()


@pytest.mark.parametrize("method", ["GET", "POST", "PUT"])
async def test_s13_there_is_no_route_to_set_anything_up(method: str) -> None:
    async with relaying(snapshot()) as house:
        for name in (
            "setup",
            "install",
            "init",
            "admin",
            "register",
            "login",
            "web",
            "api/setup",
            "api/admin",
            "config",
        ):
            client = await house.connect()
            await client.send(f"{method} /{name} HTTP/1.1\r\nhost: a\r\nx-api-key: {KEY}\r\n\r\n".encode())
            assert (await client.answer()).status == 404


RESTRICTED = {
    "client": snapshot(keys=(api_key(clients=("claude_code",)),)),
    "model": snapshot(keys=(api_key(models=("claude-haiku-*",)),)),
    "denied model": snapshot(keys=(api_key(deny_models=("*",)),)),
    "address": snapshot(keys=(api_key(allowed_ips=("192.0.2.1",)),)),
    "denied address": snapshot(deny=Deny(ips=("127.0.0.1",))),
    "endpoint": snapshot(keys=(api_key(endpoints=("models",)),)),
}


@pytest.mark.parametrize("rule", RESTRICTED)
async def test_s14_a_restriction_holds_on_every_dialect_and_spelling(rule: str) -> None:
    async with relaying(RESTRICTED[rule]) as house:
        client = await house.connect()
        assert {(await client.ask(BODIES[path], spelling)).status for path, spelling in SPELLINGS} == {403}


@pytest.mark.parametrize(
    "path",
    [
        "/v1/messages/x", "/openai/v1/messages", "/v1/api/messages", "/V1/messages", "/v1/Messages", "/v1%2fmessages",
        "/v1/%6dessages", "/v1/./messages", "/v1/x/../messages", "/v1/messages;x", "/v1/messages%00", "/v1/messages\\",
        "/api/api/v1/messages", "/v1/v1/v1/messages", "/v1/chat/completions/x",
    ],
)  # fmt: skip
async def test_s14_no_other_spelling_of_a_path_reaches_a_route(path: str) -> None:
    async with relaying(snapshot()) as house:
        assert (await house.ask(path=path)).status in (400, 404)


@given(st.text(st.sampled_from("/v1apimesgchtopl.%2fF"), max_size=40))
def test_s14_whatever_reaches_a_route_is_one_of_its_spellings(text: str) -> None:
    path = "/" + text
    head = RequestHead(method="POST", target=path, path=path, query="", headers=headers())
    try:
        target = find(head)
    except Refusal:
        return
    if target in DIALECTS.values():
        assert canonical(path) in DIALECTS


async def test_s18_nothing_of_a_body_is_read_before_the_key_is_known() -> None:
    async with relaying(snapshot()) as house:
        for path in BODIES:
            client = await house.connect()
            await client.send(
                f"POST {path} HTTP/1.1\r\nhost: a\r\nx-api-key: x\r\ncontent-length: 1000000\r\n"
                "expect: 100-continue\r\n\r\n".encode()
            )
            told = await client.answer()
            assert told.status == 401  # and no "100 Continue" came first
        assert house.app.calls.bodies.used == 0


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "https://app.example.com.evil.example", "http://app.example.com"]
)
async def test_s18_a_page_of_another_origin_reads_nothing(origin: str) -> None:
    tree = snapshot(relay={"server": Server(cors_origins=("https://app.example.com",))})
    async with relaying(tree) as house:
        answers = [await house.ask(origin=origin), await house.get("/v1/models", origin=origin)]
        answers.append(await house.get("/v1/messages", method="OPTIONS", origin=origin))
    assert not any(name.startswith("access-control-allow") for told in answers for name, _ in told.pairs)


MODELS: dict[str, bytes] = {
    "null": b'{"model":null,"messages":[]}',
    "none": b'{"messages":[]}',
    "empty": b'{"model":"","messages":[]}',
    "a number": b'{"model":7,"messages":[]}',
    "an array": b'{"model":["m"],"messages":[]}',
    "an object": b'{"model":{"id":"m"},"messages":[]}',
    "true": b'{"model":true,"messages":[]}',
    "a megabyte": b'{"model":"%b","messages":[]}' % (b"m" * (1 << 20)),
    "doubled": b'{"model":"a","model":"b","messages":[]}',
    "doubled in another spelling": b'{"model":"a","m\\u006fdel":"b","messages":[]}',
    "behind a BOM": b"\xef\xbb\xbf" + ASK,
    "in UTF-16": ASK.decode().encode("utf-16"),
    "not UTF-8": b'{"model":"\xff","messages":[]}',
    "a key": b'{"model":"%b","messages":[]}' % KEY.encode(),
    "no object": b'["model"]',
}  # fmt: skip


async def of_a_doubled_model_the_one_that_is_checked_is_sent(path: str) -> None:
    """A translated body is written anew, so it has one reader: nobody can take the other value for true."""
    doubled = BODIES[path].replace(b"{", b'{"model":"claude-opus-5-5",', 1)
    there = Reception([answering(body=message())])
    async with serving(there) as upstream:
        accounts = (upstream_account("a", upstream.port),)
        for models, status in (((MODEL,), 200), (("claude-opus-5-5",), 403)):
            async with relaying(snapshot(keys=(api_key(models=models),), accounts=accounts)) as house:
                assert (await house.ask(doubled, path)).status == status
    assert [json.loads(asked.body)["model"] for asked in there.asked] == [MODEL]


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("case", MODELS)
async def test_s24_a_model_that_is_no_name_is_a_400_in_the_dialect_and_reaches_nobody(case: str, path: str) -> None:
    if case.startswith("doubled") and not path.startswith("/v1/messages"):
        await of_a_doubled_model_the_one_that_is_checked_is_sent(path)
        return
    there = Reception([answering(body=message())])
    body = MODELS[case]
    if path == "/v1/responses":
        body = body.replace(b'"messages":[]', b'"input":"hi"')
    elif path == "/v1/chat/completions":
        body = body.replace(b'"messages":[]', b'"messages":[{"role":"user","content":"hi"}]')
    async with serving(there) as upstream:
        tree = snapshot(accounts=(upstream_account("a", upstream.port),))
        async with relaying(tree) as house:
            told = await house.ask(body, path)
            receipt = await house.receipt()
    assert told.status == 400
    assert ("type" in told.json) is path.startswith("/v1/messages")
    assert told.json["error"]["type"] == "invalid_request_error"
    assert there.asked == []
    assert len(told.body) < 1000
    assert len(receipt.model) < 1000


@pytest.mark.parametrize("allowed", [(), ("https://a.example",), ("*",), ("*", "https://a.example")])
@given(origin=st.sampled_from(["https://a.example", "https://b.example", "null", "*", ""]))
def test_s25_no_origin_is_allowed_by_default_and_credentials_never_are(allowed: tuple[str, ...], origin: str) -> None:
    sent = dict(cors_headers(origin, allowed))

    assert b"access-control-allow-credentials" not in sent
    assert (b"access-control-allow-origin" in sent) is bool(
        origin and allowed and ("*" in allowed or origin in allowed)
    )
