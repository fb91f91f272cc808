"""relayd explain: which account would serve a call, and why the others would not.

Rule: the same decisions as for a real call, in the same order: the key, its client rule, endpoint and model; its
limits; then the pool. The running daemon is asked, which knows its breakers, its node and what it runs; where none
runs, the accounts' health, `max_concurrency` and `pace` are as the state store has them. A past config (`--at`) no
daemon runs, so the store is asked. Nothing is taken.
"""

from __future__ import annotations

import argparse
import datetime
from typing import Any

from relayd.cli.control_client import DaemonRefused, NoDaemon, add_control, ask
from relayd.cli.output import amount, print_json, say
from relayd.cli.past_tree import snapshot_at, snapshot_here
from relayd.cli.store import StateReader, add_state, load_health, now_ms, open_state
from relayd.cli.tree import Stop, guarded, pick
from relayd.config.snapshot import ApiKey, Snapshot
from relayd.core.balancing.eligibility import full_elsewhere
from relayd.core.balancing.pool import Pool
from relayd.core.explanation import ENDPOINTS, explanation, reasons_for
from relayd.core.quota.limit_answers import usage_document
from relayd.core.quota.limits import counting_terms
from relayd.core.quota.reservation import account_terms, shown_terms

SERVED, NOT_SERVED = 0, 1
LOOK = 10.0  # s to wait for the daemon


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--key", metavar="K", required=True, help="id of the API key (not the key itself)")
    parser.add_argument("--model", metavar="M", default="", help="the model asked for")
    parser.add_argument("--client", metavar="UA", default="", help="the client's User-Agent")
    parser.add_argument("--address", metavar="IP", default="", help="the client's address (default: a unix socket)")
    parser.add_argument("--endpoint", choices=ENDPOINTS, default="messages", help="what is called (default: messages)")
    parser.add_argument(
        "--at",
        metavar="REV",
        default="",
        help="by the config of this commit, or of this revision as `relayd-config` in answers has it",
    )
    add_control(parser)
    add_state(parser)
    parser.epilog = "exit status: 0 an account would serve, 1 none would or something failed, 2 usage"


def main(args: argparse.Namespace) -> int:
    return guarded("explain", explain, args)


def explain(args: argparse.Namespace) -> int:
    """Print the explanation."""
    snapshot, config = snapshot_at(args, args.at) if args.at else (snapshot_here(args), "")
    key = pick(snapshot.keys, "key", args.key)
    if args.endpoint in ("messages", "count_tokens", "openai") and not args.model:
        raise Stop(f"--model is needed: a call of {args.endpoint} names one")
    now = now_ms() / 1000
    asked = {name: getattr(args, name) for name in ("key", "model", "client", "address", "endpoint")}
    answer = None if config else _of_daemon(args, asked)
    pool = Pool()
    pool.adopt(snapshot, now)
    unknown, limits = _look_up(args, snapshot, key, pool, now)
    if answer is None:
        reasons = reasons_for(snapshot, pool, key=args.key, model=args.model, now=now)
        answer = explanation(snapshot, reasons, now=now, **asked)
        answer["health"] = unknown or "as of the state store"
    full = [row["limit_name"] for row in limits if _is_full(row)] if answer["refusal"] is None else []
    answer |= {"served": answer["served"] and not full, "usage": limits, "full": full}
    if config:
        answer["config"] = config
    if args.json:
        print_json(answer)
    else:
        _print(answer, now)
    if unknown:
        say(f"note: {unknown}")
    return SERVED if answer["served"] else NOT_SERVED


def _of_daemon(args: argparse.Namespace, asked: dict[str, str]) -> dict[str, Any] | None:
    """What the running daemon says; None when none runs, or one that does not know this tree's key."""
    try:
        answer: dict[str, Any] = ask(args, patience=LOOK, verb="explain", **asked)["explanation"]
    except NoDaemon:
        return None
    except DaemonRefused as error:
        say(f"note: the daemon was not of use: {error}")
        return None
    return answer | {"health": "as the daemon has it"}


def _look_up(
    args: argparse.Namespace, snapshot: Snapshot, key: ApiKey, pool: Pool, now: float
) -> tuple[str, list[dict[str, Any]]]:
    """Tell the pool what the store knows of the accounts.

    Returns: why the store could not be asked, "" when it could; the key's limits as they stand.
    """
    try:
        with open_state(args, snapshot) as state:
            load_health(state, pool, now)
            _load_ceilings(state, snapshot, pool, now)
            return "", _limits(args, state, snapshot, key)
    except Stop as error:
        return f"the accounts' health is not known: {error}", []


def _load_ceilings(state: StateReader, snapshot: Snapshot, pool: Pool, now: float) -> None:
    """Hold the accounts whose calls on all nodes together leave no room."""
    for account in snapshot.accounts.values():
        terms = account_terms(account)
        for term, level in zip(terms, state.levels(terms).levels, strict=True):
            if level.used >= term.limit:
                pool.block(full_elsewhere(account.id, term, None, now))


def _limits(args: argparse.Namespace, state: StateReader, snapshot: Snapshot, key: ApiKey) -> list[dict[str, Any]]:
    """The key's limits on such a call, as they stand."""
    counting = counting_terms(key, 0)
    of_calls = tuple(term for term in shown_terms(key, snapshot, now_ms()) if term not in counting)
    terms = counting if args.endpoint == "count_tokens" else of_calls
    levels = state.levels(terms)
    rows: list[dict[str, Any]] = usage_document(key, terms, levels.levels, levels.now)["limits"]
    return rows


def _is_full(row: dict[str, Any]) -> bool:
    return float(row["remaining"]) <= 0


def _print(answer: dict[str, Any], now: float) -> None:
    renamed = f" (sent as {answer['sent_model']})" if answer["sent_model"] != answer["model"] else ""
    at = datetime.datetime.fromtimestamp(now, datetime.UTC).strftime("%H:%M:%S")
    print(f"{answer['key']} asks for {answer['model'] or 'no model'}{renamed}, at {at} UTC")
    if "config" in answer:
        print(f"by the config of {answer['config']}; the accounts' health is that of now")
    if answer["refusal"]:
        print(f"refused: {answer['refusal']['status']} {answer['refusal']['message']}")
        print("without that refusal:")
    for row in answer["accounts"]:
        print(f"  {'+' if row['serves'] else '-'} {row['id']}: {row['reason']}")
    if not answer["accounts"]:
        print("  no account is in this key's groups")
    if answer["refusal"] or not answer["limits"]:
        return
    if not answer["usage"]:
        print(f"limits it has to pass: {'; '.join(answer['limits'])}")
        return
    print("limits it has to pass:")
    for row in answer["usage"]:
        left = amount(row["unit"], row["remaining"])
        until = f", resets {row['resets_at']}" if row["resets_at"] else ""
        print(f"  {'-' if _is_full(row) else '+'} {row['limit_name']}: {left} left{until}")
