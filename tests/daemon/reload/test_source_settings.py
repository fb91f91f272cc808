"""Source settings: what a node says of the repository that it pulls from."""

from __future__ import annotations

from pathlib import Path

import pytest

from relayd.daemon.source.settings import SourceSettings, source_settings

SOURCE = "git+file:///srv/tree.git#main"


def settings(source: str = SOURCE, *, watch: bool = True, **environ: str) -> SourceSettings | None:
    return source_settings(source, Path("/node"), environ, watch=watch)


def test_without_a_source_nothing_else_matters() -> None:
    assert settings("", RELAYD_SOURCE_INTERVAL="soon") is None


@pytest.mark.parametrize(
    ("text", "watch", "interval"),
    [("", True, 60.0), ("90s", True, 90.0), ("1h", True, 3600.0), ("off", True, None), ("5s", False, None)],
)
def test_how_often_it_is_asked(text: str, watch: bool, interval: float | None) -> None:
    found = settings(watch=watch, RELAYD_SOURCE_INTERVAL=text)

    assert found is not None
    assert found.interval == interval


def test_each_source_has_a_mirror_of_its_own() -> None:
    sources = [SOURCE, "git+file:///srv/tree.git#other", "git+file:///srv/other.git"]
    mirrors = {found.mirror for source in sources if (found := settings(source)) is not None}

    assert len(mirrors) == 3
    assert {mirror.parent for mirror in mirrors} == {Path("/node/source")}


def test_signers_are_files_and_several_may_be_named(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text("x")
    found = settings(RELAYD_ALLOWED_SIGNERS=f"{tmp_path}/a:{tmp_path}/b")

    assert found is not None
    assert found.signers == (tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ({"RELAYD_SOURCE_INTERVAL": "5"}, "RELAYD_SOURCE_INTERVAL: expected a duration"),
        ({"RELAYD_SOURCE_INTERVAL": "1ms"}, "RELAYD_SOURCE_INTERVAL: 1ms: shorter than 1 s"),
        ({"RELAYD_SOURCE_KEY": "/nowhere"}, "RELAYD_SOURCE_KEY: /nowhere: no such file or directory"),
        ({"RELAYD_SOURCE_KNOWN_HOSTS": "/"}, "RELAYD_SOURCE_KNOWN_HOSTS: /: is a directory"),
        ({"RELAYD_ALLOWED_SIGNERS": "/nowhere"}, "RELAYD_ALLOWED_SIGNERS: /nowhere: no such file or directory"),
        ({"RELAYD_ALLOWED_SIGNERS": ":"}, "RELAYD_ALLOWED_SIGNERS: no file is named in it"),
    ],
)
def test_a_wrong_setting_is_told_by_its_name(environment: dict[str, str], told: str) -> None:
    with pytest.raises(ValueError, match="RELAYD_") as refused:
        settings(**environment)

    assert told in str(refused.value)


def test_a_wrong_address_is_told_by_its_variable() -> None:
    with pytest.raises(ValueError, match=r"RELAYD_SOURCE: 'git@example.com:tree.git': not the address"):
        settings("git@example.com:tree.git")
