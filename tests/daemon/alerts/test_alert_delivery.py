"""One notice, to real receivers: what arrives, and what is made of every way in which it does not."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme
from ports import refusing_port
from receivers import Receiver, receiving
from trio.testing import MockClock

import relayd.daemon.alerts.apprise_process as apprise_process
import relayd.daemon.alerts.webhook as webhook
from relayd.config.secrets.binding import alert_binding
from relayd.config.secrets.seal import new_identity, seal
from relayd.config.secrets.secret import Secret
from relayd.config.secrets.secret_files import SecretFiles
from relayd.config.snapshot import Alert, Recipient, Relay, Secrets
from relayd.core.alerts.book import Notice, NoticeItem
from relayd.core.alerts.occurrence import Occurrence
from relayd.daemon.accounts.credentials import Credentials
from relayd.daemon.alerts.delivery import Sender
from relayd.daemon.alerts.destination import Undelivered

IDENTITY = new_identity(lambda size: b"\x05" * size)
RELAY = Relay(
    schema=1, realm="r", secrets=Secrets(recipients=(Recipient(name="p", public=IDENTITY.public.text, state="active"),))
)
KEY = "whsec_" + base64.b64encode(b"k" * 24).decode()
REASON = "bad <b>* @everyone `rm` & [x](http://evil)"


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A receiver, and Apprise's own process, have all the time that a busy machine takes."""
    monkeypatch.setattr(webhook, "PATIENCE", 60.0)
    monkeypatch.setattr(apprise_process, "PATIENCE", 60.0)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as one:
        yield one


def occurrence(**fields: Any) -> Occurrence:
    base = {"event": "account.out", "turn": "begins", "condition": "account/main", "severity": "critical",
            "text": f"account main is out: {REASON}", "at": 1.0, "node": "n1", "account": "main"}  # fmt: skip
    return Occurrence(**{**base, **fields})


def notice(*more: Occurrence) -> Notice:
    items = [NoticeItem(occurrence=one, saying="begins", since=1.0, queued=1.0) for one in (occurrence(), *more)]
    return Notice(id="b-7", target="ops", items=tuple(items))


def sender(tls: ssl.SSLContext | None = None, files: SecretFiles | None = None) -> Sender:
    context = tls or ssl.create_default_context()
    return Sender(credentials=Credentials([IDENTITY], files or SecretFiles()), tls=lambda: context, wall=time.time)


def target(url: str, **fields: Any) -> Alert:
    sealed = seal(Secret(url), alert_binding("r", "ops"), [IDENTITY.public])
    return Alert(**{"url": sealed, "allow_private": True, **fields})


async def send(url: str, *, tls: ssl.SSLContext | None = None, **fields: Any) -> Undelivered | None:
    return await sender(tls).send(notice(), target(url, **fields), RELAY)


async def test_json_is_signed_as_standard_webhooks_has_it(receiver: Receiver) -> None:
    signing = seal(Secret(KEY), alert_binding("r", "ops", "signing_key"), [IDENTITY.public])

    assert await send(receiver.url, signing_key=signing) is None

    ((path, headers, body),) = receiver.got
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    digest = base64.b64encode(hmac.new(b"k" * 24, signed, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{digest}"
    assert headers["webhook-id"] == "b-7"
    assert abs(int(headers["webhook-timestamp"]) - time.time()) < 60
    assert path == "/hook/a-secret-path"
    document = json.loads(body)
    assert (document["version"], document["realm"], document["severity"]) == (1, "r", "critical")
    assert document["events"][0]["text"].endswith(REASON)


async def test_slack_and_discord_get_text_that_is_no_markup_and_mentions_nobody(receiver: Receiver) -> None:
    assert await send(receiver.url, format="slack") is None
    assert await send(receiver.url, format="discord") is None

    slack, discord = receiver.documents
    shown = slack["blocks"][1]["text"]["text"]
    assert "&lt;b&gt;" in shown
    assert "<" not in shown
    assert slack["blocks"][1]["text"]["verbatim"] is True
    assert discord["allowed_mentions"] == {"parse": []}
    assert r"\@everyone" in discord["embeds"][0]["description"]
    assert r"\[x\]\(http" in discord["embeds"][0]["description"]


def both_ends(authority: trustme.CA, host: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server with a certificate for a host, and a client that trusts who issued it."""
    server, trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert(host).configure_cert(server)
    authority.configure_trust(trusting)
    return server, trusting


async def test_over_tls_only_with_a_certificate_that_holds(authority: trustme.CA) -> None:
    server, trusting = both_ends(authority, "localhost")
    with receiving(server) as receiver:
        assert await send(receiver.url, tls=trusting) is None
        wrong = await send(receiver.url)

    assert receiver.told == ["begins account/main"]
    assert wrong is not None
    assert wrong.reason.startswith("no connection: tls: certificate not trusted")


async def test_a_certificate_of_another_host_is_told_without_naming_ours(authority: trustme.CA) -> None:
    server, trusting = both_ends(authority, "other.example")
    with receiving(server) as receiver:
        found = await send(receiver.url, tls=trusting)

    assert found is not None
    assert "hostname mismatch" in found.reason
    assert "localhost" not in found.reason


async def test_a_host_in_other_letters_is_not_named(monkeypatch: pytest.MonkeyPatch) -> None:
    async def unknown(*_: object, **__: object) -> None:
        """As a system answers that asks nobody else."""
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(trio.socket, "getaddrinfo", unknown)
    found = await send("https://b\u00fccher.invalid/x")

    assert found is not None
    assert found.reason.startswith("no connection: dns: ")
    assert "xn--" not in found.reason


@pytest.mark.parametrize(
    ("answer", "reason", "asked"),
    [
        (500, "status 500", 0.0),
        (404, "status 404", 0.0),
        ((429, {"retry-after": "17"}), "status 429", 17.0),
        ((302, {"location": "http://localhost/elsewhere"}), "status 302: redirects are not followed", 0.0),
    ],
)
async def test_what_a_receiver_says_is_a_reason(receiver: Receiver, answer: Any, reason: str, asked: float) -> None:
    receiver.answers = [answer]

    assert await send(receiver.url) == Undelivered(reason=reason, asked=asked)
    assert len(receiver.got) == 1


async def test_a_receiver_that_is_slow_may_have_got_it(receiver: Receiver, jumping_clock: MockClock) -> None:
    receiver.hold.clear()

    assert await send(receiver.url) == Undelivered(reason="no answer within 60 s", unknown=True)


async def test_a_receiver_that_is_down_is_named_by_its_fault_alone() -> None:
    with refusing_port() as port:
        found = await send(f"http://localhost:{port}/hook/a-secret-path")

    assert found == Undelivered(reason="no connection: connection refused")


@pytest.mark.parametrize(
    "host", ["localhost", "127.0.0.1", "[::1]", "10.0.0.7", "169.254.169.254", "[::ffff:10.0.0.7]"]
)
async def test_an_address_that_is_not_global_is_refused_before_a_connection(host: str) -> None:
    found = await send(f"https://{host}:9/x", allow_private=False)

    assert found is not None
    assert "not a global one" in found.reason


async def test_a_public_url_must_be_https_and_a_url_at_all() -> None:
    assert (await send("http://example.com/x", allow_private=False)) == Undelivered(
        reason="the URL is not https (http needs allow_private = true)"
    )
    for url in ("not a url", "file:///etc/passwd", "https://"):
        found = await send(url)
        assert found is not None
        assert "passwd" not in found.reason


async def test_secrets_that_cannot_be_had_are_said_without_them(tmp_path: Path, receiver: Receiver) -> None:
    hook, short = tmp_path / "hook", tmp_path / "short"
    hook.write_text(f"{receiver.url}\n")
    short.write_text("hunter2")
    files = SecretFiles(directories=(tmp_path,))
    filed = Alert(url_file="hook", allow_private=True)

    assert await sender(files=files).send(notice(), filed, RELAY) is None
    weak = await sender(files=files).send(
        notice(), Alert(url_file="hook", signing_key_file="short", allow_private=True), RELAY
    )
    gone = await sender(files=files).send(notice(), Alert(url_file="gone"), RELAY)
    stranger = Sender(credentials=Credentials([]), tls=ssl.create_default_context, wall=time.time)
    closed = await stranger.send(notice(), target(receiver.url), RELAY)

    assert weak is not None
    assert "fewer than 16 bytes" in weak.reason
    assert "hunter2" not in weak.reason
    assert gone is not None
    assert "no such file" in gone.reason
    assert closed is not None
    assert "a-secret-path" not in closed.reason
    assert len(receiver.got) == 1


async def test_apprise_tells_within_the_address_rule_and_follows_no_redirect(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # which it must not hear of
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name)
    receiver.answers = [200, (302, {"location": receiver.url + "/2"})]
    url = f"json://localhost:{receiver.port}/a-secret-path"
    found: dict[str, Undelivered | None] = {}

    async def one(name: str, url: str, **fields: Any) -> None:
        found[name] = await send(url, format="apprise", **fields)

    await one("told", url)
    await one("redirected", url)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: one("private", url, allow_private=False))
        nursery.start_soon(one, "unknown", "nonsense://x")
        nursery.start_soon(one, "local", "syslog://")

    assert {name: getattr(one, "reason", "") for name, one in found.items()} == {
        "told": "",
        "redirected": "Apprise could not deliver it",
        "private": "the URL leads to an address that is not a global one (allow_private = true permits that)",
        "unknown": "Apprise cannot read the URL",
        "local": "the URL is for something of this machine, and alerts go elsewhere",
    }
    assert [path for path, _, _ in receiver.got] == ["/a-secret-path", "/a-secret-path"]
    assert receiver.documents[0]["message"].startswith("FIRING account.out: CRITICAL account main is out")
