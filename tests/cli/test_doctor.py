"""relayd doctor: on a node without a daemon, beside a running one, and where something is wrong."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from booked_tree import book, make_booked
from cli_tree import Ran, Tree, make_sealing_tree, make_tree
from daemon import running, write_tree
from ports import free_port
from redis_server import running as redis_running

from relayd.cli.doctor_host import judge_unit
from relayd.config.source.history import Meta, save
from relayd.config.source.tree import read_files

SECRET = "sk-ant-api03-" + "a" * 93 + "AA"
LISTEN = 'schema = 1\nrealm = "example"\n\n[server]\nlisten = ["127.0.0.1:{}"]\n'


def tree_on(tmp_path: Path) -> Tree:
    return make_tree(tmp_path, LISTEN.format(free_port()))


def areas(ran: Ran, *, ok: bool) -> set[str]:
    assert ran.json["well"] == (ran.code == 0)
    return {one["area"] for one in ran.json["findings"] if one["ok"] == ok}


def of(ran: Ran, area: str) -> list[dict[str, Any]]:
    return [one for one in ran.json["findings"] if one["area"] == area and not one["ok"]]


def test_a_node_without_a_daemon_is_looked_at_all_the_same(tmp_path: Path) -> None:
    ran = tree_on(tmp_path).run("doctor", "--json")
    assert not of(ran, "tree") + of(ran, "state") + of(ran, "listeners") + of(ran, "daemon") + of(ran, "identity")
    assert {"tree", "identity", "state", "listeners", "disk", "memory", "daemon"} <= areas(ran, ok=True)


def test_a_taken_port_is_named_with_whoever_has_it(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        tree = make_tree(tmp_path, LISTEN.format(sock.getsockname()[1]))
        ran = tree.run("doctor")
    (line,) = [line for line in ran.out.splitlines() if "listeners" in line]
    assert line.startswith("!")
    assert "this very process listens there already" in line
    assert "  -> " in line
    assert ran.code == 1


def test_an_upstream_that_refuses_is_told_with_the_accounts_that_go_there(tmp_path: Path) -> None:
    sealing, port = make_sealing_tree(tmp_path, LISTEN.format(free_port())), free_port()
    add = ("account", "add", "--kind", "api-key", "--base-url", f"http://127.0.0.1:{port}")
    assert all(sealing.tree.run(*add, name, stdin=SECRET).code == 0 for name in ("real", "off"))
    assert sealing.tree.run("account", "disable", "off").code == 0
    look = ("doctor", "--json", "--identity", str(sealing.file))
    found = of(sealing.tree.run(*look), "accounts")
    assert [one["text"] for one in found] == [f"real: http://127.0.0.1:{port}: connection refused"]
    assert not of(sealing.tree.run(*look, "--offline"), "accounts")
    blind = sealing.tree.run("doctor", "--json", "--offline", "--identity", "")
    assert "sealed for recipient prod" in of(blind, "identity")[0]["text"]
    assert SECRET not in sealing.tree.run(*look).all


def test_a_broken_tree_is_named_by_its_place(tmp_path: Path) -> None:
    tree = tree_on(tmp_path)
    tree.write("accounts.d/sample.toml", 'kind = "unheard-of"\n')
    (one,) = of(tree.run("doctor", "--json"), "tree")
    assert one["text"].startswith("accounts.d/sample.toml:1: ")


def test_a_broken_tree_hides_nothing_else_where_a_config_is_stored(tmp_path: Path) -> None:
    tree = make_tree(tmp_path, LISTEN.format(port := free_port()))
    meta = Meta(digest="5" * 64, realm="example", saved=0.0, trigger="boot")
    save(tree.root / "var/generations", read_files(tree.root), meta)
    tree.write("relay.toml", "x = [\n")
    ran = tree.run("doctor", "--json")
    assert areas(ran, ok=False) == {"tree"}
    assert {"identity", "state", "listeners", "permissions"} <= areas(ran, ok=True)
    assert f"127.0.0.1:{port}: free" in ran.out
    assert "stored config 1, tree 555555555555" in ran.out


def test_a_state_file_is_measured_and_a_damaged_one_found(tmp_path: Path) -> None:
    tree = make_booked(tmp_path)
    book(tree, requests=1)
    well = tree.run("doctor", "--json")
    assert any("tables of version" in one["text"] for one in well.json["findings"] if one["area"] == "state")
    path = tree.root / "var/relayd.db"
    path.write_bytes(b"no database at all" * 100)
    (one,) = of(tree.run("doctor", "--json"), "state")
    assert "file is not a database" in one["text"]
    assert "relayd restore" in one["what_to_do"]
    assert path.read_bytes().startswith(b"no database")


def test_a_state_file_that_others_may_read_is_told(tmp_path: Path) -> None:
    tree = make_booked(tmp_path)
    book(tree, requests=1)
    (tree.root / "var/relayd.db").chmod(0o644)
    (tree.root / "var").chmod(0o757)
    folder, file = of(tree.run("doctor", "--json"), "permissions")
    assert "mode 0644 lets others in" in file["text"]
    assert "mode 0757 lets others in" in folder["text"]


def test_a_redis_that_forgets_is_told(tmp_path: Path) -> None:
    with redis_running("--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru") as server:
        found = of(tree_on(tmp_path).run("doctor", "--json", "--state", server.url), "state")
    assert [one["what_to_do"] for one in found] == [
        "switch persistence on (appendonly yes)", "set it to noeviction"
    ]  # fmt: skip
    gone = of(tree_on(tmp_path / "2").run("doctor", "--json", "--state", server.url), "state")
    assert len(gone) == 1
    assert "refused" in gone[0]["text"].lower()


def test_beside_a_running_daemon_its_own_ailments_and_listeners_are_told(tmp_path: Path) -> None:
    tree = write_tree(tmp_path)
    with running(tree) as daemon:
        ran = Tree(tree).run("doctor", "--json")
        texts = [one["text"] for one in ran.json["findings"] if one["ok"]]
        assert any(text.endswith("runs") for text in texts)
        assert f"{daemon.url}: /livez is 200" in texts
        assert any(f"the daemon (process {daemon.process.pid}) may have" in text for text in texts)
        (tmp_path / "without").mkdir()  # as on a node that pulls
        for place in (tmp_path / "without", tmp_path / "absent"):
            assert of(Tree(place).run("doctor", "--json", "--control", str(tree / "var/relayd.sock")), "tree") == []
        (tree / "relay.toml").write_text("broken =")
        Tree(tree).run("reload")
        assert any("rejected" in one["text"] for one in of(Tree(tree).run("doctor", "--json"), "daemon"))
        (tree / "relay.toml").write_text('schema = 1\nrealm = "test"\n\n[admin]\nlisten = ""\n')
        assert Tree(tree).run("reload").code == 0


def test_a_unit_that_failed_or_was_not_enabled_says_what_to_do() -> None:
    told = {"LoadState": "loaded", "ActiveState": "failed", "Result": "exit-code", "UnitFileState": "disabled"}
    failed, disabled = judge_unit("relayd.service", told)
    assert failed.text == "relayd.service is failed (exit-code)"
    assert "journalctl -u relayd.service" in failed.what_to_do
    assert disabled.what_to_do == "systemctl enable relayd.service"
    (well,) = judge_unit("relayd.service", {"LoadState": "loaded", "ActiveState": "active", "UnitFileState": "enabled"})
    assert well.ok
    assert list(judge_unit("relayd.service", {"LoadState": "not-found"})) == []


def test_without_a_tree_it_says_so(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "relayd", "doctor", "--config", str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False, env=dict(os.environ))
    assert done.returncode == 1
    assert "not a config tree" in done.stderr
