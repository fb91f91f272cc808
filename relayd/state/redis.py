"""The Redis back end, for many nodes: Redis 6.2 or newer, alone, under Sentinel, or as a Cluster.

Rule: one script carries out a whole batch (apply.lua), so a batch is one round trip however many calls it serves, and
each of its operations is atomic because nothing else runs meanwhile. Nothing is repeated after a timeout: the
script may have run. After a connection that broke the batch is sent once more, for every operation that changes a
counter carries an id.

Theory: MessagePack both ways, because msgspec here and cmsgpack there do it in C: of the cost per operation little is
left in Python (tests/bench/state_cost.py).
"""

from __future__ import annotations

import errno
import re
from collections.abc import Sequence
from typing import Any

import attrs
import msgspec
import redis

from relayd.core.quota.usage_record import DIMENSIONS
from relayd.core.quota.windows import FOREVER
from relayd.state import contract as c
from relayd.state.redis_address import RedisConnection, RedisConnector, Word, parse_redis_url
from relayd.state.redis_script import kept_calls, pack, script, unpack
from relayd.state.report import days_between
from relayd.state.rows import from_row

OLDEST = (6, 2)
# A script keeps Redis from all else: 64 operations are about 3 ms.
LARGEST_SCRIPT = 64
MOST_DAMAGED = 20  # names of what was damaged that are kept for people
PAGE = 500  # usage rows that are read at a time, some 4 ms
CALLS_PAGE = 250  # recent calls, of about 1 KB: some 2 ms
# Error words with which a server says that it cannot work now, or is not the master (Redis source, src/server.c).
_NOT_NOW = frozenset(
    {"LOADING", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "OOM", "MISCONF", "BUSY", "NOREPLICAS", "NOAUTH"}
)
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode


@attrs.define(eq=False, repr=False)
class RedisStore:
    """State in Redis. Used by one thread at a time.

    Args:
        url: `state.url` (redis_address.parse_redis_url tells its forms).
        realm: names this deployment; every key begins with `relayd:{realm}:`.
        password: "" for none.
        connect, command: seconds to connect, and to wait for an answer.
        now: Unix ms in place of the server's clock, for tests.
    """

    url: str
    realm: str
    password: str = ""
    connect: float = 0.5
    command: float = 0.2
    now: Any = None
    lua: tuple[bytes, str] = attrs.field(factory=script)
    _connector: RedisConnector = attrs.field(init=False)
    _connection: RedisConnection | None = attrs.field(default=None, init=False)
    _asking: bool = attrs.field(default=False, init=False)  # connected to a node that is about to get our slot
    _server: str = attrs.field(default="", init=False)  # the run id of the process that we are connected to
    _began: int = attrs.field(default=0, init=False)  # when its data began, Unix ms
    _damaged: tuple[str, ...] = attrs.field(default=(), init=False)

    def __attrs_post_init__(self) -> None:
        self._connector = RedisConnector(
            address=parse_redis_url(self.url), password=self.password, connect=self.connect, command=self.command
        )

    @property
    def name(self) -> str:
        return self._connector.address.name

    @property
    def deadline(self) -> float:
        return self.command + 0.05

    @property
    def life(self) -> str:
        return f"{self._server}/{self._began}" if self._began else ""

    @property
    def damaged(self) -> tuple[str, ...]:
        return self._damaged

    @property
    def prefix(self) -> str:
        return f"relayd:{{{self.realm}}}:"

    def apply(self, batch: Sequence[c.Op]) -> list[c.Answer]:
        if any(isinstance(op, c.Report | c.FindCalls) for op in batch):
            return [self._paged(op) if isinstance(op, c.Report | c.FindCalls) else self.apply([op])[0] for op in batch]
        chunks = [batch[start : start + LARGEST_SCRIPT] for start in range(0, len(batch), LARGEST_SCRIPT)]
        try:
            packed = [_encode([pack(op) for op in chunk]) for chunk in chunks]
        except (ValueError, TypeError, OverflowError) as error:  # a text or a number that cannot be sent
            return self._one_by_one(batch, error)
        answers: list[c.Answer] = []
        try:
            for chunk, rows in zip(chunks, self._carry_out(packed), strict=True):
                answers += [unpack(op, row) for op, row in zip(chunk, rows, strict=True)]
        except redis.ResponseError as error:
            self._ping()
            return self._one_by_one(batch, error)
        self._believe_failures(answers)
        return answers

    def _one_by_one(self, batch: Sequence[c.Op], error: Exception) -> list[c.Answer]:
        """One operation is at fault: it fails alone. What was carried out before is known by its id."""
        if len(batch) == 1:
            return [_failed(error)]
        return [self.apply([op])[0] for op in batch]

    def _ping(self) -> None:
        """Raises: StoreUnavailable when the script does not even run for a question without arguments."""
        try:
            self._carry_out([_encode([("ping",)])])
        except redis.ResponseError as error:
            raise c.StoreUnavailable(f"{self.name}: {_said(error)}") from None

    def _carry_out(self, chunks: list[bytes]) -> list[list[Any]]:
        """The scripts' answers, one row for each operation.

        Raises: StoreUnavailable; redis.ResponseError when the script itself broke.
        """
        try:
            replies = self._send_and_maybe_again([self._request(chunk) for chunk in chunks])
        except (redis.RedisError, OSError) as error:
            if _broke_the_script(error):
                raise
            self.close()
            raise self._away(error) from None
        found = []
        for reply in replies:
            self._began, rows, damaged = _decode(reply)
            self._note_damage(damaged)
            found.append(rows)
        return found

    def _note_damage(self, names: list[str]) -> None:
        """Remember what the script has set aside, in the order it was found; the latest are enough."""
        if names:
            self._damaged = tuple(dict.fromkeys((*self._damaged, *names)))[-MOST_DAMAGED:]

    def _paged(self, op: c.Report | c.FindCalls) -> c.Answer:
        """What is read page by page, each in a script of its own: while one runs, Redis serves nobody else."""
        try:
            return self._report(op) if isinstance(op, c.Report) else self._find(op)
        except redis.ResponseError as error:
            self._ping()
            return _failed(error)
        except (ValueError, TypeError, OverflowError) as error:  # a text or a number that cannot be sent
            return _failed(error)

    def _find(self, op: c.FindCalls) -> c.Answer:
        found: list[c.KeptCall] = []
        after = op.before
        for _ in range(0, c.MOST_LOOKED_AT, CALLS_PAGE):
            ((answer,),) = self._carry_out([_encode([("findcalls", op.id, *(after or (FOREVER, "")), CALLS_PAGE)])])
            if answer[0] != "calls":
                return c.Failed(reason=str(answer[1]))
            found += [call for call in kept_calls(answer[1]) if c.is_wanted(call, op)]
            after = (int(answer[2][0]), answer[2][1]) if answer[2] else None
            if after is None or len(found) >= op.limit:
                break
        end = c.page_end([(call.at, call.id) for call in found], op.limit, after)
        return c.FoundCalls(calls=tuple(found[: op.limit]), after=end)

    def _report(self, op: c.Report) -> c.Answer:
        found: dict[tuple[str, ...], list[int]] = {}  # a page may bring a row again (SCAN's guarantees)
        only = op.keys[0] if len(op.keys) == 1 else ""
        for day in days_between(op.first, op.last):
            cursor = "0"
            while True:
                ((answer,),) = self._carry_out([_encode([("report", day, cursor, PAGE, only)])])
                if answer[0] != "reported":
                    return c.Failed(reason=str(answer[1]))
                found.update({(day, *names): counts for names, counts in answer[1]})
                cursor = answer[2]
                if cursor == "0":
                    break
        added: dict[tuple[str, ...], list[int]] = {}
        for names, counts in found.items():
            if op.account in ("", names[2]) and (not op.keys or names[1] in op.keys):
                kept = tuple(name if what in op.by else "" for what, name in zip(DIMENSIONS, names, strict=True))
                total = added.get(kept)
                added[kept] = counts if total is None else [one + more for one, more in zip(total, counts, strict=True)]
        rows = [from_row([*names, *added[names]]) for names in sorted(added) if any(added[names])]
        if op.most:
            rows = sorted(rows, key=lambda row: (-row.cost, -row.requests))[: op.most]
        return c.Reported(rows=tuple(rows))

    def check(self) -> list[str]:
        try:
            told = self._info()
            version = told.get("redis_version", "0.0")
            if tuple(int(part) for part in version.split(".")[:2]) < OLDEST:
                raise c.StoreMisfit(
                    f"{self.name}: Redis {version}, but {'.'.join(map(str, OLDEST))} or newer is needed"
                )
            return _eviction_warning(self.name, told)
        except (redis.RedisError, OSError) as error:
            self.close()
            raise self._away(error) from None

    def ask_all(self, commands: Sequence[tuple[Word, ...]]) -> list[Any]:
        """The answers of plain commands on keys of this realm; None for one that the server refuses as such.

        Raises: StoreUnavailable.
        """
        self._ping()  # which finds the master of our slot
        try:
            connection, answers = self._open(), []
            connection.send(list(commands))
            for _ in commands:
                try:
                    answers.append(connection.read())
                except redis.ResponseError as error:
                    if isinstance(error, redis.exceptions.NoPermissionError) or _cannot_now(str(error)):
                        raise
                    answers.append(None)
            return answers
        except (redis.RedisError, OSError) as error:
            self.close()
            raise self._away(error) from None

    def info(self) -> dict[str, str]:
        """What the server says of itself (INFO). Raises: StoreUnavailable."""
        try:
            return self._info()
        except (redis.RedisError, OSError) as error:
            self.close()
            raise self._away(error) from None

    def _info(self) -> dict[str, str]:
        return _info(self._open().ask("INFO"))

    def _away(self, error: Exception) -> c.StoreUnavailable:
        hint = _what_it_needs(error)
        if hint:
            return c.StoreRefused(f"{self.name}: {_said(error)} [{hint}]")
        return c.StoreUnavailable(f"{self.name}: {_said(error)}")

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self._asking = False

    def _open(self) -> RedisConnection:
        if self._connection is None:
            connection = self._connector.open()
            try:
                self._greet(connection)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    def _greet(self, connection: RedisConnection) -> None:
        """Make a fresh connection fit for use.

        The short question goes first: to a large one a Redis that wants a
        password says "unauthenticated bulk length" in place of NOAUTH.
        """
        try:
            self._server = _info(connection.ask("INFO", "server")).get("run_id", "")
        except redis.ResponseError:  # a user who may not ask; then only lost data is noticed, not another server
            self._server = ""
        connection.ask("SCRIPT", "LOAD", self.lua[0])

    def _request(self, chunk: bytes) -> tuple[Word, ...]:
        now = 0 if self.now is None else self.now()
        return (
            "EVALSHA",
            self.lua[1],
            1,
            f"{self.prefix}clock",
            self.prefix,
            now,
            chunk,
        )

    def _send_and_maybe_again(self, requests: list[tuple[Word, ...]]) -> list[bytes]:
        fresh = self._connection is None
        try:
            return self._send(requests)
        except redis.TimeoutError:
            raise
        except (redis.ConnectionError, OSError):
            # Redis closed an idle connection, was restarted, or failed over. A new connection that breaks is an outage.
            if fresh:
                raise
            self.close()
            return self._send(requests)
        except redis.ResponseError as error:
            if not self._mend(error):
                raise
            return self._send(requests)

    def _mend(self, error: redis.ResponseError) -> bool:
        """Whether what the server said can be put right at once: a script it does not know, a slot that has moved."""
        if isinstance(error, redis.exceptions.NoScriptError):
            self._open().ask("SCRIPT", "LOAD", self.lua[0])
            return True
        connection = self._connector.follow(error)
        if connection is None:
            return False
        self.close()
        self._greet(connection)
        self._connection = connection
        self._asking = isinstance(error, redis.exceptions.AskError) and not isinstance(
            error, redis.exceptions.MovedError
        )
        return True

    def _send(self, requests: list[tuple[Word, ...]]) -> list[bytes]:
        connection = self._open()
        if self._asking:
            return self._send_asking(connection, requests)
        connection.send(requests)
        replies, failure = [], None
        for _ in requests:
            try:
                replies.append(connection.read())
            except redis.ResponseError as error:
                failure = failure or error  # the answers behind it must still be read
        if failure is not None:
            raise failure
        return replies

    def _send_asking(self, connection: RedisConnection, requests: list[tuple[Word, ...]]) -> list[bytes]:
        """To the node that is about to get our slot: it serves it before its time to those who ask each time."""
        replies = []
        for request in requests:
            connection.ask("ASKING")
            replies.append(connection.ask(*request))
        self.close()  # the next batch goes to the owner again, until it says MOVED
        return replies

    def _believe_failures(self, answers: list[c.Answer]) -> None:
        """A write refused because of the server's state is an outage, though the script itself ran."""
        for answer in answers:
            if isinstance(answer, c.Failed) and _cannot_now(answer.reason):
                self.close()
                raise c.StoreUnavailable(f"{self.name}: {answer.reason}")


def _said(error: Exception) -> str:
    """What went wrong. redis-py's errors name addresses and the server's words, never a password."""
    return str(error) or type(error).__name__


def _what_it_needs(error: Exception) -> str:
    """What a person has to do about an error that no waiting ends; "" where it may pass."""
    if isinstance(error, redis.exceptions.NoPermissionError) or "NOPERM" in str(error):
        return "see the ACL line in docs/state.md"
    if isinstance(error, redis.AuthenticationError) or "WRONGPASS" in str(error):
        return "see state.password_file and RELAYD_STATE_PASSWORD"
    cause: BaseException | None = error
    while cause is not None:
        if "CERTIFICATE_VERIFY_FAILED" in str(cause) or "WRONG_VERSION_NUMBER" in str(cause):
            return "see the options ca, cert and key of state.url, and rediss:// or redis://"
        if isinstance(cause, OSError) and cause.errno in c.FORBIDDING | {errno.ENOENT}:
            return "see the options ca, cert and key of state.url"
        cause = cause.__cause__ or cause.__context__
    return ""


def _cannot_now(reason: str) -> bool:
    return not _NOT_NOW.isdisjoint(reason.replace("-", " ").split()[:6])


def _broke_the_script(error: Exception) -> bool:
    """Whether the script failed for what it was given. Redis names the script then (src/script_lua.c), as it does when
    the server cannot work or the user may not, which is an outage."""
    said = str(error)
    return (
        isinstance(error, redis.ResponseError)
        and "user_script" in said
        and _NOT_NOW.isdisjoint(re.findall(r"[A-Z]+", said))
        and not any(words in said for words in ("can't run this command", "read only replica", "maxmemory"))
    )


def _info(reply: Any) -> dict[str, str]:
    text = reply.decode() if isinstance(reply, bytes) else str(reply)
    return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)


def _eviction_warning(name: str, told: dict[str, str]) -> list[str]:
    policy = told.get("maxmemory_policy", "noeviction")
    if policy == "noeviction" or told.get("maxmemory", "0") == "0":
        return []
    return [f"{name}: maxmemory-policy is {policy}, which may drop counters and leases [set it to noeviction]"]


def _failed(error: Exception) -> c.Failed:
    return c.Failed(reason=f"{type(error).__name__}: {error}")
