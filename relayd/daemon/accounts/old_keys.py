"""Keys that another relay issued: the secret that their hashes are made with, opened for the running config.

Rule: the secret is in a closure and in nothing that is printed. Where it cannot be opened, at the start its keys are
refused and the log says so; a reload that brings it is rejected.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import attrs

from relayd.config.secrets.api_keys import crs_digest
from relayd.config.secrets.binding import crs_binding
from relayd.config.snapshot import Snapshot

if TYPE_CHECKING:
    from relayd.config.secrets.seal import Identity


def with_old_keys(snapshot: Snapshot, identities: Sequence[Identity]) -> Snapshot:
    """The snapshot, with what it takes to know the keys of a relay before it. Raises: SealError."""
    relay = snapshot.relay
    if not relay.secrets.crs_encryption_key:
        return snapshot
    from relayd.config.secrets.seal import open_sealed  # a tree without sealed values does not pay for it

    sealed = relay.secrets.crs_encryption_key
    secret = open_sealed(sealed, crs_binding(relay.realm), identities, relay.secrets.recipients)

    def digest(key: bytes) -> bytes:
        return crs_digest(key, secret.reveal().encode())

    return attrs.evolve(snapshot, old_digests={**snapshot.old_digests, "crs-sha256": digest})
