"""Admin credentials: `relayd secret password`, `totp` and `token`, for those who may use the admin listener.

Rule: a password is read and never printed; a token and a seed of one-time codes are printed once. The tree gets their
hashes, and the seed sealed.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence

from relayd.cli.asking import read_new_secret
from relayd.cli.output import say
from relayd.cli.tree import Stop, add_action, print_written, tree_files, write
from relayd.config.edit.edits import add_admin_token, set_admin_totp, set_admin_user
from relayd.config.edit.objects import edit_file
from relayd.config.edit.toml_edit import render
from relayd.config.secrets.password_hash import hash_password, mint_token, token_hash, weak_password
from relayd.config.secrets.seal import parse_sealed
from relayd.config.secrets.sealed_fields import realm_of, recipients_of
from relayd.core.access.enrolment import enrol, qr_terminal
from relayd.core.access.sign_in import seed_text


def add_admin_actions(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    word = add_action(
        actions, "password", "hash a password from stdin, for a person who uses the admin pages", password, writes=True
    )
    _admin_arguments(word, "the person's sign-in name")
    word.add_argument("--email", default="", help="the address under which their edits are committed")
    code = add_action(
        actions, "totp", "make one-time codes for a person, and show the QR code once", one_time_codes, writes=True
    )
    code.add_argument("name", metavar="NAME", help="the person's sign-in name")
    code.add_argument("--add", action="store_true", help=_ADD)
    code.add_argument("--sealed", metavar="VALUE", help="take this sealed seed, as the admin pages offer it")
    token = add_action(actions, "token", "mint a bearer token for the admin listener and print it once", token_once,
                       writes=True)  # fmt: skip
    _admin_arguments(token, "what the token is for")


def _admin_arguments(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("name", metavar="NAME", help=what)
    parser.add_argument("--role", choices=("viewer", "editor"), help="what they may do (default: viewer)")
    parser.add_argument("--add", action="store_true", help=_ADD)


_ADD = "write it into relay.toml, instead of only printing it"


def password(args: argparse.Namespace) -> int:
    """A password's hash, as the lines of relay.toml or into it."""
    secret = read_new_secret(f"password of {args.name}")
    if wrong := weak_password(secret):
        raise Stop(f"{wrong}; nothing was made")
    hashed = hash_password(secret, os.urandom)
    entry = {"name": args.name, "password_hash": hashed, "role": args.role or "viewer"}
    entry |= {"email": args.email} if args.email else {}
    changed = _admin_change(args, lambda text: set_admin_user(text, args.name, hashed, args.role or "", args.email))
    return _show_admin(args, "users", entry, changed, {"password_hash": hashed})


def one_time_codes(args: argparse.Namespace) -> int:
    """A new seed as a QR code, this once, and sealed as the line of relay.toml or into it."""
    files = tree_files(args)
    if args.sealed:
        parse_sealed(args.sealed)
        sealed, shown = args.sealed, {}
    else:
        made = enrol(args.name, realm_of(files), recipients_of(files), os.urandom)
        sealed, shown = made.sealed, {"uri": made.uri, "seed": seed_text(made.seed)}
    changed = _admin_change(args, lambda text: set_admin_totp(text, args.name, sealed))
    if shown and not args.json:
        say("for an authenticator program, shown this once:")
        print(f"{qr_terminal(shown['uri'], colours=sys.stdout.isatty())}\n{shown['seed']}", flush=True)
    if args.json:
        print_written(args, {"name": args.name, "totp": sealed, "changed": list(changed), **shown})
    elif not args.add:
        say(f"for the [[admin.users]] of {args.name} in relay.toml (or --add):")
        print(f"totp = {render(sealed)}")
    return 0


def token_once(args: argparse.Namespace) -> int:
    """A token, this once, and its hash as the lines of relay.toml or into it."""
    token = mint_token(os.urandom)
    hashed = token_hash(token)
    entry = {"name": args.name, "sha256": hashed, "role": args.role or "viewer"}
    changed = _admin_change(args, lambda text: add_admin_token(text, args.name, hashed, args.role or ""))
    say("the token, shown this once (the tree holds only its hash):")
    if not args.json:
        print(token, flush=True)
    return _show_admin(args, "tokens", entry, changed, {"token": token, "sha256": hashed})


def _admin_change(args: argparse.Namespace, edit: Callable[[str], str]) -> tuple[str, ...]:
    """With --add, the edit of relay.toml."""
    if not args.add:
        return ()
    return write(args, edit_file("relay.toml", edit))


def _show_admin(
    args: argparse.Namespace, what: str, entry: Mapping[str, str], changed: Sequence[str], more: Mapping[str, str]
) -> int:
    if args.json:
        print_written(args, {"name": args.name, "role": entry["role"], "changed": list(changed), **more})
    elif not args.add:
        say("for relay.toml (or --add):")
        print(f"[[admin.{what}]]\n" + "\n".join(f"{name} = {render(value)}" for name, value in entry.items()))
    return 0
