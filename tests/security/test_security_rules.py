"""Attacks on rules and rights: S4, S11, S15, S20, S23 of docs/security.md."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import attrs
import httpx2
import pytest
from booked import booked
from builders import KEY, OTHER_KEY, api_key, snapshot
from daemon import key_text, running, write_tree
from fakes import ASK, Reception, answering, message, upstream_account
from scripted import serving

from relayd.config.compile import compile_tree
from relayd.config.diff import diff
from relayd.config.guard import held
from relayd.config.rules.lint import PUBLISHED
from relayd.config.secrets.api_keys import KEY_PATTERN, checksum_ok, key_hash
from relayd.config.snapshot import Guard, Limits, MicroUsd, Rate, Server, Window
from relayd.core.quota.limits import Slots
from relayd.state.contract import Acquire

ROOT = Path(__file__).parents[2]
OPUS, HAIKU = "claude-opus-5-5", "claude-haiku-4-5"
VIEWER = "rladm_" + "v" * 43


def test_s4_neither_a_key_nor_a_viewer_changes_anything(tmp_path: Path) -> None:
    token = hashlib.sha256(VIEWER.encode()).hexdigest()
    admin = f'[admin]\nlisten = "127.0.0.1:0"\n[[admin.tokens]]\nname = "v"\nsha256 = "{token}"\nrole = "viewer"\n'
    tree = write_tree(tmp_path, relay=admin, keys={"dev": key_text(more='models = ["claude-haiku-*"]')})
    before = {path: path.read_bytes() for path in tree.rglob("*.toml")}
    wider = {
        "role": "editor",
        "owner": "root",
        "models": ["*"],
        "key": "x",
        "accept": "x",
        "admin": True,
        "groups": ["*"],
    }
    with running(tree) as daemon:
        (base,) = daemon.events("daemon.listening")[-1]["admin"]
        for bearer in (KEY, VIEWER, ""):
            for path in ("/api/reload", "/api/status", "/api/report", "/metrics", "/api/keys", "/api/accounts", "/web"):
                for method in ("POST", "PUT", "PATCH", "DELETE"):
                    sent = {**bearing(bearer), "x-role": "editor", "x-forwarded-user": "root"}
                    told = httpx2.request(method, base + path, headers=sent, json=wider, timeout=30)
                    assert told.status_code in (401, 403, 404, 405, 429), (method, path, told.status_code)
            seen = httpx2.get(f"{base}/api/status?role=editor", headers=bearing(bearer), timeout=30).status_code
            assert seen in ((200,) if bearer == VIEWER else (401, 429))
        ask = {"model": OPUS, "max_tokens": 9, "messages": [], **wider, "metadata": wider}
        sent = {"x-api-key": KEY, "x-role": "editor", "x-owner": "root"}
        assert httpx2.post(f"{daemon.url}/v1/messages", headers=sent, json=ask, timeout=30).status_code == 403
        assert len(daemon.events("config.applied")) <= 1
    assert {path: path.read_bytes() for path in tree.rglob("*.toml")} == before


def bearing(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"} if token else {}


def test_s11_the_keys_that_are_shipped_are_known() -> None:
    shipped = [ROOT / "README.md", ROOT / "relay.toml"]
    for folder in ("docs", "deploy", "relayd", "keys.d", "accounts.d", "tests.d"):
        shipped += [
            path for path in (ROOT / folder).rglob("*") if path.is_file() and path.suffix not in (".pyc", ".so")
        ]
    found = {
        key_hash(text)
        for path in shipped
        for text in KEY_PATTERN.findall(path.read_text(errors="replace"))
        if checksum_ok(text)
    }
    assert found == PUBLISHED


REAL = 'kind = "api-key"\n[credential]\nfile = "main-key"\n'


@pytest.mark.parametrize("published", sorted(PUBLISHED))
@pytest.mark.parametrize(
    ("listen", "account", "key", "refused"),
    [
        ("127.0.0.1:3000", 'kind = "simulator"\n', "", False),
        ("unix:/run/relayd/x.sock", 'kind = "simulator"\n', "", False),
        ("[::1]:3000", 'kind = "simulator"\n', "", False),
        ("0.0.0.0:3000", 'kind = "simulator"\n', "", True),
        ("[::]:3000", 'kind = "simulator"\n', "", True),
        ("127.0.0.1:3000", REAL, "", True),
        ("127.0.0.1:3000", REAL, 'groups = ["simulator"]\n', False),
        ("127.0.0.1:3000", "enabled = false\n" + REAL, "", False),
        ("0.0.0.0:3000", REAL, "enabled = false\n", False),
    ],
)
def test_s11_a_published_key_reaches_nothing_but_a_simulator_on_this_machine(
    listen: str, account: str, key: str, refused: bool, published: str
) -> None:
    files = {
        "relay.toml": f'{TREE["relay.toml"]}[server]\nlisten = ["{listen}"]\n',
        "accounts.d/main.toml": account,
        "keys.d/demo.toml": f'{key}hashes = [{{ sha256 = "{published}" }}]\n',
    }
    codes = [one.code for one in compile_tree({name: text.encode() for name, text in files.items()}).problems]
    assert ("E-DEMO-KEY" in codes) is refused


NAMING: dict[str, dict[str, Any]] = {
    "itself": {"model": OPUS},
    "an alias": {"model": "best"},
    "a fallback": {"fallbacks": [{"model": HAIKU}, {"model": OPUS}]},
    "any fallback": {"fallbacks": "default"},
    "an advisor": {"tools": [{"type": "advisor_20260301", "name": "advisor", "model": OPUS}]},
    "a tool in a message": {
        "messages": [{"role": "user", "content": [{"type": "tool_addition", "tool": {"definition": {"model": OPUS}}}]}]
    },
    "a field to come": {"second_opinion": {"model": OPUS}},
}  # fmt: skip


@pytest.mark.parametrize("where", NAMING)
@pytest.mark.parametrize("kind", ["call", "count", "batch"])
async def test_s15_a_forbidden_model_is_refused_wherever_it_is_named(tmp_path: Path, where: str, kind: str) -> None:
    there = Reception([answering(body=message())])
    params = {"model": HAIKU, "max_tokens": 9, "messages": [], **NAMING[where]}
    body, path = (
        ({"requests": [{"custom_id": "1", "params": params}]}, "/v1/messages/batches")
        if kind == "batch"
        else (params, "/v1/messages/count_tokens" if kind == "count" else "/v1/messages")
    )
    async with serving(there) as upstream:
        key = api_key(models=("claude-haiku-*",), endpoints=("messages", "batches"))
        accounts = (upstream_account("a", upstream.port, model_map={HAIKU: "claude-haiku-4-5-x"}),)
        tree = snapshot(keys=(key,), accounts=accounts, relay={"models": {"best": OPUS}})
        async with booked(tree, tmp_path) as world:
            told = await world.house.ask(json.dumps(body).encode(), path)
            world.house.upstreams.close()
    assert told.error[:2] == (403, "permission_error")
    assert there.asked == []


HASH = f'hashes = [{{ sha256 = "{key_hash(KEY)}", hint = "{KEY[:13]}" }}]\n'
TREE = {
    "relay.toml": 'schema = 1\nrealm = "test"\n',
    "accounts.d/a.toml": 'kind = "simulator"\n',
    "keys.d/dev.toml": HASH,
    "deny.toml": "# who is shut out\n",
}
EMPTY = [
    *(("keys.d/dev.toml", name) for name in ("groups", "models", "deny_models", "clients", "endpoints", "allowed_ips")),
    *(("accounts.d/a.toml", name) for name in ("groups", "models")),
    *(("deny.toml", name) for name in ("keys", "accounts", "ips", "sha256")),
]


@pytest.mark.parametrize(("file", "name"), EMPTY)
def test_s20_an_empty_text_in_a_list_of_whom_is_an_error(file: str, name: str) -> None:
    assert faults({file: f'{name} = [""]\n'})


@pytest.mark.parametrize(
    "text",
    [
        '[clients.x]\nuser_agent = ""\n', '[clients.x]\nname = "x"\n', '[clients.x]\nheaders = { a = "" }\n',
        '[server]\ntrusted_proxies = [""]\n', '[server]\ncors_origins = [""]\n', '[models]\n"" = "x"\n',
        '[models]\nx = ""\n', '[[admin.tokens]]\nname = "a"\nsha256 = ""\n',
    ],
)  # fmt: skip
def test_s20_an_empty_matcher_is_an_error(text: str) -> None:
    assert faults({"relay.toml": text})


def faults(more: dict[str, str]) -> list[str]:
    files = {name: (text + more.get(name, "")).encode() for name, text in TREE.items()}
    return [problem.code for problem in compile_tree(files).problems if problem.severity == "error"]


def test_s20_the_tree_of_these_tests_is_good_by_itself() -> None:
    assert faults({}) == []


ONE = MicroUsd(1)
LIMITED: dict[str, Limits] = {
    "concurrency": Limits(concurrency=1),
    "rate": Limits(rate=Rate(requests=1)),
    "tokens_per_minute": Limits(tokens_per_minute=1),
    "daily_requests": Limits(daily_requests=1),
    "monthly_requests": Limits(monthly_requests=1),
    "daily_tokens": Limits(daily_tokens=1),
    "monthly_tokens": Limits(monthly_tokens=1),
    "daily_cost": Limits(daily_cost=ONE),
    "monthly_cost": Limits(monthly_cost=ONE),
    "total_cost": Limits(total_cost=ONE),
    "count_tokens": Limits(count_tokens=1),
    "windows": Limits(windows=(Window(window="5h", requests=1),)),
}
HOW = {"reserve", "wait"}  # say how limits are held, not how much


def test_s23_no_limit_of_the_schema_is_left_out_here() -> None:
    assert LIMITED.keys() == {field.name for field in attrs.fields(Limits)} - HOW


@pytest.mark.parametrize("name", LIMITED)
async def test_s23_every_limit_of_the_schema_refuses_somebody(tmp_path: Path, name: str) -> None:
    path = "/v1/messages/count_tokens" if name == "count_tokens" else "/v1/messages"
    ask = json.dumps({**json.loads(ASK), "model": HAIKU, "max_tokens": 9}).encode()
    tree = snapshot(keys=(api_key(limits=LIMITED[name]), api_key(OTHER_KEY, id="free")))
    async with booked(tree, tmp_path) as world:
        ask_once = world.house.ask
        if name == "concurrency":
            slot = Slots(counter="key/dev/slots", name="", limit=1, ttl=60_000)
            world.ask(Acquire(holder="another", terms=(slot,)))
        told = [(await ask_once(ask, path)).status for _ in range(3)]
        free = [(await ask_once(ask, path, key=OTHER_KEY)).status for _ in range(3)]
    assert 429 in told
    assert free == [200, 200, 200]


@pytest.mark.parametrize("bound", ["max_concurrent_requests", "rate"])
async def test_s23_every_limit_of_the_whole_relay_refuses_somebody(tmp_path: Path, bound: str) -> None:
    server = Server(rate=Rate(requests=1)) if bound == "rate" else Server(max_concurrent_requests=1)
    async with booked(snapshot(relay={"server": server}), tmp_path) as world:
        if bound == "max_concurrent_requests":
            world.ask(Acquire(holder="another", terms=(Slots(counter="relay/slots", name="", limit=1, ttl=60_000),)))
        told = [(await world.house.ask()).status for _ in range(2)]
    assert told[-1] in (429, 529)


@pytest.mark.parametrize("name", ["models", "deny_models", "clients", "allowed_ips"])
def test_s20_a_list_that_becomes_empty_and_thereby_wider_is_held(name: str) -> None:
    narrow = {"models": ("a",), "deny_models": ("a",), "clients": ("claude_code",), "allowed_ips": ("192.0.2.1",)}[name]
    old, new = snapshot(keys=(api_key(**{name: narrow}),)), snapshot()
    (reason,) = held(old, new, diff(old, new))

    assert reason == f"{name} becomes empty, which shuts nothing out: key dev"
    assert held(new, old, diff(new, old)) == ()
    meant = snapshot(relay={"guard": Guard(wider=False)})
    assert held(old, meant, diff(old, meant)) == ()
    off = snapshot(keys=(api_key(enabled=False), api_key(OTHER_KEY, id="b")))
    both = snapshot(keys=(api_key(**{name: narrow}), api_key(OTHER_KEY, id="b")))
    assert held(both, off, diff(both, off)) == ()
