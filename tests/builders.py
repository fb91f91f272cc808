"""Builders: nouns with dull defaults, so that a test says only what matters to it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import attrs

from relayd.config.secrets.api_keys import key_hash, mint
from relayd.config.snapshot import Account, ApiKey, Deny, KeyHash, Relay, Snapshot
from relayd.wire.call import Call
from relayd.wire.http import Headers, RequestHead

KEY = mint(lambda size: b"\x01" * size)
OTHER_KEY = mint(lambda size: b"\x02" * size)


def headers(**values: str) -> Headers:
    """`headers(x_api_key="k")` is `x-api-key: k`."""
    return Headers([(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in values.items()])


def head(path: str = "/v1/messages", method: str = "POST", **values: str) -> RequestHead:
    path, _, query = path.partition("?")
    target = f"{path}?{query}" if query else path
    return RequestHead(method=method, target=target, path=path, query=query, headers=headers(**values))


def api_key(key: str = KEY, **fields: Any) -> ApiKey:
    fields = {"id": "dev", "hashes": (KeyHash(sha256=key_hash(key)),), **fields}
    return ApiKey(**fields)


def account(name: str = "a", **fields: Any) -> Account:
    return Account(**{"id": name, "kind": "simulator", **fields})


def snapshot(
    *,
    keys: tuple[ApiKey, ...] = (),
    accounts: tuple[Account, ...] = (),
    relay: Mapping[str, Any] = MappingProxyType({}),
    deny: Deny | None = None,
) -> Snapshot:
    keys = keys or (api_key(),)
    accounts = accounts or (account(),)
    return Snapshot(
        relay=Relay(**{"schema": 1, "realm": "test", **relay}),
        accounts={one.id: one for one in accounts},
        keys={one.id: one for one in keys},
        keys_by_hash={bytes.fromhex(entry.sha256): (one, entry) for one in keys for entry in one.hashes},
        deny=deny or Deny(),
        revision="0123456789ab",
    )


def call(model: str = "claude-sonnet-4-5", **fields: Any) -> Call:
    fields = {"endpoint": "messages", "model": model, "body": b'{"model":"%s"}' % model.encode(), **fields}
    return Call(**fields)


def changed(noun: Any, **fields: Any) -> Any:
    return attrs.evolve(noun, **fields)
