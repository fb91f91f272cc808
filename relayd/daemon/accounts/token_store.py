"""The token store: OAuth tokens as notes in the state store, read, adopted and written.

Rule: a note is believed only when it was written by one who has the seed, and written only over the version that was
read. Nothing is asked of a provider here.

Theory: one request to the store at a time (`_turn`), whose answer is adopted before the next one is sent; so
`last_note` is what the store had last, whichever task of this process asked.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence

import attrs
import trio

from relayd.config.secrets.binding import Binding
from relayd.config.secrets.recipients import SealError, active_keys
from relayd.config.secrets.seal import open_sealed, parse_sealed, seal
from relayd.config.secrets.secret import Secret
from relayd.config.snapshot import Account, Recipient, Snapshot
from relayd.core.oauth import (
    UNUSED,
    StoredTokens,
    Tokens,
    newer,
    parse_tokens,
    read_note,
    runtime_binding,
    write_note,
    write_tokens,
    written_at,
)
from relayd.daemon.accounts.credentials import Credentials, Opened
from relayd.state import contract as c

TOPIC = "oauth"
_NO_NOTE = StoredTokens()
Ask = Callable[[c.Op], Awaitable[c.Answer]]

log = logging.getLogger("relayd.oauth")


@attrs.define(eq=False, kw_only=True)
class Holding:
    """One OAuth account in this process.

    Args:
        name: of the seed's note.
        tokens: in use.
        stored: those that the note has; None when they cannot be read here, for the reason `unreadable`.
        last_note: version and text of the note; (0, "") when there is none.
        due: when to refresh, on the store's clock; None: not by the clock.
        failures: in a row. `trouble` is why the last one was, or why no refresh is possible here.
        spent: the refresh token is dead; a person must sign in again.
        rejected: the upstream refused the access token, so there is no use in keeping to it.
        expiry_logged: it was logged that the token has expired and cannot be refreshed.
        busy: a refresh is under way.
        retry_at, renewed_at: on trio's clock.
        interrupted: the note of which it was logged that its asker has not stored what it asked for.
        registration: what the last attempts used: token URL, client id, proxy.
        refreshed: set, and replaced, when a refresh has ended one way or the other.
    """

    account: Account
    opened: Opened
    name: str
    tokens: Tokens
    stored: Tokens | None
    due: float | None
    note: StoredTokens = _NO_NOTE
    last_note: tuple[int, str] = (0, "")
    unreadable: str = ""
    resealed: set[frozenset[str]] = attrs.field(factory=set)
    failures: int = 0
    trouble: str = ""
    spent: bool = False
    rejected: bool = False
    expiry_logged: bool = False
    busy: bool = False
    retry_at: float = -math.inf
    renewed_at: float = -math.inf
    interrupted: tuple[int, str] = (0, "")
    registration: tuple[str, str, str] = attrs.field(default=("", "", ""), repr=False)
    refreshed: trio.Event = attrs.field(factory=trio.Event)


@attrs.define(eq=False, kw_only=True)
class TokenStore:
    """The notes of this process's OAuth accounts.

    Args:
        ask: an operation of the state store; raises StoreUnavailable.
        wall: Unix time, s.
        use: told that a note has newer tokens than those in use, and how many s ago it was written.
    """

    credentials: Credentials
    snapshot: Callable[[], Snapshot]
    ask: Ask
    wall: Callable[[], float]
    use: Callable[[Holding, Tokens, float], None]
    _skew: float = attrs.field(default=0.0, init=False)  # s that the store's clock is ahead of ours
    _turn: trio.Lock = attrs.field(factory=trio.Lock, init=False)

    def now(self) -> float:
        """Unix time on the store's clock, s."""
        return self.wall() + self._skew

    async def read(self, held: Mapping[str, Holding]) -> None:
        """Adopt what the store knows. Raises: StoreUnavailable."""
        async with self._turn:
            answer = await self.ask(c.Gather(topic=TOPIC))
            if not isinstance(answer, c.Gathered):
                raise c.StoreUnavailable("the notes cannot be read")
            self._skew = answer.now / 1000 - self.wall()
            notes = {note.name: note for note in answer.notes}
            for holding in held.values():
                self._adopt(holding, notes.pop(holding.name, None))
            for note in notes.values():
                await self._forget(note, held)

    async def write(self, holding: Holding, tokens: Tokens, asking: str = "", *, anew: bool = False) -> bool:
        """Publish a note. False when another one stands there, which is adopted.

        Args:
            asking: as in `StoredTokens`.
            anew: seal again what is sealed already.
        Raises: StoreUnavailable.
        """
        async with self._turn:
            same = tokens is holding.stored and not anew
            sealed = holding.note.sealed if same else self._sealed(holding, tokens)
            note = StoredTokens(sealed=sealed, asking=asking, at=self.now())
            body = write_note(note, holding.name, holding.opened.whole)
            op = c.Publish(topic=TOPIC, name=holding.name, body=body, expect=holding.last_note[0])
            answer = await self.ask(op)
            if not isinstance(answer, c.Published):
                raise c.StoreUnavailable("the note cannot be written")
            if not answer.ok or answer.note is None:
                self._adopt(holding, answer.note)
                return False
            holding.last_note, holding.note, holding.stored = (answer.note.version, body), note, tokens
            return True

    async def repair(self, holding: Holding) -> None:
        """Store tokens that the store has lost, and seal them for a recipient that is new. Raises: StoreUnavailable."""
        if holding.stored is None or not holding.tokens.generation:
            return
        active = frozenset(key.kid for key in active_keys(self.snapshot().relay.secrets.recipients))
        if newer(holding.tokens, holding.stored):
            await self.write(holding, holding.tokens)
        elif active not in holding.resealed and not holding.note.asking and not active <= _kids(holding.note):
            holding.resealed.add(active)  # once: a node with another tree may seal it back
            await self.write(holding, holding.tokens, anew=True)

    def _adopt(self, holding: Holding, note: c.Note | None) -> None:
        """Adopt one note: tokens that are newer than ours come into use."""
        last_note = (note.version, note.body) if note is not None else (0, "")
        if last_note == holding.last_note:
            return
        holding.last_note, holding.unreadable, holding.note = last_note, "", _NO_NOTE
        holding.stored = attrs.evolve(parse_tokens(holding.opened.whole), generation=0)
        found = read_note(last_note[1], holding.name, holding.opened.whole)
        if found is None:
            log.warning("oauth.note_refused", extra={"account": holding.account.id})
            return
        holding.note = found
        if found.sealed:
            holding.stored = self._open(holding, found.sealed)
        if holding.stored is not None and newer(holding.stored, holding.tokens):
            self.use(holding, holding.stored, max(0.0, self.now() - found.at))

    def _open(self, holding: Holding, sealed: str) -> Tokens | None:
        relay = self.snapshot().relay
        try:
            binding = runtime_binding(holding.account, relay)
            return parse_tokens(self._opened(sealed, binding, relay.secrets.recipients))
        except (SealError, ValueError) as error:
            holding.unreadable = f"the tokens that another node stored cannot be opened here: {error}"
            return None

    def _opened(self, sealed: str, binding: Binding, recipients: Sequence[Recipient]) -> Secret:
        """The tokens of a note. One that was stored before seeds were sealed for a token endpoint names none; that the
        seed opens, and the note was written with it, says enough. Raises: SealError."""
        try:
            return open_sealed(sealed, binding, self.credentials.identities, recipients)
        except SealError as error:
            if error.code != "E-SEAL-CONTEXT" or not binding.token_url:
                raise
            return open_sealed(sealed, attrs.evolve(binding, token_url=""), self.credentials.identities, recipients)

    def _sealed(self, holding: Holding, tokens: Tokens) -> str:
        if not tokens.generation:
            return ""
        relay = self.snapshot().relay
        binding = runtime_binding(holding.account, relay)
        return seal(write_tokens(tokens), binding, active_keys(relay.secrets.recipients))

    async def _forget(self, note: c.Note, held: Mapping[str, Holding]) -> None:
        """Erase a note of a seed that the tree no longer has, once it has not been written for long."""
        account = note.name.partition("/")[0]
        known = account in held or account not in self.snapshot().accounts
        if note.body and known and self.now() - written_at(note.body) > UNUSED:
            await self.ask(c.Publish(topic=TOPIC, name=note.name, body="", expect=note.version))


def _kids(note: StoredTokens) -> frozenset[str]:
    """Whom the tokens of a note are sealed for."""
    try:
        return parse_sealed(note.sealed).kids
    except SealError:
        return frozenset()
