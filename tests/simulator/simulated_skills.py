"""Skills of a test upstream: upload, list, look up, delete, and the same for their versions.

Source: API reference, "Skills"; official SDK 2.12.0, BetaSkill and BetaSkillVersion.
"""

from __future__ import annotations

from typing import Any

from simulated_files import Part, multipart
from simulated_shelf import Shelf, Skill, SkillVersion

from relayd.simulator.catalog import page
from relayd.simulator.script import Script, json_script, make_id, seed_of, timestamp, whole
from relayd.wire.http import HeaderPairs, Headers
from relayd.wire.refusal import Refusal

BUILT_IN = ("pptx", "xlsx")


def create(shelf: Shelf, headers: Headers, body: bytes, now: float, common: HeaderPairs) -> Script:
    """POST /v1/skills. Raises: Refusal 400."""
    parts = multipart(headers.text(b"content-type"), body)
    title = next((part.content.decode() for part in parts if part.name == "display_name"), "untitled")
    skill = Skill(id=make_id("skill", seed_of(body), shelf.next_serial()), created=now, size=len(body), title=title)
    shelf.skills.put(skill)
    _put_version(shelf, skill, parts, now)
    return json_script(200, described(skill), common)


def add_version(shelf: Shelf, skill: Skill, headers: Headers, body: bytes, now: float, common: HeaderPairs) -> Script:
    """POST /v1/skills/{id}/versions. Raises: Refusal 400."""
    version = _put_version(shelf, skill, multipart(headers.text(b"content-type"), body), now)
    return json_script(200, described_version(skill, version), common)


def _put_version(shelf: Shelf, skill: Skill, parts: list[Part], now: float) -> SkillVersion:
    files = {part.filename: part.content for part in parts if part.name == "files[]"}
    if not any(name.endswith("SKILL.md") for name in files):
        raise Refusal(status=400, message=f"files: no SKILL.md at the root ({', '.join(files)})")
    version = SkillVersion(id=f"17591780{shelf.next_serial():08d}", created=now, content=b"".join(files.values()))
    skill.versions[version.id] = version
    return version


def listed(shelf: Shelf, query: str, common: HeaderPairs) -> Script:
    """GET /v1/skills: one's own and those that come with the API."""
    rows = [described(skill) for skill in shelf.skills.newest_first()] if "source=anthropic" not in query else []
    rows += [built_in(name) for name in BUILT_IN] if "source=custom" not in query else []
    return json_script(200, page(rows, query), common)


def read(shelf: Shelf, name: str, common: HeaderPairs) -> Script:
    """GET /v1/skills/{id}. Raises: Refusal 404."""
    return json_script(200, built_in(name) if name in BUILT_IN else described(found(shelf, name)), common)


def found(shelf: Shelf, name: str) -> Skill:
    """Raises: Refusal 404."""
    skill = shelf.skills.things.get(name)
    if skill is None:
        raise Refusal(status=404, message=f"Skill not found: {name[:64]}")
    return skill


def version_of(shelf: Shelf, name: str, version: str) -> tuple[Skill, SkillVersion]:
    """Raises: Refusal 404."""
    skill = found(shelf, name)
    if version not in skill.versions:
        raise Refusal(status=404, message=f"Skill version not found: {version[:64]}")
    return skill, skill.versions[version]


def versions(shelf: Shelf, name: str, query: str, common: HeaderPairs) -> Script:
    """GET /v1/skills/{id}/versions. Raises: Refusal 404."""
    skill = found(shelf, name)
    rows = [described_version(skill, one) for one in reversed(skill.versions.values())]
    return json_script(200, page(rows, query), common)


def version(shelf: Shelf, name: str, wanted: str, common: HeaderPairs) -> Script:
    """GET /v1/skills/{id}/versions/{version}. Raises: Refusal 404."""
    return json_script(200, described_version(*version_of(shelf, name, wanted)), common)


def content(shelf: Shelf, name: str, wanted: str, common: HeaderPairs) -> Script:
    """GET /v1/skills/{id}/versions/{version}/content. Raises: Refusal 404."""
    return whole(200, [(b"content-type", b"application/zip"), *common], version_of(shelf, name, wanted)[1].content)


def delete_version(shelf: Shelf, name: str, wanted: str, common: HeaderPairs) -> Script:
    """DELETE /v1/skills/{id}/versions/{version}. Raises: Refusal 404."""
    skill, gone = version_of(shelf, name, wanted)
    del skill.versions[gone.id]
    return json_script(200, {"id": gone.id, "type": "skill_version_deleted"}, common)


def delete(shelf: Shelf, name: str, common: HeaderPairs) -> Script:
    """DELETE /v1/skills/{id}. Raises: Refusal 404, and 400 while it has versions."""
    if found(shelf, name).versions:
        raise Refusal(status=400, message="Cannot delete skill with existing versions. Delete all versions first.")
    del shelf.skills.things[name]
    return json_script(200, {"id": name, "type": "skill_deleted"}, common)


def described(skill: Skill) -> dict[str, Any]:
    """A skill as the API shows it."""
    latest = next(reversed(skill.versions), "")
    return _shown(skill.id, skill.title, "custom", timestamp(skill.created), latest)


def built_in(name: str) -> dict[str, Any]:
    """A skill that comes with the API."""
    return _shown(name, name.upper(), "anthropic", "2025-10-02T00:00:00Z", "20251013")


def _shown(name: str, title: str, source: str, created: str, latest: str) -> dict[str, Any]:
    return {
        "id": name,
        "type": "skill",
        "display_name": title,
        "source": {"type": source},
        "created_at": created,
        "updated_at": created,
        "latest_version_id": latest,
    }


def described_version(skill: Skill, one: SkillVersion) -> dict[str, Any]:
    """A version as the API shows it."""
    return {
        "id": one.id,
        "type": "skill_version",
        "skill_id": skill.id,
        "name": "letters",
        "description": "Writes letters.",
        "created_at": timestamp(one.created),
    }
