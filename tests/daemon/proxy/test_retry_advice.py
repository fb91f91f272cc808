"""What clients are told of another try, so that they neither sleep for an hour nor give up on what would help."""

from __future__ import annotations

import pytest
from builders import KEY, OTHER_KEY, snapshot
from fakes import ASK, Reception, failing, relaying, through
from scripted import serving

PATHS = ("/v1/messages", "/v1/chat/completions", "/v1/responses")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("status", "headers", "advice"),
    [
        (429, {"retry_after": "61"}, ["false"]),
        (429, {"retry_after": "60"}, []),
        (429, {"retry_after": "Fri, 22 Jan 2100 10:00:00 GMT"}, ["false"]),
        (429, {}, []),
        (529, {"retry_after": "900"}, ["false"]),
        (400, {"retry_after": "900"}, []),
    ],
)
async def test_an_upstreams_long_wait_is_no_reason_to_sleep(
    path: str, status: int, headers: dict[str, str], advice: list[str]
) -> None:
    body = ASK.replace(b"messages", b"input") if "responses" in path else ASK
    answer = failing(status, "rate_limit_error", "slow down", **headers)
    async with serving(Reception([answer])) as upstream, through(upstream) as house:
        told = await house.ask(body, path)
    assert (told.status, told.all("x-should-retry")) == (status, advice)


@pytest.mark.parametrize("said", ["true", "false"])
async def test_what_an_upstream_says_of_another_try_stands(said: str) -> None:
    answer = failing(429, "rate_limit_error", "slow down", retry_after="900", x_should_retry=said)
    async with serving(Reception([answer])) as upstream, through(upstream) as house:
        assert (await house.ask()).all("x-should-retry") == [said]


@pytest.mark.parametrize(
    ("x_api_key", "bearer", "advice"),
    [
        (OTHER_KEY, OTHER_KEY, []),  # as Claude Code sends what its apiKeyHelper printed: it asks that again
        (OTHER_KEY, "", ["false"]),
        ("", OTHER_KEY, ["false"]),
        (OTHER_KEY, KEY[:-1], ["false"]),
        ("", "", ["false"]),
    ],
)
async def test_a_program_that_fetches_keys_may_fetch_another(x_api_key: str, bearer: str, advice: list[str]) -> None:
    async with relaying(snapshot()) as house:
        told = await house.ask(key=x_api_key, authorization=f"Bearer {bearer}" if bearer else "")
    assert (told.status, told.all("x-should-retry")) == (401, advice)
