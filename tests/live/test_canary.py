"""The canary: secrets that are known go through a running daemon and the commands, in good calls and in failed ones;
then all that was written or answered is searched for them, in the clear and encoded.

What may hold them is left out: the file of a credential, the identity, and the request to the upstream itself.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import http.server
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import attrs
import daemon as daemons
import pytest
import redis_server
from builders import KEY
from cli_tree import Tree
from waiting import wait_until

from relayd.config.secrets.api_keys import key_hash, mint
from relayd.config.secrets.binding import account_binding, alert_binding, totp_binding
from relayd.config.secrets.identity import write_identity
from relayd.config.secrets.password_hash import TOKEN_PREFIX, token_hash
from relayd.config.secrets.seal import new_identity, seal
from relayd.config.secrets.secret import Secret

PUBLIC = 17  # characters of a secret's start that may be known: prefixes, and the hint of an API key
CORE = 18  # characters that are looked for, behind the public ones and at the end
STREAM = (
    b'event: message_start\ndata: {"type":"message_start","message":{"usage":{"input_tokens":3,"output_tokens":1}}}\n\n'
)
BODY = json.dumps({"model": "claude-x", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]})


# --- searching


def cores(secret: str) -> list[str]:
    """Parts of a secret that nothing else has. Whoever shows the whole, in whatever encoding, shows these."""
    return [secret[PUBLIC : PUBLIC + CORE], secret[-CORE:]]


def forms(text: str) -> dict[str, bytes]:
    """How a text may be written: as it is, in hex, percent-encoded, and in base64 at each of its three alignments."""
    raw = text.encode()
    found = {
        "raw": raw,
        "reversed": raw[::-1],
        "hex": raw.hex().encode(),
        "HEX": raw.hex().upper().encode(),
        "url": quote(text, safe="").encode(),
        "every character as %xx": "".join(f"%{byte:02x}" for byte in raw).encode(),
        "every character as %XX": "".join(f"%{byte:02X}" for byte in raw).encode(),
        "utf-16": text.encode("utf-16-le"),
    }
    for shift in range(3):
        # The characters at the edges depend on the neighbours of the text, so they are cut off.
        encoded = base64.b64encode(b"\0" * shift + raw)
        inner = encoded[(shift * 4 + 2) // 3 + (1 if shift else 0) : len(raw) * 4 // 3 - 2]
        found[f"base64, shifted by {shift}"] = inner
        found[f"base64url, shifted by {shift}"] = inner.replace(b"+", b"-").replace(b"/", b"_")
    return found


def leaks(haystacks: dict[str, bytes], known: dict[str, str]) -> list[str]:
    """Which secrets can be read where."""
    return [
        f"{name} in {place} ({form})"
        for name, secret in known.items()
        for core in cores(secret)
        for form, needle in forms(core).items()
        for place, text in haystacks.items()
        if needle in text
    ]


@pytest.mark.parametrize("before", range(4))
def test_the_search_finds_a_secret_in_every_form(before: int) -> None:
    secret = "sk-ant-api03-" + secrets.token_hex(30)
    text = "x" * before + secret + "yz"
    raw = text.encode()
    for leak in (
        raw, raw.hex().encode(), raw.hex().upper().encode(), quote(text).encode(), base64.b64encode(raw),
        base64.urlsafe_b64encode(raw), text.encode("utf-16-le"), "".join(f"%{b:02x}" for b in raw).encode(),
    ):  # fmt: skip
        assert leaks({"log": b"... " + leak + b" ..."}, {"it": secret}), leak
        assert not leaks({"log": b"... " + leak + b" ..."}, {"it": "sk-ant-api03-" + secrets.token_hex(30)})


# --- an upstream that is as careless as can be


class Upstream(http.server.BaseHTTPRequestHandler):
    """Serves, rotates tokens, and quotes credentials back in its errors."""

    protocol_version = "HTTP/1.1"
    tokens: dict[str, str]
    seen: list[str]
    told: list[bytes]  # to the receiver of alerts
    timeout = 600  # s that a connection may be idle

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        if self.path.startswith("/hook/"):
            self.told.append(body + repr(self.headers.items()).encode())
            self._say(500 if len(self.told) % 2 else 200, {"hook": self.path})
            return
        if self.path == "/token":
            self._rotate(json.loads(body))
            return
        shown = f"{self.headers.get('x-api-key')} {self.headers.get('authorization')} {self.headers.get('cookie')}"
        self.seen.append(shown)
        if "expired" in shown or "dead" in shown:
            self._say(401, {"type": "error", "error": {"type": "authentication_error", "message": f"bad {shown}"}})
        elif b"fail-500" in body:
            self._say(500, {"type": "error", "error": {"type": "api_error", "message": "broken"}})
        elif b'"stream"' in body:
            self._say(200, STREAM, "text/event-stream")
        else:
            self._say(200, {"type": "message", "usage": {"input_tokens": 3, "output_tokens": 5}})

    def _rotate(self, asked: dict[str, str]) -> None:
        if "dead" in asked["refresh_token"]:
            self._say(400, {"error": "invalid_grant", "error_description": f"{asked['refresh_token']} is dead"})
            return
        for kind in ("access_token", "refresh_token"):
            self.tokens[f"rotated {kind} {len(self.tokens)}"] = f"sk-ant-oat01-new-{secrets.token_hex(24)}"
        access, refresh = list(self.tokens.values())[-2:]
        self._say(200, {"access_token": access, "refresh_token": refresh, "expires_in": 3600})

    def _say(self, status: int, body: object, kind: str = "application/json") -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name of the overridden one
        """Nothing."""


@contextlib.contextmanager
def upstream() -> Iterator[tuple[str, type[Upstream]]]:
    kind = type("Serving", (Upstream,), {"tokens": {}, "seen": [], "told": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), kind)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", kind
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


# --- the tree, with every kind of secret


@attrs.define(eq=False)
class Canary:
    """A tree full of secrets, and all that was seen while it was used."""

    root: Path
    url: str
    known: dict[str, str] = attrs.field(factory=dict)
    seen: dict[str, bytes] = attrs.field(factory=dict)
    tree: Path = Path()

    def secret(self, name: str, prefix: str) -> str:
        return self.known.setdefault(name, prefix + secrets.token_hex(24))

    def build(self, state: str) -> None:
        identity = new_identity(os.urandom)
        self.known["identity"] = identity.secret.reveal()
        self.known["api key"] = KEY
        self.known["wrong api key"] = mint(os.urandom)

        hybrid = new_identity(os.urandom, 2)  # opens nothing, and lies in the same file
        self.known["post-quantum identity"] = hybrid.secret.reveal()

        def sealed(account: str, secret: str, url: str = self.url, token_url: str = "") -> str:
            return seal(Secret(secret), account_binding("test", account, url, token_url), [identity.public])

        expired = {
            "access_token": self.secret("access token", "sk-ant-oat01-expired-"),
            "refresh_token": self.secret("refresh token", "sk-ant-ort01-"),
            "expires_at": int(time.time()) - 60,
        }
        dead = {
            "access_token": self.secret("dead access token", "sk-ant-oat01-dead-"),
            "refresh_token": self.secret("dead refresh token", "sk-ant-ort01-dead-"),
            "expires_at": int(time.time()) - 60,
        }
        filed = self.root / "credential"
        filed.write_text(self.secret("credential in a file", "sk-ant-api03-"))
        away = "https://proxied.invalid"  # which only the proxy would be asked for
        proxy = f"http://user:{self.secret('proxy password', 'a-proxy-password-')}@127.0.0.1:1"
        credentials = {
            "key": ("api-key", sealed("key", self.secret("credential", "sk-ant-api03-")), ""),
            "dead": ("api-key", sealed("dead", self.secret("dead credential", "sk-ant-api03-dead-")), ""),
            "oauth": ("oauth", sealed("oauth", json.dumps(expired), token_url=f"{self.url}/token"), ""),
            "spent": ("oauth", sealed("spent", json.dumps(dead), token_url=f"{self.url}/token"), ""),
            "session": ("session-key", sealed("session", self.secret("session key", "sk-ant-sid01-expired-")), ""),
            "foreign": ("api-key", sealed("foreign", self.secret("foreign credential", "no-known-prefix-")), ""),
            "proxied": ("api-key", sealed("proxied", self.secret("proxied credential", "sk-ant-api03-"), away), proxy),
        }
        webhook = Secret(f"https://hooks.example.com/services/{self.secret('webhook', 'a-webhook-path-of-')}")
        alert = seal(webhook, alert_binding("test", "ops"), [identity.public])
        hook = Secret(f"{self.url}/hook/{self.secret('local webhook', 'a-local-webhook-of-')}")
        near = seal(hook, alert_binding("test", "near"), [identity.public])
        signing = seal(
            Secret(self.secret("signing key", "a-signing-key-of-")),
            alert_binding("test", "near", "signing_key"),
            [identity.public],
        )
        totp = seal(
            Secret(self.secret("totp seed", "JBSWY3DPEHPK3PXP")), totp_binding("test", "root"), [identity.public]
        )
        hashed = "scrypt$ln=15,r=8,p=3$c2FsdHNhbHRzYWx0$aGFzaGhhc2hoYXNoaGFzaA"
        accounts = {
            name: f'kind = "{kind}"\nbase_url = "{away if way else self.url}"\nproxy = "{way}"\ngroups = ["{name}"]\n'
            f'[credential]\nsealed = "{value}"\n'
            for name, (kind, value, way) in credentials.items()
        }
        accounts["filed"] = (
            f'kind = "api-key"\nbase_url = "{self.url}"\ngroups = ["filed"]\n[credential]\nfile = "{filed}"\n'
        )
        keys = {"all": daemons.key_text(KEY, f"groups = {json.dumps(sorted(accounts))}")}
        for name in accounts:  # a key for each account, so that each is asked
            self.known[f"api key of {name}"] = key = mint(os.urandom)
            keys[f"k-{name}"] = daemons.key_text(key, f'groups = ["{name}"]')
        self.tree = daemons.write_tree(
            self.root,
            relay=f'[state]\nurl = "{state}"\n[log]\nlevel = "debug"\nformat = "json"\n[oauth]\nclient_id = "ours"\n'
            f'token_url = "{self.url}/token"\n[secrets]\n'
            f'recipients = [{{ name = "prod", public = "{identity.public.text}" }}]\n'
            f'[alerts.ops]\nurl = "{alert}"\ngather = "0s"\n[alerts.near]\nurl = "{near}"\nsigning_key = "{signing}"\n'
            f'allow_private = true\ngather = "1s"\n[admin]\nlisten = "127.0.0.1:0"\n'
            f'[[admin.tokens]]\nname = "deployer"\nrole = "editor"\n'
            f'sha256 = "{token_hash(self.token)}"\n'
            f'[[admin.users]]\nname = "root"\npassword_hash = "{hashed}"\ntotp = "{totp}"\n',
            accounts=accounts,
            keys=keys,
        )
        write_identity(self.root / "identity", self.tree, identity)
        (self.root / "identity").chmod(0o600)
        with (self.root / "identity").open("a") as file:
            file.write(f"{hybrid.secret.reveal()}\n")

    @property
    def token(self) -> str:
        return self.secret("admin token", TOKEN_PREFIX)

    @property
    def environment(self) -> dict[str, str]:
        return {
            "RELAYD_IDENTITY": str(self.root / "identity"),
            "RELAYD_CREDENTIALS": str(self.root),
            "RELAYD_STATE_PASSWORD": self.secret("state password", "a-state-password-"),
        }

    def call(
        self, port: int, key: str, body: str = BODY, path: str = "/v1/messages", method: str = "POST", **headers: str
    ) -> int:
        """A client's call; the answer is kept to be searched."""
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        try:
            connection.request(method, path, body, {"x-api-key": key, **headers})
            answer = connection.getresponse()
            text = f"{answer.status} {answer.headers}".encode() + answer.read()
        except (http.client.HTTPException, ConnectionError) as error:  # refused while it was being sent
            text = repr(error).encode()
        finally:
            connection.close()
        self.seen[f"answer {len(self.seen)}"] = text
        return int(text[:3]) if text[:3].isdigit() else 0

    def run(self, *words: str, stdin: str = "") -> str:
        """A command; what it says is kept to be searched."""
        with pytest.MonkeyPatch.context() as patched:
            for name, value in self.environment.items():
                patched.setenv(name, value)
            return self._said(words, Tree(self.tree).run(*words, stdin=stdin).all)

    def start(self, *words: str) -> str:
        """A command that wants a process of its own."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("RELAYD_")}
        done = subprocess.run(
            [sys.executable, "-m", "relayd", *words, "--config", str(self.tree)],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False,
            env=inherited | self.environment,
        )  # fmt: skip
        return self._said(words, done.stdout + done.stderr)

    def _said(self, words: tuple[str, ...], text: str) -> str:
        assert "Traceback" not in text, text
        self.seen[f"{' '.join(words)} {len(self.seen)}"] = text.encode()
        return text

    def files(self, *places: Path) -> None:
        """Keep the content of all files below these places."""
        for place in places:
            for path in [place] if place.is_file() else sorted(place.rglob("*")):
                if path.is_file() and "generations" not in path.parts:  # copies of the tree, whatever is in that
                    with contextlib.suppress(FileNotFoundError):  # the daemon is done with it
                        self.seen[str(path)] = path.read_bytes()

    def assert_silent(self) -> None:
        for name, secret in self.known.items():
            assert len(secret) >= PUBLIC + CORE, name
        assert leaks(self.seen, self.known) == []


def use(canary: Canary, running: daemons.Daemon) -> None:
    """Calls that go well and calls that fail in every way a secret could show itself."""
    port = running.port
    for name, key in list(canary.known.items()):
        if "api key" in name:
            canary.call(port, key)
            canary.call(port, key, BODY[:-1] + ', "stream": true}')
            canary.call(port, key, BODY.replace("hi", "fail-500"))
            canary.call(port, "", authorization=f"Bearer {key}", path="/v1/chat/completions")
    key = canary.known["api key of key"]
    assert canary.call(port, key) == 200
    assert canary.call(port, canary.known["wrong api key"]) == 401
    assert canary.call(port, key[:-1] + "!") == 401
    canary.call(port, key, path=f"/v1/messages?api_key={key}")
    canary.call(port, "", path=f"/v1/{key}")
    canary.call(port, key, body=f'{{"model": "{key}", "max_tokens": 1, "messages": []}}')
    canary.call(port, key, body="{ not json " + key)
    canary.call(port, key, **{"x-big": key + "x" * 100_000})
    canary.call(port, key + "\tx")


def commands(canary: Canary) -> None:
    """What an operator asks."""
    for words in (
        *(("check", "--env", "--format", form) for form in ("text", "json", "github", "sarif")),
        ("test", "--verbose"),
        ("diff",),
        ("diff", "--json"),
        ("explain", "--key", "all", "--model", "claude-x"),
        ("explain", "--key", "all", "--model", "claude-x", "--json"),
        ("report", "--by", "key,account,model"),
        ("report", "--json"),
        ("usage",),
        ("status",),
        ("status", "--json"),
        ("reload", "--dry-run", "--json"),
        ("rollback", "--json"),
        ("resume",),
        ("manifest",),
        ("key", "list"),
        ("key", "show", "all", "--json"),
        ("account", "list", "--json"),
        ("account", "test", "dead"),
        ("account", "test", "proxied", "--json"),
        *(("account", "test", name) for name in ("foreign", "oauth", "spent", "session", "filed")),
        ("alert", "list"),
        ("alert", "list", "--json"),
        *(("alert", "test", name) for name in ("ops", "near", "near")),
        ("secret", "inspect"),
        ("secret", "inspect", "--open", "--json"),
        ("secret", "recipients", "--json"),
        ("secret", "reseal", "--all"),
    ):
        canary.run(*words)
    assert "all" in canary.run("key", "which", stdin=canary.known["api key"])
    canary.run("key", "which", stdin=canary.known["wrong api key"])
    canary.run("secret", "password", "root", "--add", stdin=canary.secret("admin password", "a-long-password-of-"))
    canary.run("secret", "seal", "--alert", "ops", stdin=canary.known["webhook"])
    canary.run("secret", "seal", "--alert-key", "near", stdin=canary.known["signing key"])
    canary.run("account", "seal", "dead", stdin=canary.secret("resealed credential", "sk-ant-api03-"))


def raw(canary: Canary, port: int) -> None:
    """What no HTTP client would send, and every path that answers a GET."""
    key = canary.known["api key"]
    for text in (
        f"GET /{key} HTTP/1.1\r\n\r\n",
        f"POST /v1/messages HTTP/9\r\nx-api-key: {key}\r\n\r\n",
        f"{key}\r\n\r\n",
        f"POST / HTTP/1.1\r\nhost: x\r\nx-api-key: {key}\r\ncontent-length: zz\r\n\r\n",
    ):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=30) as sock:
            sock.sendall(text.encode())
            sock.shutdown(socket.SHUT_WR)
            canary.seen[f"raw answer {len(canary.seen)}"] = b"".join(iter(lambda: sock.recv(65536), b""))
    for path in ("/", "/health", "/readyz", "/usage", "/metrics", "/v1/models", "/openai/v1/models", "/api/status"):
        canary.call(port, key, path=path, method="GET", body="")


def admin(canary: Canary, running: daemons.Daemon) -> None:
    """What the admin listener tells those who may ask, and those who may not."""
    (base,) = running.events("daemon.listening")[-1]["admin"]
    port = int(base.rpartition(":")[2])
    for token in (canary.token, canary.secret("wrong admin token", TOKEN_PREFIX)):
        bearer = {"authorization": f"Bearer {token}"}
        for path in ("/", "/metrics", "/api/status", "/api/report"):
            expected = 200 if path == "/" or token == canary.token else 401
            assert canary.call(port, "", path=path, method="GET", body="", **bearer) == expected
        for path in (f"/api/status?token={token}", f"/{token}", f"/api/report?day={token}"):
            canary.call(port, "", path=path, method="GET", body="", **bearer)
        canary.call(port, "", path="/api/reload", body='{"dry_run": true}', **bearer)
        canary.call(port, "", path="/api/reload", body=f'{{"{token}": "{canary.known["api key"]}"}}', **bearer)


def process(canary: Canary, running: daemons.Daemon) -> None:
    """What others on the machine see of the process. (Its environment they do not, and the password is there.)"""
    proc = Path(f"/proc/{running.process.pid}")
    canary.seen["command line"] = (proc / "cmdline").read_bytes()
    environment = [part for part in (proc / "environ").read_bytes().split(b"\0") if b"STATE_PASSWORD" not in part]
    canary.seen["environment"] = b"\0".join(environment)
    for task in (proc / "task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended
            canary.seen[f"thread {task.name}"] = (task / "comm").read_bytes()


# Put on the daemon's path as sitecustomize: the way upstream breaks with all that a careless message could quote.
FAULT = """
import relayd.daemon.accounts.upstreams as upstream

real = upstream.Upstreams.open

def parts(whole):
    names = {name for kind in type(whole).__mro__ for name in getattr(kind, "__slots__", ())}
    names |= set(getattr(whole, "__dict__", ()))
    return [getattr(whole, name, None) for name in sorted(names) if name != "__weakref__"]

async def broken(self, account, outbound, *more, **named):
    if b"fault-please" in outbound.body:
        raise RuntimeError(f"{account!r} {outbound!r} {more!r} {named!r} {self!r} {parts(self)!r}")
    return await real(self, account, outbound, *more, **named)

upstream.Upstreams.open = broken
"""


def blunders(canary: Canary) -> None:
    """Secrets where they must not be: the tree is refused, and its report quotes none of them."""
    file = canary.tree / "accounts.d/dead.toml"
    before = file.read_text()
    pasted = canary.secret("pasted credential", "sk-ant-api03-")
    for text in (
        before.replace("[credential]", f'[credential]\napi_key = "{pasted}"'),
        before.replace("sealed = ", f'file = "{pasted}"\nsealed = '),
        before + f"# {pasted} {canary.known['api key']}\n",
        before + f'broken = "{pasted}\n',
        before.replace('proxy = ""', f'proxy = "http://u:{canary.known["proxy password"]}@"'),
    ):
        file.write_text(text)
        canary.run("check")
        canary.run("reload", "--json")
    canary.run("status", "--json")
    canary.run("check", "--format", "sarif")
    file.write_text(before)
    canary.run("reload")


def test_no_secret_is_written_or_answered_with_sqlite(tmp_path: Path) -> None:
    with upstream() as (url, served):
        canary = Canary(tmp_path, url)
        canary.build("sqlite:var/relayd.db")
        with daemons.running(canary.tree, "--node", "n1", environment=canary.environment) as running:
            use(canary, running)
            commands(canary)
            blunders(canary)
            running.signal(signal.SIGUSR1)
            canary.files(canary.tree / "var")  # as it is while the daemon lives, WAL included
            process(canary, running)
            admin(canary, running)
            wait_until(lambda: any(b"account.credential" in one for one in served.told), "the alert of an account")
            running.kill()
        canary.files(tmp_path / "daemon.log", canary.tree / "var")
        # Again, with a log for people, and with faults inside.
        relay = canary.tree / "relay.toml"
        relay.write_text(relay.read_text().replace('format = "json"', 'format = "text"'))
        (tmp_path / "sitecustomize.py").write_text(FAULT)
        environment = canary.environment | {
            "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
        }
        with daemons.running(canary.tree, "--node", "n1", environment=environment) as again:
            use(canary, again)
            raw(canary, again.port)
            for name, key in list(canary.known.items()):
                if name.startswith("api key of"):
                    assert canary.call(again.port, key, BODY.replace("hi", "fault-please")) in (500, 529, 502), name
            again.wait_until(lambda: again.text().count("RuntimeError") > 5, "the faults in the log")
            canary.run("status", "--json")
        canary.known |= served.tokens
        canary.files(tmp_path / "daemon.log", canary.tree / "var")
        canary.seen["what alerts told"] = told = b"\n".join(served.told)

    assert b"alert.test" in told
    assert b"account.credential" in told
    assert b"webhook-signature" in told
    assert any(canary.known["credential"] in text for text in served.seen), "the secrets were in use"
    assert served.tokens, "and tokens were refreshed"
    assert any(path.endswith("relayd.db-wal") for path in canary.seen)
    assert sum(text.startswith(b"200") for text in canary.seen.values()) > 10
    canary.assert_silent()


def test_no_secret_is_written_or_answered_with_redis_and_through_its_outage(tmp_path: Path) -> None:
    with upstream() as (url, served):
        canary = Canary(tmp_path, url)
        password = canary.environment["RELAYD_STATE_PASSWORD"]
        with redis_server.running("--requirepass", password, "--rdbcompression", "no") as server:
            canary.build(server.url)
            with daemons.running(canary.tree, "--node", "n1", environment=canary.environment) as running:
                use(canary, running)
                commands(canary)
                server.client(password=password).save()
                canary.files(server.directory)
                server.stop()
                use(canary, running)
                canary.run("status", "--json")
                canary.run("key", "list")
                wait_until(lambda: list((canary.tree / "var" / "journal").glob("*.journal")), "the journal")
                canary.files(canary.tree / "var")  # journal and side store
        canary.known |= served.tokens
        canary.files(tmp_path / "daemon.log", canary.tree / "var")

    assert any(path.endswith(".rdb") for path in canary.seen)
    assert any("journal" in path for path in canary.seen)
    canary.assert_silent()


def test_a_daemon_that_cannot_start_names_no_secret(tmp_path: Path) -> None:
    canary = Canary(tmp_path, "http://127.0.0.1:1")
    canary.build("sqlite:var/relayd.db")
    password = canary.environment["RELAYD_STATE_PASSWORD"]
    relay = canary.tree / "relay.toml"
    before = relay.read_text()
    for text in (
        before.replace("sqlite:var/relayd.db", f"redis://u:{password}@127.0.0.1:1/0"),
        before.replace("sqlite:var", "sqlite:/dev/null/x").replace("[secrets]", f'key = "{KEY}"\n[secrets]'),
        before + f'\n[log]\nfile = "/nonexistent/{key_hash(KEY)}"',
    ):
        relay.write_text(text)
        canary.start("run", "--listen", "127.0.0.1:0")
    (tmp_path / "identity").chmod(0o644)
    relay.write_text(before)
    assert "0644" in canary.start("run", "--listen", "127.0.0.1:0")
    canary.assert_silent()
