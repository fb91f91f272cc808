"""What an export of claude-relay-service says, in relayd's terms.

Rule: pure; text in, nouns and notes out. What cannot be carried over is a note, never a silent loss: a limit that got
lost would be no limit.

Theory: the export (`scripts/data-transfer-enhanced.js export`) is JSON of Redis hashes, so every value is a string and
lists are JSON inside strings. A key is kept there as SHA-256(key + the installation's ENCRYPTION_KEY), which only that
installation can check; so keys are issued anew, with the same name and limits. Accounts come with their OAuth tokens in
clear (unless the export was sanitized or left encrypted), and are sealed on the way in.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Mapping
from typing import Any

import attrs

from relayd.config.edit.toml_edit import Value
from relayd.config.secrets.secret import Secret
from relayd.config.snapshot import PREDEFINED_CLIENTS

ExportRow = Mapping[str, Any]


class BadExport(ValueError):
    """The file is not an export; the text says why, without quoting it."""


@attrs.frozen(kw_only=True)
class ImportedKey:
    """A key to be issued anew. `account`: the export's id of the account it was bound to, or ""."""

    name: str
    fields: dict[str, Value]
    limits: dict[str, Value]
    account: str = ""


@attrs.frozen(kw_only=True)
class ImportedAccount:
    """An account of kind oauth. `origin`: the export's id; `dedicated`: only keys bound to it may use it."""

    name: str
    origin: str
    fields: dict[str, Value]
    credential: Secret
    dedicated: bool = False


@attrs.frozen(kw_only=True)
class Export:
    """Everything that can be taken over, and what cannot."""

    keys: tuple[ImportedKey, ...]
    accounts: tuple[ImportedAccount, ...]
    notes: tuple[str, ...]


def read_export(text: str) -> Export:
    """Read an export. Raises: BadExport."""
    try:
        found = json.loads(text)
        metadata, tables = found["metadata"], found["data"]
        keys, accounts = _rows(tables, "apiKeys"), _rows(tables, "claudeAccounts")
    except (ValueError, KeyError, TypeError, AttributeError):
        raise BadExport("not an export of claude-relay-service (expected JSON with metadata and data)") from None
    notes: list[str] = []
    readable = bool(metadata.get("decrypted")) and not metadata.get("sanitized")
    if accounts and not readable:
        notes.append("accounts: left out, their tokens are not in the export (export with decryption, not sanitized)")
    taken = [_account(row, notes) for row in accounts] if readable else []
    counts = {other: len(_rows(tables, other)) for other in ("geminiAccounts", "admins")}
    notes += [f"{other}: {count} left out, relayd has nothing like them" for other, count in counts.items() if count]
    return Export(
        keys=tuple(key for row in keys if (key := _key(row, notes)) is not None),
        accounts=tuple(account for account in taken if account is not None),
        notes=tuple(notes),
    )


# --- keys -----------------------------------------------------------------------------------------------------------


def _key(row: ExportRow, notes: list[str]) -> ImportedKey | None:
    name = _text(row, "name") or _text(row, "id")
    where = f"key {name}"
    if _text(row, "isDeleted") == "true":
        return None
    if not _may_use_claude(_text(row, "permissions")):
        notes.append(f"{where}: left out, it may not use Claude")
        return None
    fields: dict[str, Value] = {"name": name}
    if owner := _text(row, "userUsername"):
        fields["owner"] = owner
    if _text(row, "isActive") == "false":
        fields["enabled"] = False
    _add_expiry(row, fields, where, notes)
    _add_restrictions(row, fields, where, notes)
    account = _text(row, "claudeAccountId")
    if account.startswith("group:"):
        notes.append(f"{where}: it was bound to a group of accounts; set `groups` by hand")
        account = ""
    return ImportedKey(name=name, fields=fields, limits=_limits(row, where, notes), account=account)


def _may_use_claude(permissions: str) -> bool:
    """Absent, "all", "claude", or a JSON list with or without "claude" (an empty list is everything)."""
    listed = _listed(permissions)
    return permissions in ("", "all", "claude") or (permissions.startswith("[") and (not listed or "claude" in listed))


def _add_expiry(row: ExportRow, fields: dict[str, Value], where: str, notes: list[str]) -> None:
    text = _text(row, "expiresAt")
    if not text:
        if _text(row, "expirationMode") == "activation":
            notes.append(f"{where}: it was to expire some time after its first use; set `expires` by hand")
        return
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        notes.append(f"{where}: its expiry is not a date; set `expires` by hand")
        return
    fields["expires"] = (moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)).replace(microsecond=0)


def _add_restrictions(row: ExportRow, fields: dict[str, Value], where: str, notes: list[str]) -> None:
    if _text(row, "enableModelRestriction") == "true" and (models := _listed(_text(row, "restrictedModels"))):
        fields["deny_models"] = list(models)  # the export lists what is forbidden
    if _text(row, "enableIpWhitelist") == "true" and (addresses := _listed(_text(row, "ipWhitelist"))):
        fields["allowed_ips"] = list(addresses)
    if _text(row, "enableClientRestriction") == "true":
        wanted = _listed(_text(row, "allowedClients"))
        known = [client for client in wanted if client in PREDEFINED_CLIENTS]
        if known:
            fields["clients"] = list(known)
        if missing := [client for client in wanted if client not in PREDEFINED_CLIENTS]:
            notes.append(f"{where}: no client rule for {', '.join(missing)}; add one to [clients] and to the key")
        if not known:
            fields["enabled"] = False
            notes.append(f"{where}: switched off, because none of the clients that it allowed is known here")


def _limits(row: ExportRow, where: str, notes: list[str]) -> dict[str, Value]:
    limits: dict[str, Value] = {}
    windows: list[Any] = []
    if concurrency := _integer(row, "concurrencyLimit"):
        limits["concurrency"] = concurrency
    minutes, requests = _integer(row, "rateLimitWindow"), _integer(row, "rateLimitRequests")
    window = f"{minutes}m"
    if minutes and requests:
        limits["rate"] = {"requests": requests, "window": window}
    if tokens := _integer(row, "tokenLimit"):
        if minutes:
            windows.append({"window": window, "tokens": tokens})
        else:
            notes.append(f"{where}: its token limit of {tokens} names no window; set a limit by hand")
    if minutes and (cost := _money(row, "rateLimitCost")):
        windows.append({"window": window, "cost": cost})
    for theirs, ours in (("dailyCostLimit", "daily_cost"), ("totalCostLimit", "total_cost")):
        if cost := _money(row, theirs):
            limits[ours] = cost
    if cost := _money(row, "weeklyOpusCostLimit"):
        notes.append(f"{where}: its weekly limit of {cost} USD counted one model family only; set a limit by hand")
    return limits | ({"windows": windows} if windows else {})


# --- accounts -------------------------------------------------------------------------------------------------------


def _account(row: ExportRow, notes: list[str]) -> ImportedAccount | None:
    name = _text(row, "name") or _text(row, "id")
    where = f"account {name}"
    access, refresh = _text(row, "accessToken"), _text(row, "refreshToken")
    if not access:
        notes.append(f"{where}: left out, it has no access token")
        return None
    tokens: dict[str, Any] = {"access_token": access}
    if refresh:
        tokens["refresh_token"] = refresh
    if expires := _integer(row, "expiresAt"):
        tokens["expires_at"] = expires // 1000  # ms there
    # The address is written down: the tree's own default may be another upstream, which must not get these tokens.
    fields: dict[str, Value] = {
        "kind": "oauth",
        "name": name,
        "enabled": False,
        "base_url": "https://api.anthropic.com",
    }
    if email := _text(row, "email"):
        fields["email"] = email
    if priority := _integer(row, "priority"):
        fields["priority"] = priority
    _add_proxy(row, fields, where, notes)
    credential = Secret(json.dumps(tokens, separators=(",", ":")))
    dedicated = _text(row, "accountType") == "dedicated"
    origin = _text(row, "id")
    return ImportedAccount(name=name, origin=origin, fields=fields, credential=credential, dedicated=dedicated)


def _add_proxy(row: ExportRow, fields: dict[str, Value], where: str, notes: list[str]) -> None:
    try:
        proxy = json.loads(_text(row, "proxy") or "null")
    except ValueError:
        proxy = None
    if not isinstance(proxy, dict) or not proxy.get("host"):
        return
    if proxy.get("username") or proxy.get("password"):
        notes.append(
            f"{where}: its proxy has a password, which does not belong in a tree in clear; set `proxy` by hand"
        )
        return
    scheme = {"http": "http", "https": "https", "socks5": "socks5"}.get(str(proxy.get("type", "")))
    host = str(proxy["host"])
    if scheme is None or not re.fullmatch(r"[A-Za-z0-9.:-]+", host):
        notes.append(f"{where}: its proxy is of an unknown type; set `proxy` by hand")
        return
    shown = f"[{host}]" if ":" in host else host
    fields["proxy"] = f"{scheme}://{shown}:{proxy.get('port', '')}".rstrip(":")


# --- strings of Redis -----------------------------------------------------------------------------------------------


def _rows(tables: Mapping[str, Any], name: str) -> list[ExportRow]:
    return [row for row in tables.get(name) or [] if isinstance(row, dict)]


def _text(row: ExportRow, name: str) -> str:
    value = row.get(name)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | dict):
        return json.dumps(value)
    return "" if value is None else "".join(char for char in str(value) if char.isprintable()).strip()


def _integer(row: ExportRow, name: str) -> int:
    match = re.match(r"[0-9]{1,15}", _text(row, name))
    return int(match[0]) if match else 0


def _money(row: ExportRow, name: str) -> str:
    """USD with at most 6 decimals, as relayd writes it; "" for none."""
    match = re.fullmatch(r"([0-9]{1,9})(?:\.([0-9]+))?", _text(row, name))
    if match is None:
        return ""
    decimals = (match[2] or "")[:6].rstrip("0")
    whole = str(int(match[1]))
    return "" if whole == "0" and not decimals else f"{whole}.{decimals}" if decimals else whole


def _listed(text: str) -> list[str]:
    try:
        found = json.loads(text) if text.startswith("[") else []
    except ValueError:
        return []
    return [str(item) for item in found if isinstance(item, str)]
