"""A relay whose accounts keep objects, and keys that may have them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from booked import Booked, booked
from builders import KEY, account, api_key, snapshot

from relayd.config.secrets.api_keys import mint
from relayd.config.snapshot import ApiKey
from relayd.state.contract import GetPin, Pinned

THIRD_KEY = mint(lambda size: b"\x03" * size)
ALL = ("messages", "models", "batches", "files", "skills")


def team(key: str = KEY, name: str = "dev", **fields: Any) -> ApiKey:
    return api_key(key, id=name, **{"endpoints": ALL, **fields})


@asynccontextmanager
async def two_accounts(tmp_path: Path, *keys: ApiKey, **fields: Any) -> AsyncIterator[Booked]:
    """Two simulated accounts, used in turn."""
    relay = {"routing": fields.pop("routing", None)} if "routing" in fields else {}
    accounts = (account("a", weight=1), account("b", weight=1))
    tree = snapshot(keys=keys or (team(),), accounts=accounts, relay={**relay, **fields})
    async with booked(tree, tmp_path) as found:
        yield found


def pinned(world: Booked, object_id: str) -> dict[str, str] | None:
    answer = world.ask(GetPin(name=f"object/{object_id}"))
    assert isinstance(answer, Pinned)
    return None if answer.value is None else json.loads(answer.value)
