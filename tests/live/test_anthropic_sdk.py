"""The official Anthropic SDK, as it is installed, against `relayd run` as a process of its own."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx2
import pytest
import trio
from anthropic.types import Message
from builders import KEY, OTHER_KEY
from daemon import SIMULATOR, Daemon, key_text, running, write_tree
from pydantic import BaseModel
from waiting import PATIENCE

from relayd.config.secrets.api_keys import mint

MODEL = "claude-sonnet-5-5"
FLAKY_KEY = mint(lambda size: b"\x05" * size)
NARROW_KEY = mint(lambda size: b"\x06" * size)
HASTY_KEY = mint(lambda size: b"\x07" * size)
RELAY = """
[server]
sse_keepalive = "50ms"

[models]
fast = "claude-haiku-4-5"

[routing]
cooldown = { overloaded = "0s", server_error = "0s", unreachable = "0s", auth = "0s", rate_limited = "0s" }
breaker = { failures = 1000, window = "1s" }
"""
# Every second call is a 429 that names a time.
FLAKY = SIMULATOR + 'groups = ["{0}"]\n[simulator]\nstatus = 429\nretry_after = {1}\nevery = 2\n'
WEATHER = {
    "name": "get_weather",
    "description": "The weather in a city.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
CLOCK = {"name": "get_time", "input_schema": {"type": "object", "properties": {}}}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    tree = write_tree(
        tmp_path_factory.mktemp("sdk"),
        relay=RELAY,
        accounts={"sim": SIMULATOR, "flaky": FLAKY.format("flaky", 3), "hasty": FLAKY.format("hasty", 1)},
        keys={
            "dev": key_text(),
            "flaky": key_text(FLAKY_KEY, 'groups = ["flaky"]'),
            "hasty": key_text(HASTY_KEY, 'groups = ["hasty"]'),
            "narrow": key_text(NARROW_KEY, 'models = ["claude-haiku-*"]'),
        },
    )
    with running(tree) as daemon:
        yield daemon


@pytest.fixture
def sdk(daemon: Daemon) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=daemon.url + "/api", api_key=KEY, max_retries=0, timeout=60.0) as client:
        yield client


def ask(text: str = "Grüße 你好 😀", **fields: Any) -> dict[str, Any]:
    return {"model": MODEL, "max_tokens": 2000, "messages": [{"role": "user", "content": text}], **fields}


def text_of(message: Message) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


def calls(daemon: Daemon) -> int:
    return len(daemon.events("call.done"))


# Answers


def test_a_plain_answer(sdk: anthropic.Anthropic, daemon: Daemon) -> None:
    message = sdk.messages.create(**ask())
    assert text_of(message).startswith("You said: Grüße 你好 😀")
    assert (message.model, message.stop_reason) == (MODEL, "end_turn")
    assert message.usage.input_tokens > 0
    assert message.usage.output_tokens > 0
    daemon.wait_until(
        lambda: any(entry.get("upstream_request_id") == message._request_id for entry in daemon.events("call.done")),
        "the call's log line",
    )


def test_a_streamed_answer_says_the_same_as_a_plain_one(sdk: anthropic.Anthropic) -> None:
    whole = sdk.messages.create(**ask())
    with sdk.messages.stream(**ask()) as stream:
        pieces = list(stream.text_stream)
        message = stream.get_final_message()
    assert len(pieces) > 5
    assert "".join(pieces) == text_of(whole) == text_of(message)
    assert message.usage.output_tokens == whole.usage.output_tokens


def test_raw_events_come_in_order(sdk: anthropic.Anthropic) -> None:
    with sdk.messages.create(**ask(), stream=True) as stream:
        names = [event.type for event in stream]
    assert names[:2] == ["message_start", "content_block_start"]
    assert names[-3:] == ["content_block_stop", "message_delta", "message_stop"]


async def test_the_async_client_and_many_calls_at_once(daemon: Daemon) -> None:
    client = anthropic.AsyncAnthropic(base_url=daemon.url, api_key=KEY, max_retries=0, timeout=60.0)
    texts: dict[int, str] = {}

    async def one(number: int) -> None:
        async with client.messages.stream(**ask(f"number {number}")) as stream:
            texts[number] = text_of(await stream.get_final_message())

    async with client, trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(one, number)
        whole = await client.messages.create(**ask("hello"))
    assert all(text.startswith(f"You said: number {number}") for number, text in texts.items())
    assert (len(texts), text_of(whole)[:15]) == (20, "You said: hello")


def test_two_tools_at_once_and_their_results(sdk: anthropic.Anthropic) -> None:
    asked = ask("get_weather and get_time please", tools=[WEATHER, CLOCK])
    with sdk.messages.stream(**asked) as stream:
        first = stream.get_final_message()
    uses = [block for block in first.content if block.type == "tool_use"]
    assert [(use.name, use.input) for use in uses] == [("get_weather", {"city": "example"}), ("get_time", {})]
    assert first.stop_reason == "tool_use"
    results = [{"type": "tool_result", "tool_use_id": use.id, "content": "18 degrees"} for use in uses]
    asked["messages"] += [{"role": "assistant", "content": first.content}, {"role": "user", "content": results}]
    assert sdk.messages.create(**asked).stop_reason == "end_turn"


def test_thinking_comes_with_its_signature(sdk: anthropic.Anthropic) -> None:
    with sdk.messages.stream(**ask(thinking={"type": "adaptive"})) as stream:
        names = [event.type for event in stream]
        message = stream.get_final_message()
    assert message.content[0].type == "thinking"
    assert message.content[0].signature
    assert {"thinking", "signature", "text"} <= set(names)


class Place(BaseModel):
    city: str
    days: int


def test_structured_output_is_parsed(sdk: anthropic.Anthropic) -> None:
    parsed = sdk.messages.parse(**ask(), output_format=Place).parsed_output
    assert isinstance(parsed, Place)


def test_a_whole_conversation_with_system_cache_and_images(sdk: anthropic.Anthropic) -> None:
    picture = {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}
    message = sdk.messages.create(
        **ask(),
        system=[{"type": "text", "text": "x" * 50_000, "cache_control": {"type": "ephemeral"}}],
        metadata={"user_id": "user-1"},
        extra_body={"messages": [
            {"role": "user", "content": [{"type": "image", "source": picture}, {"type": "text", "text": "what?"}]},
            {"role": "assistant", "content": "A dot."},
            {"role": "user", "content": "sure?"},
        ]},
    )  # fmt: skip
    assert text_of(message).startswith("You said: sure?")
    assert message.usage.cache_read_input_tokens  # what the first turn has written


def test_tokens_are_counted(sdk: anthropic.Anthropic) -> None:
    short = sdk.messages.count_tokens(model=MODEL, messages=ask("a")["messages"]).input_tokens
    longer = sdk.messages.count_tokens(model=MODEL, messages=ask("a " * 500)["messages"]).input_tokens
    assert 0 < short < longer


def test_an_alias_is_understood(sdk: anthropic.Anthropic, daemon: Daemon) -> None:
    message = sdk.messages.create(**{**ask(), "model": "fast"})
    assert message.model.startswith("claude-haiku-4-5")
    daemon.wait_until(
        lambda: any(
            (entry.get("model"), entry.get("sent_model")) == ("fast", "claude-haiku-4-5")
            for entry in daemon.events("call.done")
        ),
        "the call's log line",
    )


def test_models_are_listed_by_pages_and_one_is_found(sdk: anthropic.Anthropic) -> None:
    listed = [model.id for model in sdk.models.list(limit=2)]  # the SDK asks for one page after the other
    assert "fast" in listed
    assert len(listed) == len(set(listed)) > 2
    found = sdk.models.retrieve(MODEL)
    assert (found.id, found.type, found.display_name) == (MODEL, "model", "Claude Sonnet 5.5")


def test_a_key_sees_only_its_models(daemon: Daemon) -> None:
    with anthropic.Anthropic(base_url=daemon.url, api_key=NARROW_KEY, max_retries=0) as sdk:
        assert all("haiku" in model.id for model in sdk.models.list() if model.id != "fast")
        with pytest.raises(anthropic.NotFoundError):
            sdk.models.retrieve(MODEL)
        with pytest.raises(anthropic.PermissionDeniedError, match="is not allowed for this key"):
            sdk.messages.create(**ask())


# Ways to say where and who


@pytest.mark.parametrize("base", ["", "/", "/api", "/api/", "/v1", "/api/v1"])
def test_every_usual_base_url_works(daemon: Daemon, base: str) -> None:
    with anthropic.Anthropic(base_url=daemon.url + base, api_key=KEY, max_retries=0) as sdk:
        assert text_of(sdk.messages.create(**ask("hi"))).startswith("You said: hi")
        assert sdk.messages.count_tokens(model=MODEL, messages=ask()["messages"]).input_tokens > 0
        assert sdk.models.list().data


def test_a_key_works_as_api_key_and_as_auth_token(daemon: Daemon) -> None:
    header = {"x-api-key": KEY, "authorization": None}
    for presented in ({"api_key": KEY}, {"auth_token": KEY}):
        with anthropic.Anthropic(base_url=daemon.url, max_retries=0, **presented) as sdk:
            assert sdk.messages.create(**ask()).stop_reason == "end_turn"
    with anthropic.Anthropic(base_url=daemon.url, api_key="x", max_retries=0) as sdk:
        answer = sdk.messages.create(**ask(), extra_headers={n: v for n, v in header.items() if v})
        assert answer.stop_reason == "end_turn"


# Errors

CLASSES = {
    400: anthropic.BadRequestError,
    404: anthropic.NotFoundError,
    409: anthropic.ConflictError,
    422: anthropic.UnprocessableEntityError,
    429: anthropic.RateLimitError,
    500: anthropic.InternalServerError,
    529: anthropic.InternalServerError,
}


@pytest.mark.parametrize("status", CLASSES)
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
def test_an_upstreams_error_is_raised_as_the_sdk_knows_it(sdk: anthropic.Anthropic, status: int, stream: bool) -> None:
    with pytest.raises(CLASSES[status]) as caught:
        sdk.messages.create(**ask(), stream=stream, extra_headers={"x-simulate-status": str(status)})
    error = caught.value
    assert error.status_code == status
    assert error.body["error"]["message"] in ("Overloaded", f"Simulated {error.body['error']['type']}")
    assert error.request_id == error.body["request_id"]


@pytest.mark.parametrize("status", ["401", "403"])
def test_a_credential_of_ours_that_is_rejected_is_not_told_as_the_clients_fault(
    sdk: anthropic.Anthropic, status: str
) -> None:
    with pytest.raises(anthropic.InternalServerError, match="rejected its credential"):
        sdk.messages.create(**ask(), extra_headers={"x-simulate-status": status})


def test_a_key_that_is_not_known_is_refused_once_and_for_all(daemon: Daemon) -> None:
    def refusals() -> int:
        return sum(entry["status"] == 401 for entry in daemon.events("call.done"))

    before = refusals()
    unknown = pytest.raises(anthropic.AuthenticationError, match="Invalid API key: unknown key")
    with anthropic.Anthropic(base_url=daemon.url, api_key=OTHER_KEY, max_retries=5) as sdk, unknown as caught:
        sdk.messages.create(**ask())
    assert caught.value.request_id
    daemon.wait_until(lambda: refusals() > before, "the call's log line")
    assert refusals() == before + 1


def test_a_body_without_a_model_is_refused_in_the_apis_words(sdk: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.BadRequestError, match="model: field required") as caught:
        sdk.messages.create(**{**ask(), "model": anthropic.omit})
    assert caught.value.body["type"] == "error"
    assert caught.value.request_id == caught.value.body["request_id"]


def names_until_error(sdk: anthropic.Anthropic, **fault: str) -> tuple[list[str], anthropic.APIStatusError]:
    """The events of a stream, and the error that it ends with."""
    names: list[str] = []
    headers = {name.replace("_", "-"): value for name, value in fault.items()}
    with sdk.messages.create(**ask(), stream=True, extra_headers=headers) as stream:
        try:
            names.extend(event.type for event in stream)
        except anthropic.APIStatusError as error:
            return names, error
    raise AssertionError(f"a clean end after {names}")


def test_an_error_event_in_mid_stream_is_raised(sdk: anthropic.Anthropic) -> None:
    names, error = names_until_error(sdk, x_simulate_error_after="5")
    assert (names[0], error.status_code) == ("message_start", 200)
    assert "message_stop" not in names


@pytest.mark.parametrize("fault", [{"x_simulate_cut_after": "5"}, {"x_simulate_bad_framing": "1"}])
def test_a_cut_upstream_is_raised_and_never_taken_for_success(sdk: anthropic.Anthropic, fault: dict[str, str]) -> None:
    names, error = names_until_error(sdk, **fault)
    assert "the upstream broke off its answer" in str(error)
    assert (names[0], error.type) == ("message_start", "api_error")
    assert "message_stop" not in names


def test_an_upstream_that_gives_no_answer_is_a_502(sdk: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.InternalServerError, match="without an answer") as caught:
        sdk.messages.create(**ask(), extra_headers={"x-simulate-drop": "1"})
    assert caught.value.status_code == 502


def test_the_sdk_waits_as_long_as_the_relay_says_and_then_succeeds(daemon: Daemon) -> None:
    with anthropic.Anthropic(base_url=daemon.url, api_key=FLAKY_KEY, max_retries=8, timeout=60.0) as sdk:
        assert sdk.messages.create(**ask()).stop_reason == "end_turn"
        before, began = calls(daemon), time.monotonic()
        assert sdk.messages.create(**ask()).stop_reason == "end_turn"  # the upstream says 429 once
    assert time.monotonic() - began >= 3.0
    daemon.wait_until(lambda: calls(daemon) >= before + 2, "the calls' log lines")


def test_a_second_of_rest_is_waited_for_by_the_relay_itself(daemon: Daemon) -> None:
    with anthropic.Anthropic(base_url=daemon.url, api_key=HASTY_KEY, max_retries=0, timeout=60.0) as sdk:
        assert sdk.messages.create(**ask()).stop_reason == "end_turn"
        began = time.monotonic()
        with pytest.raises(anthropic.RateLimitError):
            sdk.messages.create(**ask())
        assert sdk.messages.create(**ask()).stop_reason == "end_turn"
    assert time.monotonic() - began >= 1.0


def test_silence_in_mid_stream_is_bridged(sdk: anthropic.Anthropic) -> None:
    silent = {"x-simulate-between": "1h"}
    raw = b""
    with sdk.messages.with_streaming_response.create(**ask(), stream=True, extra_headers=silent) as answer:
        pieces = answer.iter_bytes()
        while raw.count(b": keep-alive\n\n") < 3:
            raw += next(pieces)
    slow = {"x-simulate-between": "0.4", "x-simulate-words": "2"}
    with sdk.messages.create(**ask(), stream=True, extra_headers=slow) as stream:
        assert [event.type for event in stream][-1] == "message_stop"


def test_a_call_that_the_client_gives_up_is_logged_as_left(daemon: Daemon) -> None:
    silent = {"x-simulate-between": "1h"}
    with (
        anthropic.Anthropic(base_url=daemon.url, api_key=KEY, max_retries=0) as sdk,
        sdk.messages.create(**ask(), stream=True, extra_headers=silent) as stream,
    ):
        next(iter(stream))
        left = stream.response.headers["relayd-request-id"]
    daemon.wait_until(lambda: any(entry["id"] == left for entry in daemon.events("call.done")), "the call's log line")
    (line,) = [entry for entry in daemon.events("call.done") if entry["id"] == left]
    assert (line["outcome"], line["stream"]) == ("left", True)


def test_old_and_new_ways_of_the_sdk_to_send_a_version_pass(daemon: Daemon) -> None:
    for version in ("2023-06-01", "2026-10-21", "2099-01-01"):
        answer = httpx2.post(
            daemon.url + "/v1/messages",
            json=ask("hi"),
            headers={"authorization": f"Bearer {KEY}", "anthropic-version": version},
            timeout=PATIENCE,
        )
        assert answer.status_code == 200
