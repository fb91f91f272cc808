"""The public listener from outside: refusals, the models of a key, health, browsers, ids on every answer."""

from __future__ import annotations

import datetime

import attrs
import builders
import pytest
from builders import KEY, OTHER_KEY, account, api_key, snapshot
from fakes import ASK, ASK_STREAM, MODEL, House, Told, relaying

from relayd.config.secrets.api_keys import key_hash, mint
from relayd.config.snapshot import Account, ApiKey, Deny, KeyHash, Limits, Server, Snapshot
from relayd.core.access.throttle import BAD_PER_MINUTE

NATIVE = ("/v1/messages", "/v1/messages/count_tokens", "/v1/models")
OPENAI = ("/v1/chat/completions", "/openai/v1/responses", "/openai/claude/v1/models")
EARLY = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)


async def asked(house: House, path: str, **more: str) -> Told:
    """The answer to a request that fits the path."""
    if path.endswith("/models"):
        return await house.get(path, **{"anthropic_version": "2023-06-01"} if path in NATIVE else {}, **more)
    return await house.ask(ASK, path, **more)


def refused_in_its_dialect(told: Told, path: str, status: int, kind: str) -> str:
    """Check a refusal's form; its message."""
    assert told.status == status
    assert told["content-type"] == "application/json"
    assert told["request-id"] == told["relayd-request-id"] != ""
    if path in NATIVE:
        assert told.json.keys() == {"type", "error", "request_id"}
        assert (told.json["type"], told.json["error"]["type"]) == ("error", kind)
        assert told.json["request_id"] == told["request-id"]
    else:
        assert told.json.keys() == {"error"}
        assert told.json["error"].keys() == {"message", "type", "param", "code"}
    return str(told.json["error"]["message"])


# 401


def revoked(key: ApiKey) -> Snapshot:
    return snapshot(keys=(key,))


BAD_KEYS: dict[str, tuple[Snapshot, dict[str, str], str]] = {
    "none": (snapshot(), {"key": ""}, "none was sent"),
    "not ours": (snapshot(), {"key": "sk-ant-api03-abc"}, "not a key of this relay"),
    "malformed": (snapshot(), {"key": KEY[:-1]}, "malformed key"),
    "mistyped": (snapshot(), {"key": KEY[:20] + ("a" if KEY[20] != "a" else "b") + KEY[21:]}, "malformed key"),
    "unknown": (snapshot(), {"key": OTHER_KEY}, "unknown key"),
    "as bearer": (snapshot(), {"key": "", "authorization": f"Bearer {OTHER_KEY}"}, "unknown key"),
    "disabled": (revoked(api_key(enabled=False)), {}, "revoked"),
    "denied by id": (snapshot(deny=Deny(keys=("dev",))), {}, "revoked"),
    "denied by hash": (snapshot(deny=Deny(sha256=(key_hash(KEY),))), {}, "revoked"),
    "expired": (revoked(api_key(expires=EARLY)), {}, "expired at 2020-01-01"),
    "rotated out": (revoked(api_key(hashes=(KeyHash(sha256=key_hash(KEY), expires=EARLY),))), {}, "expired at"),
}


@pytest.mark.parametrize("path", [*NATIVE, *OPENAI])
@pytest.mark.parametrize("case", BAD_KEYS)
async def test_a_bad_key_is_a_401_that_clients_do_not_repeat(case: str, path: str) -> None:
    tree, presented, why = BAD_KEYS[case]
    async with relaying(tree) as house:
        told = await asked(house, path, **presented)
    text = refused_in_its_dialect(told, path, 401, "authentication_error")
    assert text.startswith("Invalid API key: ")
    assert why in text
    assert told["x-should-retry"] == "false"
    assert KEY not in told.body.decode()
    assert OTHER_KEY not in told.body.decode()


async def test_a_key_in_the_url_is_no_key() -> None:
    async with relaying(snapshot()) as house:
        told = await house.ask(ASK, f"/v1/messages?x-api-key={KEY}&api_key={KEY}", key="")
    assert told.status == 401


@pytest.mark.parametrize(
    "presented",
    [
        {"key": KEY},
        {"key": "", "authorization": f"Bearer {KEY}"},
        {"key": "", "authorization": f"bearer   {KEY} "},
        {"key": "something-else", "authorization": f"Bearer {KEY}"},
        {"key": KEY, "authorization": "Bearer something-else"},
    ],
)
async def test_a_key_is_accepted_in_either_header(presented: dict[str, str]) -> None:
    async with relaying(snapshot()) as house:
        assert (await house.ask(**presented)).status == 200


async def test_a_bad_key_is_refused_before_its_body_is_read() -> None:
    async with relaying(snapshot()) as house:
        client = await house.connect()
        await client.send(
            b"POST /v1/messages HTTP/1.1\r\nhost: a\r\nx-api-key: x\r\ncontent-length: 1000000\r\n"
            b"expect: 100-continue\r\n\r\n"
        )
        assert (await client.answer()).status == 401


async def test_bad_keys_from_one_address_are_slowed_down_and_a_good_key_there_is_served() -> None:
    async with relaying(snapshot()) as house:
        client = await house.connect()
        for _ in range(BAD_PER_MINUTE):
            assert (await client.ask(key="bad", x_forwarded_for="192.0.2.1")).status == 401
        told = await client.ask(key="bad", x_forwarded_for="192.0.2.1")
        elsewhere = await client.ask(key="bad", x_forwarded_for="192.0.2.2")
        colleague = await client.ask(x_forwarded_for="192.0.2.1")
    assert told.error[:2] == (429, "rate_limit_error")
    assert told.error[2].startswith("Rate limit exceeded: ")
    assert 1 <= int(told["retry-after"]) <= 60
    assert told["x-should-retry"] == "false"
    assert elsewhere.status == 401
    assert colleague.status == 200


async def test_the_address_is_the_one_that_a_trusted_proxy_names() -> None:
    tree = snapshot(keys=(api_key(allowed_ips=("192.0.2.0/24",)),))
    async with relaying(tree) as house:
        assert (await house.ask()).error[:2] == (403, "permission_error")
        assert (await house.ask(x_forwarded_for="192.0.2.7")).status == 200
        assert (await house.ask(x_forwarded_for="192.0.2.7, 198.51.100.1")).status == 403
        assert (await house.ask(x_real_ip="192.0.2.7")).status == 200
        assert (await house.ask(x_forwarded_for="192.0.2.7:51008")).status == 200
    untrusting = snapshot(keys=tree.keys["dev"] and (tree.keys["dev"],), relay={"server": Server(trusted_proxies=())})
    async with relaying(untrusting) as house:
        assert (await house.ask(x_forwarded_for="192.0.2.7")).status == 403


@pytest.mark.parametrize("said", ["unknown", "_hidden", "127.0.0.1.evil", "[::1", ","])
async def test_a_proxy_that_says_nothing_readable_does_not_lend_the_caller_its_own_address(said: str) -> None:
    local = snapshot(keys=(api_key(allowed_ips=("127.0.0.1",)),))
    async with relaying(local) as house:
        assert (await house.ask(x_forwarded_for=said)).error[:2] == (403, "permission_error")
        assert (await house.ask()).status == 200


@pytest.mark.parametrize("said", ["198.51.100.7:51008", "[2001:db8::1]:443", "::ffff:198.51.100.7", "unknown"])
async def test_no_spelling_of_an_address_passes_a_denial(said: str) -> None:
    async with relaying(snapshot(deny=Deny(ips=("198.51.100.7", "2001:db8::/32")))) as house:
        assert (await house.ask(x_forwarded_for=said)).status == 403
        assert (await house.ask(x_forwarded_for="198.51.100.8:51008")).status == 200


# 403, 400


FORBIDDEN: dict[str, tuple[Snapshot, str]] = {
    "client": (snapshot(keys=(api_key(clients=("claude_code",)),)), "client"),
    "model": (snapshot(keys=(api_key(models=("claude-haiku-*",)),)), MODEL),
    "denied model": (snapshot(keys=(api_key(deny_models=("*sonnet*",)),)), MODEL),
    "endpoint": (snapshot(keys=(api_key(endpoints=("models",)),)), "messages"),
    "address": (snapshot(keys=(api_key(allowed_ips=("192.0.2.1",)),)), "127.0.0.1"),
    "denied address": (snapshot(deny=Deny(ips=("127.0.0.0/8",))), "127.0.0.1"),
}


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
@pytest.mark.parametrize("case", FORBIDDEN)
async def test_what_a_key_may_not_do_is_a_403_that_says_what(case: str, path: str) -> None:
    tree, named = FORBIDDEN[case]
    async with relaying(tree) as house:
        told = await house.ask(ASK, path)
        receipt = await house.receipt()
    assert named in refused_in_its_dialect(told, path, 403, "permission_error")
    assert (receipt.outcome, receipt.attempts) == ("refused", ())


async def test_the_client_that_a_key_is_for_may_use_it() -> None:
    tree = snapshot(keys=(api_key(clients=("claude_code",)),))
    async with relaying(tree) as house:
        assert (await house.ask(user_agent="claude-cli/2.1.330 (external, sdk-cli)")).status == 200
        assert (await house.receipt()).client == "claude_code"
        assert (await house.ask(user_agent="curl/8")).status == 403


async def test_a_key_without_models_may_not_list_them_either() -> None:
    async with relaying(snapshot(keys=(api_key(endpoints=("messages",)),))) as house:
        told = await house.get("/v1/models", anthropic_version="2023-06-01")
    assert told.error[:2] == (403, "permission_error")


async def test_more_tokens_than_the_keys_cap_is_a_400() -> None:
    async with relaying(snapshot(keys=(api_key(max_tokens=50),))) as house:
        told = await house.ask()
    assert told.error == (400, "invalid_request_error", "max_tokens: 100 is more than this key's cap of 50")


BAD_BODIES = {
    "empty": (b"", "not valid JSON"),
    "cut": (ASK[:-1], "not valid JSON"),
    "trailing": (ASK + b"x", "not valid JSON"),
    "two values": (ASK + ASK, "not valid JSON"),
    "a list": (b"[]", "must be a JSON object"),
    "a text": (b'"hi"', "must be a JSON object"),
    "null": (b"null", "must be a JSON object"),
    "NaN": (b'{"model":"m","temperature":NaN}', "not valid JSON"),
    "Infinity": (b'{"model":"m","temperature":-Infinity}', "not valid JSON"),
    "single quotes": (b"{'model':'m'}", "not valid JSON"),
    "a comment": (b'{"model":"m"/*x*/}', "not valid JSON"),
    "too deep": (b'{"model":"m","x":' + b"[" * 1_000_000 + b"]" * 1_000_000 + b"}", "nested too deeply"),
    "not UTF-8": (b'{"model":"m","x":"\xff\xfe"}', "UTF-8"),
    "UTF-16": (ASK.decode().encode("utf-16"), "JSON"),
    "half a character": (b'{"model":"m","x":"\xe4\xbd"}', "UTF-8"),
    "no model": (b'{"messages":[]}', "model: field required"),
    "an empty model": (b'{"model":""}', "model: field required"),
    "a key for a model": (b'{"model":"%b"}' % KEY.encode(), "model: this is an API key"),
    "a number for a model": (b'{"model":1}', "model: expected str"),
    "a text for stream": (b'{"model":"m","stream":"yes"}', "stream: expected bool"),
    "a text for max_tokens": (b'{"model":"m","max_tokens":"5"}', "max_tokens: expected number"),
    "half a token": (b'{"model":"m","max_tokens":1.5}', "max_tokens: expected a whole number"),
    "two models": (b'{"model":"m","x":1,"model":"n"}', "model: the key appears twice"),
    "two models, one escaped": (b'{"model":"m","\\u006dodel":"n"}', "model: the key appears twice"),
    "two streams": (b'{"model":"m","stream":true,"stream":false}', "stream: the key appears twice"),
    "two max_tokens": (b'{"model":"m","max_tokens":1,"max_tokens":9}', "max_tokens: the key appears twice"),
}


@pytest.mark.parametrize("case", BAD_BODIES)
async def test_a_body_that_cannot_be_understood_is_a_400_in_the_dialect(case: str) -> None:
    body, why = BAD_BODIES[case]
    async with relaying(snapshot()) as house:
        client = await house.connect()
        told = await client.ask(body)
        assert why in refused_in_its_dialect(told, "/v1/messages", 400, "invalid_request_error")
        assert b"Traceback" not in told.body
        assert (await client.ask()).status == 200  # the same connection serves the next call
        assert [receipt.status for receipt in house.receipts.receipts] == [400, 200]


# 404, 405, the rest of the edge


@pytest.mark.parametrize(
    "path", ["/v1/nothing", "/v2/messages", "/v1/messages/x", "/api", "/V1/messages", "/v1/models/a/b"]
)
async def test_an_unknown_path_is_a_404(path: str) -> None:
    async with relaying(snapshot()) as house:
        told = await house.ask(ASK, path)
    assert told.error[:2] == (404, "not_found_error")
    assert path in told.error[2]
    assert told["request-id"] == told["relayd-request-id"]


async def test_a_wrong_method_is_a_405_with_the_right_one() -> None:
    async with relaying(snapshot()) as house:
        told = await house.get("/v1/messages")
        listed = await house.ask(ASK, "/v1/models")
        other = await house.get("/openai/v1/responses", method="DELETE")
    assert told.error[:2] == (405, "invalid_request_error")
    assert (told["allow"], listed["allow"]) == ("POST, HEAD, OPTIONS", "GET, HEAD, OPTIONS")
    assert (listed.status, other.status, set(other.json)) == (405, 405, {"error"})


async def test_the_edges_own_refusals_have_the_form_and_the_ids_too() -> None:
    async with relaying(snapshot()) as house:
        client = await house.connect()
        await client.send(b"POST /v1/messages HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n")
        told = await client.answer()
    assert told.error[:2] == (400, "invalid_request_error")
    assert told["request-id"] == told["relayd-request-id"] == told.json["request_id"]
    assert "relayd-config" in dict(told.pairs)


@pytest.mark.parametrize("path", ["/", "/api/hello", "/api", "/v1/messages", "/health", "/anything/at/all"])
async def test_a_head_of_anything_is_well(path: str) -> None:
    async with relaying(snapshot()) as house:
        told = await house.get(path, method="HEAD", key="")
        assert (told.status, told.body) == (200, b"")


ANSWERS = (
    ("HEAD", "/api/hello"),
    ("OPTIONS", "/v1/messages"),
    ("GET", "/"),
    ("GET", "/health"),
    ("GET", "/livez"),
    ("GET", "/readyz"),
    ("GET", "/v1/models"),
    ("GET", f"/v1/models/{MODEL}"),
    ("GET", "/nothing"),
    ("PUT", "/v1/messages"),
)


@pytest.mark.parametrize(("method", "path"), ANSWERS)
async def test_every_answer_carries_its_ids_and_the_revision(method: str, path: str) -> None:
    async with relaying(attrs.evolve(snapshot(), revision="0123456789ab")) as house:
        told = await house.get(path, method=method)
    assert told["request-id"] == told["relayd-request-id"] != ""
    assert told.all("relayd-config") == ["0123456789ab"]


@pytest.mark.parametrize("path", [*NATIVE, *OPENAI])
@pytest.mark.parametrize("key", [KEY, OTHER_KEY])
async def test_answers_and_refusals_of_every_dialect_say_which_config_gave_them(path: str, key: str) -> None:
    async with relaying(attrs.evolve(snapshot(), revision="0123456789ab")) as house:
        told = await asked(house, path, x_api_key=key)
    assert told.all("relayd-config") == ["0123456789ab"]


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/chat/completions"])
async def test_a_stream_says_which_config_it_began_under(path: str) -> None:
    async with relaying(attrs.evolve(snapshot(), revision="0123456789ab")) as house:
        first = await house.ask(ASK_STREAM, path)
        house.live.swap(attrs.evolve(snapshot(), revision="ba9876543210"))
        second = await house.ask(ASK_STREAM, path)
    assert (first["content-type"].partition(";")[0], first["relayd-config"]) == ("text/event-stream", "0123456789ab")
    assert second["relayd-config"] == "ba9876543210"


# Models


async def test_a_key_sees_the_models_it_may_use_in_the_shape_that_its_client_speaks() -> None:
    tree = snapshot(
        keys=(api_key(deny_models=("*haiku*",)),),
        accounts=(account("a", models=("claude-opus-5-5", "claude-sonnet-*")),),
        relay={"models": {"best": "claude-opus-5-5"}},
    )
    async with relaying(tree) as house:
        native = await house.get("/v1/models?limit=1000", anthropic_version="2023-06-01")
        page = await house.get("/api/v1/models?limit=1", anthropic_version="2023-06-01")
        plain = await house.get("/v1/models")
        forced = await house.get("/openai/claude/v1/models", anthropic_version="2023-06-01")
    ids = [entry["id"] for entry in native.json["data"]]
    assert ids == ["best", "claude-sonnet-5-5", "claude-opus-5-5"]
    assert (native.json["has_more"], native.json["first_id"], native.json["last_id"]) == (False, ids[0], ids[-1])
    assert (len(page.json["data"]), page.json["has_more"]) == (1, True)
    assert [entry["id"] for entry in plain.json["data"]] == ids
    assert plain.json["object"] == forced.json["object"] == "list"


async def test_one_model_is_found_or_is_a_404_in_the_shape_that_its_client_speaks() -> None:
    tree = snapshot(keys=(api_key(models=("claude-*",)),))
    async with relaying(tree) as house:
        found = await house.get(f"/v1/models/{MODEL}", anthropic_version="2023-06-01")
        plain = await house.get(f"/openai/v1/models/{MODEL}")
        gone = await house.get("/v1/models/gpt-9", anthropic_version="2023-06-01")
        gone_plain = await house.get("/openai/v1/models/gpt-9")
        bad = await house.get("/v1/models?limit=x", anthropic_version="2023-06-01")
    assert (found.json["type"], found.json["id"]) == ("model", MODEL)
    assert (plain.json["object"], plain.json["id"]) == ("model", MODEL)
    assert gone.error == (404, "not_found_error", "model: gpt-9")
    assert (gone_plain.status, set(gone_plain.json)) == (404, {"error"})
    assert bad.error[:2] == (400, "invalid_request_error")


# Health, browsers


async def test_readiness_ends_while_the_relay_drains_and_liveness_does_not() -> None:
    async with relaying(snapshot()) as house:
        before = [(await house.get(path, key="")).status for path in ("/health", "/livez", "/readyz", "/")]
        house.app.draining = True
        after = [(await house.get(path, key="")).status for path in ("/health", "/livez", "/readyz", "/")]
    assert (before, after) == ([200, 200, 200, 200], [200, 200, 503, 200])


async def test_browsers_of_listed_origins_may_call_and_read_every_answer() -> None:
    allowing = snapshot(relay={"server": Server(cors_origins=("https://app.example",))})
    page = {"origin": "https://app.example"}
    async with relaying(allowing) as house:
        asks = await house.get(
            "/v1/messages", method="OPTIONS", key="", **page, access_control_request_headers="x-api-key, x-odd"
        )
        answers = [
            await house.ask(**page),
            await house.ask(key="bad", **page),
            await house.ask(b"[", **page),
            await house.get("/v1/models", **page),
            await house.get("/v1/models", key="bad", **page),
            await house.get("/v1/nothing", **page),
            await house.get("/v1/messages", **page),
        ]
        stranger = await house.ask(origin="https://evil.example")
    assert asks.status == 204
    assert asks["access-control-allow-headers"] == "x-api-key, x-odd"
    assert "POST" in asks["access-control-allow-methods"]
    for told in answers:
        assert told["access-control-allow-origin"] == "https://app.example"
    assert "access-control-allow-origin" not in stranger


async def test_without_listed_origins_no_browser_may_read_an_answer() -> None:
    async with relaying(snapshot()) as house:
        told = await house.ask(origin="https://app.example")
        asks = await house.get("/v1/messages", method="OPTIONS", origin="https://app.example")
    assert not [name for name, _ in told.pairs + asks.pairs if name.startswith("access-control")]


# Config that changes


async def test_a_key_that_is_taken_away_is_refused_on_the_next_call_of_an_open_connection() -> None:
    async with relaying(snapshot()) as house:
        client = await house.connect()
        assert (await client.ask()).status == 200
        house.live.swap(snapshot(keys=(api_key(OTHER_KEY),)))
        assert (await client.ask()).status == 401
        house.live.swap(snapshot())
        assert (await client.ask()).status == 200


async def test_a_new_account_serves_the_next_call() -> None:
    nobody: tuple[Account, ...] = (account("a", enabled=False),)
    async with relaying(snapshot(accounts=nobody)) as house:
        assert (await house.ask()).status >= 400
        house.live.swap(snapshot(accounts=(*nobody, account("b"))))
        assert (await house.ask()).status == 200
        assert house.receipts.receipts[-1].account == "b"


async def test_a_key_is_named_in_the_receipt_and_never_shown() -> None:
    third = mint(lambda size: b"\x03" * size)
    tree = snapshot(keys=(api_key(), api_key(third, id="team", owner="team-a", limits=Limits())))
    async with relaying(tree) as house:
        await house.ask(key=third)
        receipt = await house.receipt()
    assert (receipt.key, receipt.owner, receipt.peer) == ("team", "team-a", "127.0.0.1")
    assert third not in repr(receipt)
    assert builders.KEY not in repr(house.live.snapshot)
