"""Exports of claude-relay-service.

Theory: the export is JSON of Redis hashes, so every value is a string and lists are JSON inside strings. A key is kept
there as SHA-256(key + the installation's ENCRYPTION_KEY), in the field `apiKey`. With that secret sealed in the tree
old keys go on working (scheme crs-sha256); without it keys are issued anew, with the same name and limits. Accounts
come with OAuth tokens in clear (unless the export was sanitized or left encrypted), and are sealed on the way in.

Source: claude-relay-service, scripts/data-transfer-enhanced.js (exportData, hashApiKey, sanitizeData).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from relayd.cli.export import (
    API,
    BadExport,
    Export,
    ExportRow,
    ImportedAccount,
    ImportedKey,
    expiry_of,
    plain,
    proxy_of,
    usd,
)
from relayd.config.edit.toml_edit import Value
from relayd.config.secrets.secret import Secret
from relayd.config.snapshot import PREDEFINED_CLIENTS

SCHEME = "crs-sha256"
_TAKEN = ("apiKeys", "claudeAccounts")


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
    left = {name: len(rows) for name, rows in tables.items() if name not in _TAKEN and isinstance(rows, list) and rows}
    notes += [f"{name}: {count} left out, relayd has nothing like them" for name, count in left.items()]
    return Export(
        relay="crs",
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
    known = _text(row, "apiKey").lower()
    return ImportedKey(
        name=name,
        fields=fields,
        limits=_limits(row, where, notes),
        origin=_text(row, "id"),
        account=account,
        old_hash=known if re.fullmatch(r"[0-9a-f]{64}", known) else "",
        scheme=SCHEME,
    )


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
    if moment := expiry_of(text, where, notes):
        fields["expires"] = moment


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
        "base_url": API,
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
    if not isinstance(proxy, dict):
        return
    if url := proxy_of(proxy, "type", where, notes):
        fields["proxy"] = url


# --- strings of Redis -----------------------------------------------------------------------------------------------


def _rows(tables: Mapping[str, Any], name: str) -> list[ExportRow]:
    return [row for row in tables.get(name) or [] if isinstance(row, dict)]


def _text(row: ExportRow, name: str) -> str:
    value = row.get(name)
    return json.dumps(value) if isinstance(value, list | dict) else plain(value)


def _integer(row: ExportRow, name: str) -> int:
    match = re.match(r"[0-9]{1,15}", _text(row, name))
    return int(match[0]) if match else 0


def _money(row: ExportRow, name: str) -> str:
    return usd(_text(row, name))


def _listed(text: str) -> list[str]:
    try:
        found = json.loads(text) if text.startswith("[") else []
    except ValueError:
        return []
    return [str(item) for item in found if isinstance(item, str)]
