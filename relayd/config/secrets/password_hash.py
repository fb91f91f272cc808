"""Password hashes: of admin passwords; also the bearer tokens of machines.

Rule: no I/O and no clock; randomness is an argument. What comes out of here may lie in git; a password or a token never
does. A password is hashed slowly, because people's passwords can be guessed; a token has 256 random bits, so a plain
SHA-256 is right for it.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Callable

from relayd.config.secrets.api_keys import RANDOM_CHARS, base62
from relayd.config.secrets.secret import Secret

SHORTEST = 10  # characters of a password
LONGEST = 1024  # bytes
TOKEN_PREFIX = "rladm_"
TOKEN_PATTERN = re.compile(rf"\b{TOKEN_PREFIX}[0-9A-Za-z]{{{RANDOM_CHARS}}}\b", re.ASCII)

# Memory is 128 * r * 2**ln bytes: 32 MiB, which a daemon of 50 MB can afford, and three passes instead of more memory.
# Source: OWASP Password Storage Cheat Sheet, scrypt: N=2^15, r=8, p=3 is as strong as N=2^17, r=8, p=1.
_COST = (15, 8, 3)  # log2 N, r, p
_MOST_MEMORY = 256 << 20  # bytes; a hash that wants more is not tried
_SALT = 16  # bytes
_HASH = 32  # bytes
_FORM = re.compile(
    r"\$?scrypt\$ln=(?P<ln>[0-9]{1,2}),r=(?P<r>[0-9]{1,2}),p=(?P<p>[0-9]{1,2})"
    r"\$(?P<salt>[A-Za-z0-9+/]{11,86})\$(?P<hash>[A-Za-z0-9+/]{22,86})"
)


def hash_password(password: Secret, rng: Callable[[int], bytes]) -> str:
    """`scrypt$ln=15,r=8,p=3$SALT$HASH`, the PHC string format; salt and hash in base64 without padding."""
    ln, r, p = _COST
    salt = rng(_SALT)
    return f"scrypt$ln={ln},r={r},p={p}${_b64(salt)}${_b64(_scrypt(password, salt, ln, r, p, _HASH))}"


def is_password_hash(text: str) -> bool:
    """Whether `password_fits` could ever say yes: the form, and a price that this daemon pays."""
    match = _FORM.fullmatch(text)
    if match is None:
        return False
    if 1 in (len(match["salt"]) % 4, len(match["hash"]) % 4):  # no base64 has such a length
        return False
    ln, r, p = (int(match[name]) for name in ("ln", "r", "p"))
    return ln >= 1 and r >= 1 and 1 <= p <= 16 and 128 * r << ln <= _MOST_MEMORY


def password_fits(password: Secret, text: str) -> bool:
    """Whether the password is the one of a hash. Takes some 200 ms, on purpose."""
    match = _FORM.fullmatch(text)
    if match is None or not is_password_hash(text) or len(password.reveal().encode()) > LONGEST:
        return False
    wanted = _unb64(match["hash"])
    got = _scrypt(password, _unb64(match["salt"]), int(match["ln"]), int(match["r"]), int(match["p"]), len(wanted))
    return hmac.compare_digest(got, wanted)


def weak_password(password: Secret) -> str:
    """Why a password is not taken; "" when it is. The page is open to whoever reaches the listener."""
    text = password.reveal()
    if len(text) < SHORTEST:
        return f"the password has {len(text)} characters, at least {SHORTEST} are needed"
    if len(text.encode()) > LONGEST:
        return f"the password has more than {LONGEST} bytes"
    if len(set(text)) < 5:
        return "the password is a few characters repeated"
    return "" if text.isprintable() else "the password has characters that cannot be typed"


def mint_token(rng: Callable[[int], bytes]) -> str:
    """A new token: `rladm_` and 43 base62 characters, which hold 256 random bits."""
    return TOKEN_PREFIX + base62(int.from_bytes(rng(32), "big"), RANDOM_CHARS)


def token_hash(token: str) -> str:
    """What `[[admin.tokens]]` holds: 64 lower-case hex digits."""
    return hashlib.sha256(token.encode()).hexdigest()


def _scrypt(password: Secret, salt: bytes, ln: int, r: int, p: int, size: int) -> bytes:
    # OpenSSL wants room beside the 128 * r * N bytes.
    return hashlib.scrypt(
        password.reveal().encode(), salt=salt, n=1 << ln, r=r, p=p, dklen=size, maxmem=(128 * r << ln) + (1 << 20)
    )


def _b64(raw: bytes) -> str:
    return base64.b64encode(raw).rstrip(b"=").decode()


def _unb64(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4))
