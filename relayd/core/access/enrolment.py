"""TOTP enrolment: a new seed of one-time codes, sealed for the tree, and the QR code that a phone reads.

Rule: the seed is shown to the person whom it is for, once, and kept by nobody: the tree gets it sealed.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from urllib.parse import quote

import attrs

from relayd.config.secrets.binding import totp_binding
from relayd.config.secrets.recipients import active_keys
from relayd.config.secrets.seal import seal
from relayd.config.secrets.secret import Secret
from relayd.config.snapshot import Recipient
from relayd.core.access.sign_in import DIGITS, SEED_BYTES, STEP, seed_text
from relayd.noun import noun

QUIET = 4  # modules of margin. Source: ISO/IEC 18004, 6.3.8
INVERSE = "\033[40;97m", "\033[0m"  # white blocks on black, whatever the colours of the terminal


@noun(kw_only=True)
class Enrolment:
    """One-time codes that nobody uses yet.

    Args:
        sealed: for `totp` of [[admin.users]].
        uri: what authenticator programs take.
    """

    name: str
    sealed: str
    seed: bytes = attrs.field(repr=False)
    uri: str = attrs.field(repr=False)

    @property
    def grouped(self) -> str:
        """The seed for a person who types it."""
        text = seed_text(self.seed)
        return " ".join(text[at : at + 4] for at in range(0, len(text), 4))


def enrol(name: str, realm: str, recipients: Sequence[Recipient], rng: Callable[[int], bytes]) -> Enrolment:
    """A new seed for an admin.

    Args:
        rng: makes that many random bytes.

    Raises: SealError where nobody can open what is sealed.
    """
    seed = rng(SEED_BYTES)
    sealed = seal(Secret(seed_text(seed)), totp_binding(realm, name), active_keys(recipients), rng)
    return Enrolment(name=name, sealed=sealed, seed=seed, uri=key_uri(name, realm, seed))


def key_uri(name: str, realm: str, seed: bytes) -> str:
    """A seed as authenticator programs take it. Source: "Key Uri Format" of Google Authenticator's wiki."""
    issuer = quote(f"relayd {realm}", safe="")
    settings = f"issuer={issuer}&algorithm=SHA1&digits={DIGITS}&period={STEP}"
    return f"otpauth://totp/{issuer}:{quote(name, safe='')}?secret={seed_text(seed)}&{settings}"


def qr_svg(text: str) -> bytes:
    """A QR code as a file of its own, dark on white in every theme."""
    import segno

    out = io.BytesIO()
    segno.make(text, micro=False).save(
        out, kind="svg", scale=4, border=QUIET, light="#fff", svgclass=None, lineclass=None
    )
    return out.getvalue()


def qr_terminal(text: str, *, colours: bool) -> str:
    """A QR code in half blocks. Without `colours` it is for dark terminals."""
    import segno

    out = io.StringIO()
    segno.make(text, micro=False).terminal(out, border=QUIET, compact=True)
    lines = out.getvalue().strip("\n").split("\n")
    return "\n".join(f"{INVERSE[0]}{line}{INVERSE[1]}" if colours else line for line in lines)
