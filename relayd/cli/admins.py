"""Admin credentials: `relayd secret password` and `secret token`, for those who may use the admin listener.

Rule: a password is read and never printed; a token is printed once. The tree gets their hashes.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping, Sequence

from relayd.cli.output import say
from relayd.cli.tree import Stop, add_action, print_written, read_new_secret, write
from relayd.config.edit.edits import add_admin_token, set_admin_user
from relayd.config.edit.objects import edit_file
from relayd.config.edit.toml_edit import render
from relayd.config.secrets.password_hash import hash_password, mint_token, token_hash, weak_password


def add_admin_actions(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    word = add_action(
        actions, "password", "hash a password from stdin, for a person who uses the admin pages", password, writes=True
    )
    _admin_arguments(word, "the person's sign-in name")
    token = add_action(actions, "token", "mint a bearer token for the admin listener and print it once", token_once,
                       writes=True)  # fmt: skip
    _admin_arguments(token, "what the token is for")


def _admin_arguments(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("name", metavar="NAME", help=what)
    parser.add_argument("--role", choices=("viewer", "editor"), help="what they may do (default: viewer)")
    parser.add_argument("--add", action="store_true", help="write it into relay.toml, instead of only printing it")


def password(args: argparse.Namespace) -> int:
    """A password's hash, as the lines of relay.toml or into it."""
    secret = read_new_secret(f"password of {args.name}")
    if wrong := weak_password(secret):
        raise Stop(f"{wrong}; nothing was made")
    hashed = hash_password(secret, os.urandom)
    entry = {"name": args.name, "password_hash": hashed, "role": args.role or "viewer"}
    changed = _admin_change(args, lambda text: set_admin_user(text, args.name, hashed, args.role or ""))
    return _show_admin(args, "users", entry, changed, {"password_hash": hashed})


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
