"""Redis addresses: the URL of a single server, a Sentinel group or a Cluster, and a connection to its master.

Rule: whatever goes wrong here is told without the password. Nothing is retried; who calls decides that.

Theory: all keys of a realm carry one hash tag and so live in one slot. A Cluster is then just "the master of our slot":
any node tells by MOVED where that is, and a map of the whole cluster is not needed. redis-py does the protocol, TLS and
authentication; its clients above that (pools, retries, topologies) are not used, for they repeat commands.
"""

from __future__ import annotations

import urllib.parse
from typing import Any

import attrs
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from relayd.config.model.addresses import STATE_URL_OPTIONS
from relayd.noun import noun
from relayd.state.contract import StoreMisfit

HostPort = tuple[str, int]
Word = str | bytes | int

_KINDS = {"redis": "server", "redis+sentinel": "sentinel", "redis+cluster": "cluster"}
_PORTS = {"server": 6379, "sentinel": 26379, "cluster": 6379}


@noun(kw_only=True)
class RedisAddress:
    """A parsed `state.url`.

    Args:
        kind: "server", "sentinel" or "cluster".
        addresses: of the server, the sentinels, or some nodes of the cluster.
        service: the name of the master at the sentinels.
        tls: certificates are verified and host names checked.
        ca, cert, key: files; "" = the system's authorities, no client certificate.
        sentinel_auth: whether the sentinels want the same user and password.
    """

    kind: str
    addresses: tuple[HostPort, ...]
    service: str = ""
    db: int = 0
    user: str = ""
    tls: bool = False
    ca: str = ""
    cert: str = ""
    key: str = ""
    sentinel_auth: bool = False

    @property
    def name(self) -> str:
        """For people."""
        scheme = ("rediss" if self.tls else "redis") + ("" if self.kind == "server" else f"+{self.kind}")
        hosts = ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.addresses)
        return f"{scheme}://{hosts}/{self.service or self.db}"


def parse_redis_url(url: str) -> RedisAddress:
    """Read a `state.url`.

    `redis://[user@]host[:port][/db]`, `redis+sentinel://host[:port],.../service[/db]`,
    `redis+cluster://host[:port],...`; `rediss` in place of `redis` for TLS; options `ca`, `cert` and `key` name PEM
    files, `sentinel_auth=yes` presents the password to the sentinels too.
    Raises: StoreMisfit.
    """
    parts = urllib.parse.urlsplit(url)
    kind = _KINDS.get(parts.scheme.replace("rediss", "redis", 1))
    if kind is None:
        raise StoreMisfit(
            f"state.url: unknown scheme {parts.scheme!r} [sqlite, redis, rediss, redis+sentinel, redis+cluster]"
        )
    user, at, hosts = parts.netloc.rpartition("@")
    if ":" in user:
        raise StoreMisfit("state.url: holds a password [put it into state.password_file or RELAYD_STATE_PASSWORD]")
    path = [part for part in parts.path.split("/") if part]
    service = path.pop(0) if kind == "sentinel" and path else ""
    if kind == "sentinel" and not service:
        raise StoreMisfit(
            "state.url: the sentinels' name of the master is missing [redis+sentinel://host:26379/mymaster]"
        )
    return RedisAddress(
        kind=kind,
        addresses=tuple(_address(host, _PORTS[kind]) for host in hosts.split(",")),
        service=service,
        db=_database(kind, path),
        user=urllib.parse.unquote(user) if at else "",
        tls=parts.scheme.startswith("rediss"),
        **_options(parts.query),
    )


def _address(text: str, port: int) -> HostPort:
    try:
        split = urllib.parse.urlsplit(f"//{text}")
        found = (split.hostname or "", split.port or port)
    except ValueError:
        found = ("", 0)
    if not found[0]:
        raise StoreMisfit(f"state.url: {text!r} is not a host:port")
    return found


def _database(kind: str, path: list[str]) -> int:
    if not path:
        return 0
    if len(path) > 1 or not path[0].isdigit() or (kind == "cluster" and path[0] != "0"):
        raise StoreMisfit(f"state.url: {'/'.join(path)!r} is not a database number [a cluster has only 0]")
    return int(path[0])


def _options(query: str) -> dict[str, Any]:
    options: dict[str, Any] = dict(urllib.parse.parse_qsl(query))
    unknown = sorted(options.keys() - set(STATE_URL_OPTIONS))
    if unknown:
        raise StoreMisfit(f"state.url: unknown option {unknown[0]!r} [{', '.join(STATE_URL_OPTIONS)}]")
    if "sentinel_auth" in options:
        options["sentinel_auth"] = options["sentinel_auth"] in ("yes", "1", "true")
    return options


@noun(repr=False)
class RedisConnection:
    """A connection on which commands and their answers go in order. Every method may raise redis.RedisError."""

    _raw: Any

    def ask(self, *words: Word) -> Any:
        """One command, one answer."""
        self._raw.send_command(*words)
        return self._raw.read_response()

    def send(self, commands: list[tuple[Word, ...]]) -> None:
        """Several commands in one write; `read` as often."""
        self._raw.send_packed_command(self._raw.pack_commands(commands))

    def read(self) -> Any:
        """The next answer. Raises: redis.ResponseError when it is an error; later answers can still be read."""
        return self._raw.read_response()

    def close(self) -> None:
        """Idempotent."""
        self._raw.disconnect()


@attrs.define(kw_only=True, repr=False)
class RedisConnector:
    """Makes connections to the master at an address.

    Args:
        password: "" for none.
        connect, command: seconds to connect, and between bytes of an answer.
    """

    address: RedisAddress
    password: str = ""
    connect: float = 0.5
    command: float = 0.2
    _hint: HostPort | None = attrs.field(default=None, init=False)  # where MOVED sent us last
    _nodes: tuple[HostPort, ...] = attrs.field(default=(), init=False)  # of the cluster, as it told

    def open(self) -> RedisConnection:
        """A connection to the master. Raises: redis.RedisError, OSError."""
        match self.address.kind:
            case "sentinel":
                return self._connect(self._ask_sentinels())
            case "cluster":
                return self._first((*((self._hint,) if self._hint else ()), *self.address.addresses, *self._nodes))
            case _:
                return self._first(self.address.addresses)

    def follow(self, error: redis.RedisError) -> RedisConnection | None:
        """The connection that a MOVED or ASK error asks for; None when `error` is something else."""
        if self.address.kind != "cluster" or not isinstance(error, redis.exceptions.AskError):
            return None  # MovedError is an AskError
        if not error.host:
            return None  # a cluster that hides its addresses means "the same host": the next look-up will do
        address = (str(error.host), int(error.port))
        connection = self._connect(address)
        if isinstance(error, redis.exceptions.MovedError):
            self._hint = address
            self._learn(connection)
        return connection

    def _learn(self, connection: RedisConnection) -> None:
        """Remember all nodes, so that the cluster is found again when the ones of the URL are gone."""
        found = []
        for line in _text(connection.ask("CLUSTER", "NODES")).splitlines():
            host, _, port = line.split()[1].split("@")[0].rpartition(":")
            if host:
                found.append((host.strip("[]"), int(port)))
        self._nodes = tuple(found)

    def _ask_sentinels(self) -> HostPort:
        last: Exception = redis.ConnectionError("no sentinel")
        for address in self.address.addresses:
            try:
                connection = self._connect(address, sentinel=True)
                try:
                    found = connection.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.address.service)
                finally:
                    connection.close()
            except (redis.RedisError, OSError) as error:
                last = error
                continue
            if found:
                return _text(found[0]), int(found[1])
            last = redis.ConnectionError(f"the sentinels know no master {self.address.service!r}")
        raise last

    def _first(self, addresses: tuple[HostPort, ...]) -> RedisConnection:
        last: Exception | None = None
        for address in addresses:
            try:
                return self._connect(address)
            except (redis.ConnectionError, redis.TimeoutError, OSError) as error:
                last = error
        assert last is not None
        self._hint = None
        raise last

    def _connect(self, address: HostPort, *, sentinel: bool = False) -> RedisConnection:
        target = self.address
        secret = self.password if not sentinel or target.sentinel_auth else ""
        options: dict[str, Any] = {
            "host": address[0],
            "port": address[1],
            "db": 0 if sentinel else target.db,
            "username": (target.user or None) if secret else None,
            "password": secret or None,
            "socket_connect_timeout": self.connect,
            "socket_timeout": self.command,
            "socket_keepalive": True,
            "retry": Retry(NoBackoff(), 0),
            "protocol": 2,
            "driver_info": None,
        }
        if target.tls:
            tls = {"ssl_ca_certs": target.ca, "ssl_certfile": target.cert, "ssl_keyfile": target.key}
            options |= {name: file for name, file in tls.items() if file}
            raw: Any = redis.SSLConnection(ssl_check_hostname=True, **options)
        else:
            raw = _plain(**options)
        raw.connect()
        return RedisConnection(raw)


_plain: Any = redis.Connection  # redis-py leaves its constructor untyped


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
