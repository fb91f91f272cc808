"""History: trees that have run well, kept on disk as stored generations, and which of them a rollback holds.

Rule: sync file work, done in a worker thread; the one task here only waits. A store that cannot be written is a
warning: it must not stop a reload.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import trio

from relayd.config.atomic import replace_file
from relayd.config.source import history as generations
from relayd.config.source.history import Generation, Meta, Skipped, Summary
from relayd.config.source.provenance import Provenance
from relayd.config.source.tree import Tree
from relayd.core.live import Live
from relayd.daemon.reload.record import ReloadRecord
from relayd.noun import noun

log = logging.getLogger("relayd.reload")

HELD = "held"  # file with the number of the generation that a rollback holds


@noun
class History:
    """The stored generations of one node."""

    directory: Path

    def load(self, number: int | None, unlike: str) -> tuple[int, Tree]:
        """Generation `number`, or the newest whose digest is not `unlike`. Raises: LookupError that says why not."""
        if number is None:
            found = [one for one in generations.stored(self.directory) if isinstance(one, Generation)]
            other = next((one for one in found if one.meta.digest != unlike), None)
            if other is None:
                raise LookupError("no other generation is stored yet (they are kept once they have run for a while)")
            return other.number, as_tree(other)
        one = generations.load(self.directory, number)
        if isinstance(one, Skipped):
            known = ", ".join(str(other.number) for other in generations.stored(self.directory)) or "none"
            raise LookupError(f"generation {number}: {one.reason} (stored: {known})")
        return one.number, as_tree(one)

    def numbers(self) -> list[int]:
        """What is stored, the newest first, whole or not."""
        return [one.number for one in generations.stored(self.directory)]

    def listed(self) -> list[Summary | Skipped]:
        """What is stored, the newest first, with what is known of it."""
        return generations.summaries(self.directory)

    def hold(self, number: int) -> None:
        """Note that `number` is to be served, also after a restart; 0 = the tree again."""
        path = self.directory / HELD
        if not number:
            path.unlink(missing_ok=True)
            return
        replace_file(path, f"{number}\n".encode())

    def held(self) -> int:
        """The generation that a rollback holds; 0 = none."""
        try:
            return int((self.directory / HELD).read_text(encoding="ascii"))
        except (OSError, ValueError):
            return 0

    def save(self, tree: Tree, realm: str, now: float, trigger: str) -> int:
        """Store a tree that has proved itself. Raises: OSError."""
        meta = Meta(
            digest=tree.digest,
            realm=realm,
            commit=tree.provenance.commit,
            dirty=tree.provenance.dirty,
            saved=now,
            trigger=trigger,
        )
        return generations.save(self.directory, tree.files, meta)


def as_tree(one: Generation) -> Tree:
    """A stored generation, as if it had just been read."""
    origin = Provenance(commit=one.meta.commit, dirty=one.meta.dirty, source="unknown")
    return Tree(files=one.files, problems=(), digest=one.meta.digest, provenance=origin)


@noun(kw_only=True)
class HistoryKeeper:
    """Stores each config once it has run for a while.

    Args:
        wall: Unix time, s.
        proof: s that a config runs before it counts as good.
    """

    record: ReloadRecord
    live: Live
    history: History
    wall: Callable[[], float]
    proof: float

    async def run(self) -> None:
        """Wait and store, for ever."""
        while True:
            swapped = self.record.swapped
            if self.record.unstored is None:
                await swapped.wait()
                continue
            with trio.move_on_after(self.proof):
                await swapped.wait()
                continue
            await self._store()

    async def _store(self) -> None:
        tree, self.record.unstored = self.record.unstored, None
        if tree is None:
            return
        realm, trigger = self.live.snapshot.relay.realm, self.record.origin.trigger
        try:
            number = await trio.to_thread.run_sync(self.history.save, tree, realm, self.wall(), trigger)
        except OSError as error:
            log.warning("reload.store_failed", extra={"directory": str(self.history.directory), "error": str(error)})
        else:
            log.info("reload.stored", extra={"stored": number, "digest": tree.digest[:12]})
