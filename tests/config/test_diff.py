from __future__ import annotations

import datetime
import json
import re
from typing import Any, Literal, get_args, get_origin

import attrs
import pytest
from builders import account, api_key, snapshot
from hypothesis import given, settings
from hypothesis import strategies as st

from relayd.config.changes import Changes
from relayd.config.compile import compile_tree
from relayd.config.diff import diff, model_digest
from relayd.config.pattern import Pattern, operators
from relayd.config.secrets.binding import account_binding
from relayd.config.secrets.seal import new_identity, seal
from relayd.config.secrets.secret import Secret
from relayd.config.snapshot import (
    Account,
    AdminToken,
    AdminUser,
    Alert,
    ApiKey,
    ClientRule,
    Credential,
    Deny,
    KeyHash,
    Price,
    Recipient,
    Relay,
    Snapshot,
)

NOW = datetime.datetime(2026, 11, 22, tzinfo=datetime.UTC)
HASHES = (KeyHash(sha256="1" * 64), KeyHash(sha256="2" * 64, hint="sk-relay-AbCd"))
PRICE = {"input": 1, "output": 2, "cache_write_5m": 3, "cache_write_1h": 4, "cache_read": 5}


def rule(pattern: str) -> ClientRule:
    return ClientRule(name="x", user_agent=operators(pattern))


def only(changes: Changes) -> tuple[str, str, str, str]:
    """The single key that changed: object, path, text and reload class."""
    (change,) = changes.changes
    (field,) = change.fields
    return change.name, field.path, field.text, field.reload


# --- one key at a time: a table of every type of value that the schema has


def relay(**fields: Any) -> Snapshot:
    return snapshot(relay=fields)


CASES = [
    (snapshot(accounts=(account(weight=1),)), snapshot(accounts=(account(weight=4),)), "account a", "weight", "1 -> 4"),
    (
        snapshot(accounts=(account(base_url=None),)),
        snapshot(accounts=(account(base_url="https://b.example.com"),)),
        "account a",
        "base_url",
        'none -> "https://b.example.com"',
    ),
    (
        snapshot(accounts=(account(groups=("a",)),)),
        snapshot(accounts=(account(groups=("b", "a")),)),
        "account a",
        "groups",
        '["a"] -> ["b", "a"]',
    ),
    (
        snapshot(accounts=(account(model_map={"a.b": "x"}),)),
        snapshot(accounts=(account(model_map={"a.b": "y"}),)),
        "account a",
        'model_map."a.b"',
        '"x" -> "y"',
    ),
    (snapshot(), snapshot(keys=(api_key(expires=NOW),)), "key dev", "expires", "none -> 2026-11-22T00:00:00+00:00"),
    (
        snapshot(keys=(api_key(hashes=HASHES[:1]),)),
        snapshot(keys=(api_key(hashes=HASHES),)),
        "key dev",
        "hashes[222222222222]",
        f'none -> {{ sha256 = "{"2" * 64}"...'[:80],
    ),
]


@pytest.mark.parametrize(
    ("old", "new", "name", "path", "text"), CASES, ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_changed_key_is_shown_as_it_is_written(old: Snapshot, new: Snapshot, name: str, path: str, text: str) -> None:
    found = only(diff(old, new))

    assert found[:2] == (name, path)
    assert found[2].startswith(text[:40])


def test_durations_sizes_and_money_are_written_with_their_units() -> None:
    old = compile_tree(tree("")).require()
    new = compile_tree(
        tree('[server]\nmax_request_body = "1MiB"\nheader_timeout = "90s"\n[limits]\ntotal_cost = "2.5"\n')
    ).require()

    changes = {field.path: field.text for change in diff(old, new).changes for field in change.fields}

    assert changes["server.max_request_body"] == '"32MiB" -> "1MiB"'
    assert changes["server.header_timeout"] == '"10s" -> "90s"'
    assert changes["limits.total_cost"] == '"0" -> "2.5"'


def tree(relay: str, **more: str) -> dict[str, bytes]:
    files = {
        "relay.toml": f'schema = 1\nrealm = "test"\n{relay}',
        "accounts.d/a.toml": 'kind = "simulator"\n',
        "keys.d/k.toml": f'hashes = [{{ sha256 = "{"3" * 64}" }}]\n',
        **more,
    }
    return {path: text.encode() for path, text in files.items()}


# --- objects


def test_a_new_object_is_shown_with_what_it_says_beyond_the_defaults() -> None:
    changes = diff(snapshot(), snapshot(accounts=(account(), account("b", weight=3, credential=Credential(file="/x")))))

    assert changes.ids("account", "add") == ("b",)
    (change,) = changes.changes
    assert [(field.path, field.old, field.new) for field in change.fields] == [
        ("kind", "", '"simulator"'),
        ("weight", "", "3"),
        ("credential.file", "", '"/x"'),
    ]
    assert "+ account b" in changes.as_text()


def test_a_removed_key_says_that_it_is_refused_at_once() -> None:
    changes = diff(snapshot(keys=(api_key(), api_key("x", id="old"))), snapshot())

    assert changes.ids("key", "remove") == ("old",)
    assert changes.changes[0].reload == "revoke"
    assert "- key old: is refused from the next request" in changes.as_text()


def test_prices_and_denials_are_part_of_the_diff() -> None:
    new = attrs.evolve(snapshot(deny=Deny(keys=("dev",))), prices={"m": Price(**PRICE)})

    changes = diff(snapshot(), new)

    assert [change.name for change in changes.changes] == ["deny.toml", "price m"]
    assert only(diff(snapshot(), snapshot(deny=Deny(keys=("dev",)))))[1:] == ("keys", '[] -> ["dev"]', "revoke")


def test_what_needs_a_restart_is_listed() -> None:
    changes = diff(snapshot(), relay(state=attrs.evolve(Relay(schema=1, realm="x").state, url="sqlite:other.db")))

    assert changes.restart == ('state.url: "sqlite:var/relayd.db" -> "sqlite:other.db"',)
    assert changes.summary() == "0 added, 1 changed, 0 removed; 1 needs a restart"
    assert "[RESTART:" in changes.as_text()


def test_comments_moved_files_and_the_order_of_keys_are_no_change() -> None:
    old = compile_tree(tree("[server]\nrate = { requests = 1 }\nworkers = 1\n")).require()
    files = tree("# a comment\n[server]\nworkers = 1\nrate = { requests = 1 }\n")
    files["keys.d/team/k.toml"] = files.pop("keys.d/k.toml")
    new = compile_tree(files).require()

    assert old.revision != new.revision
    assert diff(old, new).empty
    assert model_digest(old) == model_digest(new)


def test_the_order_of_client_rules_is_a_change_because_the_first_that_matches_counts() -> None:
    old = relay(clients={"a": rule("x"), "b": rule("y")})
    new = relay(clients={"b": rule("y"), "a": rule("x")})

    assert only(diff(old, new))[1:3] == ("clients (order)", '["a", "b"] -> ["b", "a"]')
    assert model_digest(old) != model_digest(new)


def test_elements_of_an_array_are_matched_by_name_and_not_by_place() -> None:
    one, two = Recipient(name="one", public="rlpub1.x"), Recipient(name="two", public="rlpub1.y")
    secrets = Relay(schema=1, realm="x").secrets
    old = relay(secrets=attrs.evolve(secrets, recipients=(one, two)))
    new = relay(secrets=attrs.evolve(secrets, recipients=(attrs.evolve(two, state="removed"),)))

    (change,) = diff(old, new).changes

    assert [(field.path, field.text[:20]) for field in change.fields] == [
        ("secrets.recipients[two].state", '"active" -> "removed'),
        ("secrets.recipients[one]", '{ name = "one", publ'[:20]),
    ]


# --- secrets


CANARY = "hunter2-canary"


def secretive(secret: str) -> Snapshot:
    """A snapshot with a secret in every place that can hold one."""
    admin = Relay(schema=1, realm="x").admin
    return snapshot(
        accounts=(
            account(
                kind="api-key",
                proxy=f"http://user:{secret}@proxy.example.com:3128",
                headers={"x-token": secret},
                credential=Credential(sealed=secret),
            ),
        ),
        relay={
            "admin": attrs.evolve(
                admin,
                users=(AdminUser(name="ann", password_hash=secret, totp=secret),),
                tokens=(AdminToken(name="ci", sha256=secret),),
            ),
            "alerts": {"ops": Alert(url=secret)},
        },
    )


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (snapshot(), secretive(CANARY)),
        (secretive(CANARY), snapshot()),
        (secretive(CANARY), secretive(CANARY + "2")),
        (snapshot(accounts=(account("other"),)), secretive(CANARY)),
    ],
    ids=["added", "removed", "changed", "new-account"],
)
def test_no_secret_is_ever_shown(old: Snapshot, new: Snapshot) -> None:
    changes = diff(old, new)
    shown = changes.as_text() + json.dumps(changes.as_json()) + repr(changes) + str(changes.restart)

    assert not changes.empty
    assert CANARY not in shown


def test_a_password_of_a_proxy_that_changes_is_a_change_without_the_password() -> None:
    old = snapshot(accounts=(account(proxy="http://u:one@p.example.com:1"),))
    new = snapshot(accounts=(account(proxy="http://u:two@p.example.com:1"),))

    assert only(diff(old, new))[1:] == ("proxy", "password changed", "drain")


def test_a_resealed_value_says_for_whom() -> None:
    old_key, new_key = new_identity(lambda n: b"\1" * n), new_identity(lambda n: b"\2" * n)
    binding = account_binding("test", "a", "https://api.anthropic.com")
    recipients = (Recipient(name="k1", public=old_key.public.text), Recipient(name="k2", public=new_key.public.text))
    secrets = {"secrets": attrs.evolve(Relay(schema=1, realm="x").secrets, recipients=recipients)}

    def sealed(identity: Any) -> Snapshot:
        value = seal(Secret(CANARY), binding, [identity.public], lambda n: b"\3" * n)
        one = account(kind="api-key", credential=Credential(sealed=value))
        return snapshot(accounts=(one,), relay=secrets)

    assert only(diff(sealed(old_key), sealed(new_key)))[2] == "sealed value changed (recipients: -k1 +k2)"


# --- for any two snapshots


def values(kind: Any, field: attrs.Attribute[Any] | None = None) -> st.SearchStrategy[Any]:
    """Any value of a type of the schema; not any that the parser would accept, which the diff does not ask."""
    if attrs.has(kind):
        return nouns(kind)
    origin, args = get_origin(kind), get_args(kind)
    if origin is Literal:
        return st.sampled_from(args)
    if origin is tuple:
        inner = args[0]
        if attrs.has(inner):
            named = next((name for name in ("name", "sha256") if name in attrs.fields_dict(inner)), None)
            unique = (lambda one: getattr(one, named)[:12]) if named else None
            return st.lists(nouns(inner), max_size=2, unique_by=unique).map(tuple)
        return st.lists(values(inner), max_size=2).map(tuple)
    if args and origin is not None and "Mapping" in str(origin):
        return st.dictionaries(st.sampled_from("abc"), values(args[1]), max_size=2)
    if args:
        return st.one_of(*(st.none() if arg is type(None) else values(arg) for arg in args))
    kind = getattr(kind, "__supertype__", kind)
    if kind is Pattern:
        return st.sampled_from([operators("x"), operators("y")])
    simple = {
        int: st.integers(0, 3),
        float: st.sampled_from([0.0, 1.0, 60.0]),
        bool: st.booleans(),
        str: st.sampled_from(["", "x", "y"]),
        datetime.datetime: st.sampled_from([NOW, NOW.replace(year=2027)]),
    }
    return simple[kind]


def nouns(noun: type, **fixed: Any) -> st.SearchStrategy[Any]:
    fields = {}
    for field in attrs.fields(attrs.resolve_types(noun)):
        if field.name in fixed:
            continue
        strategy = values(field.type, field)
        if field.default is not attrs.NOTHING:  # mostly dull, so that two of them differ in few places
            strategy = st.one_of(st.just(field.default), st.just(field.default), strategy)
        fields[field.name] = strategy
    return st.builds(noun, **{name: st.just(value) for name, value in fixed.items()}, **fields)


def snapshots() -> st.SearchStrategy[Snapshot]:
    def objects(noun: type) -> st.SearchStrategy[dict[str, Any]]:
        named = st.sampled_from("ab").flatmap(lambda name: nouns(noun, id=name))
        return st.lists(named, max_size=2, unique_by=lambda one: one.id).map(
            lambda found: {one.id: one for one in found}
        )

    return st.builds(
        Snapshot,
        relay=nouns(Relay),
        accounts=objects(Account),
        keys=objects(ApiKey),
        keys_by_hash=st.just({}),
        deny=nouns(Deny),
        prices=st.dictionaries(st.sampled_from("mn"), nouns(Price), max_size=1),
    )


@settings(deadline=None, max_examples=15)
@given(snapshots())
def test_nothing_differs_from_itself(one: Snapshot) -> None:
    assert diff(one, one).empty
    assert diff(one, attrs.evolve(one)).empty


@settings(deadline=None, max_examples=50)
@given(snapshots(), snapshots())
def test_a_diff_is_empty_exactly_when_the_model_digests_are_equal(one: Snapshot, other: Snapshot) -> None:
    changes = diff(one, other)

    assert changes.empty == (model_digest(one) == model_digest(other))
    assert changes.empty == diff(other, one).empty


@settings(deadline=None, max_examples=50)
@given(snapshots(), snapshots())
def test_each_changed_key_appears_once_and_both_forms_can_be_made(one: Snapshot, other: Snapshot) -> None:
    changes = diff(one, other)
    paths = [(change.kind, change.id, field.path) for change in changes.changes for field in change.fields]

    assert len(paths) == len(set(paths))
    assert len({(change.kind, change.id) for change in changes.changes}) == len(changes.changes)
    assert all(change.fields for change in changes.changes if change.action == "change")
    json.dumps(changes.as_json())
    assert changes.as_text().endswith("\n")


LEAVES = [
    (noun, field)
    for noun in (Relay, Account, ApiKey)
    for field in attrs.fields(attrs.resolve_types(noun))
    if field.name not in ("id", "clients")
]


@pytest.mark.parametrize(("noun", "field"), LEAVES, ids=lambda value: getattr(value, "__name__", None) or value.name)
@settings(deadline=None, max_examples=5)
@given(data=st.data())
def test_a_change_of_one_key_is_told_under_its_name(
    noun: type, field: attrs.Attribute[Any], data: st.DataObject
) -> None:
    old = data.draw(nouns(noun, **({"id": "a"} if "id" in attrs.fields_dict(noun) else {})))
    new = attrs.evolve(old, **{field.name: data.draw(values(field.type, field))})

    def around(one: Any) -> Snapshot:
        match one:
            case Relay():
                return attrs.evolve(snapshot(), relay=one)
            case Account():
                return attrs.evolve(snapshot(), accounts={"a": one})
        return attrs.evolve(snapshot(), keys={"a": one})

    changes = diff(around(old), around(new))
    told = {re.split(r"[.\[ ]", change.path)[0] for one in changes.changes for change in one.fields}

    assert told == (set() if old == new else {field.name})
