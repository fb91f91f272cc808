"""Configs of LiteLLM's proxy: its YAML, and its keys as `GET /key/list?return_full_object=true` answers them.

Theory: deployments of Claude models that share a key and an address are one account; a name that differs from the
model's becomes the account's model_map. A key is kept there as plain SHA-256, which needs no secret, so old keys can go
on working (scheme litellm-sha256). Budgets count in a rolling window here, and there from a reset on.

Source: LiteLLM, docs/my-website/docs/proxy/configs.md and virtual_keys.md; litellm/proxy/_types.py (hash_token,
LiteLLM_VerificationToken).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from relayd.cli.export import API, BadExport, Export, ExportRow, ImportedAccount, ImportedKey, expiry_of, plain, usd
from relayd.config.edit.toml_edit import Value
from relayd.config.secrets.secret import Secret

SCHEME = "litellm-sha256"
_FROM_ENVIRONMENT = "os.environ/"
_EVERYTHING = ("all-proxy-models", "all-team-models", "*")
_SPANS = {"s": "s", "m": "m", "h": "h", "d": "d"}


def read_export(config: str, keys: str, environment: Mapping[str, str]) -> Export:
    """Read a config and keys, either of which may be "".

    Args:
        environment: where `os.environ/NAME` is looked up.
    Raises: BadExport; ImportError without the YAML library.
    """
    notes: list[str] = []
    accounts = _accounts(_models(config), environment, notes) if config else []
    found = [key for row in _rows(keys) if (key := _key(row, notes)) is not None] if keys else []
    return Export(relay="litellm", keys=tuple(found), accounts=tuple(accounts), notes=tuple(notes))


def _models(config: str) -> list[ExportRow]:
    import yaml

    try:
        models = yaml.safe_load(config)["model_list"]
        return [row for row in models if isinstance(row.get("litellm_params"), dict)]
    except (yaml.YAMLError, KeyError, TypeError, AttributeError):
        raise BadExport("not a config of LiteLLM's proxy (expected YAML with model_list)") from None


def _rows(keys: str) -> list[ExportRow]:
    try:
        found = json.loads(keys)
        rows = found["keys"] if isinstance(found, dict) else found
        if not all(isinstance(row, dict) for row in rows):
            raise TypeError
        return list(rows)
    except (ValueError, KeyError, TypeError):
        raise BadExport("not keys of LiteLLM (expected what /key/list?return_full_object=true answers)") from None


# --- accounts


def _accounts(models: list[ExportRow], environment: Mapping[str, str], notes: list[str]) -> list[ImportedAccount]:
    together: dict[tuple[str, str], list[tuple[str, str, ExportRow]]] = {}
    for row in models:
        asked, params = plain(row.get("model_name")), row["litellm_params"]
        provider, _, model = plain(params.get("model")).rpartition("/")
        if provider not in ("anthropic", "") or (not provider and not model.startswith("claude")):
            notes.append(f"model {asked}: left out, {plain(params.get('model')) or 'nothing'} is not Claude's API")
            continue
        place = plain(params.get("api_key")) or f"{_FROM_ENVIRONMENT}ANTHROPIC_API_KEY", plain(params.get("api_base"))
        together.setdefault(place, []).append((asked, model, params))
    return [_account(key, base, rows, environment, notes) for (key, base), rows in together.items()]


def _account(
    key: str, base: str, rows: list[tuple[str, str, ExportRow]], environment: Mapping[str, str], notes: list[str]
) -> ImportedAccount:
    variable = key.removeprefix(_FROM_ENVIRONMENT) if key.startswith(_FROM_ENVIRONMENT) else ""
    name = re.sub(r"_API_KEY\b", "", variable).replace("_", " ").strip().lower() or rows[0][0]
    secret = environment.get(variable, "") if variable else key
    if not secret:
        notes.append(f"account {name}: {variable} is not set here; its key is read from a file of the node")
    asked = list(dict.fromkeys(one for one, _, _ in rows))
    fields: dict[str, Value] = {"kind": "api-key", "name": name, "base_url": base or API, "models": list(asked)}
    if "*" in asked:
        del fields["models"]
    renamed = {one: model for one, model, _ in rows if one != model and "*" not in one}
    if most := _largest(rows, "max_parallel_requests"):
        fields["max_concurrency"] = most
    if weight := _largest(rows, "weight"):
        fields["weight"] = weight
    tables: dict[str, dict[str, Value]] = {}
    if pace := _largest(rows, "rpm"):
        tables["pace"] = {"requests_per_minute": pace}
    if renamed:
        tables["model_map"] = dict(renamed)
    credential = Secret(secret) if secret else None
    return ImportedAccount(name=name, origin=variable or name, fields=fields, credential=credential, tables=tables)


def _largest(rows: list[tuple[str, str, ExportRow]], name: str) -> int:
    return max((_integer(params, name) for _, _, params in rows), default=0)


# --- keys


def _key(row: ExportRow, notes: list[str]) -> ImportedKey | None:
    token = plain(row.get("token")).lower()
    name = plain(row.get("key_alias")) or plain(row.get("key_name")) or token[:8]
    where = f"key {name}"
    fields: dict[str, Value] = {"name": name}
    if owner := plain(row.get("user_id")) or plain(row.get("team_id")):
        fields["owner"] = owner
    if row.get("blocked") is True:
        fields["enabled"] = False
    if (text := plain(row.get("expires"))) and (moment := expiry_of(text, where, notes)):
        fields["expires"] = moment
    models = [plain(model) for model in row.get("models") or []]
    if models and not set(models) & set(_EVERYTHING):
        fields["models"] = list(models)
    if row.get("aliases"):
        notes.append(f"{where}: its aliases are left out; set [models] in relay.toml by hand")
    known = token if re.fullmatch(r"[0-9a-f]{64}", token) else ""
    limits = _limits(row, where, notes)
    return ImportedKey(name=name, fields=fields, limits=limits, origin=known[:16], old_hash=known, scheme=SCHEME)


def _limits(row: ExportRow, where: str, notes: list[str]) -> dict[str, Value]:
    limits: dict[str, Value] = {}
    if most := _integer(row, "max_parallel_requests"):
        limits["concurrency"] = most
    if requests := _integer(row, "rpm_limit"):
        limits["rate"] = {"requests": requests, "window": "1m"}
    if tokens := _integer(row, "tpm_limit"):
        limits["tokens_per_minute"] = tokens
    cost, span = usd(_decimal(row.get("max_budget"))), plain(row.get("budget_duration"))
    if cost and not span:
        limits["total_cost"] = cost
    elif cost and span in ("1mo", "30d"):
        limits["monthly_cost"] = cost
    elif cost and (match := re.fullmatch(r"([0-9]{1,6})([smhd])", span)):
        windows: list[Any] = [{"window": f"{match[1]}{_SPANS[match[2]]}", "cost": cost}]
        limits["windows"] = windows
    elif cost:
        notes.append(f"{where}: its budget of {cost} USD for {span} has no such window here; set a limit by hand")
    return limits


def _decimal(value: object) -> str:
    return f"{value:.6f}" if isinstance(value, float | int) and not isinstance(value, bool) else plain(value)


def _integer(row: ExportRow, name: str) -> int:
    value = row.get(name)
    return int(value) if isinstance(value, int | float) and not isinstance(value, bool) and value > 0 else 0
