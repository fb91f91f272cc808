"""relayd secret: identities, recipients, sealing, and the drill of a rotation on a tree."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from cli_tree import SealingTree, Tree, make_sealing_tree, make_tree

from relayd.config.load import load_tree
from relayd.config.secrets.binding import account_binding
from relayd.config.secrets.identity import identity_paths, read_identities
from relayd.config.secrets.seal import new_identity, open_sealed, parse_sealed
from relayd.config.secrets.sealed_fields import sealed_fields
from relayd.config.source.tree import read_tree

CANARY = "sk-ant-api03-canary-7b1e"
OTHER = "sk-ant-api03-other-99aa"


def with_account(root: Path, *accounts: str) -> SealingTree:
    sealing = make_sealing_tree(root)
    for account in accounts or ("main",):
        ran = sealing.tree.run("account", "add", account, "--kind", "api-key", stdin=CANARY)
        assert ran.code == 0, ran.err
    return sealing


def opened(tree: Tree, file: Path, account: str = "main") -> str:
    snapshot = load_tree(tree.root).require()
    binding = account_binding(snapshot.relay.realm, account, "https://api.anthropic.com")
    sealed = snapshot.accounts[account].credential.sealed
    return open_sealed(sealed, binding, read_identities(file, tree.root)).reveal()


def states(tree: Tree, file: Path) -> tuple[int, dict[str, bool]]:
    ran = tree.run("secret", "inspect", "--open", "--identity", str(file), "--json")
    return ran.code, {entry["value"]: entry["opens"] for entry in ran.json["values"]}


@pytest.mark.parametrize("options", [(), ("--post-quantum",)])
def test_keygen_writes_the_private_half_for_its_owner_and_prints_the_public_one(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    tree = make_tree(tmp_path)
    file = tmp_path / "id"
    ran = tree.run("secret", "keygen", str(file), *options)
    assert ran.code == 0
    (identity,) = read_identities(file, tree.root)
    assert ran.out.strip() == identity.public.text
    assert ran.out.startswith("rlpub2." if options else "rlpub1.")
    assert identity.secret.reveal() not in ran.all
    assert file.stat().st_mode & 0o777 == 0o400


def test_keygen_puts_an_identity_where_it_is_looked_for_and_a_further_one_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    tree = make_tree(tmp_path)
    made = [tree.run("secret", "keygen", "--json").json for _ in range(2)]
    files = [tmp_path / "config" / "relayd" / name for name in ("example.identity", "example.2.identity")]
    assert [one["file"] for one in made] == [str(file) for file in files]
    assert identity_paths(None, os.environ, "example") == files
    for number, one in enumerate(made):
        assert tree.run("secret", "recipients", "add", f"r{number}", one["public"]).code == 0
    added = tree.run("account", "add", "main", "--kind", "api-key", stdin=CANARY)
    assert added.code == 0, added.err
    assert tree.run("secret", "inspect", "--open", "--json").json["values"][0]["opens"]
    tree.write("relay.toml", "schema = 1\n")
    assert "names no realm" in tree.run("secret", "keygen").err


def test_keygen_neither_overwrites_nor_writes_into_the_tree(tmp_path: Path) -> None:
    tree = make_tree(tmp_path)
    (tmp_path / "id").write_text("precious")
    ran = tree.run("secret", "keygen", str(tmp_path / "id"))
    assert ran.code == 1
    assert "file exists" in ran.err
    assert (tmp_path / "id").read_text() == "precious"
    ran = tree.run("secret", "keygen", str(tree.root / "id"))
    assert ran.code == 1
    assert "must not lie in the config tree" in ran.err


def test_a_sealed_value_is_printed_for_one_place_and_nothing_is_written(tmp_path: Path) -> None:
    sealing = with_account(tmp_path)
    before = sealing.tree.content
    ran = sealing.tree.run("secret", "seal", "--account", "main", stdin=OTHER + "\n")
    assert ran.code == 0
    assert OTHER not in ran.all
    binding = account_binding("example", "main", "https://api.anthropic.com")
    assert open_sealed(ran.out.strip(), binding, [sealing.identity]).reveal() == OTHER
    assert sealing.tree.content == before
    for place in (("--alert", "ops"), ("--admin", "ann")):
        value = sealing.tree.run("secret", "seal", *place, "--json", stdin="x").json
        assert value["binding"]["id"] == place[1]


def test_only_one_line_break_is_taken_off_a_secret(tmp_path: Path) -> None:
    sealing = with_account(tmp_path)
    ran = sealing.tree.run("secret", "seal", "--account", "main", stdin=OTHER + "\n\n")
    assert ran.code == 1
    assert "more than one line" in ran.err
    crlf = sealing.tree.run("secret", "seal", "--account", "main", stdin=OTHER + "\r\n").out.strip()
    binding = account_binding("example", "main", "https://api.anthropic.com")
    assert open_sealed(crlf, binding, [sealing.identity]).reveal() == OTHER


def test_sealing_needs_a_place_a_recipient_and_a_secret(tmp_path: Path) -> None:
    tree = make_tree(tmp_path)
    tree.write("relay.toml", tree.read("relay.toml"))
    assert tree.run("secret", "seal").code == 2
    assert "no active recipient" in tree.run("secret", "seal", "--alert", "ops", stdin=CANARY).err
    sealing = make_sealing_tree(tmp_path / "b")
    assert "there is no account x" in sealing.tree.run("secret", "seal", "--account", "x", stdin=CANARY).err
    assert "secret is empty" in sealing.tree.run("secret", "seal", "--alert", "ops", stdin="\n").err


def test_inspect_needs_no_identity_and_finds_what_is_wrong(tmp_path: Path) -> None:
    sealing = with_account(tmp_path)
    ran = sealing.tree.run("secret", "inspect")
    assert ran.code == 0
    assert ran.out.splitlines()[1].split() == ["account", "main", "accounts.d/main.toml", "rlsec1", "prod", "good"]
    text = sealing.tree.read("accounts.d/main.toml")
    sealing.tree.write("accounts.d/copy.toml", text)
    ran = sealing.tree.run("secret", "inspect")
    assert ran.code == 1
    assert "accounts.d/copy.toml: account copy: E-SEAL-CONTEXT" in ran.err
    (sealing.tree.root / "accounts.d" / "copy.toml").unlink()
    sealing.tree.write("accounts.d/main.toml", text.replace("rlsec1.", "rlsec1.A").replace("rlsec1.AA", "rlsec1.AB"))
    assert "E-SEAL-FORMAT" in sealing.tree.run("secret", "inspect").err


def test_pointing_an_account_elsewhere_is_found_without_a_key(tmp_path: Path) -> None:
    sealing = with_account(tmp_path)
    text = sealing.tree.read("accounts.d/main.toml")
    sealing.tree.write("accounts.d/main.toml", 'base_url = "https://relay.example.net"\n' + text)
    ran = sealing.tree.run("secret", "inspect")
    assert ran.code == 1
    assert "E-SEAL-CONTEXT" in ran.err
    assert "https://relay.example.net" in ran.err


def test_the_rotation_drill_keeps_every_value_open_at_every_step(tmp_path: Path) -> None:
    """docs/sealed-secrets.md, "Rotating an identity", on a tree with two accounts."""
    sealing = with_account(tmp_path, "main", "second")
    tree, old = sealing.tree, sealing.file
    new = tmp_path / "new-identity"
    yes, no = {"account main": True, "account second": True}, {"account main": False, "account second": False}
    public = tree.run("secret", "keygen", str(new)).out.strip()
    assert states(tree, old) == (0, yes)

    added = tree.run("secret", "recipients", "add", "prod-2", public)
    assert added.code == 0
    assert "reseal" in added.err
    assert states(tree, old) == (1, yes)  # E-SEAL-RECIPIENT-MISSING, and still open

    assert tree.run("secret", "reseal", "--identity", str(old), "--json").json["resealed"] == 2
    assert tree.compiles()
    assert states(tree, old) == (0, yes)
    assert states(tree, new) == (0, yes)
    assert tree.run("secret", "reseal", "--identity", str(old), "--json").json == {
        "resealed": 0,
        "changed": [],
        "daemon": {"result": "no daemon", "exit": 0},
    }

    assert tree.run("secret", "recipients", "retire", "prod").code == 0
    assert tree.compiles()
    assert states(tree, old) == (0, yes)  # W-SEAL-RECIPIENT-STALE
    assert "W-SEAL-RECIPIENT-STALE" in tree.run("secret", "inspect").err
    in_use = tree.run("secret", "recipients", "remove", "prod")
    assert (in_use.code, "still sealed for prod" in in_use.err) == (1, True)

    assert tree.run("secret", "reseal", "--identity", str(new)).code == 0
    assert states(tree, new) == (0, yes)
    assert states(tree, old)[1] == no
    assert tree.run("secret", "recipients", "remove", "prod").code == 0
    assert tree.compiles()
    assert opened(tree, new) == opened(tree, new, "second") == CANARY
    listed = tree.run("secret", "recipients", "--json").json["recipients"]
    assert [(one["name"], one["state"], one["values"]) for one in listed] == [("prod-2", "active", 2)]


def test_resealing_refuses_all_when_one_value_cannot_be_opened(tmp_path: Path) -> None:
    sealing = with_account(tmp_path, "main", "second")
    stranger = new_identity(os.urandom)
    tree = sealing.tree
    tree.write("relay.toml", tree.read("relay.toml").replace(sealing.identity.public.text, stranger.public.text))
    assert tree.run("account", "seal", "second", stdin=OTHER).code == 0
    before = tree.content
    ran = tree.run("secret", "reseal", "--all", "--identity", str(sealing.file))
    assert ran.code == 1
    assert "account second: sealed for recipient prod, but only" in ran.err
    assert tree.content == before


def test_resealing_touches_only_the_values_that_need_it(tmp_path: Path) -> None:
    sealing = with_account(tmp_path, "main", "second")
    tree = sealing.tree
    before = {name: tree.read(f"accounts.d/{name}.toml") for name in ("main", "second")}
    ran = tree.run("secret", "reseal", "--all", "second", "--identity", str(sealing.file), "--json")
    assert (ran.json["resealed"], ran.json["changed"]) == (1, ["accounts.d/second.toml"])
    assert tree.read("accounts.d/main.toml") == before["main"]
    assert tree.read("accounts.d/second.toml") != before["second"]


def test_a_renamed_account_a_new_origin_and_a_new_realm_are_resealed_from_the_old_place(tmp_path: Path) -> None:
    sealing = with_account(tmp_path)
    tree, identity = sealing.tree, ("--identity", str(sealing.file))
    (tree.root / "accounts.d" / "main.toml").rename(tree.root / "accounts.d" / "renamed.toml")
    assert "sealed for another place" in tree.run("secret", "reseal", "renamed", "--all", *identity).err
    assert tree.run("secret", "reseal", "renamed", "--from-id", "main", *identity).code == 0
    assert tree.run("secret", "inspect").code == 0

    tree.write(
        "accounts.d/renamed.toml", 'base_url = "https://b.example/relay"\n' + tree.read("accounts.d/renamed.toml")
    )
    assert tree.run("secret", "inspect").code == 1
    origin = ("--from-origin", "https://api.anthropic.com")
    assert tree.run("secret", "reseal", "renamed", *origin, *identity).code == 0
    assert tree.run("secret", "inspect").code == 0

    tree.write("relay.toml", tree.read("relay.toml").replace('realm = "example"', 'realm = "new"'))
    assert tree.run("secret", "reseal", "--from-realm", "example", *identity).code == 0
    assert tree.run("secret", "reseal", "--from-realm", "example", *identity, "--json").json["resealed"] == 0
    (slot,) = sealed_fields(read_tree(tree.root).files)
    assert slot.binding is not None
    assert open_sealed(slot.value, slot.binding, [sealing.identity]).reveal() == CANARY


def test_resealing_without_an_identity_says_where_one_is_looked_for(tmp_path: Path) -> None:
    sealing = with_account(tmp_path)
    missing = sealing.tree.run("secret", "reseal", "--identity", str(tmp_path / "none"))
    assert missing.code == 1
    assert f"{tmp_path / 'none'}: no such file or directory" in missing.err
    assert "RELAYD_IDENTITY" in sealing.tree.run("secret", "reseal", "--identity", "").err


def test_alerts_and_admins_are_slots_too(tmp_path: Path) -> None:
    sealing = make_sealing_tree(tmp_path)
    tree = sealing.tree
    url = tree.run("secret", "seal", "--alert", "ops", stdin="https://hooks.example/secret-path").out.strip()
    tree.write("relay.toml", tree.read("relay.toml") + f'\n[alerts.ops]   # to us\nurl = "{url}"\n')
    assert states(tree, sealing.file) == (0, {"alert ops": True})
    assert tree.run("secret", "reseal", "--all", "--identity", str(sealing.file)).code == 0
    assert url not in tree.content
    assert "[alerts.ops]   # to us\n" in tree.read("relay.toml")
    assert states(tree, sealing.file) == (0, {"alert ops": True})


def test_recipients_are_checked_before_they_are_listed(tmp_path: Path) -> None:
    sealing = make_sealing_tree(tmp_path)
    tree, before = sealing.tree, sealing.tree.content
    private = sealing.identity.secret.reveal()
    for words, text in (
        (("add", "x"), "add needs NAME and PUBLIC"),
        (("retire",), "retire needs NAME alone"),
        (("add", "x", "rlpub1.abc.abcdef"), "public key"),
        (("add", "x", private), "a private key where a public one belongs"),
        (("add", "prod", new_identity(os.urandom).public.text), "a recipient prod exists"),
        (("retire", "nobody"), "there is no nobody (known: prod)"),
    ):
        ran = tree.run("secret", "recipients", *words)
        assert ran.code == 1
        assert text in ran.err
        assert private not in ran.all
    assert tree.content == before


def test_a_post_quantum_recipient_makes_rlsec2_values(tmp_path: Path) -> None:
    tree = make_tree(tmp_path)
    file = tmp_path / "pq"
    public = tree.run("secret", "keygen", str(file), "--post-quantum").out.strip()
    assert tree.run("secret", "recipients", "add", "pq", public).code == 0
    assert tree.run("account", "add", "main", "--kind", "api-key", stdin=CANARY).code == 0
    assert parse_sealed(load_tree(tree.root).require().accounts["main"].credential.sealed).suite == 2
    assert opened(tree, file) == CANARY


def test_no_output_of_any_verb_shows_a_secret(tmp_path: Path) -> None:
    sealing = with_account(tmp_path)
    tree, identity = sealing.tree, ("--identity", str(sealing.file))
    key = tree.run("key", "new", "dev").out.strip()
    tree.write("accounts.d/clear.toml", f'kind = "api-key"\n[credential]\nsealed = "{OTHER}"\n')
    said = [
        tree.run(*words, stdin=stdin).all
        for words, stdin in (
            (("account", "list"), ""), (("account", "test", "main"), ""), (("account", "seal", "main"), OTHER),
            (("account", "add", "two", "--kind", "oauth"), OTHER), (("secret", "inspect", "--open", *identity), ""),
            (("secret", "reseal", "--all", *identity), ""), (("secret", "reseal", *identity, "--json"), ""),
            (("secret", "seal", "--account", "main"), OTHER), (("secret", "recipients"), ""), (("check",), ""),
            (("secret", "recipients", "add", "x", sealing.identity.secret.reveal()), ""), (("key", "list"), ""),
            (("key", "show", "dev"), ""), (("key", "which"), key), (("key", "which"), OTHER),
            (("key", "disable", "dev"), ""),
            (("account", "seal", "main"), OTHER + " x"), (("account", "seal", "main"), OTHER + "\n" + OTHER),
        )
    ]  # fmt: skip
    assert all(len(text) > 0 for text in said)
    for canary in (
        CANARY,
        OTHER,
        key,
        sealing.identity.secret.reveal(),
        sealing.identity.secret.reveal().split(".")[1],
    ):
        assert all(canary not in text for text in said)
