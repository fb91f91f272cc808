"""Lint: what is allowed but probably a mistake, and what the operator's own [policy] forbids.

Rule: pure, over files that were understood; a file with errors is not judged. Time is known only to the daemon: without
`now` the times in a tree are compared with each other alone. Nothing is asked that costs more than the tree is long.
"""

from __future__ import annotations

import datetime
import functools
import hashlib
import ipaddress
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase

import attrs

from relayd.config.model.addresses import is_loopback
from relayd.config.model.structure import dotted
from relayd.config.model.types import write_seconds
from relayd.config.model.values import quote
from relayd.config.problems.problem import Problem
from relayd.config.rules.cross_file import Parsed
from relayd.config.secrets.account_kinds import ACCOUNT_KINDS
from relayd.config.secrets.api_keys import key_hash
from relayd.config.secrets.binding import origin_of
from relayd.config.secrets.recipients import SealError
from relayd.config.snapshot import PREDEFINED_CLIENTS, Account, ApiKey, Limits, Policy, Relay


def file_lint(file: Parsed) -> Iterator[Problem]:
    """Findings about one file by itself: they are remembered with it."""
    match file.noun:
        case Account():
            if warning := ACCOUNT_KINDS[file.noun.kind].warning:
                yield file.problem(warning.code, ("kind",), f"kind: {warning.message}")
        case ApiKey():
            yield from _key_sense(file)
        case Relay():
            yield from _periods(file, file.noun.limits)


def tree_lint(files: Sequence[Parsed], now: datetime.datetime | None) -> Iterator[Problem]:
    """Findings that take several files to see."""
    relay = next((file for file in files if isinstance(file.noun, Relay)), None)
    accounts = [file for file in files if isinstance(file.noun, Account)]
    keys = [file for file in files if isinstance(file.noun, ApiKey)]
    yield from _same_hint(keys)
    if relay is None:
        return
    yield from _relay_sense(relay, accounts)
    yield from _demo_key(relay.noun, accounts, keys)
    yield from _usage(relay, accounts, keys, whole=len(accounts) + len(keys) == _objects(files))
    if relay.noun.policy != Policy():
        for file in accounts:
            yield from _account_policy(file, relay.noun)
        for file in keys:
            yield from _key_policy(file, relay.noun, now)


def _objects(files: Iterable[Parsed]) -> int:
    return sum(file.kind in ("account", "key") for file in files)


# --- one key ---------------------------------------------------------------------------------------------------------


def _key_sense(file: Parsed) -> Iterator[Problem]:
    key: ApiKey = file.noun
    yield from _weak_hashes(file, key)
    if len(key.hashes) == 2 and not any(entry.expires for entry in key.hashes):
        hint = "give the old one `expires`, or remove it"
        yield file.problem("W-ROTATION-OPEN", ("hashes",), "hashes: there are two, and neither expires", hint=hint)
    yield from _denied_models(file, key)
    yield from _networks(file, key)
    yield from _periods(file, key.limits)


# What people type when they try something out. A key is 256 random bits; the hash of a word is found in a second.
_WORDS = ("", "test", "testing", "secret", "password", "admin", "relayd", "demo", "dev", "development", "prod", "key",
          "api-key", "apikey", "token", "changeme", "default", "1234", "123456", "12345678", "claude", "anthropic",
          "sk-relay-", "sk-ant-", "foo", "bar", "example", "hello", "x", "null", "none")  # fmt: skip


@functools.cache
def _weak() -> frozenset[str]:
    """Their hashes, as relayd makes them and as somebody would who does not know how."""
    return frozenset(key_hash(word) for word in _WORDS) | {hashlib.sha256(word.encode()).hexdigest() for word in _WORDS}


def _weak_hashes(file: Parsed, key: ApiKey) -> Iterator[Problem]:
    own = {key_hash(word) for word in {key.id, key.name, key.owner}}
    for number, entry in enumerate(key.hashes):
        if entry.sha256 in own or entry.sha256 in _weak():
            message = f"{dotted(('hashes', number))}: this is the hash of a word that anybody would try"
            yield file.problem("E-WEAK-HASH", ("hashes", number, "sha256"), message, hint="relayd key rotate")


# Of the keys that stand in README.md and docs/keys.md, so that everybody has them.
PUBLISHED = frozenset(
    {
        "8a8f34453a2656a1bd1ca527fbba5c086d13a522c640e9c58c04daf22baf85a3",
        "44fad948976a1a7b6fee4dd19d9178ea9cd9e35564212a2d9afcdb3b6e57e853",
    }
)


def _demo_key(relay: Relay, accounts: Sequence[Parsed], keys: Iterable[Parsed]) -> Iterator[Problem]:
    """A published key may use the simulator, on this machine."""
    able = [file for file in accounts if file.noun.enabled and not ACCOUNT_KINDS[file.noun.kind].in_process]
    real = {group for file in able for group in file.noun.groups}
    public = [place for place in relay.server.listen if not _is_local(place)]
    for file in keys:
        if not file.noun.enabled or (not public and real.isdisjoint(file.noun.groups)):
            continue
        why = f"this relay listens on {public[0]}" if public else "it may use an account that is not simulated"
        for number, entry in enumerate(file.noun.hashes):
            if entry.sha256 in PUBLISHED:
                place = dotted(("hashes", number))
                message = f"{place}: relayd's README and docs show this key to everybody, and {why}"
                yield file.problem("E-DEMO-KEY", ("hashes", number, "sha256"), message, hint="remove this file")


def _is_local(place: str) -> bool:
    host = place.rpartition(":")[0].strip("[]")
    return place.startswith("unix:") or is_loopback(host)


def _same_hint(keys: Iterable[Parsed]) -> Iterator[Problem]:
    first: dict[str, tuple[Parsed, int]] = {}
    for file in keys:
        for number, entry in enumerate(file.noun.hashes):
            if not entry.hint:
                continue
            other, index = first.setdefault(entry.hint, (file, number))
            if other is not file:
                path = ("hashes", number, "hint")
                message = f"{dotted(path)}: {quote(entry.hint)} is also the hint of key {quote(other.id)}"
                related = other.document.related(("hashes", index, "hint"), f"in key {quote(other.id)}")
                yield file.problem("W-DUP-HINT", path, message, related=[related])


def _denied_models(file: Parsed, key: ApiKey) -> Iterator[Problem]:
    denied = [any(_covers(glob, model) for glob in key.deny_models) for model in key.models or ("*",)]
    if all(denied):
        yield file.problem("W-NOTHING-ALLOWED", ("deny_models",), "deny_models: every model of this key is denied")
        return
    for number, (model, gone) in enumerate(zip(key.models, denied, strict=False)):
        if gone:
            message = f"{dotted(('models', number))}: {quote(model)} is denied by deny_models"
            yield file.problem("W-SHADOWED", ("models", number), message)


def _covers(glob: str, other: str) -> bool:
    """Whether every name that fits `other` surely fits `glob`."""
    stem = glob.rstrip("*")
    if glob.endswith("*") and "*" not in stem and "?" not in stem:
        return other.startswith(stem)
    return glob == other


def _networks(file: Parsed, key: ApiKey) -> Iterator[Problem]:
    """A range inside another one of the same list says nothing."""
    if not 1 < len(key.allowed_ips) <= 200:
        return
    ranges = [ipaddress.ip_network(one) for one in key.allowed_ips]
    for number, one in enumerate(ranges):
        for place, other in enumerate(ranges):
            if place != number and _inside(one, other) and (one != other or place < number):
                path = ("allowed_ips", number)
                message = f"{dotted(path)}: {quote(key.allowed_ips[number])} is inside {quote(key.allowed_ips[place])}"
                yield file.problem("W-SHADOWED", path, message)
                break


def _inside(
    one: ipaddress.IPv4Network | ipaddress.IPv6Network, other: ipaddress.IPv4Network | ipaddress.IPv6Network
) -> bool:
    if isinstance(one, ipaddress.IPv4Network) and isinstance(other, ipaddress.IPv4Network):
        return one.subnet_of(other)
    if isinstance(one, ipaddress.IPv6Network) and isinstance(other, ipaddress.IPv6Network):
        return one.subnet_of(other)
    return False


def _periods(file: Parsed, limits: Limits) -> Iterator[Problem]:
    """A limit on a day that is not below the one on the month never comes to bear."""
    for unit in ("requests", "tokens", "cost"):
        day, month = getattr(limits, f"daily_{unit}"), getattr(limits, f"monthly_{unit}")
        if month and day >= month:
            path = ("limits", f"daily_{unit}")
            message = f"{dotted(path)}: it is not below monthly_{unit}, which is reached first"
            yield file.problem("W-SHADOWED", path, message)


# --- the tree --------------------------------------------------------------------------------------------------------


def _relay_sense(file: Parsed, accounts: Iterable[Parsed]) -> Iterator[Problem]:
    relay: Relay = file.noun
    if "*" in relay.server.cors_origins:
        message = "server.cors_origins: pages of any origin may call this relay"
        yield file.problem("W-CORS-ANY", ("server", "cors_origins"), message, hint="list the origins")
    for alias in relay.models:
        if not any(word in alias.lower() for word in ("claude", "anthropic")):
            message = f"models.{alias}: Claude Code does not show this name in its list of models"
            hint = "put claude into the name, unless only other programs use it"
            yield file.problem("N-ALIAS-HIDDEN", ("models", alias), message, hint=hint)
    seen: dict[object, str] = {}
    for name, rule in relay.clients.items():
        other = seen.setdefault((rule.user_agent, tuple(rule.headers.items())), name)
        if other != name:
            message = f"clients.{name}: it has the same patterns as {other}, which is tried first"
            yield file.problem("W-SHADOWED", ("clients", name), message)
    for account in accounts:
        for model in account.noun.model_map:
            if model in relay.models:
                path = ("model_map", model)
                message = f"{dotted(path)}: [models] in relay.toml turns it into {quote(relay.models[model])} first"
                yield account.problem("W-SHADOWED", path, message)


def _usage(relay: Parsed, accounts: Sequence[Parsed], keys: Sequence[Parsed], *, whole: bool) -> Iterator[Problem]:
    """What nobody uses, and what nobody serves. Reported only when every file was understood."""
    if not whole or not keys:
        return
    used = {group for file in keys if file.noun.enabled for group in file.noun.groups}
    for file in accounts:
        if file.noun.enabled and used.isdisjoint(file.noun.groups):
            names = ", ".join(map(quote, file.noun.groups))
            yield file.problem("N-UNUSED-ACCOUNT", ("groups",), f"groups: no enabled key uses {names}")
    named = {client for file in keys for client in file.noun.clients}
    for client in relay.noun.clients:
        if client not in named and client not in PREDEFINED_CLIENTS:
            message = f"clients.{client}: no key refers to this rule; it only labels programs in the log"
            yield relay.problem("N-UNUSED-CLIENT", ("clients", client), message)
    yield from _unlimited(relay, keys)
    yield from _unserved(relay.noun, [file.noun for file in accounts if file.noun.enabled], keys)


def _unlimited(relay: Parsed, keys: Sequence[Parsed]) -> Iterator[Problem]:
    """Keys without a limit among others that have some: one note for all of them."""
    enabled = [file for file in keys if file.noun.enabled]
    free = [file.id for file in enabled if not _limited(file, relay.noun.limits)]
    if 0 < len(free) < len(enabled) and not relay.noun.policy.require_limits:
        names = ", ".join(map(quote, free[:8])) + (f" and {len(free) - 8} more" if len(free) > 8 else "")
        yield relay.problem(
            "N-UNLIMITED-KEY", ("limits",), f"limits: nothing limits what these keys may consume: {names}"
        )


def _unserved(relay: Relay, accounts: Sequence[Account], keys: Iterable[Parsed]) -> Iterator[Problem]:
    """Models that a key names in full and no account of its groups serves."""
    known: dict[tuple[tuple[str, ...], str], bool] = {}
    for file in keys:
        key: ApiKey = file.noun
        for number, model in enumerate(key.models if key.enabled else ()):
            if "*" in model or "?" in model:
                continue
            case = key.groups, model
            if case not in known:
                able = [one for one in accounts if not set(key.groups).isdisjoint(one.groups)]
                # a group without an account has a warning of its own
                known[case] = not able or any(_serves(one, relay.models.get(model, model)) for one in able)
            if not known[case]:
                path = ("models", number)
                message = f"{dotted(path)}: no enabled account of this key's groups serves {quote(model)}"
                yield file.problem("W-MODEL-UNSERVED", path, message)


def _serves(account: Account, model: str) -> bool:
    if not account.models or model in account.model_map:
        return True
    return any(fnmatchcase(model, glob.replace("[", "[[]")) for glob in account.models)


# --- policy ----------------------------------------------------------------------------------------------------------


def _account_policy(file: Parsed, relay: Relay) -> Iterator[Problem]:
    account: Account = file.noun
    allowed = relay.policy.allowed_origins
    if not allowed or ACCOUNT_KINDS[account.kind].in_process:
        return
    try:
        origin = origin_of(account.base_url or relay.upstream.base_url)
    except SealError:
        return
    if origin not in allowed:
        message = f"base_url: the origin {quote(origin)} is not among [policy] allowed_origins"
        yield file.problem("E-POLICY-ORIGIN", ("base_url",), message, hint=f"allowed: {', '.join(allowed)}")


def _key_policy(file: Parsed, relay: Relay, now: datetime.datetime | None) -> Iterator[Problem]:
    key: ApiKey = file.noun
    policy = relay.policy
    if policy.require_owner and not key.owner:
        yield file.problem("E-POLICY-OWNER", ("owner",), "owner: missing, but [policy] require_owner requires it")
    if policy.require_expiry and not key.expires:
        message = "expires: missing, but [policy] require_expiry requires it"
        yield file.problem("E-POLICY-EXPIRY", ("expires",), message)
    if policy.require_limits and not _limited(file, relay.limits):
        message = "limits: none is set, but [policy] require_limits requires one"
        yield file.problem("E-POLICY-LIMITS", ("limits",), message)
    if policy.max_key_age:
        yield from _age(file, key, policy, now)


def _limited(file: Parsed, defaults: Limits) -> bool:
    """Whether anything but the bound on token counting limits a key."""
    own: Limits = file.noun.limits
    return bool(_bounds(defaults) - file.given_limits) or any(name in file.given_limits for name in _bounds(own))


# Of [limits], what says how the others are kept, and the bound that is no limit on what a key may consume.
_NO_BOUNDS = {"count_tokens", "wait", "reserve"}


@functools.lru_cache(maxsize=4096)
def _bounds(limits: Limits) -> frozenset[str]:
    """The limits that are set."""
    found = {field.name for field in attrs.fields(Limits) if getattr(limits, field.name)} - _NO_BOUNDS
    return frozenset(found if limits.rate.requests else found - {"rate"})


def _age(file: Parsed, key: ApiKey, policy: Policy, now: datetime.datetime | None) -> Iterator[Problem]:
    most = write_seconds(policy.max_key_age)
    for field in ("created", "expires"):
        if getattr(key, field) is None:
            message = f"{field}: missing, but [policy] max_key_age requires it"
            yield file.problem("E-POLICY-AGE", (field,), message)
    if key.created and key.expires and (key.expires - key.created).total_seconds() > policy.max_key_age:
        message = f"expires: more than [policy] max_key_age, {most}, after `created`"
        yield file.problem("E-POLICY-AGE", ("expires",), message, hint=f"at the latest {_latest(key, policy)}")
    elif now and key.created and (now - key.created).total_seconds() > policy.max_key_age:
        yield file.problem("W-KEY-OLD", ("created",), f"created: the key is older than [policy] max_key_age, {most}")


def _latest(key: ApiKey, policy: Policy) -> str:
    assert key.created is not None
    return (key.created + datetime.timedelta(seconds=policy.max_key_age)).isoformat()
