"""Nodes that share a state store and an OAuth account, each with a keeper of its own."""

from __future__ import annotations

import json
import os
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import trio
from builders import account, snapshot
from token_server import TokenServer
from waiting import PATIENCE

from relayd.config.secrets.binding import account_binding
from relayd.config.secrets.seal import Identity, new_identity, seal
from relayd.config.secrets.secret import Secret
from relayd.config.snapshot import Credential, OAuth, Recipient, Secrets, Snapshot
from relayd.daemon.accounts.credentials import Credentials
from relayd.daemon.accounts.oauth import OAuthKeeper
from relayd.daemon.net.tls import shared_context
from relayd.daemon.store.batcher import Batcher
from relayd.daemon.store.store_session import StoreSession
from relayd.state import contract as c
from relayd.state.sqlite import SqliteStore

NOON = 1_800_000_000.0


@attrs.define(eq=False)
class Clock:
    """Unix time that runs with trio's, from NOON, and can be moved."""

    moved: float = 0.0
    began: float = attrs.field(factory=trio.current_time)

    def __call__(self) -> float:
        return NOON + trio.current_time() - self.began + self.moved


class Died(BaseException):
    """The process is gone: nothing after this line of it happens."""


@attrs.define(eq=False)
class NodeState:
    """A node's way to the store, which can be away, or take the node's life."""

    pump: Batcher
    away: bool = False
    dies_at: Callable[[c.Op], bool] = lambda op: False
    dead: bool = False
    asked: list[c.Op] = attrs.field(factory=list)

    async def ask(self, op: c.Op) -> c.Answer:
        await trio.lowlevel.checkpoint()
        self.dead = self.dead or self.dies_at(op)
        if self.dead:
            raise Died
        if self.away:
            raise c.StoreUnavailable("away")
        self.asked.append(op)
        return await self.pump.ask(op)


@attrs.define(eq=False, kw_only=True)
class Node:
    """One node. `config` may be replaced, as a reload does."""

    config: Snapshot
    state: NodeState
    keeper: OAuthKeeper = attrs.field(init=False)
    renewed: list[str] = attrs.field(factory=list)

    def token(self, name: str = "max") -> str:
        found = self.keeper.of(self.config.accounts[name])
        assert isinstance(found, Secret), found
        return found.reveal()

    def why_not(self, name: str = "max") -> str:
        found = self.keeper.of(self.config.accounts[name])
        assert isinstance(found, str), "there is a token"
        return found

    async def until(self, condition: Callable[[], bool], seconds: float = 120.0) -> None:
        with trio.fail_after(seconds):
            while not condition():  # noqa: ASYNC110 - it looks at the world, not at an event
                await trio.sleep(0.5)


IDENTITY = new_identity(os.urandom)


def tree(
    server: TokenServer,
    seed: dict[str, Any] | str,
    *,
    identity: Identity = IDENTITY,
    recipients: Sequence[Identity] | None = None,
    client_id: str = "ours",
    **fields: Any,
) -> Snapshot:
    """A config with one OAuth account `max`, whose seed is sealed."""
    text = seed if isinstance(seed, str) else json.dumps(seed)
    sealed = seal(Secret(text), account_binding("test", "max", server.url, f"{server.url}/token"), [identity.public])
    listed = tuple(
        Recipient(name=f"r{number}", public=one.public.text) for number, one in enumerate(recipients or [identity])
    )
    oauth = OAuth(token_url=f"{server.url}/token", client_id=client_id)  # type: ignore[arg-type]
    one = account("max", kind="oauth", base_url=server.url, credential=Credential(sealed=sealed), **fields)
    return snapshot(accounts=(one,), relay={"oauth": oauth, "secrets": Secrets(recipients=listed)})


def sqlite_pump(path: Path | str, clock: Callable[[], float], *, threaded: bool = False) -> Batcher:
    store = SqliteStore(str(path), clock=lambda: round(clock() * 1000), busy=60_000, deadline=PATIENCE)
    return Batcher(StoreSession(store), threaded=threaded)


@asynccontextmanager
async def node(
    config: Snapshot,
    pump: Batcher,
    wall: Callable[[], float],
    name: str = "n1",
    *,
    identities: Sequence[Identity] = (IDENTITY,),
    **state: Any,
) -> AsyncIterator[Node]:
    """A node for the length of a block, and its pump's store. When it dies in there, only it does."""
    one = Node(config=config, state=NodeState(pump, **state))
    one.keeper = OAuthKeeper(
        credentials=Credentials(identities),
        snapshot=lambda: one.config,
        ask=one.state.ask,
        node=f"{name}-{os.urandom(4).hex()}",
        wall=wall,
        rng=random.Random(name),
        tls=shared_context,
        renewed=one.renewed.append,
    )
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(pump.run)
            async with trio.open_nursery() as keeping:
                await keeping.start(one.keeper.run)
                yield one
                keeping.cancel_scope.cancel()
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        if group.split(Died)[1] is not None:
            raise
    finally:
        pump.session.store.close()
