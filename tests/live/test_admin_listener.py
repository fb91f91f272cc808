"""The admin listener of a real daemon: metrics for Prometheus, status, report and reload for programs."""

from __future__ import annotations

import hashlib
import json
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx2
import trio
from builders import KEY
from daemon import Daemon, key_text, running, write_tree
from fleet import noon_zone
from ledger import Reply, asking
from ports import free_port
from strain import asked, fate, node, until
from waiting import PATIENCE

from relayd.core.access.throttle import BAD_PER_MINUTE

VIEWER, EDITOR = "rladm_" + "v" * 43, "rladm_" + "e" * 43
SAMPLE = re.compile(
    r'[a-z_]+(\{[a-z0-9_]+="(?:[^"\\\n]|\\["\\n])*"(,[a-z0-9_]+="(?:[^"\\\n]|\\["\\n])*")*\})? -?[0-9.e+-]+'
)
ASK = {"model": "claude-haiku-4-5", "max_tokens": 10, "messages": [{"role": "user", "content": "Hello"}]}


def admin_table(listen: str = "127.0.0.1:0", *, viewer: bool = True) -> str:
    tokens = {"prometheus": (VIEWER, "viewer"), "deployer": (EDITOR, "editor")}
    if not viewer:
        del tokens["prometheus"]
    entries = [
        f'[[admin.tokens]]\nname = "{name}"\nsha256 = "{hashlib.sha256(token.encode()).hexdigest()}"\nrole = "{role}"\n'
        for name, (token, role) in tokens.items()
    ]
    return f'[admin]\nlisten = "{listen}"\n' + "\n".join(entries)


def client(daemon: Daemon, token: str = "") -> httpx2.Client:
    (base,) = daemon.events("daemon.listening")[-1]["admin"]
    return httpx2.Client(base_url=base, headers={"authorization": f"Bearer {token}"} if token else {}, timeout=30)


def call(daemon: Daemon, **body: Any) -> httpx2.Response:
    return httpx2.post(f"{daemon.url}/v1/messages", headers={"x-api-key": KEY}, json={**ASK, **body}, timeout=30)


def value(metrics: str, sample: str) -> float:
    """The value of one sample; 0.0 where it is not there yet."""
    return next((float(line.rpartition(" ")[2]) for line in metrics.splitlines() if line.startswith(sample + " ")), 0.0)


def test_metrics_count_what_clients_did(tmp_path: Path) -> None:
    with running(write_tree(tmp_path, relay=admin_table())) as daemon, client(daemon) as here:
        first = here.get("/metrics")
        for _ in range(3):
            assert call(daemon).status_code == 200
        assert call(daemon, model="claude-invented-9").status_code == 200
        assert httpx2.post(f"{daemon.url}/v1/messages", json=ASK, timeout=PATIENCE).status_code == 401
        # A receipt is written just after the last byte of an answer.
        done = 'relayd_calls_total{dialect="anthropic",outcome="ok",status="200"}'
        ended = "relayd_call_duration_seconds_count"
        daemon.wait_until(lambda: value(here.get("/metrics").text, ended) == 5, "five calls in the metrics")
        text = here.get("/metrics").text

        assert first.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert (value(first.text, done), value(text, done)) == (0, 4)
        samples = [line for line in text.splitlines() if not line.startswith("#")]
        assert all(SAMPLE.fullmatch(re.sub(r'le="\+Inf"', 'le="inf"', line)) for line in samples), samples
        assert value(text, 'relayd_calls_total{dialect="anthropic",outcome="refused",status="401"}') == 1
        assert value(text, 'relayd_key_calls_total{key="dev"}') == 4
        assert value(text, 'relayd_unpriced_calls_total{account="sim"}') == 1
        assert value(text, 'relayd_tokens_total{account="sim",kind="output"}') > 0
        assert value(text, 'relayd_cost_usd_total{account="sim"}') > 0
        assert value(text, 'relayd_account_serves{account="sim"}') == 1
        assert value(text, "relayd_state_up") == 1
        assert value(text, "process_resident_memory_bytes") > 1e7
        assert KEY not in text
        assert "invented" not in text, "no name that a client chose is a label"

        assert here.get("/metrics", headers={"x-forwarded-for": "192.0.2.1"}).status_code == 401
        with client(daemon, VIEWER) as known:
            assert known.get("/metrics", headers={"x-forwarded-for": "192.0.2.1"}).status_code == 200


def test_programs_ask_with_a_token_of_the_tree(tmp_path: Path) -> None:
    relay = f'[state]\ntimezone = "{noon_zone()}"\n{admin_table()}'
    tree = write_tree(tmp_path, relay=relay)
    with (
        running(tree, "--no-watch") as daemon,
        client(daemon) as nobody,
        client(daemon, VIEWER) as viewer,
        client(daemon, EDITOR) as editor,
    ):
        assert call(daemon).status_code == 200
        daemon.wait_until(lambda: viewer.get("/api/report").json()["requests"] == 1, "the call in the books")
        status, report = viewer.get("/api/status"), viewer.get("/api/report?by=model,key&day=today")

        assert status.json()["accounts"][0]["id"] == "sim"
        assert status.headers["cache-control"] == "no-store"
        assert report.json()["rows"][0]["key"] == "dev"
        assert report.json()["rows"][0]["model"] == ASK["model"]
        assert report.json()["cost"] == viewer.get("/api/report").json()["cost"] != "0.00"

        for path in ("/api/status", "/api/report", "/api/reload", f"/api/status?token={VIEWER}"):
            method = "POST" if "reload" in path else "GET"
            refused = nobody.request(method, path)
            assert refused.status_code == 401, path
            assert refused.headers["www-authenticate"].startswith("Bearer")
        assert viewer.post("/api/reload").status_code == 403
        assert editor.get("/api/reload").status_code == 405
        assert editor.get("/api/reload").headers["allow"] == "POST"
        assert editor.get("/api/nothing").status_code == 404
        assert viewer.get("/api/report?day=2026-13-01").status_code == 400
        assert viewer.get("/api/report?by=colour").status_code == 400
        assert viewer.get("/api/report?since=x").status_code == 400
        assert viewer.get("/api/report?from=2026-02-02&to=2026-02-01").status_code == 400
        assert editor.post("/api/reload", content=b"[]").status_code == 400
        assert editor.post("/api/reload", json={"acept": "x"}).status_code == 400
        assert viewer.head("/api/status").status_code == 200

        for _ in range(BAD_PER_MINUTE):
            nobody.get("/api/status", headers={"authorization": "Bearer guess", "x-forwarded-for": "192.0.2.7"})
        slowed = nobody.get("/api/status", headers={"x-forwarded-for": "192.0.2.7"})
        assert slowed.status_code == 429
        assert int(slowed.headers["retry-after"]) > 0
        assert viewer.get("/api/status").status_code == 200, "others are not slowed down"

        (tree / "relay.toml").write_text(
            (tree / "relay.toml").read_text().replace(admin_table(), admin_table(viewer=False))
        )
        assert editor.post("/api/reload").json()["result"] == "applied"
        assert viewer.get("/api/status").status_code == 401, "a removed token is refused on its next request"
        assert not any(token in daemon.text() for token in (VIEWER, EDITOR))


def test_a_reload_tells_its_verdict_in_the_status(tmp_path: Path) -> None:
    tree = write_tree(tmp_path, relay=admin_table(), keys={f"k{n}": key_text() for n in [1]})
    with running(tree, "--no-watch") as daemon, client(daemon, EDITOR) as editor:
        file = tree / "keys.d/k1.toml"
        before = file.read_text()

        assert editor.post("/api/reload").json()["result"] == "unchanged"
        file.write_text(f'name = "Renamed"\n{before}')
        planned = editor.post("/api/reload", json={"dry_run": True})
        assert (planned.status_code, planned.json()["result"], planned.json()["dry_run"]) == (200, "applied", True)
        missed = editor.post("/api/reload", json={"expect": "0123456789ab"})
        assert (missed.status_code, missed.json()["result"]) == (412, "rejected")
        assert editor.get("/api/status").json()["running"]["generation"] == 1
        done = editor.post("/api/reload", json={"expect": planned.json()["digest"]})
        assert (done.status_code, done.json()["result"], done.json()["generation"]) == (200, "applied", 2)
        assert "Renamed" in done.json()["changes_text"]

        file.write_text(f"nmae = 3\n{before}")
        broken = editor.post("/api/reload")
        assert broken.status_code == 422
        assert (broken.json()["problems"][0]["file"], broken.json()["problems"][0]["line"]) == ("keys.d/k1.toml", 1)
        assert value(editor.get("/metrics").text, "relayd_config_last_reload_successful") == 0

        file.write_text(f"enabled = false\n{before}")
        held = editor.post("/api/reload")
        assert (held.status_code, held.json()["result"]) == (409, "held")
        accepted = editor.post("/api/reload", json={"accept": held.json()["digest"]})
        assert (accepted.status_code, accepted.json()["result"]) == (200, "applied")
        assert call(daemon).status_code == 401

        told = [(entry["token"], entry["result"]) for entry in daemon.events("admin.reload")]
        assert told[-2:] == [("deployer", "held"), ("deployer", "applied")]
        assert value(editor.get("/metrics").text, 'relayd_config_reloads_total{result="held",trigger="http"}') == 1


def test_the_listener_moves_with_the_config(tmp_path: Path) -> None:
    one, two = free_port(), free_port()
    tree = write_tree(tmp_path, relay=admin_table(f"127.0.0.1:{one}"))
    with running(tree, "--no-watch") as daemon:
        relay = tree / "relay.toml"
        before = relay.read_text()
        relay.write_text(before.replace(f":{one}", f":{two}"))
        with client(daemon, EDITOR) as editor:
            moved = editor.post("/api/reload")  # the answer comes on the connection to the old address
            assert (moved.status_code, moved.json()["result"]) == (200, "applied")
        with httpx2.Client(
            base_url=f"http://127.0.0.1:{two}", headers={"authorization": f"Bearer {EDITOR}"}, timeout=PATIENCE
        ) as there:
            assert there.get("/api/status").status_code == 200
            assert refuses_connections(one)
            relay.write_text(before.replace(f"127.0.0.1:{one}", ""))
            assert there.post("/api/reload").json()["result"] == "applied"
        assert refuses_connections(two)
        assert call(daemon).status_code == 200


def refuses_connections(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


async def test_metrics_are_there_while_the_daemon_drains(tmp_path: Path) -> None:
    async with node(tmp_path, relay=admin_table()) as here:
        daemon, replies = here.daemon, list[Reply]()

        async def stream() -> None:
            request = asking(KEY, "long.0", stream=True, pause=0.05, events=10**9)
            replies.append(await asked(here.port, request))

        def metrics() -> str:
            with client(daemon) as there:
                return there.get("/metrics").text

        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream)
            await until(lambda: here.running("long") == 1, "the stream")
            daemon.signal(signal.SIGTERM)
            await trio.to_thread.run_sync(daemon.wait_for, "daemon.draining")
            text = await trio.to_thread.run_sync(metrics)
            here.relays.ledger.enough.set()
        assert value(text, "relayd_draining") == 1
        assert value(text, "relayd_calls_in_flight") == 1
        assert [fate(reply) for reply in replies] == ["whole"]
        assert await trio.to_thread.run_sync(daemon.wait) == 0


def test_only_an_address_that_somebody_chose_must_be_had(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        tree = write_tree(tmp_path, relay=admin_table(address))
        command = [sys.executable, "-m", "relayd", "run", "--config", str(tree), "--listen", "127.0.0.1:0"]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60)

        assert ended.returncode == 1
        assert f"{address}: cannot listen" in ended.stderr
        with running(tree, "--admin-listen", "off") as daemon:
            assert daemon.events("daemon.listening")[0]["admin"] == []


def test_a_second_daemon_on_a_machine_goes_without_the_default_address(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # another run of this test may have it as well
        try:
            taken.bind(("127.0.0.1", 3001))
            taken.listen()
        except OSError:
            pass  # somebody else has it: as good
        with running(write_tree(tmp_path, relay="[admin]\n")) as daemon:
            assert "127.0.0.1:3001" in daemon.events("admin.unavailable")[0]["error"]
            assert daemon.events("daemon.listening")[0]["admin"] == []
            keys = daemon.tree / "keys.d/dev.toml"
            keys.write_text('name = "Renamed"\n' + keys.read_text())
            daemon.wait_for("reload.applied")  # what it does without does not keep a new config out
            shown = subprocess.run(
                [sys.executable, "-m", "relayd", "status", "--json", "--config", str(daemon.tree)],
                capture_output=True, text=True, timeout=60,
            )  # fmt: skip
            assert json.loads(shown.stdout)["well"] is True
