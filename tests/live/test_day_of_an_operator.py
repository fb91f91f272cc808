"""A day of an operator, fault by fault: what happens, what `relayd status` and the log say, what is done about it, and
that calls go on all the while.

Each function is one fault. They are one story, so one test tells them in order; a second one is the upgrade.
"""

from __future__ import annotations

import contextlib
import json
import socket
import sqlite3
from pathlib import Path

import httpx2
import pytest
from activation import held_sockets
from builders import KEY, OTHER_KEY
from operators_day import GOOD, NEW, SPARE, Day, Node, a_node, first_tree, operators_day
from provider import provider
from steady_calls import Way, steady_calls
from waiting import wait_until

from relayd.state.contract import FindCalls, FoundCalls
from relayd.state.opening import open_store
from relayd.state.sqlite_file import inspect_file

BATCH = {"requests": [{"custom_id": "one", "params": {"model": "claude-sonnet-5-5", "max_tokens": 9, "messages": []}}]}
OLD = sorted((Path(__file__).parents[1] / "state").glob("v*.sql"), key=lambda path: int(path.stem[1:]))


def test_a_day_of_faults_fails_no_call_and_each_says_what_to_do(tmp_path: Path) -> None:
    with operators_day(tmp_path / "day") as day:
        in_the_morning_all_is_well(day)
        a_deploy_is_broken(day)
        an_account_is_dead(day)
        tokens_cannot_be_renewed(day)
        a_disk_is_full_while_redis_fails_over(day)
        nodes_are_restarted_and_upgraded_one_by_one(day)
        the_books_are_whole(day)
        assert day.calls.failures == []
        print(f"{len(day.calls.took)} calls, the longest {max(day.calls.took):.2f} s")
        everything_is_restored_on_an_empty_machine(day)


def in_the_morning_all_is_well(day: Day) -> None:
    day.well()
    day.nodes[0].says("nodes: 2, all run the same")
    assert all(node.metric("relayd_well") == 1 for node in day.nodes)
    assert asked(day.nodes[0], KEY, "POST") == 200  # a batch, which is looked up again in the evening


def a_deploy_is_broken(day: Day) -> None:
    """A bad edit runs nowhere: the config before it serves. Every node says where the error is."""
    file = day.nodes[0].tree / "keys.d" / "dev.toml"
    good = file.read_text()
    file.write_text(good.replace("1000000", "many"))
    for node in day.nodes:
        node.says(
            "! out of step: the tree on disk is rejected [`relayd check` says where and why]",
            "keys.d/dev.toml:4:18: error[E-SYNTAX]: invalid value (strings are written in quotes)",
            "running: generation 1,",
        )
        assert node.metric("relayd_well") == 0
        wait_until(lambda node=node: node.log("reload.rejected"), "the line in the log")
        assert node.log("reload.rejected")[0]["problems"]
    assert "    4 | daily_requests = many\n" in day.nodes[0].relayd("check").out
    reload = day.nodes[0].relayd("reload")
    assert reload.code == 1
    assert "generation 1 goes on running" in reload.all
    day.calls.wait_for(5)

    file.write_text(good)
    day.well()


def an_account_is_dead(day: Day) -> None:
    """The provider has ended a key. Calls go to the other account; a new key is sealed, and the first serves again."""
    day.provider.keys.discard(GOOD)
    day.goes_to(SPARE)
    for node in day.nodes:
        node.says(
            "! account main cannot serve: cooling down until ",
            "invalid x-api-key (401) [a new credential: relayd account seal main; if it is mended at the provider:",
        )
        assert node.metric("relayd_well") == 0
    assert "-> a new credential: relayd account seal main; " in day.nodes[1].relayd("doctor").out
    wait_until(lambda: any(node.log("account.credential") for node in day.nodes), "the line in the log")

    day.provider.keys.add(NEW)
    sealed = day.nodes[0].relayd("account", "seal", "main", stdin=NEW)
    assert "applied: " in sealed.all
    day.goes_to(NEW)
    day.well()


def tokens_cannot_be_renewed(day: Day) -> None:
    """Somebody has signed out an OAuth account everywhere. Calls go to the others until its new tokens are sealed."""
    node = day.nodes[0]
    tokens = json.dumps(day.provider.sign_in("first"))
    assert node.relayd("account", "add", "max", "--kind", "oauth", "--priority", "1", stdin=tokens).code == 0
    day.goes_to("first")
    day.provider.revoked.add("first")
    day.goes_to(NEW)
    for each in day.nodes:
        each.says("! account max cannot serve: ", "[sign in again: relayd account login max; ")
        each.daemon_says("oauth.refresh_failed", "hint", "sign in again: relayd account login max")
    assert "-> sign in again: relayd account login max" in node.relayd("doctor").out

    # What `relayd account login max` does at its end; the browser flow has tests of its own.
    again = node.relayd("account", "seal", "max", stdin=json.dumps(day.provider.sign_in("second")))
    assert "applied: " in again.all
    day.goes_to("second")
    day.well()


def a_disk_is_full_while_redis_fails_over(day: Day) -> None:
    """Node a can write neither log nor journal when the Redis dies. Calls go on, on b within limits, and once the
    sentinels have made the replica the master, everything is booked, though the disk is still full.
    """
    full, other = day.nodes
    day.disk.fill(full)
    full.says(f"! lines of the log are lost: {day.disk.error} [make room where the log is written]")
    assert full.metric("relayd_log_lines_lost_total") > 0
    assert "-> make room where the log is written" in full.relayd("doctor").out
    assert f"{day.disk.place}: 0.0 MiB free  -> make room: " in full.relayd("doctor").out or not day.disk.mounted
    other.is_well()
    assert full.relayd("key", "new", "colleague").code == 0  # a change is taken all the same

    day.redis[0].stop()
    full.says(
        "! the state store is down: ",
        "; no limit is enforced (sqlite:",  # nor is there room for the store that would stand in
        " settlements wait in memory alone, and end with this process: ",
        "[make room for the journal, or let the daemon write there]",
    )
    day.calls.wait_for(5)
    day.fail_over()
    other.daemon_says("state.available", "store", full.state)
    other.is_well()

    day.disk.free(full)
    day.well()
    assert full.log("call.done")  # the log goes on, and can be read


def nodes_are_restarted_and_upgraded_one_by_one(day: Day) -> None:
    """A rolling upgrade. While two versions run, status says which node has which."""
    first, second = day.nodes
    first.replace("next_release")
    second.says("a: tree", "relayd 99.0.0", "relayd 0.")
    day.calls.wait_for(5)
    assert "and 99.0.0" not in first.relayd("doctor").out
    second.stop()  # the first one takes all calls meanwhile
    second.start("next_release")
    day.calls.wait_for(5)
    day.well()


def the_books_are_whole(day: Day) -> None:
    """After all of that: what the provider served stands in the books, once."""
    day.calls.stop()
    wait_until(lambda: sum(node.metric("relayd_calls_in_flight") for node in day.nodes) == 0)
    served = booked = 0

    def are() -> bool:
        nonlocal served, booked
        served = sum(day.provider.served.values())  # a last call may have begun before all had stopped
        booked = day.nodes[0].booked("next_release")
        return booked == served

    with contextlib.suppress(AssertionError):
        wait_until(are)
    assert booked == served


def everything_is_restored_on_an_empty_machine(day: Day) -> None:
    """Redis and both nodes are gone. What is left is a backup and an identity."""
    old = day.nodes[0]
    file = day.place / "relayd.backup"
    recent = recent_calls(old.state)  # those of the last second may come yet
    assert recent > 100
    assert old.relayd("backup", str(file)).code == 0
    used = old.relayd("usage", "dev", "--json").json["keys"][0]["limits"]
    with contextlib.ExitStack() as stack:
        place = day.place / "new machine"
        place.mkdir()
        state = f"sqlite:{place}/state/relayd.db"
        public = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=4096))
        new = a_node("c", place / "tree", place / "own", public, state, stack)
        new.environment["RELAYD_IDENTITY"] = old.environment["RELAYD_IDENTITY"]
        assert new.relayd("restore", str(file), "--dry-run").code == 0
        assert not new.tree.exists()
        assert new.relayd("restore", str(file)).code == 0
        new.start()

        assert new.relayd("usage", "dev", "--json").json["keys"][0]["limits"] == used
        assert recent_calls(state) >= recent
        assert (asked(new, KEY, "GET"), asked(new, OTHER_KEY, "GET")) == (200, 404)  # whose the batch is
        with steady_calls(Way(new.sockets.url()), clients=1) as calls:
            calls.wait_for(3)
        assert calls.failures == []
        new.is_well()
        new.stop()


def test_an_upgrade_under_traffic_fails_no_call_and_the_way_back_is_told(tmp_path: Path) -> None:
    """From the state of the release before, over this one, to one that has a migration more; and back again."""
    place = tmp_path / "machine"
    with provider() as at, held_sockets("public", "admin") as sockets:
        tree = first_tree(place, at)
        file = place / "state" / "relayd.db"
        file.parent.mkdir()
        with contextlib.closing(sqlite3.connect(file)) as connection:
            connection.executescript(OLD[-2].read_text())
        environment = {"RELAYD_CONTROL": str(place / "sock"), "RELAYD_IDENTITY": str(place / "identity")}
        node = Node("n", tree, place, sockets, environment, f"sqlite:{file}")
        node.start()
        with contextlib.ExitStack() as stack:
            stack.callback(lambda: node.daemon and node.daemon.kill())
            with steady_calls(Way(sockets.url()), clients=2, pause=0.02) as calls:
                assert tables(file) == len(OLD)
                backup = place / "before.backup"
                assert node.relayd("backup", str(backup)).code == 0
                node.replace("next_release")
                assert tables(file) == len(OLD) + 1
                calls.wait_for(5)
            assert calls.failures == []
            print(f"{len(calls.took)} calls, the longest {max(calls.took):.2f} s")
            node.stop()
            served = sum(at.served.values())
            assert node.booked("next_release") == served
            assert node.booked("next_release", "--day", "2027-01-15") == 1  # what the old file held

            older = f"tables of version {len(OLD) + 1}, but this relayd knows only {len(OLD)}"
            with pytest.raises(AssertionError, match="ended with 78 ") as refused:
                node.start()
            assert f"{older} [run the newer relayd, " in str(refused.value)
            assert older in node.relayd("doctor").all
            assert node.relayd("restore", str(backup), "--only", "state", "--force").code == 0
            node.start()
            with steady_calls(Way(sockets.url()), clients=1) as calls:
                calls.wait_for(3)
            assert calls.failures == []
            node.stop()


def tables(file: Path) -> int:
    return inspect_file(str(file))[0]


def asked(node: Node, key: str, method: str) -> int:
    """The status of making a batch, or of asking for it."""
    path, body = ("", BATCH) if method == "POST" else ("/msgbatch_1", None)
    url = f"{node.sockets.url()}/v1/messages/batches{path}"
    answer = httpx2.request(method, url, json=body, headers={"x-api-key": key}, trust_env=False, timeout=60)
    return answer.status_code


def recent_calls(url: str) -> int:
    with contextlib.closing(open_store(url, realm="test", clock=lambda: 0)) as store:
        (found,) = store.apply([FindCalls(limit=10_000)])
    assert isinstance(found, FoundCalls)
    return len(found.calls)
