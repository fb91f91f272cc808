"""A Claude API that writes down every call it saw and the usage it reported: what relayd's books are held against.

The client says in the body how its call is to be answered (the field `play`), and gives each call a model of its own,
`GROUP.NAME`: so a line of `relayd report --by model` is one call.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from typing import Any

import attrs
import trio
from scripted import Conversation

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
EACH = 10  # tokens of an event
# A stream that breaks off is estimated by its bytes: 3.5 a token, behind the framing that the API's events have (700
# bytes before the first delta, 129 of each). Ours have less, and are filled up.
PADDING = "x" * 545
WORDS = "x" * 49


@attrs.define
class Seen:
    """One call as the upstream saw it. `input` and `output` are what it has reported, `whole` whether it said all."""

    input: int = 0
    output: int = 0
    times: int = 0
    whole: bool = False

    @property
    def tokens(self) -> int:
        return self.input + self.output


@attrs.define(eq=False)
class Ledger:
    """The upstream's own books.

    Args:
        running, peak: calls at once, now and at most, by group.
        enough: once set, streams come to their end whatever events they have left.
    """

    calls: dict[str, Seen] = attrs.field(factory=dict)
    running: Counter[str] = attrs.field(factory=Counter)
    peak: Counter[str] = attrs.field(factory=Counter)
    enough: trio.Event = attrs.field(factory=trio.Event)

    def of(self, group: str) -> dict[str, Seen]:
        """The calls of a group, by model."""
        return {model: seen for model, seen in self.calls.items() if group_of(model) == group}

    async def serve(self, conversation: Conversation) -> None:
        """A script for scripted.serving: answers what comes on one connection."""
        while request := await conversation.request():
            asked = json.loads(request.partition(b"\r\n\r\n")[2])
            group, play = group_of(asked["model"]), asked["play"]
            self.running[group] += 1
            self.peak[group] = max(self.peak[group], self.running[group])
            seen = self.calls.setdefault(asked["model"], Seen())
            seen.times += 1
            try:
                answer = self._stream if asked.get("stream") else self._whole
                last = await answer(conversation, seen, **play)
            finally:
                self.running[group] -= 1
            await conversation.send(last)
            seen.output, seen.whole = play["output"], True

    async def _whole(
        self, conversation: Conversation, seen: Seen, *, prompt: int, output: int, pause: float, padding: str = ""
    ) -> bytes:
        """`padding` makes a large body."""
        await trio.sleep(pause)
        seen.input = prompt
        usage = {"input_tokens": prompt, "output_tokens": output}
        body = json.dumps({"id": "msg_1", "type": "message", "role": "assistant", "content": [], "usage": usage})
        head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        return (head + body).encode()

    async def _stream(
        self,
        conversation: Conversation,
        seen: Seen,
        *,
        prompt: int,
        output: int,
        pause: float,
        events: int,
        width: int = len(WORDS),
    ) -> bytes:
        """`output` is what is reported at the end; until then each event, `width` letters, stands for EACH tokens."""
        first = {
            "id": "msg_1",
            "role": "assistant",
            "padding": PADDING,
            "usage": {"input_tokens": prompt, "output_tokens": 1},
        }
        await conversation.send(HEAD + _event("message_start", message=first))
        seen.input, seen.output = prompt, 1
        for _ in range(events):
            if self.enough.is_set():
                break
            await trio.sleep(pause)
            delta = {"type": "text_delta", "text": "x" * width}
            await conversation.send(_event("content_block_delta", index=0, delta=delta))
            seen.output += EACH
        end = _event("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": output})
        return end + _event("message_stop") + b"0\r\n\r\n"


def group_of(model: str) -> str:
    return model.partition(".")[0]


def _event(name: str, **fields: Any) -> bytes:
    said = json.dumps({"type": name, **fields}, separators=(",", ":"))  # as the API does, which the meter knows
    data = f"event: {name}\ndata: {said}\n\n".encode()
    return b"%x\r\n%b\r\n" % (len(data), data)


# -- the client's side ---------------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class Reply:
    """What a client got. `status` 0: the connection broke before a whole head had come; `fault` says how."""

    status: int = 0
    headers: dict[str, str] = attrs.field(factory=dict)
    body: bytes = attrs.field(default=b"", repr=False)
    whole: bool = False  # the body ended as its framing promised
    seconds: float = 0.0
    fault: str = ""

    @property
    def message(self) -> str:
        """The text of an error."""
        return str(json.loads(self.body)["error"]["message"])


def asking(key: str, model: str, *, max_tokens: int = 100_000, stream: bool = False, **play: Any) -> bytes:
    """A request for one call."""
    play = {"prompt": 7, "output": 5, "pause": 0.0, **play}
    asked = {"model": model, "max_tokens": max_tokens, "stream": stream, "play": play}
    body = json.dumps({**asked, "messages": [{"role": "user", "content": "hi"}]}).encode()
    head = f"POST /v1/messages HTTP/1.1\r\nhost: relay\r\nx-api-key: {key}\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def getting(path: str, key: str = "") -> bytes:
    return f"GET {path} HTTP/1.1\r\nhost: relay\r\nx-api-key: {key}\r\n\r\n".encode()


def body_length(request: bytes) -> int:
    return len(request.partition(b"\r\n\r\n")[2])


@attrs.define(eq=False)
class Client:
    """One client with one connection, which it opens anew when it has to.

    Args:
        patience: s after which it gives up an idle connection, as HTTP clients do: the server will soon (relayd after
            75 s, `keep_alive_timeout`). That a server ends one earlier is not forgiven.
    """

    port: int
    host: str = "127.0.0.1"
    patience: float = 60.0
    _stream: trio.SocketStream | None = None
    _idle_since: float = 0.0  # on trio's clock

    async def open(self) -> None:
        """Connect. Raises: OSError."""
        self._stream = await trio.open_tcp_stream(self.host, self.port)
        self._idle_since = trio.current_time()

    async def ask(self, request: bytes) -> Reply:
        """One exchange. Whatever breaks is told by the reply."""
        began = trio.current_time()
        buffer = bytearray()
        status, headers, fault = 0, {}, ""
        idle = began - self._idle_since
        if idle >= self.patience:
            await self.close()
        way = "a fresh connection" if self._stream is None else f"a connection kept for {idle:.3f} s"
        try:
            if self._stream is None:
                await self.open()
            assert self._stream is not None
            with contextlib.suppress(trio.BrokenResourceError):  # a body was refused; the answer is there to read
                await self._stream.send_all(request)
            head = await self._head(buffer)
            status, headers = _parsed(head)
            await self._body(buffer, headers)
        except (OSError, trio.BrokenResourceError, EOFError) as error:
            fault = f"{error!r} on {way}"
            await self.close()
        except trio.Cancelled:
            if self._stream is not None:
                self._stream.socket.close()
            raise
        if headers.get("connection") == "close":
            await self.close()
        self._idle_since = trio.current_time()
        seconds, body = self._idle_since - began, bytes(buffer)
        return Reply(status=status, headers=headers, body=body, whole=not fault, seconds=seconds, fault=fault)

    async def close(self) -> None:
        if self._stream is not None:
            stream, self._stream = self._stream, None
            await trio.aclose_forcefully(stream)

    async def _more(self, buffer: bytearray) -> None:
        assert self._stream is not None
        data = await self._stream.receive_some(65536)
        if not data:
            raise EOFError
        buffer += data

    async def _head(self, buffer: bytearray) -> bytes:
        while (end := buffer.find(b"\r\n\r\n")) < 0:
            await self._more(buffer)
        head = bytes(buffer[:end])
        del buffer[: end + 4]
        return head

    async def _body(self, buffer: bytearray, headers: dict[str, str]) -> None:
        if "content-length" in headers:
            while len(buffer) < int(headers["content-length"]):
                await self._more(buffer)
        else:
            while not buffer.endswith(b"0\r\n\r\n"):
                await self._more(buffer)


def _parsed(head: bytes) -> tuple[int, dict[str, str]]:
    first, *lines = head.decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in lines)
    return int(first.split()[1]), {name.lower(): value.strip() for name, _, value in pairs}
