"""Batches and files through the relay: real sockets, the official SDK, simulated and scripted upstreams."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import anthropic
import pytest
from booked import Booked, booked
from builders import KEY, OTHER_KEY, account, api_key, changed, snapshot
from fakes import ASK, MODEL, events_of, upstream_account
from object_world import THIRD_KEY, pinned, team, two_accounts
from scripted import Conversation, serving

from relayd.config.snapshot import ApiKey, Deny, Limits, Server, Simulator, State
from relayd.core.access.ownership import encode_ownership, holder_topics, ownership_of
from relayd.state.contract import Pin, Publish, Report, Reported
from relayd.wire.objects import read_page

PARAMS: Mapping[str, Any] = MappingProxyType(
    {"model": MODEL, "max_tokens": 10, "messages": [{"role": "user", "content": "Hello"}]}
)


def requests(*models: str, **params: Any) -> list[Any]:
    names = models or (MODEL,)
    return [{"custom_id": f"r{at}", "params": {**PARAMS, "model": name, **params}} for at, name in enumerate(names)]


def batch_body(*models: str, **params: Any) -> bytes:
    return json.dumps({"requests": requests(*models, **params)}).encode()


async def on_each_account(world: Booked, sdk: anthropic.AsyncAnthropic) -> dict[str, str]:
    """A file on each of the two accounts: account to id."""
    found: dict[str, str] = {}
    for number in range(64):
        made = await sdk.files.upload(file=(f"{number}.txt", b"content of %d" % number))
        record = pinned(world, made.id)
        assert record is not None
        found.setdefault(record["account"], made.id)
        if len(found) == 2:
            return found
    raise AssertionError(f"64 files in a row went to {found}")


# The official SDK, all of it.


@pytest.mark.parametrize("path", ["", "/api"])
async def test_the_sdk_makes_reads_cancels_and_deletes_batches(tmp_path: Path, path: str) -> None:
    async with two_accounts(tmp_path) as world:
        sdk = world.sdk(path=path)

        made = await sdk.messages.batches.create(requests=requests(MODEL, MODEL))
        assert made.processing_status == "in_progress"
        world.clock.now += 2
        ended = await sdk.messages.batches.retrieve(made.id)
        lines = [line async for line in await sdk.messages.batches.results(made.id)]
        deleted = await sdk.messages.batches.delete(made.id)

        assert ended.results_url == f"{world.url}{path}/v1/messages/batches/{made.id}/results"
        assert [(line.custom_id, line.result.type) for line in lines] == [("r0", "succeeded"), ("r1", "succeeded")]
        assert deleted.id == made.id
        with pytest.raises(anthropic.NotFoundError):
            await sdk.messages.batches.retrieve(made.id)
        assert pinned(world, made.id) is None

        other = await sdk.messages.batches.create(requests=requests(MODEL))
        assert (await sdk.messages.batches.cancel(other.id)).processing_status == "canceling"


async def test_the_sdk_uploads_reads_downloads_lists_and_deletes_files(tmp_path: Path) -> None:
    content = bytes(range(256)) * 8192  # larger than what is gathered before it is passed on
    async with two_accounts(tmp_path) as world:
        sdk = world.sdk()

        made = await sdk.files.upload(file=("räksmörgås.bin", content, "application/x-thing"))

        assert await sdk.files.retrieve_metadata(made.id) == made
        assert await (await sdk.files.download(made.id)).read() == content
        assert [one.id async for one in sdk.files.list()] == [made.id]
        assert (await sdk.files.delete(made.id)).id == made.id
        assert [one.id async for one in sdk.files.list()] == []


async def test_an_object_is_read_where_it_was_made(tmp_path: Path) -> None:
    async with two_accounts(tmp_path) as world:
        sdk = world.sdk()
        files = await on_each_account(world, sdk)

        for _ in range(3):
            for name in files.values():
                assert (await sdk.files.retrieve_metadata(name)).id == name

        read = [one.account for one in world.house.receipts.receipts[-6:]]
        assert read == ["a", "b"] * 3 if list(files) == ["a", "b"] else ["b", "a"] * 3


# Whose it is.


async def test_keys_of_one_owner_share_objects_and_nobody_else_sees_them(tmp_path: Path) -> None:
    keys = (
        team(owner="crew"),
        team(OTHER_KEY, "mate", owner="crew"),
        team(THIRD_KEY, "stranger", owner="others"),
    )
    async with two_accounts(tmp_path, *keys) as world:
        made = await world.sdk(KEY).files.upload(file=("a.txt", b"a"))

        assert (await world.sdk(OTHER_KEY).files.retrieve_metadata(made.id)).id == made.id
        assert [one.id async for one in world.sdk(OTHER_KEY).files.list()] == [made.id]
        stranger = world.sdk(THIRD_KEY)
        with pytest.raises(anthropic.NotFoundError) as unknown:
            await stranger.files.retrieve_metadata("file_0000000000")
        with pytest.raises(anthropic.NotFoundError) as foreign:
            await stranger.files.retrieve_metadata(made.id)
        assert _said(foreign.value).replace(made.id, "ID") == _said(unknown.value).replace("file_0000000000", "ID")
        with pytest.raises(anthropic.NotFoundError):
            await stranger.files.delete(made.id)
        with pytest.raises(anthropic.NotFoundError):
            await stranger.files.download(made.id)
        assert [one.id async for one in stranger.files.list()] == []
        assert pinned(world, made.id) is not None


def _said(error: anthropic.APIStatusError) -> str:
    body: Any = error.body
    return str(body["error"])


async def test_keys_without_an_owner_share_nothing(tmp_path: Path) -> None:
    async with two_accounts(tmp_path, team(), team(OTHER_KEY, "other")) as world:
        made = await world.sdk(KEY).files.upload(file=("a.txt", b"a"))

        with pytest.raises(anthropic.NotFoundError):
            await world.sdk(OTHER_KEY).files.retrieve_metadata(made.id)
        assert [one.id async for one in world.sdk(OTHER_KEY).files.list()] == []


async def test_a_batch_is_no_file(tmp_path: Path) -> None:
    async with two_accounts(tmp_path) as world:
        made = await world.sdk().messages.batches.create(requests=requests())

        with pytest.raises(anthropic.NotFoundError, match="file not found"):
            await world.sdk().files.retrieve_metadata(made.id)


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/v1/files"), ("GET", "/v1/files"), ("GET", "/v1/files/file_1"), ("GET", "/v1/messages/batches")],
)
async def test_a_key_needs_the_endpoint(tmp_path: Path, method: str, path: str) -> None:
    async with two_accounts(tmp_path, api_key()) as world:
        client = await world.house.connect()
        told = await (client.ask(b"{}", path) if method == "POST" else client.get(path))

    word = "batches" if "batches" in path else "files"
    assert told.error[:2] == (403, "permission_error")
    assert f"endpoint {word} is not allowed" in told.error[2]


@pytest.mark.parametrize("path", ["/v1/files/%66ile_1", "/v1/files/a/b/c", "/v1/messages/batches/x/y"])
async def test_other_paths_are_unknown(tmp_path: Path, path: str) -> None:
    async with two_accounts(tmp_path) as world:
        assert (await world.house.get(path)).error[:2] == (404, "not_found_error")


async def test_a_wrong_method_is_told_the_right_ones(tmp_path: Path) -> None:
    async with two_accounts(tmp_path) as world:
        told = await world.house.get("/v1/files/file_1", method="PUT")

    assert told.status == 405
    assert told["allow"] == "GET, DELETE, HEAD, OPTIONS"


# Where it is.


async def test_an_account_that_left_the_config_is_named(tmp_path: Path) -> None:
    async with two_accounts(tmp_path) as world:
        files = await on_each_account(world, world.sdk())
        live = world.house.live
        live.swap(changed(live.snapshot, accounts={"a": live.snapshot.accounts["a"]}))

        with pytest.raises(anthropic.NotFoundError, match="lives on account b, which is no longer configured"):
            await world.sdk().files.retrieve_metadata(files["b"])
        assert (await world.sdk().files.retrieve_metadata(files["a"])).id == files["a"]
        listed = [one.id async for one in world.sdk().files.list()]
        assert files["a"] in listed
        assert files["b"] not in listed


@pytest.mark.parametrize("how", ["disabled", "denied"])
async def test_an_account_that_is_out_of_service_is_no_reason_to_forget_its_objects(tmp_path: Path, how: str) -> None:
    async with two_accounts(tmp_path) as world:
        files = await on_each_account(world, world.sdk())
        live, before = world.house.live, world.house.live.snapshot
        off = {**before.accounts, "b": changed(before.accounts["b"], enabled=False)}
        live.swap(changed(before, accounts=off) if how == "disabled" else changed(before, deny=Deny(accounts=("b",))))

        told = await world.house.get(f"/v1/files/{files['b']}")
        live.swap(before)

        assert told.error[:2] == (409, "conflict_error")
        assert "lives on account b, which is disabled at present" in told.error[2]
        assert told["x-should-retry"] == "false"
        assert (await world.sdk().files.retrieve_metadata(files["b"])).id == files["b"]


async def test_a_new_file_goes_to_the_next_account_when_one_is_rate_limited(tmp_path: Path) -> None:
    limited = account("a", simulator=Simulator(status=429, retry_after=600), priority=1)
    tree = snapshot(keys=(team(),), accounts=(limited, account("b", priority=2)))
    async with booked(tree, tmp_path) as world:
        made = await world.sdk().files.upload(file=("a.txt", b"a"))

        record = pinned(world, made.id)
        assert record is not None
        assert record["account"] == "b"


async def test_what_may_have_been_made_is_not_made_again(tmp_path: Path) -> None:
    accounts = (account("a", simulator=Simulator(drop=True), priority=1), account("b", priority=2))
    async with booked(snapshot(keys=(team(),), accounts=accounts), tmp_path) as world:
        with pytest.raises(anthropic.APIStatusError) as error:
            await world.sdk().messages.batches.create(requests=requests())
        attempts = world.house.receipts.receipts[-1].attempts

    assert error.value.status_code == 502
    assert [one.account for one in attempts] == ["a"]


@pytest.mark.parametrize("status", [401, 403])
async def test_a_credential_that_may_keep_no_files_still_serves_messages(tmp_path: Path, status: int) -> None:
    body = b'{"type":"error","error":{"type":"permission_error","message":"not with OAuth"}}'
    head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode()

    async def script(peer: Conversation) -> None:
        while await peer.request():
            await peer.send(head + body)

    async with (
        serving(script) as upstream,
        booked(snapshot(keys=(team(),), accounts=(upstream_account("a", upstream.port),)), tmp_path) as world,
    ):
        told = await world.house.ask(b"--x--", "/v1/files", content_type="multipart/form-data; boundary=x")

        assert told.status == (502 if status == 401 else 403)
        assert world.house.pool.resting("a", world.house.wall()) is None


async def test_two_accounts_with_one_id_do_not_take_objects_from_each_other(tmp_path: Path) -> None:
    body = b'{"id":"file_same","type":"file","created_at":"2026-01-01T00:00:00Z"}'

    async def script(peer: Conversation) -> None:
        while await peer.request():
            await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body)

    async with serving(script) as upstream:
        accounts = tuple(upstream_account(name, upstream.port, groups=(name,)) for name in ("a", "b"))
        keys = (team(groups=("a",)), team(OTHER_KEY, "other", groups=("b",)))
        async with booked(snapshot(keys=keys, accounts=accounts), tmp_path) as world:
            first = await world.house.ask(b"x", "/v1/files")
            second = await world.house.ask(b"x", "/v1/files", key=OTHER_KEY)

            assert first.status == 200
            assert second.error == (502, "api_error", "account b gave an object the id of another one, file_same")
            record = pinned(world, "file_same")
            assert record is not None
            assert record["key"] == "dev"


# Lists.


async def test_a_list_merges_the_accounts_newest_first_and_pages_without_gap_or_repeat(tmp_path: Path) -> None:
    keys = (team(owner="crew"), team(OTHER_KEY, "other", owner="others"))
    async with two_accounts(tmp_path, *keys) as world:
        made = []
        for number in range(13):
            world.clock.now += 1
            made.append((await world.sdk().files.upload(file=(f"{number}.txt", b"%d" % number))).id)
            await world.sdk(OTHER_KEY).files.upload(file=(f"{number}.txt", b"other %d" % number))
        records = [pinned(world, name) for name in made]
        assert {record["account"] for record in records if record} == {"a", "b"}

        listed = [one.id async for one in world.sdk().files.list(limit=4)]
        chosen = await world.sdk().files.list(ids=[made[3], made[7], "file_unknown"])
        backwards = (await world.house.get(f"/v1/files?limit=3&before_id={made[4]}")).json
        forwards = (await world.house.get(f"/v1/files?limit=3&after_id={made[4]}")).json

    newest = made[::-1]
    assert listed == newest
    assert [one.id for one in chosen.data] == [made[7], made[3]]
    assert [one["id"] for one in backwards["data"]] == newest[5:8]
    assert (backwards["first_id"], backwards["last_id"]) == (newest[5], newest[7])
    assert backwards["has_more"] is True
    assert [one["id"] for one in forwards["data"]] == newest[9:12]


async def test_listed_batches_name_this_relay_for_their_results(tmp_path: Path) -> None:
    async with two_accounts(tmp_path) as world:
        made = [(await world.sdk().messages.batches.create(requests=requests())).id for _ in range(5)]
        world.clock.now += 2

        listed = [one async for one in world.sdk().messages.batches.list(limit=2)]

        assert sorted(one.id for one in listed) == sorted(made)
        assert {one.results_url for one in listed} == {
            f"{world.url}/v1/messages/batches/{name}/results" for name in made
        }


async def test_an_empty_list_asks_no_upstream(tmp_path: Path) -> None:
    tree = snapshot(keys=(team(),), accounts=(account("a", simulator=Simulator(status=500)),))
    async with booked(tree, tmp_path) as world:
        assert (await world.house.get("/v1/files")).json == {
            "data": [],
            "has_more": False,
            "first_id": None,
            "last_id": None,
            "next_page": None,
        }


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "limit=x", "after_id=file_unknown"])
async def test_a_page_that_is_none_is_refused(tmp_path: Path, query: str) -> None:
    async with two_accounts(tmp_path) as world:
        told = await world.house.get(f"/v1/files?{query}")

    assert told.error[:2] == (400, "invalid_request_error")


async def test_a_list_that_one_account_cannot_give_is_not_given_in_part(tmp_path: Path) -> None:
    async with two_accounts(tmp_path) as world:
        await on_each_account(world, world.sdk())
        live = world.house.live
        broken = changed(live.snapshot.accounts["b"], simulator=Simulator(status=529, retry_after=7))
        live.swap(changed(live.snapshot, accounts={**live.snapshot.accounts, "b": broken}))

        told = await world.house.get("/v1/files")

    assert told.error[:2] == (529, "overloaded_error")
    assert told.error[2].startswith("account b: ")
    assert told["retry-after"] == "7"


async def test_a_long_list_of_an_account_is_walked_page_by_page(tmp_path: Path) -> None:
    """An upstream that gives two objects a page, with another owner's between ours."""
    files = [f"file_{number}" for number in range(6)]
    asked: list[bytes] = []

    async def script(peer: Conversation) -> None:
        while head := await peer.head():
            line = head.split(b" ")[1]
            asked.append(line)
            after = line.partition(b"after_id=")[2].partition(b"&")[0].decode()
            start = files.index(after) + 1 if after else 0
            rows = [
                {"id": name, "created_at": f"2026-01-0{9 - at}T00:00:00Z", "n": 1.0} for at, name in enumerate(files)
            ]
            answer = {"data": rows[start : start + 2], "has_more": start + 2 < len(files), "last_id": None}
            body = json.dumps(answer).encode()
            await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body)

    async with (
        serving(script) as upstream,
        booked(snapshot(keys=(team(),), accounts=(upstream_account("a", upstream.port),)), tmp_path) as world,
    ):
        for name in files[::2]:
            world.ask(Pin(name=f"object/{name}", value=encode_ownership(ownership_of("files", "a", team()))))
        world.ask(Publish(topic=holder_topics("files", "dev", "")[0], name="a", body="1"))
        told = await world.house.get("/v1/files?beta=true")

    assert [one["id"] for one in told.json["data"]] == files[::2]
    assert b'"n": 1.0' in told.body  # an object's bytes are not written anew
    assert asked == [
        b"/v1/files?limit=500&beta=true",
        b"/v1/files?limit=500&after_id=file_1&beta=true",
        b"/v1/files?limit=500&after_id=file_3&beta=true",
    ]


@asynccontextmanager
async def saying(tmp_path: Path, body: bytes, *keys: ApiKey) -> AsyncIterator[Booked]:
    """One account whose upstream gives one answer to everything."""

    async def script(peer: Conversation) -> None:
        while await peer.request():
            await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body)

    async with serving(script) as upstream:
        tree = snapshot(keys=keys or (team(),), accounts=(upstream_account("a", upstream.port),))
        async with booked(tree, tmp_path) as world:
            yield world


@pytest.mark.parametrize(
    "more",
    [
        {"has_more": True, "last_id": "a\r\nx: y"},
        {"has_more": True, "last_id": "a b"},
        {"next_page": "\x00"},
        {"next_page": "\u2028"},
        {"has_more": True, "last_id": "x" * 2001},
    ],
)
async def test_a_cursor_that_is_none_is_a_broken_answer(tmp_path: Path, more: dict[str, Any]) -> None:
    body = json.dumps({"data": [], **more}).encode()
    async with saying(tmp_path, body) as world:
        world.ask(Publish(topic=holder_topics("files", "dev", "")[0], name="a", body="1"))
        told = await world.house.get("/v1/files")

    assert told.error[0] == 502
    assert told.error[2] == "account a: the answer is not a list"


def test_a_cursor_is_sent_back_as_it_was_whatever_is_in_it() -> None:
    page = json.dumps({"data": [], "next_page": "a+b/c==&limit=1#x%"}).encode()
    assert read_page(page) == ([], "page=a%2Bb%2Fc%3D%3D%26limit%3D1%23x%25")


async def test_an_upstream_that_repeats_an_id_moves_no_object_to_another_owner(tmp_path: Path) -> None:
    mine, mate = team(owner="x"), team(OTHER_KEY, "mate", owner="x")
    other = team(THIRD_KEY, "other", owner="y")
    async with saying(tmp_path, b'{"id": "file_1", "type": "file"}', mine, mate, other) as world:
        for key, expected in ((KEY, 200), (THIRD_KEY, 502), (OTHER_KEY, 200), (THIRD_KEY, 502)):
            told = await world.house.ask(b"x", "/v1/files", key=key)
            assert told.status == expected, told.body
        record = pinned(world, "file_1")
        assert (await world.house.get("/v1/files/file_1", key=THIRD_KEY)).status == 404
        assert (await world.house.get("/v1/files/file_1", key=KEY)).status == 200

    assert record is not None
    assert record["owner"] == "x"


# What a batch may hold.


async def test_each_model_of_a_batch_is_checked(tmp_path: Path) -> None:
    async with two_accounts(tmp_path, team(models=("claude-sonnet-*",))) as world:
        with pytest.raises(anthropic.PermissionDeniedError, match=r"requests\.1\.params\.model: claude-opus-5-5"):
            await world.sdk().messages.batches.create(requests=requests(MODEL, "claude-opus-5-5"))
        assert (await world.sdk().messages.batches.create(requests=requests(MODEL))).id


@pytest.mark.parametrize(
    "body",
    [
        b'{"requests":[{"custom_id":"a","params":{"model":"claude-sonnet-5-5","model":"claude-opus-5-5"}}]}',
        b'{"requests":[{"custom_id":"a","params":{"model":"claude-sonnet-5-5","mod\\u0065l":"claude-opus-5-5"}}]}',
        b'{"requests":[{"params":{"model":"claude-sonnet-5-5"},"params":{"model":"claude-opus-5-5"}}]}',
        b'{"requests":[{"params":{"model":"claude-sonnet-5-5"}}],"requests":[{"params":{"model":"claude-opus-5-5"}}]}',
        b'{"requests":[{"params":{"model":"claude-sonnet-5-5"}}],"r\\u0065quests":[]}',
        b'{"requests":[{"params":{}}]}',
        b'{"requests":[{"params":{"model":7}}]}',
        b'{"requests":[7]}',
        b'{"requests":{}}',
        b'{"requests":[]}',
        b"{}",
        b"[1",
    ],
)
async def test_a_batch_that_could_be_read_in_two_ways_is_refused(tmp_path: Path, body: bytes) -> None:
    async with two_accounts(tmp_path, team(models=("claude-sonnet-*",))) as world:
        told = await world.house.ask(body, "/v1/messages/batches")

    assert told.error[:2] == (400, "invalid_request_error")
    assert "request" in told.error[2]


async def test_an_alias_in_a_batch_is_refused_by_name(tmp_path: Path) -> None:
    async with two_accounts(tmp_path, models={"best": MODEL}) as world:
        with pytest.raises(anthropic.BadRequestError, match=f"name the model itself, {MODEL}"):
            await world.sdk().messages.batches.create(requests=requests("best"))


async def test_a_batch_obeys_the_cap_on_max_tokens(tmp_path: Path) -> None:
    async with two_accounts(tmp_path, team(max_tokens=9)) as world:
        with pytest.raises(anthropic.BadRequestError, match=r"requests\.0\.params\.max_tokens: 10 is more"):
            await world.sdk().messages.batches.create(requests=requests())


async def test_a_batch_goes_to_an_account_that_serves_all_its_models(tmp_path: Path) -> None:
    accounts = (
        account("sonnets", models=("claude-sonnet-*",), priority=1),
        account("renames", model_map={"claude-opus-5-5": "other"}, priority=2),
        account("everything", priority=3),
    )
    async with booked(snapshot(keys=(team(),), accounts=accounts), tmp_path) as world:
        made = await world.sdk().messages.batches.create(requests=requests(MODEL, "claude-opus-5-5"))
        record = pinned(world, made.id)
        assert record is not None
        assert record["account"] == "everything"

        live = world.house.live
        live.swap(changed(live.snapshot, accounts={"sonnets": accounts[0]}))
        with pytest.raises(anthropic.PermissionDeniedError, match="sonnets: does not serve claude-opus-5-5"):
            await world.sdk().messages.batches.create(requests=requests(MODEL, "claude-opus-5-5"))


async def test_a_large_batch_arrives_byte_for_byte(tmp_path: Path) -> None:
    body = batch_body(*[MODEL] * 2000, metadata={"spaces": "  ", "é": 1.0})
    seen: list[bytes] = []

    async def script(peer: Conversation) -> None:
        seen.append((await peer.request()).partition(b"\r\n\r\n")[2])
        answer = b'{"id": "msgbatch_1", "results_url" : "https://api.anthropic.com/x", "n": 1.0}'
        await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(answer) + answer)

    async with (
        serving(script) as upstream,
        booked(snapshot(keys=(team(),), accounts=(upstream_account("a", upstream.port),)), tmp_path) as world,
    ):
        told = await world.house.ask(body, "/v1/messages/batches")

    assert len(body) > 256 << 10
    assert seen == [body]
    url = b"http://relay/v1/messages/batches/msgbatch_1/results"
    assert told.body == b'{"id": "msgbatch_1", "results_url" : "%s", "n": 1.0}' % url


@pytest.mark.parametrize(("trusted", "scheme"), [(("127.0.0.1",), "https"), ((), "http")])
async def test_the_scheme_of_results_is_a_trusted_proxys_word(
    tmp_path: Path, trusted: tuple[str, ...], scheme: str
) -> None:
    async with two_accounts(tmp_path, server=Server(trusted_proxies=trusted)) as world:
        made = (await world.house.ask(batch_body(), "/v1/messages/batches")).json
        world.clock.now += 2
        told = await world.house.get(f"/v1/messages/batches/{made['id']}", x_forwarded_proto="https")

    assert told.json["results_url"] == f"{scheme}://relay/v1/messages/batches/{made['id']}/results"


# Files that a call names.


def about(*files: str, stream: bool = False) -> bytes:
    content = [{"type": "document", "source": {"type": "file", "file_id": name}} for name in files]
    return json.dumps({**PARAMS, "stream": stream, "messages": [{"role": "user", "content": content}]}).encode()


async def test_a_call_goes_where_its_file_is(tmp_path: Path) -> None:
    async with two_accounts(tmp_path) as world:
        files = await on_each_account(world, world.sdk())
        for name, file in [*files.items()] * 4:
            assert (await world.house.ask(about(file))).status == 200
            assert world.house.receipts.receipts[-1].account == name
        counted = await world.house.ask(about(files["b"]), "/v1/messages/count_tokens")
        batch = json.dumps({"requests": [{"custom_id": "1", "params": json.loads(about(files["b"]))}]}).encode()
        made = await world.house.ask(batch, "/v1/messages/batches")

        assert counted.status == made.status == 200
        assert [one.account for one in world.house.receipts.receipts[-2:]] == ["b", "b"]
        told = await world.house.ask(about(*files.values()))
        assert told.error[:2] == (400, "invalid_request_error")
        assert "live on different accounts (a and b)" in told.error[2]


async def test_nobody_reads_anothers_file_by_naming_it_in_a_message(tmp_path: Path) -> None:
    async with two_accounts(tmp_path, team(), team(OTHER_KEY, "other")) as world:
        made = await world.sdk().files.upload(file=("a.txt", b"a"))

        for path in ("/v1/messages", "/v1/messages/count_tokens"):
            told = await world.house.ask(about(made.id), path, key=OTHER_KEY)
            assert told.error == (404, "not_found_error", f"file not found: {made.id}")
        hidden = about(made.id).replace(b"file_id", b"fil\\u0065_id")
        assert (await world.house.ask(hidden, key=OTHER_KEY)).status == 404


async def test_while_the_account_of_a_file_rests_the_call_is_told_so(tmp_path: Path) -> None:
    async with two_accounts(tmp_path) as world:
        files = await on_each_account(world, world.sdk())
        live = world.house.live
        limited = changed(live.snapshot.accounts["a"], simulator=Simulator(status=429, retry_after=600))
        live.swap(changed(live.snapshot, accounts={**live.snapshot.accounts, "a": limited}))

        first = await world.house.ask(about(files["a"]))
        second = await world.house.ask(about(files["a"]))

        assert (first.status, second.status) == (429, 429)
        assert int(second["retry-after"]) > 500
        assert "a: cooling down until" in second.error[2]
        assert f"b: file {files['a']} lives on a" in second.error[2]
        assert (await world.house.ask(about(files["b"]))).status == 200


# Limits and the state.


async def test_making_an_object_is_a_request_and_reading_it_is_none(tmp_path: Path) -> None:
    limits = Limits(daily_requests=2, tokens_per_minute=1)
    async with two_accounts(tmp_path, team(limits=limits)) as world:
        sdk = world.sdk()
        made = await sdk.files.upload(file=("a.txt", b"a" * 5000))
        for _ in range(5):
            await sdk.files.retrieve_metadata(made.id)
        await sdk.messages.batches.create(requests=requests())
        with pytest.raises(anthropic.RateLimitError, match="daily requests 2"):
            await sdk.files.upload(file=("a.txt", b"a"))
        assert [one.id async for one in sdk.files.list()] == [made.id]

        books = world.ask(Report(first="2000-01-01", last="2100-01-01"))
        assert isinstance(books, Reported)
        assert sum(row.requests for row in books.rows) == 2
        assert sum(row.tokens for row in books.rows) == 0


@pytest.mark.parametrize("on_outage", ["allow", "deny"])
async def test_without_its_store_the_relay_makes_and_finds_no_objects(tmp_path: Path, on_outage: Any) -> None:
    async with two_accounts(tmp_path, state=State(on_outage=on_outage)) as world:
        made = await world.sdk().files.upload(file=("a.txt", b"a"))
        world.store.away = True

        for told in (
            await world.house.ask(b"x", "/v1/files"),
            await world.house.get(f"/v1/files/{made.id}"),
            await world.house.get("/v1/files"),
        ):
            assert told.error[:2] == (503, "api_error")
            assert told["retry-after"] == "5"


async def test_an_object_that_the_store_did_not_take_is_written_down_later(tmp_path: Path) -> None:
    async with two_accounts(tmp_path) as world:
        world.store.away_for = (Pin,)
        made = await world.sdk().files.upload(file=("a.txt", b"a"))
        assert pinned(world, made.id) is None
        world.come_back()

        assert (await world.sdk().files.retrieve_metadata(made.id)).id == made.id
        assert pinned(world, made.id) is not None
        assert [one.id async for one in world.sdk().files.list()] == [made.id]


async def test_one_receipt_tells_of_each_request(tmp_path: Path) -> None:
    async with two_accounts(tmp_path) as world:
        made = await world.sdk().files.upload(file=("a.txt", b"a"))
        await world.sdk().files.retrieve_metadata(made.id)
        await world.house.get("/v1/files")
        await world.house.get("/v1/files/file_unknown")
        await world.house.receipts.wait_for(4)
        receipts = world.house.receipts.receipts

    assert [(one.method, one.status, one.outcome) for one in receipts] == [
        ("POST", 200, "ok"),
        ("GET", 200, "ok"),
        ("GET", 200, "ok"),
        ("GET", 404, "refused"),
    ]
    assert {one.key for one in receipts} == {"dev"}


async def test_an_object_is_written_down_before_its_maker_hears_of_it(tmp_path: Path) -> None:
    answer = b'{"id":"file_1","created_at":"2026-01-01T00:00:00Z"}'

    async def script(peer: Conversation) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(answer) + answer)

    async with (
        serving(script) as upstream,
        booked(snapshot(keys=(team(),), accounts=(upstream_account("a", upstream.port),)), tmp_path) as world,
    ):
        client = await world.house.connect()
        await client.post(b"x", "/v1/files")
        receipt = await world.house.receipt()

        assert receipt.status == 200
        assert pinned(world, "file_1") == {"kind": "files", "account": "a", "key": "dev", "owner": ""}


async def test_messages_are_served_as_before(tmp_path: Path) -> None:
    async with two_accounts(tmp_path) as world:
        told = await world.house.ask(ASK)
        streamed = await world.house.ask(ASK[:-1] + b',"stream":true}')

    assert told.status == 200
    assert b"message_stop" in events_of(streamed.body)[-1]
