"""Ownership index: whose batches, files, skills, threads and containers are, and where, as the state store has it.

Rule: who may reach what is decided in core/access/ownership.py. Nothing is made while the state store is away, whatever
`state.on_outage` says: an object that nobody can write down is an object that nobody could ever reach.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import attrs
import trio

from relayd.config.snapshot import Account, ApiKey, Snapshot
from relayd.core.access.ownership import (
    NOTHING_KEPT,
    OwnershipRecord,
    available,
    bound,
    check_names,
    decode_ownership,
    encode_ownership,
    holder_topics,
    ownership_of,
    pin_name,
    same_hands,
)
from relayd.daemon.proxy.large_bodies import LargeBodies
from relayd.daemon.store.failsafe import RETRY
from relayd.daemon.store.pins import pinned
from relayd.daemon.store.state_client import StateClient
from relayd.state.contract import (
    Answer,
    Gather,
    Gathered,
    Op,
    Pin,
    Ping,
    Pinned,
    Publish,
    StoreUnavailable,
    Unpin,
)
from relayd.wire.call import OBJECTS, ObjectType
from relayd.wire.objects import file_ids, may_name_files
from relayd.wire.refusal import Refusal
from relayd.wire.resumed import KeptType

MOST_NAMED = 1000  # files in a body
MOST_UNWRITTEN = 10_000  # records that wait for the store
# How long a thread or container is known after its last use, ms. Containers live 30 days (API docs, "Code execution").
KEPT_FOR = 31 * 86_400_000

NOTHING_BARRED: Mapping[str, str] = MappingProxyType({})

log = logging.getLogger("relayd")


class StoreIsAway(Refusal):
    """The state store cannot be asked, and what is whose is written only there."""

    def __init__(self) -> None:
        super().__init__(
            status=503,
            message="The relay cannot tell whose objects are whose right now: its state store is unavailable.",
            retry_after=RETRY,
            code="state_unavailable",
        )


@attrs.define(eq=False, kw_only=True)
class OwnershipIndex:
    """The ownership records of batches, files and skills.

    Args:
        state: where they are kept; without it there are none.
        large: where large bodies are searched for files.
    """

    state: StateClient | None
    large: LargeBodies
    _unwritten: dict[str, str] = attrs.field(factory=dict, init=False)  # records that the store did not take
    _looked_at: Callable[[], Snapshot | None] = attrs.field(default=lambda: None, init=False)
    _files_exist: bool = attrs.field(default=False, init=False)

    async def check(self) -> None:
        """Whether anything can be written down now. Raises: StoreIsAway."""
        await self._ask(Ping())

    async def bind(
        self, body: bytes, key: ApiKey, snapshot: Snapshot, kept: Mapping[str, KeptType] = NOTHING_KEPT
    ) -> Mapping[str, str]:
        """The accounts that cannot serve a body, for what it names; with reasons.

        Args:
            kept: the threads, containers and skills that it names.
        Raises: Refusal.
        """
        check_names(kept)
        searched = self._any_files(snapshot) and await self.large.read(len(body), may_name_files, body)
        if not searched and not kept:
            return NOTHING_BARRED
        names = sorted({*kept, *(await self.large.read(len(body), file_ids, body) if searched else ())})
        if len(names) > MOST_NAMED:
            raise Refusal(status=400, message=f"more than {MOST_NAMED} files and skills are named")
        if not names:
            return NOTHING_BARRED
        return bound(dict(zip(names, await self.records(names), strict=True)), key, snapshot, kept)

    def _any_files(self, snapshot: Snapshot) -> bool:
        """Whether any key may have files: else no body is searched for them, which takes 1 us a KB."""
        if self._looked_at() is not snapshot:
            self._looked_at = weakref.ref(snapshot)
            self._files_exist = any("files" in key.endpoints for key in snapshot.keys.values())
        return self._files_exist

    # --- writing

    async def write_down(self, name: str, record: OwnershipRecord) -> None:
        """Keep where an object lives. Raises: Refusal 502 where an object of that id is somebody else's already."""
        if not name:
            fields = {"account": record.account, "key": record.key, "kind": record.kind}
            log.warning("objects.no_id", extra=fields)
            return
        text = encode_ownership(record)
        try:
            known = await self._ask(Pin(name=pin_name(name), value=text, ttl=_ttl(record), keep=True))
            if isinstance(known, Pinned) and known.value != text:
                await self._replace(name, record, known.value)
            for topic in holder_topics(record.kind, record.key, record.owner):
                await self._ask(Publish(topic=topic, name=record.account, body="1"))
        except StoreIsAway:
            if len(self._unwritten) >= MOST_UNWRITTEN:
                self._unwritten.pop(next(iter(self._unwritten)))
            self._unwritten[pin_name(name)] = text
            known_here = {"id": name, "account": record.account, "key": record.key}
            log.error("objects.not_written_down", extra=known_here)  # and this process tries again

    async def keep(self, in_thread: bool, key: ApiKey, account: str, message: str, container: str) -> None:
        """Write down what an upstream keeps of a call of `key`: the conversation, where it is `in_thread`, under the id
        of its answer, and the container. Raises: Refusal as `write_down` does."""
        made: list[tuple[str, KeptType]] = [(message, "threads")] if in_thread and message else []
        made += [(container, "containers")] if container else []
        if not made:
            return
        with trio.CancelScope(shield=True):  # it is kept: whoever left, its owner must find it
            for name, kind in made:
                await self.write_down(name, ownership_of(kind, account, key))

    async def _replace(self, name: str, record: OwnershipRecord, known: str | None) -> None:
        """An id that was known before. It may mean that the older object of the same key or owner is gone. Else two
        objects have one id, and the older one keeps it: an upstream moves nothing from one owner to another."""
        other = decode_ownership(known)
        if other is not None and not same_hands(other, record):
            fields = {"account": record.account, "other": other.account, "key": record.key, "other_key": other.key}
            log.error("objects.id_taken", extra={"id": name, **fields})
            message = f"account {record.account} gave an object the id of another one, {name}"
            raise Refusal(status=502, message=message, should_retry=False, code="id_taken")
        await self._ask(Pin(name=pin_name(name), value=encode_ownership(record), ttl=_ttl(record)))

    def forget(self, name: str) -> None:
        """Sync. Should the store be away, the record stays, and leads to an upstream that says 404."""
        self._unwritten.pop(pin_name(name), None)
        if self.state is not None:
            self.state.main.submit_nowait(Unpin(name=pin_name(name)))

    # --- reading

    async def holders(self, kind: ObjectType, key: ApiKey, snapshot: Snapshot) -> list[Account]:
        """The accounts that may hold objects of a key or its owner and can be asked, by name. Raises: StoreIsAway."""
        names: set[str] = set()
        for topic in holder_topics(kind, key.id, key.owner):
            answer = await self._ask(Gather(topic=topic))
            if isinstance(answer, Gathered):
                names.update(note.name for note in answer.notes)
        accounts = [snapshot.accounts[name] for name in sorted(names) if name in snapshot.accounts]
        return [account for account in accounts if available(account, snapshot)]

    async def records(self, names: Sequence[str]) -> list[OwnershipRecord | None]:
        """The records of some objects, None for those without one. Raises: StoreIsAway."""
        await self._write_again()
        pins = [pin_name(name) for name in names]
        found: dict[str, str | None] = {pin: self._unwritten[pin] for pin in pins if pin in self._unwritten}
        if missing := [pin for pin in pins if pin not in found]:
            if self.state is None:
                raise StoreIsAway
            try:
                found |= await pinned(self.state.main, missing, KEPT_FOR)
            except StoreUnavailable:
                raise StoreIsAway from None
        if any(pin not in found for pin in pins):
            raise StoreIsAway
        return [decode_ownership(found[pin]) for pin in pins]

    async def _write_again(self) -> None:
        for name, text in list(self._unwritten.items()):
            record = decode_ownership(text)
            if record is not None:
                del self._unwritten[name]
                try:
                    await self.write_down(name.removeprefix("object/"), record)
                except StoreIsAway:
                    raise
                except Refusal:
                    continue  # the older object keeps the id, which the log says; whoever asks now has no part in it

    async def _ask(self, op: Op) -> Answer:
        """Raises: StoreIsAway."""
        if self.state is None:
            raise StoreIsAway
        try:
            return await self.state.main.ask(op)
        except StoreUnavailable:
            raise StoreIsAway from None


def _ttl(record: OwnershipRecord) -> int | None:
    """How long a record stays after its last use, ms; what can be deleted stays until it is."""
    return None if record.kind in OBJECTS else KEPT_FOR
