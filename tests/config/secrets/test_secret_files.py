"""Secret files: the tree names, the node permits. Each test here is a way to a secret that a committer might try."""

from __future__ import annotations

import os
from pathlib import Path

import attrs
import builders
import pytest

from relayd.config.secrets.secret_files import DIRECTORIES, SecretFiles, secret_files
from relayd.config.snapshot import Account, Credential, OAuth, Relay, Upstream, Url


@pytest.fixture
def files(tmp_path: Path) -> SecretFiles:
    """A node with two directories, and an identity and a password beside them."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    for name in ("one/main", "two/main", "two/other", "identity", "password"):
        (tmp_path / name).write_text(name)
    kept = (tmp_path / "identity", tmp_path / "password")
    return SecretFiles(directories=(tmp_path / "one", tmp_path / "two"), kept=kept)


def test_a_name_is_looked_for_in_each_directory_and_the_first_counts(files: SecretFiles, tmp_path: Path) -> None:
    assert files.locate_credential("main") == tmp_path / "one/main"
    assert files.locate_credential("other") == tmp_path / "two/other"
    assert files.locate_credential(str(tmp_path / "two/main")) == tmp_path / "two/main"
    with pytest.raises(ValueError, match=r"^none: no such file or directory \(.*one, .*two; see RELAYD_CREDENTIALS\)"):
        files.locate_credential("none")


@pytest.mark.parametrize("name", ["/etc/passwd", "../identity", "{root}/identity", "{root}/one/../identity", "/"])
def test_nothing_outside_of_them_is_a_credential(files: SecretFiles, tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"not in a directory of credentials|no such file"):
        files.locate_credential(name.format(root=tmp_path))


def test_a_link_may_lead_around_inside_and_not_out(files: SecretFiles, tmp_path: Path) -> None:
    one = tmp_path / "one"
    (one / "..2026").mkdir()  # as Kubernetes mounts a secret
    (one / "..2026" / "key").write_text("x")
    (one / "..data").symlink_to("..2026")
    (one / "key").symlink_to("..data/key")
    (one / "out").symlink_to(tmp_path / "identity")
    (one / "up").symlink_to(tmp_path)
    assert files.locate_credential("key") == one / "key"
    for name in ("out", "up/password", "up/two/main"):
        with pytest.raises(ValueError, match="leads out of"):
            files.locate_credential(name)


def test_the_identity_and_the_state_password_are_no_credentials_under_any_name(
    files: SecretFiles, tmp_path: Path
) -> None:
    os.link(tmp_path / "identity", tmp_path / "one/innocent")
    (tmp_path / "one/redis").write_text("the password that the tree names")
    inside = attrs.evolve(files, kept=(tmp_path / "one/main",))
    for where, name, password in ((files, "innocent", ""), (inside, "main", ""), (files, "redis", "redis")):
        with pytest.raises(ValueError, match="is an identity or the state store's password"):
            where.locate_credential(name, password)


def filed(kind: str = "api-key", base_url: str | None = None) -> Account:
    return builders.account("a", kind=kind, base_url=base_url, credential=Credential(file="main"))


def relay(base_url: str = "https://api.anthropic.com", token_url: str = OAuth().token_url) -> Relay:
    return Relay(
        schema=1, realm="test", upstream=Upstream(base_url=Url(base_url)), oauth=OAuth(token_url=Url(token_url))
    )


def test_what_is_in_a_file_goes_only_where_the_node_lets_it() -> None:
    """A file is not bound to an origin, so base_url must not decide alone."""
    files = secret_files({"RELAYD_ORIGINS": "https://Gateway.example:443, https://b.example"})
    assert files.why_not_sent(filed(), relay()) == ""
    assert files.why_not_sent(filed(base_url="http://127.0.0.1:9/x"), relay()) == ""
    assert files.why_not_sent(filed(base_url="https://gateway.example/v1"), relay()) == ""
    for account, tree in (
        (filed(base_url="https://evil.example"), relay()),
        (filed(base_url="https://api.anthropic.com.evil.example"), relay()),
        (filed(base_url="https://api.anthropic.com:8443"), relay()),
        (filed(), relay(base_url="https://evil.example")),
        (filed(kind="oauth"), relay(token_url="https://evil.example/token")),
    ):
        assert "may not be sent to https://" in files.why_not_sent(account, tree)
    assert files.why_not_sent(filed(), relay(token_url="https://evil.example/token")) == ""  # which has no tokens


def test_a_node_says_where_its_files_are_or_has_the_usual_places(tmp_path: Path) -> None:
    assert secret_files({}).directories == DIRECTORIES
    by_systemd = {"CREDENTIALS_DIRECTORY": "/run/credentials/relayd.service"}
    assert secret_files(by_systemd).directories == (Path("/run/credentials/relayd.service"), *DIRECTORIES)
    assert secret_files({**by_systemd, "RELAYD_CREDENTIALS": "/a:/b"}).directories == (Path("/a"), Path("/b"))
    assert secret_files({"RELAYD_STATE_PASSWORD_FILE": "/x"}, kept=(Path("/y"),)).kept == (Path("/y"), Path("/x"))
    with pytest.raises(ValueError, match="RELAYD_ORIGINS is not an http or https URL"):
        secret_files({"RELAYD_ORIGINS": "example.com"})
