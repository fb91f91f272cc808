"""relayd explain: which account would serve a call, and why each other would not.

Rule: the same decisions as for a real call, in the same order: the key, its client rule, endpoint and model; then the
pool, with the accounts' health as the state store has it. What only a running daemon knows (calls in flight, the pace
of the last minute) is not in it; `relayd status` shows that.
"""

from __future__ import annotations

import argparse
import datetime
from typing import Any

import msgspec

from relayd.cli.books import add_state, now_ms, open_books
from relayd.cli.editing import Stop, compiled, guarded, print_json, say
from relayd.cli.options import add_config, add_json
from relayd.config.scenario import Scenario
from relayd.config.snapshot import ObjectId, Snapshot
from relayd.core.pool import Pool
from relayd.core.rehearse import rehearse
from relayd.state.contract import Gather, Gathered

ENDPOINTS = ("messages", "count_tokens", "openai", "batches", "files")
SERVED, NOT_SERVED = 0, 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--key", metavar="K", required=True, help="id of the API key (not the key itself)")
    parser.add_argument("--model", metavar="M", default="", help="the model asked for")
    parser.add_argument("--client", metavar="UA", default="", help="the client's User-Agent")
    parser.add_argument("--address", metavar="IP", default="", help="the client's address (default: a unix socket)")
    parser.add_argument("--endpoint", choices=ENDPOINTS, default="messages", help="what is called (messages)")
    add_config(parser)
    add_state(parser)
    add_json(parser)
    parser.epilog = "exit status: 0 an account would serve, 1 none would or something failed, 2 usage"


def main(args: argparse.Namespace) -> int:
    return guarded("explain", explain, args)


def explain(args: argparse.Namespace) -> int:
    """Print the explanation."""
    snapshot = compiled(args)
    if args.key not in snapshot.keys:
        have = ", ".join(sorted(snapshot.keys)[:20]) or "none"
        raise Stop(f"there is no key {args.key} (there is: {have})")
    if args.endpoint in ("messages", "count_tokens", "openai") and not args.model:
        raise Stop(f"--model is needed: a call of {args.endpoint} names one")
    now = now_ms() / 1000
    outcome = rehearse(_scenario(args, now), snapshot)
    pool = Pool()
    pool.adopt(snapshot, now)
    unknown = _load_health(args, snapshot, pool, now)
    key = snapshot.keys[args.key]
    model = snapshot.relay.models.get(args.model, args.model)
    reasons = pool.explain(snapshot, key.groups, model, now=now)
    answer: dict[str, Any] = {
        "served": outcome.refusal is None and any(reason.ok for reason in reasons),
        "key": key.id,
        "model": args.model,
        "sent_model": model,
        "refusal": None if outcome.refusal is None else _refusal(outcome.refusal.status, outcome.refusal.message),
        "accounts": [{"id": one.account, "serves": one.ok, "reason": one.text} for one in reasons],
        "limits": list(outcome.limits),
        "health": unknown or "as of the state store",
    }
    if args.json:
        print_json(answer)
    else:
        _print(answer, now)
    if unknown:
        say(f"note: {unknown}")
    return SERVED if answer["served"] else NOT_SERVED


def _scenario(args: argparse.Namespace, now: float) -> Scenario:
    return Scenario(
        name="explain",
        key=ObjectId(args.key),
        client=args.client,
        model=args.model,
        endpoint=args.endpoint,
        address=args.address,
        time=datetime.datetime.fromtimestamp(now, datetime.UTC),
        expect="allow",
    )


def _load_health(args: argparse.Namespace, snapshot: Snapshot, pool: Pool, now: float) -> str:
    """Take over what the daemons have noted of their accounts. Returns: why that could not be had; "" when it could."""
    try:
        books = open_books(args, snapshot)
    except Stop as error:
        return f"the accounts' health is not known: {error}"
    try:
        answer = books.ask(Gather(topic="health"))
    except Stop as error:
        return f"the accounts' health is not known: {error}"
    finally:
        books.store.close()
    for note in answer.notes if isinstance(answer, Gathered) else ():
        try:
            pool.load_health(note.name, msgspec.json.decode(note.body, type=dict), now)
        except msgspec.DecodeError:
            continue
    return ""


def _refusal(status: int, message: str) -> dict[str, Any]:
    return {"status": status, "message": message}


def _print(answer: dict[str, Any], now: float) -> None:
    renamed = f" (sent as {answer['sent_model']})" if answer["sent_model"] != answer["model"] else ""
    at = datetime.datetime.fromtimestamp(now, datetime.UTC).strftime("%H:%M:%S")
    print(f"{answer['key']} asks for {answer['model'] or 'no model'}{renamed}, at {at} UTC")
    if answer["refusal"]:
        print(f"refused: {answer['refusal']['status']} {answer['refusal']['message']}")
        print("without that refusal:")
    for row in answer["accounts"]:
        print(f"  {'+' if row['serves'] else '-'} {row['id']}: {row['reason']}")
    if not answer["accounts"]:
        print("  no account is in this key's groups")
    if answer["limits"] and not answer["refusal"]:
        print(f"limits it has to pass: {'; '.join(answer['limits'])}")
