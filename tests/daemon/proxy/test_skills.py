"""Skills through the relay: real sockets, the official SDK, simulated and scripted upstreams."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anthropic
import pytest
from booked import Booked, booked
from builders import KEY, OTHER_KEY, account, api_key, changed, snapshot
from fakes import MODEL, answering, upstream_account
from object_world import THIRD_KEY, pinned, team, two_accounts
from scripted import Conversation, serving

from relayd.config.snapshot import Limits, Simulator

SKILL = ("letters/SKILL.md", b"---\nname: letters\n---\nWrite letters.", "text/markdown")
TEAMS = (team(owner="crew"), team(OTHER_KEY, "mate", owner="crew"), team(THIRD_KEY, "other", owner="others"))


async def made(world: Booked, key: str = KEY, name: str = "Letters") -> str:
    """A skill of a key: its id."""
    return (await world.sdk(key).beta.skills.create(display_name=name, files=[SKILL])).id


async def on_each_account(world: Booked, key: str = KEY) -> dict[str, str]:
    """A skill on each of the two accounts: account to id."""
    found: dict[str, str] = {}
    for number in range(64):
        name = await made(world, key, f"Letters {number}")
        record = pinned(world, name)
        assert record is not None
        found.setdefault(record["account"], name)
        if len(found) == 2:
            return found
    raise AssertionError(f"64 skills in a row went to {found}")


def using(*skills: str, kind: str = "custom", words: str = "Hi") -> bytes:
    named = [{"type": kind, "skill_id": name, "version": "latest"} for name in skills]
    fields = {"model": MODEL, "max_tokens": 9, "messages": [{"role": "user", "content": words}]}
    return json.dumps({**fields, "container": {"skills": named}}).encode()


@pytest.mark.parametrize("path", ["", "/api"])
async def test_the_sdk_makes_versions_reads_and_deletes_skills(tmp_path: Path, path: str) -> None:
    async with two_accounts(tmp_path) as world:
        skills = world.sdk(path=path).beta.skills

        skill = await skills.create(display_name="Letters", files=[SKILL])
        second = await skills.versions.create(skill.id, files=[SKILL])
        listed = [one.id async for one in skills.versions.list(skill.id, limit=1)]
        read = await skills.retrieve(skill.id)

        assert (read.display_name, read.latest_version_id) == ("Letters", second.id)
        assert listed == [second.id, skill.latest_version_id]
        assert (await skills.versions.retrieve(second.id, skill_id=skill.id)).skill_id == skill.id
        content = await skills.versions.download(second.id, skill_id=skill.id)
        assert await content.read() == SKILL[1]
        with pytest.raises(anthropic.BadRequestError, match="existing versions"):
            await skills.delete(skill.id)
        assert pinned(world, skill.id) is not None
        for version in listed:
            assert (await skills.versions.delete(version, skill_id=skill.id)).id == version
        assert (await skills.delete(skill.id)).id == skill.id
        assert pinned(world, skill.id) is None
        with pytest.raises(anthropic.NotFoundError):
            await skills.retrieve(skill.id)


async def test_the_namespace_outside_beta_is_the_same(tmp_path: Path) -> None:
    async with two_accounts(tmp_path) as world:
        skills = world.sdk().skills
        skill = await skills.create(files=[SKILL])
        assert (await skills.retrieve(skill.id)).id == skill.id


async def test_keys_of_one_owner_share_skills_and_nobody_else_sees_them(tmp_path: Path) -> None:
    async with two_accounts(tmp_path, *TEAMS) as world:
        skill = await made(world)
        mate, other = world.sdk(OTHER_KEY).beta.skills, world.sdk(THIRD_KEY).beta.skills
        version = (await mate.retrieve(skill)).latest_version_id

        assert [one.id async for one in mate.list(source="custom")] == [skill]
        assert (await mate.versions.create(skill, files=[SKILL])).skill_id == skill
        assert [one.id async for one in other.list(source="custom")] == []
        for attempt in (
            other.retrieve(skill),
            other.delete(skill),
            other.versions.create(skill, files=[SKILL]),
            other.versions.list(skill),
            other.versions.retrieve(version, skill_id=skill),
            other.versions.delete(version, skill_id=skill),
            other.versions.download(version, skill_id=skill),
        ):
            with pytest.raises(anthropic.NotFoundError, match=f"skill not found: {skill}"):
                await attempt
        assert (await mate.versions.retrieve(version, skill_id=skill)).id == version


async def test_a_call_goes_to_where_its_skills_are_and_for_their_owner_only(tmp_path: Path) -> None:
    async with two_accounts(tmp_path, *TEAMS) as world:
        ask = world.house.ask
        skills = await on_each_account(world)
        for name, skill in [*skills.items()] * 3:
            for key in (KEY, OTHER_KEY):
                assert (await ask(using(skill, "pptx"), key=key)).status == 200
                assert world.house.receipts.receipts[-1].account == name
        batch = {"requests": [{"custom_id": "1", "params": json.loads(using(skills["b"]))}]}
        assert (await ask(json.dumps(batch).encode(), "/v1/messages/batches")).status == 200
        assert world.house.receipts.receipts[-1].account == "b"

        apart = await ask(using(*skills.values()))
        assert apart.error[:2] == (400, "invalid_request_error")
        assert "live on different accounts (a and b)" in apart.error[2]
        for kind in ("custom", "anthropic"):
            for path in ("/v1/messages", "/v1/messages/count_tokens"):
                theirs = await ask(using(skills["a"], kind=kind), path, key=THIRD_KEY)
                assert theirs.error == (404, "not_found_error", f"skill not found: {skills['a']}")
        hidden = await ask(json.dumps(batch).encode(), "/v1/messages/batches", key=THIRD_KEY)
        assert hidden.error == (404, "not_found_error", f"skill not found: {skills['b']}")


async def test_skills_of_the_api_itself_and_of_the_accounts_operator_are_free(tmp_path: Path) -> None:
    async with two_accounts(tmp_path) as world:
        used = set()
        for number in range(8):  # so many conversations
            assert (await world.house.ask(using("skill_of_the_operator", words=f"{number}"))).status == 200
            used.add(world.house.receipts.receipts[-1].account)
        for _ in range(2):
            assert (await world.house.ask(using("pptx", kind="anthropic"))).status == 200
        world.store.away = True
        assert (await world.house.ask(using("pptx", kind="anthropic"))).status == 200
        assert (await world.house.ask(using("skill_1"))).status == 503
    assert used == {"a", "b"}


async def test_everybody_lists_and_reads_the_skills_of_the_api(tmp_path: Path) -> None:
    async with two_accounts(tmp_path, *TEAMS) as world:
        mine = await on_each_account(world)
        other = world.sdk(THIRD_KEY).beta.skills

        assert [one.id async for one in other.list()] == ["pptx", "xlsx"]
        assert [one.id async for one in other.list(source="anthropic")] == ["pptx", "xlsx"]
        assert (await other.retrieve("pptx")).source.type == "anthropic"
        with pytest.raises(anthropic.NotFoundError, match="skill not found: pptx"):
            await other.delete("pptx")
        with pytest.raises(anthropic.NotFoundError):
            await other.versions.create("pptx", files=[SKILL])

        listed = [one.id async for one in world.sdk().beta.skills.list(limit=1)]
        assert listed[-2:] == ["pptx", "xlsx"]
        assert listed.count("pptx") == 1
        assert set(mine.values()) <= set(listed)


async def test_a_list_of_the_apis_own_shows_nothing_else_whatever_the_upstream_lists(tmp_path: Path) -> None:
    rows = [{"id": "skill_1", "source": {"type": "custom"}}, {"id": "pptx", "source": "anthropic", "n": 1.0}]
    asked: list[bytes] = []

    async def script(peer: Conversation) -> None:
        while request := await peer.request():
            asked.append(request.split(b" ")[1])
            await peer.send(answering(200, json.dumps({"data": rows, "next_page": None}).encode()))

    async with serving(script) as upstream:
        tree = snapshot(keys=(team(),), accounts=(upstream_account("a", upstream.port),))
        async with booked(tree, tmp_path) as world:
            told = await world.house.get("/v1/skills?beta=true&limit=5")
            nothing = await world.house.get("/v1/skills?source=custom")

    assert [one["id"] for one in told.json["data"]] == ["pptx"]
    assert b'"n": 1.0' in told.body
    assert nothing.json["data"] == []
    assert asked == [b"/v1/skills?beta=true&limit=5&source=anthropic"]


@pytest.mark.parametrize("answer", [b"[]", b'{"data": 5}', b"{"])
async def test_what_is_no_list_is_not_shown(tmp_path: Path, answer: bytes) -> None:
    async def script(peer: Conversation) -> None:
        while await peer.request():
            await peer.send(answering(200, answer))

    async with serving(script) as upstream:
        tree = snapshot(keys=(team(),), accounts=(upstream_account("a", upstream.port),))
        async with booked(tree, tmp_path) as world:
            told = await world.house.get("/v1/skills")
    assert told.error == (502, "api_error", "account a: the answer is not a list")


@pytest.mark.parametrize("path", ["/v1/skills", "/v1/skills/skill_1/versions"])
async def test_what_makes_a_skill_or_a_version_is_not_sent_twice_when_a_connection_dies(
    tmp_path: Path, path: str
) -> None:
    seen: list[bytes] = []

    async def script(peer: Conversation) -> None:
        """The first request of a connection is answered, the second one is read and the connection closed."""
        seen.append(await peer.request())
        await peer.send(answering(200, b'{"id":"skill_%d","type":"skill"}' % len(seen)))
        if more := await peer.request():
            seen.append(more)

    async with serving(script) as upstream:
        tree = snapshot(keys=(team(),), accounts=(upstream_account("a", upstream.port),))
        async with booked(tree, tmp_path) as world:
            for target in ("/v1/skills", path):
                told = await world.house.ask(b"--x--", target, content_type="multipart/form-data; boundary=x")
                assert told.status == 200
            assert upstream.accepted == 2
    assert len(seen) == 2
    assert seen[1].endswith(b"\r\n\r\n--x--")


async def test_what_may_have_been_made_is_not_made_on_another_account(tmp_path: Path) -> None:
    accounts = (account("a", simulator=Simulator(drop=True), priority=1), account("b", priority=2))
    async with booked(snapshot(keys=(team(),), accounts=accounts), tmp_path) as world:
        with pytest.raises(anthropic.APIStatusError) as error:
            await made(world)
        attempts = world.house.receipts.receipts[-1].attempts

    assert error.value.status_code == 502
    assert [one.account for one in attempts] == ["a"]


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/v1/skills"), ("POST", "/v1/skills"), ("GET", "/v1/skills/pptx"), ("POST", "/api/v1/skills/x/versions")],
)
@pytest.mark.parametrize("endpoints", [api_key().endpoints, ("messages", "models", "batches", "files")])
async def test_a_key_needs_the_endpoint(tmp_path: Path, method: str, path: str, endpoints: Any) -> None:
    async with two_accounts(tmp_path, api_key(endpoints=endpoints)) as world:
        told = await (world.house.ask(b"", path) if method == "POST" else world.house.get(path))

    assert told.error[:2] == (403, "permission_error")
    assert "endpoint skills is not allowed" in told.error[2]


async def test_making_skills_and_versions_are_requests_and_reading_them_is_none(tmp_path: Path) -> None:
    async with two_accounts(tmp_path, team(limits=Limits(daily_requests=2))) as world:
        skills = world.sdk().beta.skills
        skill = await made(world)
        for _ in range(3):
            await skills.retrieve(skill)
            await skills.versions.list(skill)
        await skills.versions.create(skill, files=[SKILL])
        with pytest.raises(anthropic.RateLimitError, match="daily requests 2"):
            await skills.versions.create(skill, files=[SKILL])


async def test_a_skill_on_an_account_that_left_the_config_is_not_looked_for_elsewhere(tmp_path: Path) -> None:
    async with two_accounts(tmp_path) as world:
        skills = await on_each_account(world)
        live = world.house.live
        live.swap(changed(live.snapshot, accounts={"a": live.snapshot.accounts["a"]}))

        told = await world.house.ask(using(skills["b"]))
        assert told.error[0] == 404
        assert f"skill {skills['b']} lives on account b, which is no longer configured" in told.error[2]


@pytest.mark.parametrize("path", ["/v1/agents?beta=true", "/api/v1/sessions/s_1/events", "/v1/user_profiles"])
async def test_what_is_not_served_is_told_so(tmp_path: Path, path: str) -> None:
    async with two_accounts(tmp_path) as world:
        told = await world.house.get(path)
    assert told.error[:2] == (404, "not_found_error")
    assert "is not served by this relay" in told.error[2]
    assert "docs/clients.md" in told.error[2]
    assert told["x-should-retry"] == "false"
