"""A token endpoint and an API behind it, on a real socket. Refresh tokens rotate; using one twice ends the family."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import attrs
import trio


@attrs.define(eq=False)
class Family:
    """What one sign-in has become: the refresh token that counts, those used, access tokens with their end."""

    name: str
    refresh: str
    used: set[str] = attrs.field(factory=set)
    access: dict[str, float] = attrs.field(factory=dict)
    rotations: int = 0
    revoked: bool = False


@attrs.define(eq=False, kw_only=True)
class TokenServer:
    """The endpoint.

    Args:
        clock: Unix time, s; the provider's own.
        life: s of an access token.
        answer: instead of the right one: status and body.
        lose_answers: rotate, then close the connection without a word.
        hold: an answer waits for it.
    """

    clock: Callable[[], float]
    life: float = 3600.0
    answer: tuple[int, str] | None = None
    lose_answers: int = 0
    hold: trio.Event | None = None
    rotates: bool = True
    port: int = 0
    families: dict[str, Family] = attrs.field(factory=dict)
    posts: list[dict[str, Any]] = attrs.field(factory=list)
    heads: list[bytes] = attrs.field(factory=list)
    presented: list[tuple[str, int]] = attrs.field(factory=list)
    _made: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def sign_in(self, name: str = "f", life: float | None = None) -> dict[str, Any]:
        """A seed, as `relayd account login` would seal it."""
        family = self.families[name] = Family(name=name, refresh=self._new(f"rt-{name}"))
        expires = self.clock() + (self.life if life is None else life)
        access = self._new(f"at-{name}")
        family.access[access] = expires
        return {"access_token": access, "refresh_token": family.refresh, "expires_at": int(expires)}

    def _new(self, word: str) -> str:
        self._made += 1
        return f"sk-ant-{word}-{self._made:06d}-0123456789abcdef"

    def rotate(self, refresh: str) -> tuple[int, dict[str, Any]]:
        for family in self.families.values():
            if refresh in family.used:
                family.revoked = True
            elif refresh == family.refresh and not family.revoked:
                return 200, self._next(family)
        return 400, {"error": "invalid_grant", "error_description": f"{refresh} is spent"}

    def _next(self, family: Family) -> dict[str, Any]:
        family.rotations += 1
        access = self._new(f"at-{family.name}")
        family.access[access] = self.clock() + self.life
        told = {"access_token": access, "expires_in": self.life, "token_type": "Bearer"}
        if self.rotates:
            family.used.add(family.refresh)
            family.refresh = told["refresh_token"] = self._new(f"rt-{family.name}")
        return told

    def accepts(self, access: str) -> bool:
        return any(
            not family.revoked and family.access.get(access, 0.0) > self.clock() for family in self.families.values()
        )

    async def serve(self, stream: trio.SocketStream) -> None:
        async with stream:
            while await self._one(stream):
                pass

    async def _one(self, stream: trio.SocketStream) -> bool:
        """One request. Whether the connection lives on."""
        read = b""
        try:
            while b"\r\n\r\n" not in read:
                read += (data := await stream.receive_some(65536))
                if not data:
                    return False
            head, _, body = read.partition(b"\r\n\r\n")
            length = next((int(v) for k, _, v in _fields(head) if k == "content-length"), 0)
            while len(body) < length:
                body += await stream.receive_some(65536)
            status, told = self._answer(head, body)
            if b"POST /token" in head:
                if self.lose_answers:
                    self.lose_answers -= 1
                    return False
                if self.hold is not None:
                    await self.hold.wait()
            text = told if isinstance(told, str) else json.dumps(told)
            reply = (
                f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {len(text)}\r\n\r\n{text}"
            )
            await stream.send_all(reply.encode())
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return False
        return b"connection: close" not in head.lower()

    def _answer(self, head: bytes, body: bytes) -> tuple[int, dict[str, Any] | str]:
        if b"POST /token" in head:
            self.heads.append(head)
            self.posts.append(json.loads(body))
            if self.answer is not None:
                return self.answer
            return self.rotate(self.posts[-1]["refresh_token"])
        bearer = next((v for k, _, v in _fields(head) if k == "authorization"), "").removeprefix("Bearer ")
        status = 200 if self.accepts(bearer) else 401
        self.presented.append((bearer, status))
        if status == 401:
            return 401, {"type": "error", "error": {"type": "authentication_error", "message": "expired"}}
        return 200, {"input_tokens": 3}


def _fields(head: bytes) -> list[tuple[str, str, str]]:
    lines = head.decode("latin-1").split("\r\n")[1:]
    return [(line.partition(":")[0].lower(), ":", line.partition(":")[2].strip()) for line in lines]


@asynccontextmanager
async def token_server(clock: Callable[[], float], **settings: Any) -> AsyncIterator[TokenServer]:
    """A server for the length of a block."""
    server = TokenServer(clock=clock, **settings)
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, server.serve, listeners)
        server.port = listeners[0].socket.getsockname()[1]
        yield server
        nursery.cancel_scope.cancel()
