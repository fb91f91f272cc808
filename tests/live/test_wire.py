"""`relayd run` on the wire: what a byte-exact client and a byte-exact upstream see, and where no secret may be seen."""

from __future__ import annotations

import base64
import contextlib
import json
import urllib.parse
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from builders import KEY, OTHER_KEY
from daemon import SIMULATOR, Daemon, key_text, running, write_tree
from fakes import (
    ASK,
    ASK_STREAM,
    STREAM_HEAD,
    Client,
    Cut,
    Reception,
    answering,
    chunked,
    events_of,
    failing,
    message,
    recorded_stream,
    streaming,
    wire,
)
from scripted import Conversation, Script, serving

from relayd.config.secrets.api_keys import mint

STREAM = recorded_stream()
EVENTS = events_of(STREAM)
RELAY = """
[server]
{server}
[upstream]
models_every = "0s"
[routing]
strategy = "priority"
affinity = "0s"
cooldown = {{ overloaded = "0s", server_error = "0s", unreachable = "0s", auth = "0s", rate_limited = "0s" }}
breaker = {{ failures = 1000, window = "1s" }}
[log]
level = "debug"
"""


async def connect(daemon: Daemon) -> Client:
    return Client(await trio.open_tcp_stream("127.0.0.1", daemon.port))


@asynccontextmanager
async def asking(daemon: Daemon) -> AsyncIterator[Client]:
    client = await connect(daemon)
    try:
        yield client
    finally:
        client.stream.socket.close()


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon on the simulator."""
    root = tmp_path_factory.mktemp("wire")
    with running(write_tree(root, relay=RELAY.format(server='max_request_body = "1MiB"'))) as daemon:
        yield daemon


# A client's bytes


async def test_pipelined_calls_are_answered_in_order(simulated: Daemon) -> None:
    asked = json.loads(ASK)
    bodies = [json.dumps({**asked, "messages": [{"role": "user", "content": f"number {n}"}]}) for n in range(8)]
    async with asking(simulated) as client:
        await client.send(b"".join(wire("POST", "/v1/messages", body.encode(), x_api_key=KEY) for body in bodies))
        texts = [(await client.answer()).json["content"][0]["text"] for _ in bodies]
    assert [text[:18] for text in texts] == [f"You said: number {n}"[:18] for n in range(8)]


async def test_a_body_in_chunks_is_a_body(simulated: Daemon) -> None:
    head = f"POST /v1/messages HTTP/1.1\r\nhost: a\r\nx-api-key: {KEY}\r\ntransfer-encoding: chunked\r\n\r\n"
    async with asking(simulated) as client:
        await client.send(head.encode() + chunked(*(ASK[at : at + 7] for at in range(0, len(ASK), 7))) + b"0\r\n\r\n")
        assert (await client.answer()).status == 200
        with contextlib.suppress(trio.BrokenResourceError):  # it may be refused, and hung up on, before all is sent
            await client.send(head.encode() + chunked(*[b"x" * 65536] * 20))  # more than the megabyte that is allowed
        assert (await client.answer()).error[:2] == (413, "request_too_large")


async def test_a_client_that_expects_100_continue_gets_it_only_with_a_good_key(simulated: Daemon) -> None:
    head = f"POST /v1/messages HTTP/1.1\r\nhost: a\r\ncontent-length: {len(ASK)}\r\nexpect: 100-continue\r\n"
    async with asking(simulated) as client:
        await client.send(f"{head}x-api-key: {KEY}\r\n\r\n".encode())
        await client.head()
        assert client.status == 100
        await client.send(ASK)
        assert (await client.answer()).status == 200
    async with asking(simulated) as client:
        await client.send(f"{head}x-api-key: {OTHER_KEY}\r\n\r\n".encode())
        assert (await client.answer()).status == 401


async def test_an_old_client_gets_a_stream_that_ends_with_the_connection(simulated: Daemon) -> None:
    head = f"POST /v1/messages HTTP/1.0\r\nx-api-key: {KEY}\r\ncontent-length: {len(ASK_STREAM)}\r\n\r\n"
    async with asking(simulated) as client:
        await client.send(head.encode() + ASK_STREAM)
        while await client.more():
            pass
    head_bytes, _, body = client.buffer.partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head_bytes
    assert body.endswith(b'event: message_stop\ndata: {"type":"message_stop"}\n\n')


async def test_one_bad_connection_does_not_disturb_the_others(simulated: Daemon) -> None:
    async with asking(simulated) as client:
        for garbage in (
            b"\x16\x03\x01\x02\x00",
            b"GET / HTTP/9.9\r\n\r\n",
            b"POST /v1/messages HTTP/1.1\r\nx y: z\r\n\r\n",
        ):
            async with asking(simulated) as other:
                await other.send(garbage)
                await other.stream.send_eof()
                while await other.more():
                    pass
                assert other.buffer.startswith(b"HTTP/1.1 ") or not other.buffer
        assert (await client.ask()).status == 200
    assert "Traceback" not in simulated.text()


async def test_headers_of_a_stream_allow_no_proxy_to_hold_it_back(simulated: Daemon) -> None:
    async with asking(simulated) as client:
        told = await client.ask(ASK_STREAM)
    assert told["content-type"].startswith("text/event-stream")
    assert told["transfer-encoding"] == "chunked"
    assert "content-length" not in told
    assert told["request-id"] != told["relayd-request-id"]


# Bytes from end to end


@asynccontextmanager
async def before(root: Path, *scripts: Script, server: str = "") -> AsyncIterator[Daemon]:
    """A daemon whose accounts a, b, ... have upstreams of the test and secrets in files."""
    async with trio.open_nursery() as nursery:
        ports = [(await nursery.start(_serve, script)) for script in scripts]
        accounts = {}
        for place, (name, port) in enumerate(zip("abcdef", ports, strict=False)):
            secret = root / f"secret-{name}"
            secret.write_text(f"{CREDENTIAL}-{name}\n")
            accounts[name] = (
                f'kind = "api-key"\npriority = {place}\nbase_url = "http://127.0.0.1:{port}"\n'
                f'[credential]\nfile = "{secret}"\n'
            )
        with running(write_tree(root, relay=RELAY.format(server=server), accounts=accounts)) as daemon:
            yield daemon
        nursery.cancel_scope.cancel()


async def _serve(script: Script, *, task_status: trio.TaskStatus[int]) -> None:
    async with serving(script) as upstream:
        task_status.started(upstream.port)
        await trio.sleep_forever()


CREDENTIAL = "sk-ant-api03-canary-Zq7~x"


async def test_bytes_pass_from_end_to_end_through_the_process(tmp_path: Path) -> None:
    odd = b'{ "model" : "m","max_tokens":1e1,"x":"\\u00e9 \xf0\x9f\x98\x80", "messages":[{"role":"oracle"}]}\n'
    large = b'{"model":"m","messages":["' + b"y" * 20_000_000 + b'"]}'
    weird = b'{"odd" : 1.50}\n'
    reception = Reception([answering(200, weird, x_tomorrow="1"), streaming(STREAM), answering(200, weird)])
    async with before(tmp_path, reception) as daemon, asking(daemon) as client:
        told = await client.ask(odd, "/api/v1/messages?beta=true", anthropic_beta="x-1", user_agent="odd/1")
        stream = await client.ask(odd.rstrip()[:-1] + b',"stream":true}')
        await client.ask(large)
    assert (told.body, told["x-tomorrow"], stream.body) == (weird, "1", STREAM)
    first, second, third = reception.asked
    assert (first.line, first.body) == ("POST /v1/messages?beta=true HTTP/1.1", odd)
    assert (first.all("anthropic-beta"), first.all("user-agent")) == (["x-1"], ["odd/1"])
    assert first.all("x-api-key") == [f"{CREDENTIAL}-a"]
    assert second.body == odd.rstrip()[:-1] + b',"stream":true}'
    assert third.body == large


async def test_a_client_that_leaves_frees_the_upstream_of_the_process(tmp_path: Path) -> None:
    left = trio.Event()

    async def endless(conversation: Conversation) -> None:
        await conversation.request()
        await conversation.send(STREAM_HEAD + chunked(EVENTS[0]))
        await conversation.until_peer_leaves()
        left.set()

    async with before(tmp_path, endless) as daemon:
        async with asking(daemon) as client:
            await client.post(ASK_STREAM)
            await client.head()
            await client.until(EVENTS[0])
        with trio.fail_after(30):
            await left.wait()
        [call] = daemon.wait_for("call.done")
    assert (call["outcome"], call["tokens_in"] > 0) == ("left", True)


# Secrets


def spellings(secret: str) -> set[str]:
    """A secret as it might turn up: raw, in base64 at any alignment, in hex, percent-encoded, escaped."""
    raw = secret.encode()
    found = {secret, raw.hex(), raw.hex().upper(), raw.hex(" "), raw.hex(":"), secret[::-1], repr(list(raw))[1:-1]}
    found |= {urllib.parse.quote(secret, safe=""), urllib.parse.quote_plus(secret)}
    for shift in range(3):
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            text = encode(b"x" * shift + raw).decode().rstrip("=")
            found.add(text[(0, 2, 3)[shift] : -2])
    return found


def test_a_secret_is_found_in_every_spelling() -> None:
    for text in (
        f"x{CREDENTIAL}y",
        CREDENTIAL.encode().hex(),
        urllib.parse.quote(CREDENTIAL, safe=""),
        *(base64.b64encode(b"?" * shift + CREDENTIAL.encode() + b"tail").decode() for shift in range(6)),
    ):
        assert any(spelling in text for spelling in spellings(CREDENTIAL)), text


def exposed(secrets: dict[str, str], places: dict[str, bytes]) -> list[tuple[str, str]]:
    """Which secret is to be read where."""
    return [
        (name, place)
        for name, secret in secrets.items()
        for place, content in places.items()
        if any(spelling.encode() in content for spelling in spellings(secret))
    ]


class Echo:
    """An upstream that says what it was sent, credential and all, in the way that `make` puts it."""

    make: Callable[[str], bytes] = staticmethod(lambda said: b"")

    async def __call__(self, conversation: Conversation) -> None:
        while request := (await conversation.request()).decode("latin-1"):
            answer = self.make(" ".join(line for line in request.split("\r\n") if "canary" in line))
            await conversation.send(answer)
            if not answer.endswith((b"}", b"0\r\n\r\n")):
                return


STREAMED = f"event: error\ndata: {json.dumps({'type': 'error', 'error': {'type': 'SECRET', 'message': 'SECRET'}})}\n\n"
ECHOES: dict[str, Callable[[str], bytes]] = {
    "server error": lambda said: answering(500, said.encode(), request_id=said.replace(" ", ""), x_note=said),
    "rejected": lambda said: failing(401, "authentication_error", f"invalid {said}"),
    "forbidden": lambda said: failing(403, "permission_error", f"invalid {said}"),
    "limited": lambda said: failing(429, "rate_limit_error", said, retry_after=said, x_note=said),
    "client's fault": lambda said: failing(400, "invalid_request_error", said),
    "redirect": lambda said: answering(302, said.encode(), location=f"http://127.0.0.1:1/?key={said}"),
    "no HTTP": lambda said: said.encode() + b"\r\n\r\n",
    "broken head": lambda said: b"HTTP/1.1 200 OK\r\nx y: " + said.encode() + b"\r\n\r\n",
    "broken chunk": lambda said: STREAM_HEAD + said.encode() + b"\r\n",
    "half": lambda said: answering(200, said.encode())[:-3],
    "nothing": lambda said: b"",
    "error event": lambda said: streaming(STREAMED.replace("SECRET", said).encode()),
    "late error event": lambda said: streaming(EVENTS[0], STREAMED.replace("SECRET", said).encode()),
    "success": lambda said: answering(200, message(), request_id=said.replace(" ", "_")),
}


async def test_no_secret_is_to_be_read_in_anything_that_the_daemon_writes(tmp_path: Path) -> None:
    other = mint(lambda size: b"\x09" * size)
    secrets = {"the credential": f"{CREDENTIAL}-a", "the key": KEY, "an unknown key": other}
    echo, calls = Echo(), 0
    async with before(tmp_path, echo) as daemon:
        for case, make in ECHOES.items():
            echo.make = make
            told = [await heard(daemon, body) for body in (ASK, ASK_STREAM)]
            told.append(await heard(daemon, ASK, key="", authorization=f"Bearer {KEY}"))
            calls += len(told)
            daemon.wait_for("call.done", calls)
            assert exposed(secrets, {f"the log after {case}": daemon.output.read_bytes()}) == []
            assert exposed({"the key": KEY}, {f"answer to {case}": b"".join(told)}) == []
        refused = [await heard(daemon, *ask, **presented) for ask, presented in refusals(other)]
        async with asking(daemon) as client:  # a head that cannot be read, with a key in it
            await client.send(f"POST /v1/messages HTTP/1.1\r\nx-api-key : {KEY}\r\n\r\n".encode())
            await client.more()
            refused.append(client.buffer)
        daemon.wait_for("call.done", calls + len(refused) - 1)
    files = {str(path): path.read_bytes() for path in daemon.tree.rglob("*") if path.is_file()}
    assert exposed(secrets, {"the log": daemon.output.read_bytes(), **files}) == []
    assert exposed(secrets, {f"refusal {number}": answer for number, answer in enumerate(refused)}) == []
    assert "Traceback" not in daemon.text()


def refusals(other: str) -> list[tuple[tuple[bytes], dict[str, str]]]:
    """Requests with a secret where it does not belong."""
    return [
        ((ASK,), {"key": other}),
        ((ASK,), {"key": KEY[:-1]}),
        ((ASK,), {"key": "", "authorization": f"Basic {base64.b64encode(KEY.encode()).decode()}"}),
        ((ASK,), {"key": "", "cookie": f"sessionKey={CREDENTIAL}-a"}),
        ((b'{"model":"m","x":"%b' % KEY.encode(),), {}),
        ((b'{"model":["%b"]}' % KEY.encode(),), {}),
        ((b'{"model":"%b"}' % KEY.encode(),), {}),
        ((b'{"model":"m","stream":"%b"}' % KEY.encode(),), {}),
    ]


async def heard(daemon: Daemon, body: bytes, *, key: str = KEY, **headers: str) -> bytes:
    """All bytes of an answer, head and body."""
    async with asking(daemon) as client:
        try:
            told = await client.ask(body, key=key, **headers)
        except Cut as cut:
            told = cut.told
    return repr(told.pairs).encode() + told.body


UNUSABLE = (
    "canary\nsk-ant-canary-two",
    "sk-ant canary",
    '{"key": "canary-one"}',
    "sk-ant-api03-\x01canary",
    "é canary",
    "",
)


async def test_credentials_that_cannot_be_used_are_told_without_being_shown(tmp_path: Path) -> None:
    accounts = {}
    for number, secret in enumerate(UNUSABLE):
        path = tmp_path / f"secret-{number}"
        path.write_text(secret)
        accounts[f"bad-{number}"] = (
            f'kind = "api-key"\nbase_url = "http://127.0.0.1:9"\n[credential]\nfile = "{path}"\n'
        )
    tree = write_tree(tmp_path, accounts=accounts, relay=RELAY.format(server=""))
    with running(tree) as daemon:
        answer = await heard(daemon, ASK)
        daemon.wait_for("call.done")
    assert "canary" not in daemon.text()
    assert b"canary" not in answer
    assert all(name in daemon.text() for name in accounts)


async def test_one_call_is_one_line_whatever_becomes_of_it(tmp_path: Path) -> None:
    both = Reception([failing(500), streaming(STREAM)])
    async with before(tmp_path, both, both) as daemon:
        async with asking(daemon) as client:
            await client.ask(ASK_STREAM)
            await client.ask(b"[")
            await client.ask(key="bad")
            await client.get("/health")
            await client.get("/nothing")
        lines = daemon.wait_for("call.done", 3)
    assert [(line["status"], line["outcome"]) for line in lines] == [(200, "ok"), (400, "refused"), (401, "refused")]
    assert lines[0]["attempts"] == ["a: 500 500 from upstream", "b: 200 ok"]
    assert len(daemon.events("call.done")) == 3


def test_the_sample_tree_is_harmless_and_serves_its_demo_key(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    for name in ("relay.toml", "accounts.d/simulator.toml", "keys.d/demo.toml"):
        path = tmp_path / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((root / name).read_bytes())
    with running(tmp_path / "tree") as daemon:
        assert daemon.events("daemon.listening")[0]["accounts"] == 1
        assert key_text() not in daemon.text()
    assert SIMULATOR.strip() in (root / "accounts.d/simulator.toml").read_text()
