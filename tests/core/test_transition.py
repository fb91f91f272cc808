"""What one config means for the next: what is kept until a restart, what is newly denied."""

from __future__ import annotations

import attrs
from builders import account, api_key, snapshot

from relayd.config.diff import diff
from relayd.config.snapshot import RESTART, Deny, Log, Relay, Routing, Server, State
from relayd.core.transition import acts_now, added, keep_running


def restart_fields(noun: type = Relay) -> list[str]:
    found = []
    for field in attrs.fields(attrs.resolve_types(noun)):
        if field.metadata.get("reload") == RESTART:
            found.append(field.name)
        elif attrs.has(field.type):
            found += [f"{field.name}.{name}" for name in restart_fields(field.type)]
    return found


def test_every_setting_that_needs_a_restart_is_kept_and_every_other_is_taken() -> None:
    old = snapshot()
    new = snapshot(
        relay={
            "realm": "other",
            "server": Server(workers=4, max_connections=7),
            "state": State(url="redis://h", password_file="/p", lease=7.0, timezone="Europe/Berlin"),
            "log": Log(file="/f", level="debug"),
            "routing": Routing(reserve=0.5),
        },
        accounts=(account("b"),),
    )
    kept = keep_running(old, new)

    assert restart_fields() == [
        "realm", "state.url", "state.password_file", "state.lease", "log.file"
    ]  # fmt: skip
    assert kept.relay.realm == "test"
    assert (kept.relay.state.url, kept.relay.state.password_file) == (old.relay.state.url, "")
    assert kept.relay.state.lease == old.relay.state.lease
    assert kept.relay.log.file == ""
    assert kept.relay.state.timezone == "Europe/Berlin"
    assert (kept.relay.server.max_connections, kept.relay.log.level, kept.relay.routing.reserve) == (7, "debug", 0.5)
    assert list(kept.accounts) == ["b"]
    assert not diff(kept, new).empty
    assert not acts_now(diff(kept, new))


def test_a_config_without_such_a_change_is_itself() -> None:
    new = snapshot(accounts=(account("b"),))

    assert keep_running(snapshot(), new) is new


def test_only_what_acts_before_a_restart_is_worth_a_swap() -> None:
    old = snapshot()

    assert not acts_now(diff(old, snapshot()))
    assert not acts_now(diff(old, snapshot(relay={"log": Log(file="/f")})))
    assert acts_now(diff(old, snapshot(relay={"log": Log(file="/f", level="debug")})))
    assert acts_now(diff(old, snapshot(keys=(api_key(), api_key(id="two")))))
    assert acts_now(diff(snapshot(keys=(api_key(), api_key(id="two"))), old))


def test_what_is_newly_denied_is_what_was_not_denied_before() -> None:
    before = Deny(keys=("a", "b"), ips=("192.0.2.1",))
    after = Deny(keys=("b", "c"), sha256=("0" * 64,), accounts=("x",))

    assert added(before, after) == Deny(keys=("c",), sha256=("0" * 64,), accounts=("x",))
    assert added(after, after) == Deny()
