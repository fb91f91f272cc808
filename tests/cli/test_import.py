"""relayd import crs: keys issued anew with their limits, accounts sealed, and nothing lost in silence."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import pytest
from cli_tree import RELAY, make_sealing_tree, make_tree

from relayd.cli.crs import BadExport, read_export
from relayd.config.load import load_tree
from relayd.config.secrets.api_keys import checksum_ok
from relayd.config.secrets.binding import account_binding
from relayd.config.secrets.seal import open_sealed

OLD_HASH = "ab" * 32
ACCESS, REFRESH = "sk-ant-oat01-canary-a1", "sk-ant-ort01-canary-b2"
WITH_OAUTH = RELAY + '\n[oauth]\nclient_id = "ours"\n'


def key(**fields: Any) -> dict[str, Any]:
    """A row as Redis keeps it: strings throughout."""
    return {
        "id": "5c0e-1", "name": "Team Key", "apiKey": OLD_HASH, "isActive": "true", "tokenLimit": "0",
        "concurrencyLimit": "0", "rateLimitWindow": "0", "rateLimitRequests": "0", "permissions": "all",
        "enableModelRestriction": "false", "restrictedModels": "[]", "dailyCostLimit": "0", "expiresAt": "", **fields,
    }  # fmt: skip


def account(**fields: Any) -> dict[str, Any]:
    return {
        "id": "acc-1", "name": "Main", "email": "a@b.example", "accessToken": ACCESS, "refreshToken": REFRESH,
        "expiresAt": "1790000000123", "isActive": "true", "accountType": "shared", "priority": "20", "proxy": "",
        **fields,
    }  # fmt: skip


def export(keys: Any = (), accounts: Any = (), **metadata: Any) -> str:
    meta = {"version": "2.0", "decrypted": True, "sanitized": False, **metadata}
    return json.dumps({"metadata": meta, "data": {"apiKeys": list(keys), "claudeAccounts": list(accounts)}})


def written(tmp_path: Path, text: str) -> str:
    (tmp_path / "export.json").write_text(text)
    return str(tmp_path / "export.json")


def test_limits_and_restrictions_are_carried_over() -> None:
    rows = [
        key(
            concurrencyLimit="5", rateLimitWindow="60", rateLimitRequests="300", rateLimitCost="2.5",
            tokenLimit="100000",
            dailyCostLimit="10.10", totalCostLimit="500", enableModelRestriction="true",
            restrictedModels='["claude-opus-4-1"]', enableIpWhitelist="true", ipWhitelist='["10.0.0.1"]',
            enableClientRestriction="true", allowedClients='["claude_code"]', userUsername="ann",
            expiresAt="2030-01-01T00:00:00.000Z",
        )
    ]  # fmt: skip
    found = read_export(export(rows))
    assert found.notes == ()
    (one,) = found.keys
    assert one.fields == {
        "name": "Team Key",
        "owner": "ann",
        "expires": datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC),
        "deny_models": ["claude-opus-4-1"],
        "allowed_ips": ["10.0.0.1"],
        "clients": ["claude_code"],
    }
    assert one.limits == {
        "concurrency": 5,
        "rate": {"requests": 300, "window": "60m"},
        "daily_cost": "10.1",
        "total_cost": "500",
        "windows": [{"window": "60m", "tokens": 100000}, {"window": "60m", "cost": "2.5"}],
    }


@pytest.mark.parametrize(
    ("fields", "note"),
    [
        ({"tokenLimit": "1000"}, "token limit of 1000 names no window"),
        ({"weeklyOpusCostLimit": "20"}, "weekly limit of 20 USD"),
        ({"claudeAccountId": "group:g1"}, "bound to a group of accounts"),
        ({"expirationMode": "activation"}, "after its first use"),
        ({"expiresAt": "never"}, "expiry is not a date"),
        (
            {"enableClientRestriction": "true", "allowedClients": '["claude_code","my_tool"]'},
            "no client rule for my_tool",
        ),
        ({"permissions": '["gemini"]'}, "may not use Claude"),
        ({"permissions": "openai"}, "may not use Claude"),
    ],
)
def test_what_cannot_be_carried_over_is_a_note(fields: dict[str, str], note: str) -> None:
    (found,) = read_export(export([key(**fields)])).notes
    assert found.startswith("key Team Key: ")
    assert note in found


def test_a_key_whose_only_clients_are_unknown_is_switched_off_rather_than_opened() -> None:
    (one,) = read_export(export([key(enableClientRestriction="true", allowedClients='["my_tool"]')])).keys
    assert one.fields["enabled"] is False
    assert "clients" not in one.fields


def test_deleted_keys_are_left_out_and_disabled_ones_stay_disabled() -> None:
    found = read_export(export([key(isDeleted="true"), key(name="off", isActive="false")]))
    assert [(one.name, one.fields["enabled"]) for one in found.keys] == [("off", False)]


@pytest.mark.parametrize("metadata", [{"sanitized": True}, {"decrypted": False}])
def test_an_export_without_readable_tokens_gives_keys_and_a_note(metadata: dict[str, bool]) -> None:
    found = read_export(export([key()], [account()], **metadata))
    assert len(found.keys) == 1
    assert found.accounts == ()
    assert "their tokens are not in the export" in found.notes[0]


def test_a_proxy_is_carried_over_unless_it_has_a_password() -> None:
    proxy = {"type": "socks5", "host": "10.0.0.9", "port": 1080, "username": "", "password": ""}
    (one,) = read_export(export([], [account(proxy=json.dumps(proxy))])).accounts
    assert one.fields["proxy"] == "socks5://10.0.0.9:1080"
    secret = {**proxy, "username": "u", "password": "canary-p"}
    found = read_export(export([], [account(proxy=json.dumps(secret))]))
    assert "proxy" not in found.accounts[0].fields
    assert "its proxy has a password" in found.notes[0]
    assert "canary-p" not in repr(found)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"metadata":1,"data":2}', "null", '{"metadata":{},"data":[]}'])
def test_what_is_no_export_is_refused(text: str) -> None:
    with pytest.raises(BadExport, match="not an export of claude-relay-service"):
        read_export(text)


def test_keys_and_accounts_are_written_at_once_and_new_keys_are_printed_once(tmp_path: Path) -> None:
    sealing = make_sealing_tree(tmp_path, WITH_OAUTH)
    tree = sealing.tree
    rows = [key(), key(id="2", name="Team Key", claudeAccountId="acc-1", dailyCostLimit="5"), key(id="3", name="中文")]
    file = written(tmp_path, export(rows, [account(), account(id="acc-2", name="Own", accountType="dedicated")]))
    ran = tree.run("import", "crs", file, "--json")
    assert ran.code == 0, ran.err
    assert [one["id"] for one in ran.json["keys"]] == ["team-key", "team-key-2", "key"]
    assert all(checksum_ok(one["key"]) for one in ran.json["keys"])
    assert ran.json["accounts"] == ["main", "own"]
    snapshot = load_tree(tree.root).require()
    assert snapshot.keys["team-key-2"].groups == ("main",)
    assert snapshot.keys["team-key-2"].limits.daily_cost == 5_000_000
    assert snapshot.accounts["main"].groups == ("default", "main")
    assert snapshot.accounts["own"].groups == ("own",)
    assert not snapshot.accounts["main"].enabled
    binding = account_binding("example", "main", "https://api.anthropic.com")
    opened = json.loads(open_sealed(snapshot.accounts["main"].credential.sealed, binding, [sealing.identity]).reveal())
    assert opened == {"access_token": ACCESS, "refresh_token": REFRESH, "expires_at": 1790000000}
    assert "W-OAUTH-PERSONAL" in ran.err
    for canary in (ACCESS, REFRESH, OLD_HASH):
        assert canary not in ran.all + tree.content


def test_an_imported_key_works_and_the_old_hash_is_nowhere(tmp_path: Path) -> None:
    tree = make_tree(tmp_path)
    ran = tree.run("import", "crs", written(tmp_path, export([key()])))
    new = ran.out.splitlines()[1].split()[-1]
    assert tree.run("key", "which", stdin=new).out == "team-key\n"
    assert "the old ones do not work here" in ran.err


def test_a_second_import_takes_new_ids_and_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    tree = make_tree(tmp_path)
    file = written(tmp_path, export([key()]))
    before = tree.content
    dry = tree.run("import", "crs", file, "--dry-run")
    assert dry.code == 0
    assert "sk-relay-" not in dry.all
    assert tree.content == before
    assert tree.run("import", "crs", file, "--json").json["keys"][0]["id"] == "team-key"
    assert tree.run("import", "crs", file, "--json").json["keys"][0]["id"] == "team-key-2"


def test_accounts_need_a_recipient_and_a_registration_unless_only_keys_are_wanted(tmp_path: Path) -> None:
    file = written(tmp_path, export([key()], [account()]))
    tree = make_tree(tmp_path)
    before = tree.content
    assert "lists no recipient to seal the tokens for" in tree.run("import", "crs", file).err
    sealing = make_sealing_tree(tmp_path / "b")
    assert "[oauth].client_id is empty" in sealing.tree.run("import", "crs", file).err
    assert tree.content == before
    assert tree.run("import", "crs", file, "--only", "keys").code == 0
    assert sorted(load_tree(tree.root).require().keys) == ["team-key"]
    assert "no such file" in tree.run("import", "crs", str(tmp_path / "none")).err
