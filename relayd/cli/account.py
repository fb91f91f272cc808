"""relayd account: the operator's accounts, one file each in accounts.d.

A credential comes from stdin (or a question on a terminal) and goes into the tree sealed; it is never an argument.
"""

from __future__ import annotations

import argparse
import secrets
import sys
import time
import webbrowser
from collections.abc import Iterator, Mapping
from typing import Any

import attrs

from relayd.cli.asking import confirmed, read_secret
from relayd.cli.delete import add_delete, delete
from relayd.cli.login import Loopback
from relayd.cli.output import print_json, print_table, say
from relayd.cli.revoke import disable, enable
from relayd.cli.tree import (
    FAILED,
    Stop,
    add_action,
    add_identity,
    compiled,
    guarded,
    identities,
    now,
    object_id,
    permitted_files,
    pick,
    print_written,
    sound_but_for_seals,
    tree_files,
    words,
    write,
)
from relayd.cli.wake import add_wake, wake_account, wake_after_test
from relayd.config.edit.edits import set_sealed
from relayd.config.edit.objects import find_object, refuse_taken
from relayd.config.edit.toml_edit import Value, render_document
from relayd.config.edit.write import Files
from relayd.config.secrets.account_kinds import ACCOUNT_KINDS, OAUTH
from relayd.config.secrets.credential import shape_warning, why_unusable
from relayd.config.secrets.recipients import active_keys
from relayd.config.secrets.seal import seal
from relayd.config.secrets.sealed_fields import account_place, parsed, recipients_of, relay_table, table_binding
from relayd.config.secrets.secret import Secret
from relayd.config.snapshot import Account, Snapshot
from relayd.daemon.accounts import code_grant

KINDS = tuple(ACCOUNT_KINDS)
SIGN_IN = 300.0  # s that a person may take in the browser


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    _add_new(
        add_action(
            actions, "add", "write a new account's file, with its credential from stdin sealed", add, writes=True
        )
    )
    add_action(actions, "list", "list the accounts", show_list)
    _named(add_action(actions, "enable", "let an account serve again", enable("accounts.d"), writes=True))
    _named(add_action(actions, "disable", "take an account out of service", disable("accounts.d"), writes=True))
    gone = add_action(actions, "delete", "remove an account's file", remove, writes=True)
    _named(gone)
    add_delete(gone, "keys that no other account could serve, and scenarios")
    _named(add_action(actions, "seal", "seal a new credential from stdin", seal_credential, writes=True))
    check = add_action(actions, "test", "make the smallest real call and say what is wrong, if anything", test)
    _named(check)
    add_identity(check)
    check.add_argument(
        "--model", metavar="MODEL", help="model to name in the call (default: one that the account serves)"
    )
    rouse = add_action(actions, "wake", "end an account's rest, on every node", wake_account)
    _named(rouse)
    add_wake(check)
    add_wake(rouse)
    sign_in = add_action(actions, "login", "sign in with OAuth in the browser and seal the tokens", log_in, writes=True)
    _named(sign_in)
    sign_in.add_argument("--paste", action="store_true", help="paste the code instead of waiting for the browser")
    sign_in.add_argument("--no-browser", action="store_true", help="only print the address to open")


def _add_new(parser: argparse.ArgumentParser) -> None:
    _named(parser)
    parser.add_argument("--kind", choices=KINDS, help="how the credential is presented")
    parser.add_argument("--name", metavar="TEXT", help="name for people")
    parser.add_argument("--email", metavar="ADDRESS", help="whose account it is, for people")
    parser.add_argument("--base-url", metavar="URL", help="the API's address, when it is not [upstream].base_url")
    parser.add_argument("--proxy", metavar="URL", help="proxy on the way upstream: http://, https:// or socks5://")
    parser.add_argument(
        "--groups",
        metavar="A,B",
        type=words,
        help="groups it is in; keys name the groups they may use (default: default)",
    )
    parser.add_argument("--models", metavar="A,B", type=words, help="model globs it may serve (default: all)")
    parser.add_argument("--priority", metavar="N", type=int, help="the lower, the earlier it is used (default: 50)")
    parser.add_argument("--weight", metavar="N", type=int, help="share of the calls within a priority (default: 1)")
    parser.add_argument("--max-concurrency", metavar="N", type=int, help="calls in flight at once")
    parser.add_argument("--requests-per-minute", metavar="N", type=int, help="ceiling of our own, below the provider's")
    parser.add_argument("--credential-file", metavar="FILE", help="node-local file with the secret, instead of sealing")


def main(args: argparse.Namespace) -> int:
    return guarded(f"account {args.action}", args.act, args)


def add(args: argparse.Namespace) -> int:
    """Write accounts.d/ID.toml."""
    kind = args.kind or _asked_kind()
    warn_of_kind(kind)
    files = tree_files(args)
    refuse_taken(files, "accounts.d", args.id)
    fields = _fields(args, kind)
    credential: dict[str, Value] = {}
    if args.credential_file:
        credential["file"] = args.credential_file
    elif ACCOUNT_KINDS[kind].has_credential:
        _require_recipient(files)
        credential["sealed"] = ""  # its place in the file; `plan` fills it in
        secret = _checked_secret(kind, args.id)
    path = f"accounts.d/{args.id}.toml"
    pace: dict[str, Value] = {"requests_per_minute": args.requests_per_minute} if args.requests_per_minute else {}

    def plan(files: Files) -> Mapping[str, bytes | None]:
        refuse_taken(files, "accounts.d", args.id)
        if "sealed" in credential:
            binding = table_binding(relay_table(files), args.id, dict(fields))
            credential["sealed"] = seal(secret, binding, active_keys(recipients_of(files)))
        return {path: render_document(fields, {"pace": pace, "credential": credential}).encode()}

    changed = write(args, plan)
    if ACCOUNT_KINDS[kind].has_credential:
        say(f"next: relayd account test {args.id}")
    return print_written(args, {"id": args.id, "kind": kind, "file": path, "changed": list(changed)})


def remove(args: argparse.Namespace) -> int:
    """Delete an account's file. Its past stays in the state store under its id."""
    if not confirmed(f"Delete account {args.id}? Its sealed credential goes with it.", args):
        raise Stop("not deleted")
    return delete(args, accounts=[args.id])


def seal_credential(args: argparse.Namespace) -> int:
    """A new credential for an account that exists."""
    files = tree_files(args)
    kind = str(parsed(files[find_object(files, "accounts.d", args.id)]).get("kind", ""))
    if kind in ACCOUNT_KINDS and not ACCOUNT_KINDS[kind].has_credential:
        raise Stop(f"account {args.id} is a {kind} and has no credential")
    _require_recipient(files)
    warn_of_kind(kind)
    return _put_sealed(args, _checked_secret(kind, args.id))


def show_list(args: argparse.Namespace) -> int:
    """All accounts, one a line. How they are doing is for `relayd status`."""
    snapshot = compiled(args)
    entries = [as_json(snapshot, account) for _, account in sorted(snapshot.accounts.items())]
    if args.json:
        print_json({"accounts": entries})
        return 0
    head = ("ID", "KIND", "STATE", "GROUPS", "PRIORITY", "WEIGHT", "MODELS", "BASE URL", "CREDENTIAL")
    print_table(head, [_row(entry) for entry in entries])
    return 0


def as_json(snapshot: Snapshot, account: Account) -> dict[str, Any]:
    """An account for machines, without its secrets: how it has its credential, and not the sealed value itself."""
    kept = "sealed" if account.credential.sealed else "file" if account.credential.file else ""
    base_url = account.base_url or snapshot.relay.upstream.base_url
    return {
        "id": account.id,
        "kind": account.kind,
        "name": account.name,
        "email": account.email,
        "enabled": account.enabled,
        "groups": list(account.groups),
        "priority": account.priority,
        "weight": account.weight,
        "models": list(account.models),
        "base_url": "" if ACCOUNT_KINDS[account.kind].in_process else base_url,
        "proxy": bool(account.proxy),
        "credential": kept,
    }


def test(args: argparse.Namespace) -> int:
    """One real call on the account. It costs nothing: it counts tokens."""
    snapshot = compiled(args)
    account = pick(snapshot.accounts, "account", args.id)
    # The daemon's own way upstream; imported late, because the other verbs need no network.
    from relayd.daemon.accounts.account_test import model_to_test, run_account_check
    from relayd.daemon.accounts.credentials import Credentials

    opened = Credentials(identities(args), permitted_files(args)).opened(account, snapshot)
    if isinstance(opened, str):
        raise Stop(f"{args.id}: credential: {opened}")
    credential = opened.presented
    for note in _notes(account, opened.whole):
        say(f"note: {note}")
    found = run_account_check(account, credential, snapshot.relay, args.model or model_to_test(account))
    if args.json:
        print_json({"id": args.id, **attrs.asdict(found)})
    else:
        status = f"{found.status}: " if found.status else ""
        print(f"{args.id}: {status}{found.message}" + (f"\n  {found.detail}" if found.detail else ""))
    if found.ok:
        wake_after_test(args, snapshot)
    return 0 if found.ok else FAILED


def _notes(account: Account, whole: Secret) -> Iterator[str]:
    """What is worth knowing before the answer comes."""
    from relayd.core.oauth import parse_tokens, utc

    if not account.enabled:
        yield "the account is disabled; it is tested all the same"
    tokens = parse_tokens(whole) if ACCOUNT_KINDS[account.kind].refreshes else None
    if tokens is not None and tokens.expired(now().timestamp()):
        cure = "a daemon refreshes it, which a test does not" if tokens.refresh else "sign in again: account login"
        yield f"the sealed access token expired at {utc(tokens.expires_at or 0.0)} ({cure})"


def log_in(args: argparse.Namespace) -> int:
    """The browser flow; the tokens are sealed into the account's file, which is made if it is not there."""
    snapshot = compiled(args)
    oauth, account = snapshot.relay.oauth, snapshot.accounts.get(args.id)
    if account is not None and account.kind != OAUTH.name:
        raise Stop(
            f"account {args.id} is of kind {account.kind}, but signing in is for kind {OAUTH.name} (another NAME?)"
        )
    if not oauth.client_id:
        raise Stop("relay.toml: [oauth].client_id is empty (sign-in needs an OAuth registration of your own)")
    _require_recipient(tree_files(args))
    warn_of_kind(OAUTH.name)
    try:
        secret = _sign_in(args, oauth)
    except code_grant.LoginError as error:
        raise Stop(str(error)) from None
    return _put_sealed(args, secret)


def _sign_in(args: argparse.Namespace, oauth: Any) -> Secret:
    redirect = oauth.redirect_uri
    if args.paste or (redirect and not code_grant.is_loopback(redirect)):
        if not redirect:
            raise Stop("relay.toml: [oauth].redirect_uri is empty, so there is no page that shows a code to paste")
        ask = code_grant.begin(oauth, redirect, secrets.token_bytes)
        _send_to(args, ask.authorize_url)
        code = code_grant.read_answer(read_secret("the code that the page shows").reveal(), ask, pasted=True)
        return code_grant.exchange(oauth, ask, code, time.time)
    loopback = Loopback(redirect)
    try:
        ask = code_grant.begin(oauth, loopback.redirect_uri, secrets.token_bytes)
        _send_to(args, ask.authorize_url)
        code = loopback.wait(ask, SIGN_IN)
    finally:
        loopback.close()
    return code_grant.exchange(oauth, ask, code, time.time)


def _send_to(args: argparse.Namespace, url: str) -> None:
    say(f"open this address and consent:\n{url}")
    if not args.no_browser and sys.stdin.isatty():
        webbrowser.open(url)


def _put_sealed(args: argparse.Namespace, secret: Secret) -> int:
    """Seal into the account's file; an oauth account that has none yet gets one."""
    path = f"accounts.d/{args.id}.toml"

    def plan(files: Files) -> Mapping[str, bytes | None]:
        known = {**files}
        try:
            file, binding = account_place(files, args.id)
        except LookupError:
            if args.action != "login":
                raise
            known[path] = f'kind = "{OAUTH.name}"\n'.encode()
            file, binding = account_place(known, args.id)
        value = seal(secret, binding, active_keys(recipients_of(files)))
        return {file: set_sealed(known[file].decode(), value).encode()}

    changed = write(args, plan, check=sound_but_for_seals)
    say(f"next: relayd account test {args.id}")
    return print_written(args, {"id": args.id, "changed": list(changed)})


def _checked_secret(kind: str, account: str) -> Secret:
    secret = read_secret(f"{kind} credential of account {account}")
    if problem := why_unusable(secret, kind):
        raise Stop(f"{problem}; nothing was written")
    if warning := shape_warning(kind, secret):
        say(f"warning: {warning}")
    return secret


def warn_of_kind(kind: str) -> None:
    """Say what is to be known of accounts of a kind, before a secret is asked for."""
    warning = ACCOUNT_KINDS[kind].warning if kind in ACCOUNT_KINDS else None
    if warning is not None:
        say(f"warning: {warning.code}: {warning.message}")


def _require_recipient(files: Files) -> None:
    """Said before the secret is asked for."""
    if not active_keys(recipients_of(files)):
        raise Stop(
            "relay.toml lists no recipient to seal for (relayd secret keygen FILE, then relayd secret recipients add)"
        )


def _asked_kind() -> str:
    if not sys.stdin.isatty():
        raise Stop(f"--kind is needed ({', '.join(KINDS)})")
    say(f"kind of account ({', '.join(KINDS)}) [api-key]: ")
    answer = sys.stdin.readline()
    if not answer:
        raise Stop("nothing was entered; nothing was written")
    kind = answer.strip() or "api-key"
    if kind not in KINDS:
        raise Stop(f"{kind!r} is not a kind of account ({', '.join(KINDS)})")
    return kind


def _fields(args: argparse.Namespace, kind: str) -> dict[str, Value]:
    names = ("name", "email", "groups", "models", "priority", "weight", "max_concurrency", "base_url", "proxy")
    given = {name: getattr(args, name) for name in names}
    return {"kind": kind, **{name: value for name, value in given.items() if value is not None}}


def _row(entry: dict[str, Any]) -> tuple[str, ...]:
    state = "on" if entry["enabled"] else "off"
    numbers = (str(entry["priority"]), str(entry["weight"]))
    models = ",".join(entry["models"]) or "all"
    return (
        entry["id"],
        entry["kind"],
        state,
        ",".join(entry["groups"]),
        *numbers,
        models,
        entry["base_url"],
        entry["credential"],
    )


def _named(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("id", metavar="NAME", type=_identity, help="the account's id: the stem of its file")


def _identity(text: str) -> str:
    try:
        name = object_id(text)
    except Stop as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if name != text:
        raise argparse.ArgumentTypeError(f"{text!r} is not an id (a-z, 0-9, - and _; for example {name})")
    return name
