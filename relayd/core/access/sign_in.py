"""Sign-in to the admin pages: one-time codes, and how long whoever fails has to wait.

Rule: pure; the time is an argument. A wait grows with each failure and ends by itself.

Theory: whoever guesses must be slowed down, and must not be able to keep the owner out by guessing. So failures count
by name and address, by address, and by name alone; the last one, which is what many machines that guess together run
into, does not count for a browser that this person has signed in with before (it holds a proof of that).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import ipaddress
import struct

import attrs

from relayd.config.snapshot import AdminUser
from relayd.noun import noun

STEP = 30  # s that a one-time code is shown. Source: RFC 6238 section 5.2
DIGITS = 6
DRIFT = 1  # steps that the clock of a phone may be off
SEED_BYTES = 20  # Source: RFC 4226 section 4, R6: 160 bits recommended

FIRST_WAIT, LONGEST_WAIT = 10.0, 900.0  # s
FORGET = 3600.0  # s after the last failure
MOST_COUNTED = 10_000
# Failures that cost no wait: of a name from an address, of an address, of a name from anywhere.
FREE_PAIR, FREE_ADDRESS, FREE_NAME = 4, 20, 50


def one_time_code(seed: bytes, step: int) -> str:
    """The code of a time step. Source: RFC 4226 section 5.3, RFC 6238 section 4."""
    digest = hmac.digest(seed, struct.pack(">Q", step), "sha1")
    start = digest[-1] & 0x0F
    number = int.from_bytes(digest[start : start + 4], "big") & 0x7FFFFFFF
    return f"{number % 10**DIGITS:0{DIGITS}}"


def accepted_step(seed: bytes, code: str, now: float, last: int) -> int | None:
    """The time step whose code was given; None for a wrong one, or one that was used before.

    Args:
        now: Unix time, s.
        last: the newest step whose code this person has used; a code counts once. Source: RFC 6238 section 5.2.
    """
    given = "".join(code.split())
    here = int(now) // STEP
    found = None
    for step in range(here - DRIFT, here + DRIFT + 1):
        if step > last and hmac.compare_digest(one_time_code(seed, step).encode(), given.encode()):
            found = step
    return found


def seed_text(seed: bytes) -> str:
    """A seed as authenticator programs take it: base32 without padding."""
    return base64.b32encode(seed).decode().rstrip("=")


def read_seed(text: str) -> bytes:
    """A seed from its base32. Raises: ValueError."""
    plain = "".join(text.split()).replace("-", "").upper().rstrip("=")
    try:
        seed = base64.b32decode(plain + "=" * (-len(plain) % 8))
    except binascii.Error:
        raise ValueError("a TOTP seed is base32: letters A to Z and digits 2 to 7") from None
    if len(seed) < 10:
        raise ValueError("a TOTP seed has at least 80 bits: 16 characters of base32")
    return seed


def device_proof(user: AdminUser, device: str) -> str:
    """What a browser holds after a sign-in: that this person has used it. It opens nothing."""
    secret = hashlib.sha256(b"relayd known device\0" + user.password_hash.encode()).digest()
    told = f"{user.name}\0{device}".encode()
    return f"{device}.{hmac.digest(secret, told, 'sha256').hex()}"


def known_device(user: AdminUser, proof: str) -> str:
    """The device that a proof names; "" when it is none of this person's."""
    device = proof.partition(".")[0]
    return device if device and hmac.compare_digest(device_proof(user, device).encode(), proof.encode()) else ""


@noun(kw_only=True)
class Guess:
    """One try to sign in.

    Args:
        address: of whoever tries, or the name of the proxy that did not tell.
        device: a known device's, else "".
    """

    name: str
    address: str
    device: str = ""


@attrs.define(eq=False)
class LockOut:
    """Failed sign-ins, and the waits that they cost."""

    _failures: dict[tuple[str, str], tuple[int, float]] = attrs.field(factory=dict, init=False)  # count, until

    def wait(self, guess: Guess, now: float) -> float:
        """Seconds until this guess may be tried; 0 at once. `now`: Unix time, s."""
        return max((self._left(place, free, now) for place, free in _places(guess)), default=0.0)

    def failed(self, guess: Guess, now: float) -> None:
        """Count a failure. It is counted before the password is looked at, so that guesses side by side count too."""
        for place, _ in _places(guess):
            count, at = self._failures.pop(place, (0, now))
            count = 0 if now - at > FORGET else count
            if len(self._failures) >= MOST_COUNTED:
                del self._failures[next(iter(self._failures))]
            self._failures[place] = (count + 1, now)

    def succeeded(self, guess: Guess) -> None:
        """Forget what counted against this person here; what was counted of the name from elsewhere stays."""
        for place, free in _places(guess):
            if free == FREE_PAIR:
                self._failures.pop(place, None)
            elif (found := self._failures.get(place)) is not None:
                self._failures[place] = (max(0, found[0] - 1), found[1])

    def _left(self, place: tuple[str, str], free: int, now: float) -> float:
        count, at = self._failures.get(place, (0, 0.0))
        if count < free or now - at > FORGET:
            return 0.0
        pause = min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** min(count - free, 20))
        return max(0.0, min(pause, at + pause - now))


def _places(guess: Guess) -> list[tuple[tuple[str, str], int]]:
    """What a guess counts against, each with the failures that are free."""
    network = _network(guess.address)
    if guess.device:
        return [((guess.name, f"device {guess.device}"), FREE_PAIR)]
    return [((guess.name, network), FREE_PAIR), (("", network), FREE_ADDRESS), ((guess.name, ""), FREE_NAME)]


def _network(address: str) -> str:
    """An address, or the network of one subscriber in IPv6. Source: RFC 6177, a site has a /64 at least."""
    try:
        one = ipaddress.ip_address(address)
    except ValueError:
        return address
    return str(ipaddress.ip_network((one, 64), strict=False)) if one.version == 6 else str(one)
