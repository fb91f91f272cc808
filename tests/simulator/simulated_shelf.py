"""What a test upstream remembers between calls: files, batches and skills.

Rule: bounded; the oldest objects make room for new ones.
"""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import attrs

MOST_OBJECTS = 256
MOST_BYTES = 64 << 20

T = TypeVar("T", bound="Sized")


@attrs.frozen(kw_only=True)
class Sized:
    """Something on the shelf. `size` is in bytes, `created` in Unix seconds."""

    id: str
    created: float
    size: int


@attrs.frozen(kw_only=True)
class StoredFile(Sized):
    """An uploaded file."""

    filename: str
    mime_type: str
    content: bytes = attrs.field(repr=False)


@attrs.frozen(kw_only=True)
class Batch(Sized):
    """A message batch. `canceled_at` is None unless it was cancelled in time."""

    requests: tuple[tuple[str, dict[str, Any]], ...] = attrs.field(repr=False)  # (custom_id, params)
    canceled_at: float | None = None


@attrs.frozen(kw_only=True)
class SkillVersion:
    """An upload of a skill. `created` in Unix seconds."""

    id: str
    created: float
    content: bytes = attrs.field(repr=False)


@attrs.frozen(kw_only=True)
class Skill(Sized):
    """A skill, with its versions, oldest first."""

    title: str
    versions: dict[str, SkillVersion] = attrs.field(factory=dict)


@attrs.define(eq=False)
class StoredObjects(Generic[T]):
    """Objects of one kind, oldest first."""

    things: dict[str, T] = attrs.field(factory=dict)

    def put(self, thing: T) -> None:
        """Add or replace. What is too much falls off at the old end."""
        self.things[thing.id] = thing
        while len(self.things) > MOST_OBJECTS or sum(kept.size for kept in self.things.values()) > MOST_BYTES:
            del self.things[next(iter(self.things))]

    def newest_first(self) -> list[T]:
        """As the API lists them."""
        return list(reversed(self.things.values()))


@attrs.define(eq=False)
class Shelf:
    """The memory of one simulated organization."""

    files: StoredObjects[StoredFile] = attrs.field(factory=StoredObjects)
    batches: StoredObjects[Batch] = attrs.field(factory=StoredObjects)
    skills: StoredObjects[Skill] = attrs.field(factory=StoredObjects)
    _serial: int = 0

    def next_serial(self) -> int:
        """A number that no other object of this shelf has."""
        self._serial += 1
        return self._serial
