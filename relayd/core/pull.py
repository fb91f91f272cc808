"""Pull decisions: whether a node may take the head of the branch that it follows, and when to look again.

Rule: pure. A node goes forward by itself, along commits that allowed people have signed where signers are given; for
anything else a person has to say, on this node, that the head is meant.

Theory: who can push to the repository must not thereby be able to turn nodes back (a rewound branch brings revoked keys
back), to swap the history below them (a forced one), or to slip a commit in under a signed merge: so every commit that
is new counts, not the head alone.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from relayd.noun import noun

LEAST_COMMIT = 12  # hex digits with which a person names the commit that is meant
SHOWN = 5  # commits that are named
SPREAD = 0.2  # of the interval, either way, so that nodes do not all ask at one instant
LONGEST = 300.0  # s between attempts, however many have failed, where the interval is not longer
FEW_MISSED = 3  # intervals without success, after which somebody should look
PATIENT = 180.0  # s; so long at least

# What git says of a signature. Source: git-log(1), "%G?".
_FAULTS = {
    "N": "is not signed",
    "B": "has a bad signature",
    "U": "is signed by a key that is not among the allowed signers",
    "E": "has a signature that cannot be checked: its key is not among the allowed signers",
    "X": "has a signature that has expired",
    "Y": "is signed by a key that has expired",
    "R": "is signed by a key that was revoked",
}


@noun
class CommitSignature:
    """What git makes of one commit's signature. `verdict`: a letter of "%G?"; `key`: its fingerprint, or ""."""

    commit: str
    verdict: str
    key: str = ""

    @property
    def fault(self) -> str:
        """Why the commit is not taken; "" when an allowed signer has signed it."""
        if self.verdict == "G":
            return ""
        key = f" ({self.key})" if self.key and self.verdict not in ("N", "B") else ""
        return f"commit {self.commit[:12]} {_FAULTS.get(self.verdict, 'has a signature that is not understood')}{key}"


@noun(kw_only=True)
class Head:
    """The head of the branch, as it was fetched.

    Args:
        taken: the head that was taken last; "" before the first.
        onward: `taken` is among its ancestors.
        back: it is among the ancestors of `taken`.
        signatures: of every commit that is new; of the head alone where none was taken before. None = nobody is asked
            to sign.
    """

    commit: str
    taken: str = ""
    onward: bool = True
    back: bool = False
    signatures: Sequence[CommitSignature] | None = None


@noun(kw_only=True)
class HeldHead:
    """A head that is not taken. `unsigned`: its commits that no allowed signer has signed."""

    commit: str
    reasons: tuple[str, ...]
    unsigned: tuple[str, ...] = ()


def judge_head(head: Head) -> HeldHead | None:
    """Why a head is not taken; None when it is."""
    reasons = []
    if head.taken and not head.onward:
        what = "was rewound" if head.back else "was replaced (a forced push)"
        reasons.append(f"the branch {what}: {head.commit[:12]} does not follow {head.taken[:12]}")
    faulty = [one for one in head.signatures or () if one.fault]
    reasons += [one.fault for one in faulty[:SHOWN]]
    if len(faulty) > SHOWN:
        reasons.append(f"and {len(faulty) - SHOWN} more commits without an allowed signature")
    if not reasons:
        return None
    return HeldHead(commit=head.commit, reasons=tuple(reasons), unsigned=tuple(one.commit for one in faulty))


def is_meant(words: Sequence[str], commit: str) -> bool:
    """Whether a person has named this commit, by enough of its digits."""
    return any(len(word) >= LEAST_COMMIT and commit.startswith(word.lower()) for word in words)


def next_pause(interval: float, failures: int, rng: random.Random) -> float:
    """s until the next look: about an interval; after failures ever longer, within bounds."""
    patience = min(interval * 2.0 ** min(failures, 16), max(interval, LONGEST))
    return patience * rng.uniform(1 - SPREAD, 1 + SPREAD)


def is_late(since: float, interval: float) -> bool:
    """Whether somebody should look at it that nothing could be fetched for `since` s."""
    return since > max(FEW_MISSED * interval, PATIENT)
