"""relayd import litellm and sub2api: as far as their exports go, and nothing lost in silence."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from builders import headers
from cli_tree import make_sealing_tree, make_tree

from relayd.cli import litellm, sub2api
from relayd.cli.export import BadExport
from relayd.config.load import load_tree
from relayd.config.secrets.binding import account_binding
from relayd.config.secrets.seal import open_sealed
from relayd.core.access.auth import authenticate

API = "https://api.anthropic.com"
CONFIG = """\
model_list:
  - model_name: claude-sonnet-4-5
    litellm_params:
      model: anthropic/claude-sonnet-4-5
      api_key: os.environ/TEAM_A_API_KEY
      rpm: 50
      weight: 2
  - model_name: fast
    litellm_params:
      model: anthropic/claude-haiku-4-5
      api_key: os.environ/TEAM_A_API_KEY
      rpm: 80
  - model_name: spare
    litellm_params: { model: claude-opus-4-1, api_key: sk-ant-canary-b, api_base: "https://claude.example.com" }
  - model_name: gpt-5
    litellm_params: { model: openai/gpt-5, api_key: os.environ/OPENAI_API_KEY }
general_settings: { master_key: sk-1234 }
"""
TOKEN = "sk-Xb9rQkq0G7m1yJ4v2nDcEw"


def token(**fields: Any) -> dict[str, Any]:
    """A row of /key/list."""
    return {
        "token": hashlib.sha256(TOKEN.encode()).hexdigest(), "key_name": "sk-...DcEw", "key_alias": "Team A",
        "spend": 1.5, "expires": None, "models": [], "aliases": {}, "user_id": "ann", "team_id": None,
        "max_parallel_requests": None, "tpm_limit": None, "rpm_limit": None, "max_budget": None,
        "budget_duration": None, "blocked": None, **fields,
    }  # fmt: skip


def keys(*rows: dict[str, Any]) -> str:
    return json.dumps({"keys": list(rows), "total_count": len(rows), "current_page": 1})


def file(tmp_path: Path, name: str, text: str) -> str:
    (tmp_path / name).write_text(text)
    return str(tmp_path / name)


# --- litellm


def test_deployments_that_share_a_key_are_one_account() -> None:
    found = litellm.read_export(CONFIG, "", {"TEAM_A_API_KEY": "sk-ant-canary-a"})
    first, second = found.accounts

    assert (first.name, first.fields["models"], first.fields["weight"]) == ("team a", ["claude-sonnet-4-5", "fast"], 2)
    assert first.tables == {"pace": {"requests_per_minute": 80}, "model_map": {"fast": "claude-haiku-4-5"}}
    assert first.credential is not None
    assert first.credential.reveal() == "sk-ant-canary-a"
    assert (second.fields["base_url"], second.tables["model_map"]) == (
        "https://claude.example.com", {"spare": "claude-opus-4-1"},
    )  # fmt: skip
    assert found.notes == ("model gpt-5: left out, openai/gpt-5 is not Claude's API",)
    assert "canary" not in repr(found)


@pytest.mark.parametrize(
    ("fields", "limits"),
    [
        ({"max_budget": 10.5}, {"total_cost": "10.5"}),
        ({"max_budget": 10, "budget_duration": "30d"}, {"monthly_cost": "10"}),
        ({"max_budget": 1e-6, "budget_duration": "1d"}, {"windows": [{"window": "1d", "cost": "0.000001"}]}),
        ({"max_budget": 0.0, "budget_duration": "1d"}, {}),
        ({"rpm_limit": 5, "tpm_limit": 9000}, {"rate": {"requests": 5, "window": "1m"}, "tokens_per_minute": 9000}),
        ({"max_parallel_requests": 3}, {"concurrency": 3}),
    ],
)
def test_limits_of_keys_are_carried_over(fields: dict[str, Any], limits: dict[str, Any]) -> None:
    found = litellm.read_export("", keys(token(**fields)), {})
    assert (found.keys[0].limits, found.notes) == (limits, ())


def test_what_has_no_place_here_is_a_note() -> None:
    found = litellm.read_export("", keys(token(max_budget=3, budget_duration="2mo", aliases={"a": "b"})), {})
    assert found.notes == (
        "key Team A: its aliases are left out; set [models] in relay.toml by hand",
        "key Team A: its budget of 3 USD for 2mo has no such window here; set a limit by hand",
    )


@pytest.mark.parametrize("models", [[], ["all-proxy-models"], ["*"]])
def test_a_key_for_all_models_stays_one(models: list[str]) -> None:
    assert "models" not in litellm.read_export("", keys(token(models=models)), {}).keys[0].fields


def test_a_tree_is_made_of_a_config_and_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TEAM_A_API_KEY", raising=False)
    sealing = make_sealing_tree(tmp_path)
    tree, config = sealing.tree, file(tmp_path, "config.yaml", CONFIG)
    rows = file(tmp_path, "keys.json", keys(token(models=["fast"], blocked=True), token(token="f" * 64)))
    words = ("import", "litellm", config, "--keys", rows, "--keep-keys", "--json")
    ran = tree.run(*words)

    assert ran.code == 0, ran.err
    assert "TEAM_A_API_KEY is not set here; its key is read from a file of the node" in ran.err
    snapshot = load_tree(tree.root).require()
    assert snapshot.accounts["team-a"].credential.file == "team-a"
    binding = account_binding("example", "spare", "https://claude.example.com")
    opened = open_sealed(snapshot.accounts["spare"].credential.sealed, binding, [sealing.identity])
    assert opened.reveal() == "sk-ant-canary-b"
    assert (snapshot.keys["team-a"].models, snapshot.keys["team-a"].enabled) == (("fast",), False)
    assert snapshot.keys["team-a-2"].hashes[0].scheme == "litellm-sha256"
    assert tree.run(*words).json["changed"] == []  # found again, by the beginning of its hash
    assert "sk-ant-canary-b" not in ran.all + tree.content


def test_an_old_key_of_litellm_goes_on_working(tmp_path: Path) -> None:
    tree = make_tree(tmp_path)
    ran = tree.run("import", "litellm", "--keys", file(tmp_path, "keys.json", keys(token())), "--keep-keys")
    assert ran.code == 0, ran.err

    snapshot = load_tree(tree.root).require()
    assert authenticate(headers(authorization=f"Bearer {TOKEN}"), snapshot, "", 0.0).id == "team-a"


@pytest.mark.parametrize("config", ["", "3", "model_list: 3", "a: [", "model_list: [x]"])
def test_what_is_no_config_is_refused(config: str) -> None:
    with pytest.raises(BadExport, match="not a config of LiteLLM's proxy"):
        litellm.read_export(config or "x", "", {})
    with pytest.raises(BadExport, match="not keys of LiteLLM"):
        litellm.read_export("", config or "x", {})


def test_a_missing_library_is_told_with_the_line_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    ran = make_tree(tmp_path).run("import", "litellm", file(tmp_path, "config.yaml", CONFIG))

    assert (ran.code, 'pip install "relayd[import]"' in ran.err) == (1, True)
    assert "nothing to read" in make_tree(tmp_path / "b").run("import", "litellm").err


# --- sub2api


def row(**fields: Any) -> dict[str, Any]:
    return {
        "name": "Max 1", "platform": "anthropic", "type": "oauth", "concurrency": 3, "priority": 40,
        "credentials": {"access_token": "sk-ant-oat01-canary", "refresh_token": "r", "expires_at": "1790000000"},
        **fields,
    }  # fmt: skip


def export(*rows: dict[str, Any], proxies: tuple[dict[str, Any], ...] = (), **fields: Any) -> str:
    return json.dumps({"exported_at": "2026-11-01T00:00:00Z", "proxies": proxies, "accounts": rows, **fields})


def test_accounts_come_with_their_tokens_and_proxies(tmp_path: Path) -> None:
    proxy = {"proxy_key": "socks5|10.0.0.9|1080||", "protocol": "socks5", "host": "10.0.0.9", "port": 1080}
    rows = (
        row(proxy_key=proxy["proxy_key"]),
        row(name="Console", type="apikey", credentials={"api_key": "sk-ant-canary", "base_url": API}),
        row(name="Gem", platform="gemini"),
        row(name="None", credentials={}),
    )
    sealing = make_sealing_tree(tmp_path)
    tree = sealing.tree
    ran = tree.run("import", "sub2api", file(tmp_path, "e.json", export(*rows, proxies=(proxy,))), "--json")

    assert ran.code == 0, ran.err
    assert ran.json["accounts"] == ["max-1", "console"]
    accounts = load_tree(tree.root).require().accounts
    one = accounts["max-1"]
    assert (one.kind, one.enabled, one.priority, one.max_concurrency) == ("oauth", False, 40, 3)
    assert one.proxy == "socks5://10.0.0.9:1080"
    opened = open_sealed(one.credential.sealed, account_binding("example", "max-1", API), [sealing.identity])
    assert json.loads(opened.reveal())["expires_at"] == 1790000000
    assert accounts["console"].kind == "api-key"
    for said in ("sub2api does not export API keys", "accounts of gemini: 1 left out", "account None: left out"):
        assert said in ran.err
    assert "canary" not in ran.all + tree.content


def test_the_answer_of_its_api_is_an_export_too() -> None:
    wrapped = json.dumps({"code": 0, "data": json.loads(export(row(), type="sub2api-data", version=1))})
    assert len(sub2api.read_export(wrapped).accounts) == 1


@pytest.mark.parametrize("text", ["", "[]", "{}", export(type="other"), '{"accounts": 1, "proxies": []}'])
def test_what_is_no_export_of_sub2api_is_refused(text: str) -> None:
    with pytest.raises(BadExport, match="not an export of sub2api"):
        sub2api.read_export(text)
