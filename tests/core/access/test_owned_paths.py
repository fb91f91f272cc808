"""Owned paths: what a path asks for, and which paths of the API are known and not served."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from relayd.core.access.owned_paths import UNSERVED, ObjectRequest, asked, check_served
from relayd.wire.refusal import Refusal


@pytest.mark.parametrize(
    ("method", "path", "kind", "act", "object_id"),
    [
        ("POST", "/v1/messages/batches", "batches", "create", ""),
        ("GET", "/v1/messages/batches", "batches", "list", ""),
        ("GET", "/v1/messages/batches/msgbatch_1", "batches", "read", "msgbatch_1"),
        ("DELETE", "/v1/messages/batches/msgbatch_1", "batches", "delete", "msgbatch_1"),
        ("POST", "/v1/messages/batches/msgbatch_1/cancel", "batches", "cancel", "msgbatch_1"),
        ("GET", "/v1/messages/batches/msgbatch_1/results", "batches", "results", "msgbatch_1"),
        ("POST", "/v1/files", "files", "create", ""),
        ("GET", "/v1/files", "files", "list", ""),
        ("GET", "/v1/files/file_1", "files", "read", "file_1"),
        ("DELETE", "/v1/files/file_1", "files", "delete", "file_1"),
        ("GET", "/v1/files/file_1/content", "files", "content", "file_1"),
        ("POST", "/v1/skills", "skills", "create", ""),
        ("GET", "/v1/skills", "skills", "list", ""),
        ("GET", "/v1/skills/skill_1", "skills", "read", "skill_1"),
        ("GET", "/v1/skills/pptx", "skills", "read", "pptx"),
        ("DELETE", "/v1/skills/skill_1", "skills", "delete", "skill_1"),
        ("POST", "/v1/skills/skill_1/versions", "skills", "add", "skill_1"),
        ("GET", "/v1/skills/skill_1/versions", "skills", "part", "skill_1"),
        ("GET", "/v1/skills/skill_1/versions/1759178010641129", "skills", "part", "skill_1"),
        ("DELETE", "/v1/skills/skill_1/versions/1759178010641129", "skills", "part", "skill_1"),
        ("GET", "/v1/skills/skill_1/versions/latest/content", "skills", "content", "skill_1"),
    ],
)
def test_a_path_says_what_is_asked(method: str, path: str, kind: str, act: str, object_id: str) -> None:
    found = asked(method, path)

    assert isinstance(found, ObjectRequest)
    assert (found.kind, found.act, found.id, found.path) == (kind, act, object_id, path)


@pytest.mark.parametrize(
    "path",
    [
        "/v1/filesystem",
        "/v1/files/",
        "/v1/files/../messages",
        "/v1/files/file_1/results",
        "/v1/files/file%5F1",
        "/v1/messages/batches/a/content",
        "/v1/messages/batches/a/cancel/",
        f"/v1/files/{'x' * 129}",
        "/v1/skills/skill_1/content",
        "/v1/skills/skill_1/versions/a%2Fb",
        "/v1/skills/skill_1/versions/../content",
        "/v1/skills/skill_1/versions//content",
        "/v1/skills/skill_1/versions/1/content/x",
    ],
)
def test_any_other_path_is_not_about_objects(path: str) -> None:
    assert asked("GET", path) is None


def test_a_wrong_method_is_told_apart_from_a_wrong_path() -> None:
    assert asked("PATCH", "/v1/files/file_1") == ("GET", "DELETE")


@pytest.mark.parametrize(("act", "makes"), [("create", True), ("add", True), ("read", False), ("part", False)])
def test_what_makes_something_is_not_done_twice(act: str, makes: bool) -> None:
    assert ObjectRequest(kind="skills", act=act, path="/v1/skills").makes is makes  # type: ignore[arg-type]


@pytest.mark.parametrize("name", sorted(UNSERVED))
def test_what_is_not_served_is_said_by_name(name: str) -> None:
    for path in (f"/v1/{name}", f"/v1/{name}/x/y"):
        with pytest.raises(Refusal, match=f"/v1/{name} is not served by this relay: ") as refusal:
            check_served(path)
        assert (refusal.value.status, refusal.value.code) == (404, "not_served")


def test_the_page_about_clients_names_what_is_not_served_and_why() -> None:
    page = (Path(__file__).parents[3] / "docs" / "clients.md").read_text()
    section = page.partition("\n## What is not served\n")[2]
    assert set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)))) == set(UNSERVED)


@pytest.mark.parametrize(
    "path", ["/v1/agent", "/agents", "/v1/messages", "/v1/skills", "/openai/v1/sessions", "/v1/", "/"]
)
def test_other_paths_are_left_alone(path: str) -> None:
    check_served(path)
