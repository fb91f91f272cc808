"""Owned paths: what is asked of which objects by which path, and which paths of the API are not served.

Rule: one table. What is served there is bound to the account and the owner that made it (ownership.py); a resource of
the API that would need the same and is not in it is answered by name (UNSERVED), never passed on.

Theory: a path below a collection is ids and words in turn (`/ID/versions/ID/content`). An object's parts have no record
of their own: they are where the object is, and whose it is.
Source: API reference; official SDK 2.12.0, `resources`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

from relayd.noun import noun
from relayd.wire.call import ObjectType
from relayd.wire.refusal import Refusal

# "add" makes a part of an object; "part" is any other thing that is done with one.
Act = Literal["create", "list", "read", "delete", "cancel", "results", "content", "add", "part"]

OBJECT_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")

_ROOTS: tuple[tuple[ObjectType, str], ...] = (
    ("batches", "/v1/messages/batches"),
    ("files", "/v1/files"),
    ("skills", "/v1/skills"),
)
COLLECTIONS = tuple(root for _, root in _ROOTS)

# What is asked how, below the collection's path: parts, ids as "*", then method to act.
_ACTS: Mapping[ObjectType, Mapping[tuple[str, ...], Mapping[str, Act]]] = {
    "batches": {
        (): {"POST": "create", "GET": "list"},
        ("*",): {"GET": "read", "DELETE": "delete"},
        ("*", "cancel"): {"POST": "cancel"},
        ("*", "results"): {"GET": "results"},
    },
    "files": {
        (): {"POST": "create", "GET": "list"},
        ("*",): {"GET": "read", "DELETE": "delete"},
        ("*", "content"): {"GET": "content"},
    },
    "skills": {
        (): {"POST": "create", "GET": "list"},
        ("*",): {"GET": "read", "DELETE": "delete"},
        ("*", "versions"): {"POST": "add", "GET": "part"},
        ("*", "versions", "*"): {"GET": "part", "DELETE": "part"},
        ("*", "versions", "*", "content"): {"GET": "content"},
    },
}

# Resources of the API that are not served, by the part behind /v1, and why.
_AGENTS = "an agent runs models on its account by itself, past the models, limits and books of a key"
_ADMIN = "it administers the account, which is its operator's"
UNSERVED: Mapping[str, str] = {
    **dict.fromkeys(("agents", "sessions", "environments", "deployments", "deployment_runs", "dreams"), _AGENTS),
    **dict.fromkeys(("vaults", "memory_stores"), "it is of use to agents only, which are not served"),
    **dict.fromkeys(("organizations", "tunnels"), _ADMIN),
    "user_profiles": "it says for whom the account's operator acts, and who is billed for it",
}


@noun(kw_only=True)
class ObjectRequest:
    """A request that is about batches, files or skills.

    Args:
        path: of the upstream.
        id: of the object; "" where none is named.
    """

    kind: ObjectType
    act: Act
    path: str
    id: str = ""

    @property
    def makes(self) -> bool:
        """Whether doing it twice makes two of something."""
        return self.act in ("create", "add")


def asked(method: str, path: str) -> ObjectRequest | tuple[str, ...] | None:
    """What a canonical path asks for; the methods that it has, when this is not one of them; None for other paths."""
    for kind, root in _ROOTS:
        if path != root and not path.startswith(root + "/"):
            continue
        parts = path[len(root) :].split("/")[1:]
        if not all(OBJECT_ID.fullmatch(name) for name in parts[::2]):
            return None
        acts = _ACTS[kind].get(tuple(part if at % 2 else "*" for at, part in enumerate(parts)))
        if acts is None:
            return None
        if method not in acts:
            return tuple(acts)
        return ObjectRequest(kind=kind, act=acts[method], path=path, id=parts[0] if parts else "")
    return None


def check_served(path: str) -> None:
    """Raises: Refusal 404 for a canonical path of the API that is known and not served."""
    first = path.removeprefix("/v1/").partition("/")[0] if path.startswith("/v1/") else ""
    if first in UNSERVED:
        message = f"/v1/{first} is not served by this relay: {UNSERVED[first]} (docs/clients.md, what is not served)"
        raise Refusal(status=404, message=message, should_retry=False, code="not_served")
