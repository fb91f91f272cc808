"""Ownership of batches, files and skills: they live on the account that made them, and belong to the key that asked.

Rule: pure. An object is written down once, when it is made, as an OwnershipRecord; who may reach it, and where, is read
from there and nowhere else. To whoever may not reach it, it does not exist.

Theory: an upstream shows an account's objects to whoever has its credential, so relayd alone keeps the clients of one
account apart. The key is remembered by its id and its owner by name as it was then: a key that moves to another owner
takes its own objects along, and not those of the owner it leaves.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from urllib.parse import parse_qsl, urlencode

import attrs
import msgspec

from relayd.config.snapshot import Account, ApiKey, Snapshot
from relayd.core.access.owned_paths import OBJECT_ID
from relayd.core.access.permissions import check_named, model_allowed
from relayd.core.balancing.candidates import serves
from relayd.noun import noun
from relayd.wire.call import OBJECTS, ObjectType
from relayd.wire.peek import Peeked
from relayd.wire.refusal import Refusal
from relayd.wire.resumed import KeptType, is_builtin

OwnedType = ObjectType | KeptType

WORD: dict[OwnedType, str] = {
    "batches": "message batch", "files": "file", "skills": "skill", "threads": "thread", "containers": "container",
}  # fmt: skip

_KINDS: dict[str, OwnedType] = {kind: kind for kind in WORD}
# What also comes into being without relayd; without a record it is nobody's, and the upstream will know.
_ALSO_MADE_ELSEWHERE = ("files", "skills")

NOTHING_KEPT: Mapping[str, KeptType] = MappingProxyType({})

# How the API counts pages. Source: API reference, `limit`.
_DEFAULT_PAGE, _LARGEST_PAGE = 20, 1000
_THE_APIS_OWN = "anthropic"  # as the `source` of skills


@noun(kw_only=True)
class OwnershipRecord:
    """Where an object lives and whose it is.

    Args:
        key: id of the API key that made it.
        owner: of that key, then; "" for none.
    """

    kind: OwnedType
    account: str
    key: str
    owner: str = ""


_ownership = msgspec.json.Decoder(dict[str, str])


def pin_name(object_id: str) -> str:
    """The pin under which an object's ownership record is kept."""
    return f"object/{object_id}"


def encode_ownership(record: OwnershipRecord) -> str:
    """An ownership record as the state keeps it."""
    return msgspec.json.encode(attrs.asdict(record)).decode()


def decode_ownership(text: str | None) -> OwnershipRecord | None:
    """An ownership record that the state kept; None when there is none, or none that can be read."""
    if text is None:
        return None
    try:
        found = _ownership.decode(text)
        kind = _KINDS[found["kind"]]
        return OwnershipRecord(kind=kind, account=found["account"], key=found["key"], owner=found["owner"])
    except (msgspec.MsgspecError, KeyError):
        return None


def ownership_of(kind: OwnedType, account: str, key: ApiKey) -> OwnershipRecord:
    """The ownership record of an object that `key` makes on `account`."""
    return OwnershipRecord(kind=kind, account=account, key=key.id, owner=key.owner)


def may_reach(record: OwnershipRecord | None, kind: OwnedType, key: ApiKey) -> bool:
    """Whether an object exists as far as `key` is concerned."""
    if record is None or record.kind != kind:
        return False
    return record.key == key.id or bool(key.owner and record.owner == key.owner)


def is_shared(kind: ObjectType, name: str) -> bool:
    """Whether an object without a record is the API's own, which everybody may read: skills such as `pptx`."""
    return kind == "skills" and is_builtin(name)


def same_hands(one: OwnershipRecord, other: OwnershipRecord) -> bool:
    """Whether two objects are of one kind, on one account, and of one key or owner."""
    theirs = one.key == other.key or bool(one.owner and one.owner == other.owner)
    return theirs and (one.kind, one.account) == (other.kind, other.account)


def holder_topics(kind: OwnedType, key: str, owner: str) -> tuple[str, ...]:
    """The topics under which it is noted which accounts hold objects of a key, and of its owner; none for what is
    never listed."""
    if kind not in OBJECTS:
        return ()
    found = [f"holders/{kind}/key/{key}"]
    if owner:
        found.append(f"holders/{kind}/owner/{hashlib.blake2b(owner.encode(), digest_size=16).hexdigest()}")
    return tuple(found)


def check_names(kept: Mapping[str, KeptType]) -> None:
    """Raises: Refusal 404 for what is no id of anything."""
    for name, kind in kept.items():
        if not OBJECT_ID.fullmatch(name):
            raise not_found(kind, name)


def not_found(kind: OwnedType, name: str) -> Refusal:
    """The answer about an object that does not exist, or is another owner's."""
    # Clients of threads send their whole conversation again after this code. Source: official SDK 2.12.0.
    error_code = "thread_not_found" if kind == "threads" else ""
    message = f"{WORD[kind]} not found: {_shown(name)}"
    return Refusal(status=404, message=message, code="no_such_object", error_code=error_code)


def home(kind: OwnedType, name: str, record: OwnershipRecord, snapshot: Snapshot) -> Account:
    """The account that alone can serve an object.

    Raises: Refusal 404 when it has left the config, 409 when it may not serve at present. A client is told not to try
        again: an SDK would, after a 409. Of a thread both are a 404, for its client can make another.
    """
    what = f"{WORD[kind]} {name} lives on account {record.account}"
    account = snapshot.accounts.get(record.account)
    served = account is not None and available(account, snapshot)
    if not served and kind == "threads":
        raise not_found(kind, name)
    if account is None:
        message = f"{what}, which is no longer configured"
        raise Refusal(status=404, message=message, should_retry=False, code="account_gone")
    if not served:
        message = f"{what}, which is disabled at present"
        raise Refusal(status=409, message=message, should_retry=False, code="account_disabled")
    return account


def bound(
    records: Mapping[str, OwnershipRecord | None],
    key: ApiKey,
    snapshot: Snapshot,
    kept: Mapping[str, KeptType] = NOTHING_KEPT,
) -> dict[str, str]:
    """The accounts that cannot serve a call, because what it names lives on another one; with reasons.

    A name of a file without a record may be anything, also a tool's own data: the upstream will know. So may a skill
    without one have been uploaded by the account's operator.

    Args:
        kept: the threads, containers and skills among the names. Of the first two none exists without a record.
    Raises: Refusal 404 for what is another owner's and for what lives on an account that has left the config, 409
        where the account is disabled, 400 for what lies apart.
    """
    homes: dict[str, str] = {}
    for name, record in records.items():
        kind: OwnedType = kept.get(name, "files")
        if record is None and kind in _ALSO_MADE_ELSEWHERE:
            continue
        if name not in kept and record is not None and record.kind != "files":
            continue
        if record is None or not may_reach(record, kind, key):
            raise not_found(kind, name)
        homes.setdefault(home(kind, name, record, snapshot).id, f"{WORD[kind]} {name}")
    if len(homes) > 1:
        first, second = sorted(homes.items())[:2]
        message = f"{first[1]} and {second[1]} live on different accounts ({first[0]} and {second[0]})"
        raise Refusal(status=400, message=f"{message}; make one of them again", code="files_apart")
    return {other: f"{what} lives on {at}" for at, what in homes.items() for other in snapshot.accounts if other != at}


def available(account: Account, snapshot: Snapshot) -> bool:
    """Whether the config lets an account serve anything at all."""
    return account.enabled and account.id not in snapshot.deny.accounts


# --- creating


def check_batch(requests: Sequence[Peeked], key: ApiKey, snapshot: Snapshot) -> tuple[str, ...]:
    """Whether a key may ask for everything in a batch. Returns: the models in it, sorted.

    An alias is refused, not replaced: a batch's body passes as it came.

    Raises: Refusal 403 for a model, 400 for an alias or for max_tokens.
    """
    aliases = snapshot.relay.models
    for index, one in enumerate(requests):
        place = f"requests.{index}.params"
        real = aliases.get(one.model, one.model)
        if not model_allowed(key, one.model, real):
            message = f"{place}.model: {_shown(one.model)} is not allowed for this key"
            raise Refusal(status=403, message=message, param="requests", code="model_not_allowed")
        if real != one.model:
            message = f"{place}.model: aliases are not replaced inside a batch (name the model itself, {_shown(real)})"
            raise Refusal(status=400, message=message, param="requests", code="alias_in_batch")
        if key.max_tokens and one.max_tokens is not None and one.max_tokens > key.max_tokens:
            message = f"{place}.max_tokens: {one.max_tokens} is more than this key's cap of {key.max_tokens}"
            raise Refusal(status=400, message=message, param="requests", code="max_tokens_cap")
        check_named(one.named, key, f"{place}.")
    return tuple(sorted({model for one in requests for model in (one.model, *one.named.models)}))


def unfit(models: Sequence[str], snapshot: Snapshot) -> dict[str, str]:
    """The accounts that cannot take a batch, for they do not serve each of its models by its own name; with reasons."""
    missing = {account.id: _missing(account, models) for account in snapshot.accounts.values()}
    return {name: f"does not serve {_shown(model)}" for name, model in missing.items() if model}


def _missing(account: Account, models: Sequence[str]) -> str:
    """The first model that keeps an account from a batch; "" for none."""
    return next(
        (model for model in models if not serves(account, model) or account.model_map.get(model, model) != model), ""
    )


# --- listing


@noun(kw_only=True)
class PageRequest:
    """The part of a list that is asked for.

    Args:
        ids: only these, on one page; () = all.
        rest: the query's other parts, for the upstream.
    """

    limit: int = _DEFAULT_PAGE
    after: str = ""
    before: str = ""
    ids: tuple[str, ...] = ()
    rest: str = ""


def read_window(query: str) -> PageRequest:
    """The page that a query asks for. Raises: Refusal 400."""
    pairs = parse_qsl(query, keep_blank_values=True)
    last = dict(pairs)
    limit = last.get("limit") or str(_DEFAULT_PAGE)
    if not (limit.isascii() and limit.isdigit() and 1 <= int(limit[:9]) <= _LARGEST_PAGE):
        message = f"limit: must be a number from 1 to {_LARGEST_PAGE}"
        raise Refusal(status=400, message=message, param="limit")
    ids = tuple(value for name, value in pairs if name in ("ids", "ids[]") for value in value.split(",") if value)
    own = ("limit", "after_id", "before_id", "page", "ids", "ids[]")
    return PageRequest(
        limit=int(limit),
        after=last.get("after_id") or last.get("page", "").removeprefix("page_"),
        before=last.get("before_id", ""),
        ids=ids,
        rest=urlencode([(name, value) for name, value in pairs if name not in own]),
    )


def shared_query(kind: ObjectType, query: str) -> str:
    """The query that lists what comes with the API alone; "" where there is no such thing, or it is not asked for."""
    pairs = parse_qsl(query, keep_blank_values=True)
    source = dict(pairs).get("source") or _THE_APIS_OWN
    if kind != "skills" or source != _THE_APIS_OWN:
        return ""
    return urlencode([*((name, value) for name, value in pairs if name != "source"), ("source", _THE_APIS_OWN)])


@noun
class Listed:
    """An object of a list. `created` as the API writes times, which sort as text to the second."""

    id: str
    created: str
    raw: bytes = attrs.field(repr=False)


def page_of(listed: Iterable[Listed], window: PageRequest) -> tuple[list[Listed], bool]:
    """The page asked for, newest first, and whether there are more in its direction.

    Objects of one second stay in the order in which the accounts gave them.

    Raises: Refusal 400 for a place that is not in the list.
    """
    ordered = sorted(listed, key=lambda one: one.created, reverse=True)
    if window.ids:
        return [one for one in ordered if one.id in window.ids], False
    ids = [one.id for one in ordered]
    if window.after:
        start = _place(ids, window.after) + 1
        return ordered[start : start + window.limit], start + window.limit < len(ordered)
    if window.before:
        end = _place(ids, window.before)
        start = max(0, end - window.limit)
        return ordered[start:end], start > 0
    return ordered[: window.limit], window.limit < len(ordered)


def _place(ids: Sequence[str], wanted: str) -> int:
    if wanted not in ids:
        raise Refusal(status=400, message=f"{_shown(wanted)}: no such object to begin a page at")
    return ids.index(wanted)


def _shown(text: str) -> str:
    """A client's text, fit for an error message and a log line."""
    return ascii(text[:100])[1:-1]
