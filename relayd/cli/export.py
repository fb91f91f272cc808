"""What an export of another relay says, in relayd's terms; each reader (crs, litellm, sub2api) makes these.

Rule: pure. What cannot be carried over is a note, never a silent loss: a limit that got lost would be no limit.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping
from typing import Any

import attrs

from relayd.config.edit.toml_edit import Value
from relayd.config.secrets.secret import Secret
from relayd.noun import noun

ExportRow = Mapping[str, Any]
API = "https://api.anthropic.com"


class BadExport(ValueError):
    """The file is not an export; the text says why, without quoting it."""


@noun(kw_only=True)
class ImportedKey:
    """A key.

    Args:
        origin: its id there; "" for none.
        account: the export's id of the account it was bound to, or "".
        old_hash: 64 hex digits by which it was known there, in `scheme`; "" where the export has none.
    """

    name: str
    fields: dict[str, Value]
    limits: dict[str, Value]
    origin: str = ""
    account: str = ""
    old_hash: str = ""
    scheme: str = ""


@noun(kw_only=True)
class ImportedAccount:
    """An account.

    Args:
        origin: its id there.
        credential: None where the export has none, and the account reads a file of the node.
        dedicated: only keys bound to it may use it.
    """

    name: str
    origin: str
    fields: dict[str, Value]
    credential: Secret | None
    tables: dict[str, dict[str, Value]] = attrs.field(factory=dict)
    dedicated: bool = False


@noun(kw_only=True)
class Export:
    """Everything that can be taken over, and what cannot. `relay`: whose it is, "crs"."""

    relay: str
    keys: tuple[ImportedKey, ...] = ()
    accounts: tuple[ImportedAccount, ...] = ()
    notes: tuple[str, ...] = ()


def proxy_of(proxy: ExportRow, kind: str, where: str, notes: list[str]) -> str:
    """A proxy's URL; "" where it cannot be written into a tree, which is noted. `kind`: the field with its scheme."""
    host, port = plain(proxy.get("host")), plain(proxy.get("port"))
    if not host:
        return ""
    if proxy.get("username") or proxy.get("password"):
        notes.append(
            f"{where}: its proxy has a password, which does not belong in a tree in clear; set `proxy` by hand"
        )
        return ""
    scheme = {"http": "http", "https": "https", "socks5": "socks5", "socks5h": "socks5"}.get(plain(proxy.get(kind)))
    if scheme is None or not re.fullmatch(r"[A-Za-z0-9.:-]+", host):
        notes.append(f"{where}: its proxy is of an unknown type; set `proxy` by hand")
        return ""
    shown = f"[{host}]" if ":" in host else host
    return f"{scheme}://{shown}:{port}".rstrip(":")


def expiry_of(text: str, where: str, notes: list[str]) -> datetime.datetime | None:
    """A time as JSON writes it; None for what is none, which is noted."""
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        notes.append(f"{where}: its expiry is not a date; set `expires` by hand")
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)).replace(microsecond=0)


def usd(text: str) -> str:
    """USD with at most 6 decimals, as relayd writes it; "" for none."""
    match = re.fullmatch(r"([0-9]{1,9})(?:\.([0-9]+))?", text)
    if match is None:
        return ""
    decimals = (match[2] or "")[:6].rstrip("0")
    whole = str(int(match[1]))
    return "" if whole == "0" and not decimals else f"{whole}.{decimals}" if decimals else whole


def plain(value: object) -> str:
    """A value as text, without what cannot be printed; "" for none."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else "".join(char for char in str(value) if char.isprintable()).strip()
