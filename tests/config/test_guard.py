from __future__ import annotations

import attrs
import pytest
from builders import KEY, OTHER_KEY, account, api_key, snapshot

from relayd.config.diff import diff
from relayd.config.guard import accepts, held, refuses, restored, taken_out, with_deny
from relayd.config.secrets.api_keys import key_hash, mint
from relayd.config.snapshot import Deny, Guard, Snapshot


def key_of(number: int) -> str:
    return mint(lambda size: number.to_bytes(size, "big"))


def sized(accounts: int, keys: int, **guard: object) -> Snapshot:
    return snapshot(
        accounts=tuple(account(f"a{number}") for number in range(accounts)),
        keys=tuple(api_key(key_of(number), id=f"k{number}") for number in range(keys)),
        relay={"guard": Guard(**guard)},
    )


def verdict(old: Snapshot, new: Snapshot, **more: str) -> tuple[str, ...]:
    return held(old, new, diff(old, new), **more)


# How many of how many keys may go: (before, after, passes)
REMOVALS = [
    (1, 1, True),
    (2, 1, True),
    (3, 2, True),
    (3, 1, False),  # most of them
    (4, 2, True),
    (5, 2, False),
    (10, 5, True),  # five always pass, up to half
    (10, 4, False),
    (20, 15, True),
    (20, 14, False),
    (100, 75, True),  # a quarter
    (100, 74, False),
    (1000, 750, True),
    (1000, 400, False),
]


@pytest.mark.parametrize(("before", "after", "passes"), REMOVALS)
def test_so_many_keys_may_go_at_once(before: int, after: int, passes: bool) -> None:
    reasons = verdict(sized(1, before), sized(1, after))

    assert (reasons == ()) == passes
    if not passes:
        assert f"{before - after} of {before} keys would go" in reasons[0]


@pytest.mark.parametrize(("before", "after", "passes"), REMOVALS)
def test_so_many_accounts_may_go_at_once(before: int, after: int, passes: bool) -> None:
    assert (verdict(sized(before, 1), sized(after, 1)) == ()) == passes


def test_the_last_key_or_account_never_goes_unasked() -> None:
    old = sized(1, 1, max_removed_share=1.0)
    no_key = attrs.evolve(old, keys={}, keys_by_hash={})
    no_account = attrs.evolve(old, accounts={})

    assert "no enabled key would be left of 1" in verdict(old, no_key)[0]
    assert "no enabled account would be left of 1" in verdict(old, no_account)[0]


def test_disabling_is_as_good_as_removing() -> None:
    old = sized(1, 10)
    off = {name: attrs.evolve(key, enabled=int(name[1:]) < 3) for name, key in old.keys.items()}

    assert "7 of 10 keys" in verdict(old, attrs.evolve(old, keys=off))[0]


def test_an_operator_sets_the_bounds_in_the_same_commit() -> None:
    old = sized(1, 100)

    assert verdict(old, sized(1, 10, max_removed_share=0.9)) == ()
    assert verdict(old, sized(1, 99, max_removed=0, max_removed_share=0.0)) != ()


def test_adding_and_changing_are_never_held() -> None:
    old = sized(2, 2)
    weights = {name: attrs.evolve(one, weight=9) for name, one in old.accounts.items()}

    assert verdict(old, sized(50, 500)) == ()
    assert verdict(old, attrs.evolve(old, accounts=weights)) == ()


def test_a_group_that_is_used_and_loses_its_last_account_is_held() -> None:
    old = snapshot(accounts=(account("a", groups=("x",)), account("b"), account("c")), keys=(api_key(groups=("x",)),))
    moved = snapshot(accounts=(account("a"), account("b"), account("c")), keys=(api_key(groups=("x",)),))
    unused = snapshot(accounts=(account("a"), account("b"), account("c")))

    assert verdict(old, moved) == ("group x would have no enabled account, and keys use it",)
    assert verdict(old, unused) == ()
    assert verdict(old, attrs.evolve(moved, relay=attrs.evolve(moved.relay, guard=Guard(empty_group=False)))) == ()


def test_a_group_that_was_empty_before_is_nobodys_surprise() -> None:
    old = snapshot(keys=(api_key(groups=("typo",)),))
    new = snapshot(keys=(api_key(groups=("typo",), name="x"),))

    assert verdict(old, new) == ()


def test_another_realm_is_held_unless_the_guard_is_told_otherwise() -> None:
    old, new = snapshot(), snapshot(relay={"realm": "other"})
    free = snapshot(relay={"realm": "other", "guard": Guard(realm=False)})

    assert verdict(old, new) == ("the realm changes from test to other: every counter starts anew",)
    assert verdict(old, free) == ()


def test_an_accepted_digest_lets_exactly_that_tree_pass() -> None:
    old, new = sized(1, 100), attrs.evolve(sized(1, 10), revision="abcdef012345")
    digest = "abcdef012345" + "9" * 52

    assert verdict(old, new) != ()
    assert verdict(old, new, accepted="abcdef012345") == ()
    assert verdict(old, new, accepted=digest, digest=digest) == ()
    assert verdict(old, new, accepted="abcdef0123", digest=digest) != ()
    assert verdict(old, new, accepted="b" * 64, digest=digest) != ()
    assert verdict(old, new, accepted="", digest=digest) != ()


@pytest.mark.parametrize(
    ("accepted", "digest", "passes"),
    [
        ("abcdef012345", "abcdef012345ff", True),
        (" ABCDEF012345\n", "abcdef012345ff", True),
        ("abcdef01234", "abcdef012345ff", False),
        ("abcdef012345fe", "abcdef012345ff", False),
        ("abcdef012345ff", "abcdef012345", True),
        ("abcdef012345", "", False),
        ("", "", False),
    ],
)
def test_twelve_digits_mean_a_tree(accepted: str, digest: str, passes: bool) -> None:
    assert accepts(accepted, digest) is passes


def test_nothing_changed_is_nothing_held() -> None:
    empty = attrs.evolve(snapshot(), keys={}, keys_by_hash={})

    assert verdict(empty, empty) == ()


def test_what_a_rollback_would_let_in_again_is_told() -> None:
    old_tree = snapshot(keys=(api_key(), api_key(OTHER_KEY, id="leaked")))
    for running in (
        snapshot(),
        snapshot(keys=(api_key(), api_key(OTHER_KEY, id="leaked", enabled=False))),
        snapshot(keys=(api_key(), api_key(OTHER_KEY, id="leaked")), deny=Deny(keys=("leaked",))),
        snapshot(keys=(api_key(), api_key(OTHER_KEY, id="leaked")), deny=Deny(sha256=(key_hash(OTHER_KEY),))),
    ):
        assert restored(running, old_tree) == ("leaked",)
    assert restored(old_tree, snapshot()) == ()
    assert restored(old_tree, old_tree) == ()


def test_an_old_hash_of_a_rotated_key_counts_as_let_in_again() -> None:
    rotated = snapshot(keys=(api_key(OTHER_KEY),))

    assert restored(rotated, snapshot(keys=(api_key(KEY),))) == ("dev",)


def test_denials_are_added_and_never_taken_away() -> None:
    running = snapshot(deny=Deny(keys=("a",), ips=("192.0.2.1",)))

    both = with_deny(running, Deny(keys=("b", "a"), sha256=("1" * 64,)))

    assert both.deny == Deny(keys=("a", "b"), sha256=("1" * 64,), ips=("192.0.2.1",))
    assert both.keys is running.keys
    assert with_deny(running, Deny()) is running
    assert with_deny(running, Deny(keys=("a",))) is running


def test_what_was_taken_out_by_name_is_no_absence_and_everything_else_still_is() -> None:
    old = snapshot(
        keys=tuple(api_key(f"key {number}", id=f"k{number}") for number in range(6)), accounts=(account("a"),)
    )
    nobody = attrs.evolve(old, accounts={"a": attrs.evolve(old.accounts["a"], enabled=False)})
    assert len(held(old, nobody, diff(old, nobody))) == 2  # the last account, and its group
    assert held(taken_out(old, ["account a"]), nobody, diff(old, nobody)) == ()
    assert held(taken_out(old, ["key a", "account b"]), nobody, diff(old, nobody)) != ()

    two = attrs.evolve(old, keys={name: key for name, key in old.keys.items() if name in ("k0", "k1")})
    names = [f"key k{number}" for number in (2, 3, 4, 5)]
    assert held(taken_out(old, names), two, diff(old, two)) == ()
    (reason,) = held(taken_out(old, names[:1]), two, diff(old, two))
    assert reason.startswith("3 of 5 keys would go")
    assert taken_out(old, ()) is old


def test_whether_a_name_is_refused() -> None:
    off = attrs.evolve(api_key("other", id="off"), enabled=False)
    deny = Deny(keys=("denied",), accounts=("b",), ips=("192.0.2.0/24",), sha256=("ab" * 32,))
    running = snapshot(
        keys=(api_key(id="dev"), off, api_key("third", id="denied")), accounts=(account("a"), account("b")), deny=deny
    )
    let_in = ("key dev", "account a", "address 192.0.2.1", f"hash {'cd' * 32}")
    assert [name for name in let_in if refuses(running, name)] == []
    kept_out = ("key off", "key denied", "key gone", "account b", "account gone", "address 192.0.2.0/24")
    assert [name for name in kept_out if not refuses(running, name)] == []
    assert refuses(running, f"hash {'ab' * 32}")
