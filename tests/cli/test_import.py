"""relayd import crs: keys issued anew with their limits, accounts sealed, and nothing lost in silence."""

from __future__ import annotations

import datetime
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from builders import headers
from cli_tree import RELAY, make_sealing_tree, make_tree

from relayd.cli.crs import read_export
from relayd.cli.export import BadExport
from relayd.config.load import load_tree
from relayd.config.secrets.api_keys import checksum_ok
from relayd.config.secrets.binding import account_binding
from relayd.config.secrets.recipients import SealError
from relayd.config.secrets.seal import new_identity, open_sealed
from relayd.core.access.auth import authenticate
from relayd.daemon.accounts.old_keys import with_old_keys
from relayd.wire.refusal import Refusal

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
    assert [one["id"] for one in ran.json["keys"]] == ["team-key", "team-key-2", "zhongwen"]
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


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    tree = make_tree(tmp_path)
    before = tree.content
    dry = tree.run("import", "crs", written(tmp_path, export([key()])), "--dry-run")

    assert (dry.code, tree.content) == (0, before)
    assert "sk-relay-" not in dry.all
    assert "would write 0 accounts and 1 keys, 1 of them new" in dry.err


def test_a_second_import_updates_what_it_finds_by_its_old_id(tmp_path: Path) -> None:
    tree = make_tree(tmp_path)
    first = tree.run("import", "crs", written(tmp_path, export([key(dailyCostLimit="5")])), "--json")
    (one,) = first.json["keys"]
    path = f"keys.d/{one['id']}.toml"
    tree.write(path, tree.read(path).replace("[limits]", "# looked at\nmax_tokens = 9000\n\n[limits]"))
    rows = [key(name="Renamed", dailyCostLimit="2.5", concurrencyLimit="3", isActive="false"), key(id="new")]
    second = tree.run("import", "crs", written(tmp_path, export(rows)), "--json")

    assert second.code == 0, second.err
    assert [(row["id"], "key" in row) for row in second.json["keys"]] == [("team-key", False), ("team-key-2", True)]
    found = load_tree(tree.root).require().keys["team-key"]
    assert (found.name, found.enabled, found.max_tokens) == ("Renamed", False, 9000)
    assert (found.limits.daily_cost, found.limits.concurrency) == (2_500_000, 3)
    assert "# looked at" in tree.read(path)
    assert tree.run("key", "which", stdin=one["key"]).out == "team-key\n"

    before = tree.content
    assert tree.run("import", "crs", written(tmp_path, export([key(name="Renamed")])), "--json").json["changed"] == []
    assert tree.content == before  # what was switched off here is not switched on again


def test_the_token_of_an_account_that_lives_here_is_left_alone(tmp_path: Path) -> None:
    sealing = make_sealing_tree(tmp_path)
    tree, path = sealing.tree, "accounts.d/main.toml"
    assert tree.run("import", "crs", written(tmp_path, export([], [account()]))).code == 0
    first = tree.read(path)
    newer = written(tmp_path, export([], [account(accessToken="sk-ant-oat01-newer", priority="7")]))
    assert tree.run("import", "crs", newer).code == 0
    assert "priority = 7" in tree.read(path)
    assert tree.read(path).partition("sealed = ")[2] != first.partition("sealed = ")[2]

    assert tree.run("account", "enable", "main").code == 0
    running = tree.read(path)
    assert tree.run("import", "crs", written(tmp_path, export([], [account(priority="7")]))).code == 0
    assert tree.read(path) == running


def test_lists_that_are_not_known_are_named(tmp_path: Path) -> None:
    text = json.loads(export([key()]))
    text["data"] |= {"openaiAccounts": [{}, {}], "admins": [{}], "geminiAccounts": []}
    assert read_export(json.dumps(text)).notes == (
        "openaiAccounts: 2 left out, relayd has nothing like them", "admins: 1 left out, relayd has nothing like them",
    )  # fmt: skip


def test_an_id_may_be_chosen(tmp_path: Path) -> None:
    tree = make_tree(tmp_path)
    file = written(tmp_path, export([key(name="王小明"), key(id="k2", name="!!!"), key(id="k3", name="Ünsal Şahin")]))
    assert "--id Bad: expected OLD=NEW" in tree.run("import", "crs", file, "--id", "Bad").err
    found = tree.run("import", "crs", file, "--id", "k2=second", "--json").json["keys"]
    assert [one["id"] for one in found] == ["wangxiaoming", "second", "unsal-sahin"]


# --- old keys go on working

PEPPER, OLD_KEY = "canary-encryption-key-of-32-chars", "cr_" + "5e" * 32


def crs_hash(text: str) -> str:
    return hashlib.sha256((text + PEPPER).encode()).hexdigest()


def test_old_keys_go_on_working_with_the_old_secret_sealed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sealing = make_sealing_tree(tmp_path)
    tree, file = sealing.tree, written(tmp_path, export([key(apiKey=crs_hash(OLD_KEY)), key(id="2", apiKey="")]))
    ran = tree.run("import", "crs", file, "--keep-keys", "--json", stdin=PEPPER + "\n")
    assert ran.code == 0, ran.err
    assert ["key" in row for row in ran.json["keys"]] == [False, True]  # the second has no hash to go on with
    compiled = load_tree(tree.root)
    assert compiled.problems == ()

    snapshot = with_old_keys(compiled.require(), [sealing.identity])
    assert authenticate(headers(x_api_key=OLD_KEY), snapshot, "", 0.0).id == "team-key"
    assert authenticate(headers(authorization=f"Bearer {OLD_KEY}"), snapshot, "", 0.0).id == "team-key"
    assert authenticate(headers(x_api_key=ran.json["keys"][1]["key"]), snapshot, "", 0.0).id == "team-key-2"
    for wrong in (OLD_KEY[:-1], crs_hash(OLD_KEY), PEPPER, OLD_KEY + PEPPER):
        with pytest.raises(Refusal, match="unknown key"):
            authenticate(headers(x_api_key=wrong), snapshot, "", 0.0)
    with pytest.raises(Refusal, match="not a key of this relay"):
        authenticate(headers(x_api_key=OLD_KEY), compiled.require(), "", 0.0)
    assert PEPPER not in ran.all + tree.content + repr(snapshot)
    monkeypatch.setenv("RELAYD_IDENTITY", str(sealing.file))
    assert tree.run("key", "which", stdin=OLD_KEY).out == "team-key\n"
    assert tree.run("key", "which", stdin=OLD_KEY[:-1]).err.endswith("not a key of this tree\n")
    with pytest.raises(SealError):
        with_old_keys(compiled.require(), [new_identity(lambda size: b"\x05" * size)])


def test_the_old_secret_is_sealed_once_and_resealed_like_the_others(tmp_path: Path) -> None:
    sealing = make_sealing_tree(tmp_path)
    tree, file = sealing.tree, written(tmp_path, export([key(apiKey=crs_hash(OLD_KEY))]))
    assert (
        "ENCRYPTION_KEY of the old installation: the secret is empty"
        in tree.run("import", "crs", file, "--keep-keys").err
    )
    assert tree.run("import", "crs", file, "--keep-keys", stdin=PEPPER).code == 0
    sealed = tree.read("relay.toml")
    assert tree.run("import", "crs", file, "--keep-keys").code == 0  # it is there: nothing is asked for
    assert tree.read("relay.toml") == sealed
    assert "crs key" in tree.run("secret", "inspect").out


def test_a_hash_of_one_scheme_is_none_of_another(tmp_path: Path) -> None:
    """The hash of a key in one scheme, written as one of another, fits no text that anybody has."""
    tree = make_tree(tmp_path)
    plain = hashlib.sha256(b"sk-abc").hexdigest()
    for name, entry in (("own", f'sha256 = "{plain}"'), ("lite", f'scheme = "litellm-sha256", sha256 = "{"c" * 64}"')):
        tree.write(f"keys.d/{name}.toml", f"hashes = [{{ {entry} }}]\n")
    with pytest.raises(Refusal, match="unknown key"):
        authenticate(headers(x_api_key="sk-abc"), load_tree(tree.root).require(), "", 0.0)


def test_accounts_need_a_recipient_and_no_registration(tmp_path: Path) -> None:
    file = written(tmp_path, export([key()], [account()]))
    tree = make_tree(tmp_path)
    before = tree.content
    assert "lists no recipient to seal the secrets for" in tree.run("import", "crs", file).err
    sealing = make_sealing_tree(tmp_path / "b")
    assert sealing.tree.run("import", "crs", file).code == 0
    assert tree.content == before
    assert tree.run("import", "crs", file, "--only", "keys").code == 0
    assert sorted(load_tree(tree.root).require().keys) == ["team-key"]
    assert "no such file" in tree.run("import", "crs", str(tmp_path / "none")).err
