"""Credentials: opened once, read anew when their file changes; a reason, not an error, when they cannot be had."""

from __future__ import annotations

import os
from pathlib import Path

import attrs
import builders
import pytest

from relayd.config.diff import diff
from relayd.config.secrets.binding import account_binding
from relayd.config.secrets.seal import Identity, new_identity, seal
from relayd.config.secrets.secret import Secret
from relayd.config.secrets.secret_files import SecretFiles
from relayd.config.snapshot import Account, Credential, OAuth, Snapshot, Url
from relayd.daemon.accounts.credentials import Credentials

CANARY = "sk-ant-api03-canary-77d2"
ME = new_identity(lambda size: b"\x07" * size)
OTHER = new_identity(lambda size: b"\x08" * size)
BASE = "https://api.anthropic.com"


def sealed(
    text: str = CANARY, *, account: str = "a", base_url: str = BASE, kind: str = "api-key", to: Identity = ME
) -> Account:
    value = seal(Secret(text), account_binding("test", account, base_url), [to.public])
    return builders.account(account, kind=kind, credential=Credential(sealed=value))


def in_file(path: Path, kind: str = "api-key") -> Account:
    return builders.account("a", kind=kind, credential=Credential(file=str(path)))


def tree(*accounts: Account) -> Snapshot:
    return builders.snapshot(accounts=accounts)


def permitted(account: Account) -> SecretFiles:
    """A node that permits the directory of an account's file."""
    return SecretFiles(directories=(Path(account.credential.file or "/nowhere/x").parent,))


def presented(account: Account, *identities: Identity) -> str:
    """What would stand in the header. Raises: AssertionError with the reason when there is nothing."""
    found = Credentials(identities or (ME,), permitted(account)).of(account, tree(account))
    assert isinstance(found, Secret), found
    return found.reveal()


def reason(account: Account, *identities: Identity) -> str:
    """Why it cannot be had; never with the secret in it."""
    found = Credentials(identities, permitted(account)).of(account, tree(account))
    assert isinstance(found, str)
    assert CANARY not in found
    assert "canary" not in found
    return found


def test_a_sealed_credential_is_opened_for_its_account() -> None:
    assert presented(sealed()) == CANARY


def test_it_is_opened_once_and_anew_only_when_the_sealed_value_is_another() -> None:
    credentials, account = Credentials((ME,)), sealed()
    first = credentials.of(account, tree(account))
    renamed = attrs.evolve(account, name="Renamed", priority=7)
    assert credentials.of(renamed, tree(renamed)) is first
    resealed = sealed("sk-ant-other")
    second = credentials.of(resealed, tree(resealed))
    assert isinstance(second, Secret)
    assert second.reveal() == "sk-ant-other"


def test_a_value_sealed_for_another_account_or_origin_does_not_open() -> None:
    moved = attrs.evolve(sealed(), base_url=Url("https://evil.example"))
    copied = attrs.evolve(sealed(), id="b")
    for account in (moved, copied):
        assert reason(account, ME)


def test_the_default_base_url_and_the_same_one_written_out_are_one_place() -> None:
    assert presented(attrs.evolve(sealed(), base_url=Url(BASE + "/"))) == CANARY


def test_a_value_for_somebody_else_is_a_reason_that_names_the_recipient() -> None:
    assert OTHER.public.kid in reason(sealed(to=OTHER), ME)


def test_without_an_identity_a_sealed_value_is_a_reason() -> None:
    assert reason(sealed())


def test_a_simulator_needs_nothing() -> None:
    assert presented(builders.account("a")) == ""


@pytest.mark.parametrize("text", [CANARY, f"  {CANARY}\r\n", f"{CANARY}\n\n"])
def test_a_file_is_read_without_the_white_space_around_it(text: str, tmp_path: Path) -> None:
    path = tmp_path / "credential"
    path.write_text(text)
    assert presented(in_file(path)) == CANARY


def test_a_file_is_read_anew_when_it_was_replaced_and_only_then(tmp_path: Path) -> None:
    path, credentials = tmp_path / "credential", Credentials((), SecretFiles(directories=(tmp_path,)))
    path.write_text(CANARY)
    account = in_file(path)
    first = credentials.of(account, tree(account))
    assert credentials.of(account, tree(account)) is first
    new = tmp_path / "new"
    new.write_text("sk-ant-rotated-xxxxxxxxx")
    os.replace(new, path)
    second = credentials.of(account, tree(account))
    assert isinstance(second, Secret)
    assert second.reveal() == "sk-ant-rotated-xxxxxxxxx"
    path.unlink()
    assert "no such file" in str(credentials.of(account, tree(account)))


def test_a_file_that_cannot_be_read_is_a_reason_that_names_it(tmp_path: Path) -> None:
    missing, directory, large = tmp_path / "missing", tmp_path / "directory", tmp_path / "large"
    directory.mkdir()
    large.write_text("x" * (64 << 10) + "x")
    assert reason(in_file(missing)).startswith(f"{missing}: no such file or directory")
    assert reason(in_file(directory)) == f"credential file {directory}: is a directory"
    assert str(large) in reason(in_file(large))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        f"{CANARY} {CANARY}",
        f"{CANARY}\n{CANARY}",
        f"{CANARY}\x00",
        f"{CANARY}\x7f",
        f"{CANARY}é",
        f"{CANARY}\r\nx-evil: 1",
    ],
)
def test_what_no_header_could_carry_is_a_reason_without_the_secret(text: str, tmp_path: Path) -> None:
    path = tmp_path / "credential"
    path.write_text(text)
    assert reason(in_file(path))


def test_an_oauth_credential_is_a_token_or_a_json_that_holds_one(tmp_path: Path) -> None:
    path = tmp_path / "credential"
    tokens = '{"access_token":"sk-ant-oat01-a","refresh_token":"sk-ant-ort01-b","expires_at":2000000000}'
    for text, token in (("sk-ant-oat01-alone", "sk-ant-oat01-alone"), (tokens, "sk-ant-oat01-a")):
        path.write_text(text)
        assert presented(in_file(path, "oauth")) == token
    assert presented(sealed(tokens, kind="oauth")) == "sk-ant-oat01-a"


@pytest.mark.parametrize("text", ['{"refresh_token":"canary"}', '{"access_token":5,"x":"canary"}', '{"canary"', "{}"])
def test_an_oauth_json_without_a_token_is_a_reason_without_the_secret(text: str, tmp_path: Path) -> None:
    path = tmp_path / "credential"
    path.write_text(text)
    assert reason(in_file(path, "oauth"))


def test_the_problems_of_a_tree_are_those_of_its_enabled_accounts(tmp_path: Path) -> None:
    good, bad = sealed(), sealed(account="b", to=OTHER)
    off = attrs.evolve(sealed(account="c", to=OTHER), enabled=False)
    found = Credentials((ME,)).problems(tree(good, bad, off))
    assert list(found) == ["b"]


def test_secrets_that_no_account_has_any_longer_are_forgotten(tmp_path: Path) -> None:
    path, credentials = tmp_path / "credential", Credentials((ME,), SecretFiles(directories=(tmp_path,)))
    path.write_text(CANARY)
    by_file, by_seal = in_file(path), sealed(account="b")
    first = [credentials.of(one, tree(one)) for one in (by_file, by_seal)]
    credentials.keep_only(tree(by_file, by_seal))
    assert [credentials.of(one, tree(one)) for one in (by_file, by_seal)] == first
    assert credentials.of(by_seal, tree(by_seal)) is first[1]
    credentials.keep_only(tree(builders.account()))
    assert credentials.of(by_seal, tree(by_seal)) is not first[1]
    assert CANARY not in repr(credentials)


def remarked(before: Account, after: Account, *identities: Identity) -> str:
    """The text of a change, with what this node can say of it."""
    old, new = tree(before), tree(after)
    text = Credentials(identities).remark(diff(old, new), old, new).as_text()
    assert "canary" not in text
    return text


def test_a_resealed_secret_is_said_to_be_the_same_and_a_rotated_one_is_not() -> None:
    assert "sealed value changed (recipients: the same), plaintext unchanged" in remarked(sealed(), sealed(), ME)
    assert "sealed value changed (recipients: the same), plaintext changed" in remarked(
        sealed(), sealed("canary-2"), ME
    )


def test_what_cannot_be_opened_on_both_sides_is_not_judged() -> None:
    assert "plaintext" not in remarked(sealed(), sealed())
    assert "plaintext" not in remarked(sealed(), sealed(to=OTHER), ME)
    moved = attrs.evolve(sealed(), base_url=Url("https://elsewhere.example"))
    assert "plaintext" not in remarked(sealed(), moved, ME)
    assert "plaintext unchanged" in remarked(sealed(), sealed(to=OTHER), ME, OTHER)


def test_tokens_are_opened_for_the_token_endpoint_that_they_were_sealed_for_alone() -> None:
    """Else whoever can commit has the refresh token sent to a host of their own."""
    tokens = '{"access_token":"sk-ant-oat01-a","refresh_token":"canary","expires_at":2000000000}'
    evil = {"oauth": OAuth(token_url=Url("https://evil.example/token"))}
    one = sealed(tokens, kind="oauth")
    moved = builders.snapshot(accounts=(one,), relay=evil)
    credentials = Credentials((ME,))
    assert isinstance(credentials.of(one, tree(one)), Secret)
    assert "refreshed at https://evil.example/token" in str(credentials.of(one, moved))
    key = sealed()
    assert isinstance(credentials.of(key, builders.snapshot(accounts=(key,), relay=evil)), Secret)


def test_a_file_that_holds_an_identity_is_not_presented(tmp_path: Path) -> None:
    path = tmp_path / "backup"
    path.write_text(ME.secret.reveal())
    assert reason(in_file(path)) == f"{path}: this is an identity, not a credential"


def test_a_file_that_becomes_a_link_out_of_its_directory_is_read_no_more(tmp_path: Path) -> None:
    own, credentials = tmp_path / "own", Credentials((), SecretFiles(directories=(tmp_path / "own",)))
    own.mkdir()
    (own / "main").write_text(CANARY)
    (tmp_path / "shadow").write_text("root:x:0")
    account = builders.account("a", kind="api-key", credential=Credential(file="main"))
    assert isinstance(credentials.of(account, tree(account)), Secret)
    (own / "main").unlink()
    (own / "main").symlink_to(tmp_path / "shadow")
    assert "leads out of" in str(credentials.of(account, tree(account)))
