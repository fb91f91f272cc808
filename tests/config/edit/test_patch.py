"""Patches: git applies them, and no secret stands in one."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from relayd.config.edit.patch import patch, shown_diff

OLD = b'kind = "api-key"\nname = "a"\nweight = 1\n'


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (OLD, OLD.replace(b"weight = 1", b"weight = 2")),
        (OLD, None),
        (None, OLD),
        (OLD, OLD.rstrip(b"\n")),
        (OLD.rstrip(b"\n"), OLD + b"enabled = false"),
        (OLD.replace(b"\n", b"\r\n"), OLD.replace(b"1", b"3").replace(b"\n", b"\r\n")),
        (None, b""),
        (b"", None),
        (b"", OLD),
        ('name = "한글\u2028"\n'.encode(), 'name = "이름"\n'.encode()),
    ],
)
@pytest.mark.parametrize("folder", ["", "infra/relay/"])
def test_git_applies_a_patch(tmp_path: Path, old: bytes | None, new: bytes | None, folder: str) -> None:
    file = tmp_path / folder / "accounts.d/a.toml"
    file.parent.mkdir(parents=True)
    if old is not None:
        file.write_bytes(old)
    text, command = patch({"accounts.d/a.toml": old}, {"accounts.d/a.toml": new}, folder)
    assert command == "git apply"
    subprocess.run(command.split(), cwd=tmp_path, input=text.encode(), check=True)
    assert (file.read_bytes() if file.exists() else None) == new


def test_a_secret_near_by_is_left_out_and_one_that_changes_stops_the_patch(tmp_path: Path) -> None:
    near = OLD + b'proxy = "http://me:canary@127.0.0.1:9"\n'
    changed = near.replace(b"weight = 1", b"weight = 2")
    text, command = patch({"a.toml": near}, {"a.toml": changed})
    assert "canary" not in text
    (tmp_path / "a.toml").write_bytes(near)
    subprocess.run(command.split(), cwd=tmp_path, input=text.encode(), check=True)
    assert (tmp_path / "a.toml").read_bytes() == changed
    assert patch({"a.toml": near}, {"a.toml": None}) == ("", "")
    shown = shown_diff({"a.toml": near}, {"a.toml": None})
    assert "canary" not in shown
    assert '-proxy = "(hidden 1)"' in shown


def test_a_sealed_value_may_stand_in_a_patch_and_is_not_shown_to_people() -> None:
    sealed = OLD + b'[credential]\nsealed = "rlsec1.long"\n'
    assert "rlsec1.long" in patch({"a.toml": OLD}, {"a.toml": sealed})[0]
    assert "rlsec1" not in shown_diff({"a.toml": OLD}, {"a.toml": sealed})


def test_a_name_that_git_would_quote_has_no_patch() -> None:
    assert patch({"keys.d/a b.toml": None}, {"keys.d/a b.toml": OLD}) == ("", "")
