"""`relayd init`: a new config tree, ready to be put into git, that serves the simulator until real accounts come.

Rule: nothing that is there is overwritten without --force, an identity never. The identity is made first and lies
outside the tree, where `relayd run` looks for it by the tree's realm.
"""

from __future__ import annotations

import argparse
import importlib.resources
import re
import secrets
from collections.abc import Sequence
from pathlib import Path

from relayd.cli.ci_files import HELP, ci_files, install_source, wrong_source
from relayd.cli.first_run import NOBODY, farewell, found_by_itself, keep_identity, make_repository
from relayd.cli.output import add_json, print_json, say
from relayd.cli.tree import Stop, guarded
from relayd.config.edit.edits import hash_entry
from relayd.config.edit.toml_edit import Value, fill_template
from relayd.config.model.addresses import address
from relayd.config.model.json_schema import KINDS, json_schema_text, taplo_config
from relayd.config.model.values import Bad
from relayd.config.secrets.api_keys import mint
from relayd.config.secrets.seal import Identity

SCHEMA_FOLDER = ".schema"

# Where each file of a new tree comes from, in relayd/cli/templates. The values of TOML files are filled in.
TEMPLATES = {
    "relay.toml": "relay.toml",
    "accounts.d/simulator.toml": "account.toml",
    "keys.d/demo.toml": "key.toml",
    "tests.d/demo.toml": "scenarios.toml",
    ".gitignore": "gitignore",
    ".gitattributes": "gitattributes",
    ".githooks/pre-commit": "pre-commit.sh",
    "README.md": "README.md",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", metavar="DIR", type=Path, help="where the tree is made")
    parser.add_argument("--realm", metavar="NAME", help="name of the deployment (default: the directory's name)")
    parser.add_argument(
        "--listen", metavar="ADDRESS", default="127.0.0.1:3000", help="where it listens (default: %(default)s)"
    )
    parser.add_argument(
        "--identity",
        metavar="FILE",
        type=Path,
        help="where the identity is made, or the one to use (default: REALM.identity in ~/.config/relayd, or in "
        "/etc/relayd for root, where that exists)",
    )
    parser.add_argument("--no-identity", action="store_true", help="make no identity, and list no recipient")
    parser.add_argument(
        "--post-quantum", action="store_true", help="make the new identity a hybrid of ML-KEM-768 and X25519"
    )
    parser.add_argument("--no-git", action="store_true", help="do not make a git repository")
    parser.add_argument(
        "--force", action="store_true", help="write into a directory that is not empty, over the files that are there"
    )
    parser.add_argument("--install", metavar="SOURCE", help=HELP)
    parser.add_argument(
        "--only-ci", action="store_true", help="write the CI files of a tree that is there anew, and nothing else"
    )
    add_json(parser)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = """\
examples:
  relayd init ~/relay                           a first look
  relayd init /srv/relay --realm prod           on a server; several nodes share one realm
  relayd init . --identity /secure/prod.identity --no-git
  relayd init . --only-ci --install git+https://git.example.com/relayd@v0.1.0

The directory gets relay.toml, a simulator account and a key to try it with, scenarios for `relayd test`, a README for
colleagues, a pre-commit hook, and CI files for GitHub, GitLab, Forgejo and Gitea (delete those that you do not need).
The identity, which opens sealed credentials, is put outside of it. If git is installed and DIR is not in a repository
yet, it becomes one, with the hook switched on; nothing is committed.
"""


def main(args: argparse.Namespace) -> int:
    realm = args.realm or realm_of(args.directory.resolve().name)
    if wrong := wrong_usage(args, realm):
        say(f"relayd init: {wrong}")
        return 2
    act = renew_ci if args.only_ci else make_tree
    return guarded("init", lambda args: act(args, realm), args)


def make_tree(args: argparse.Namespace, realm: str) -> int:
    """Make the identity, the files and the repository, and say what comes next. Raises: Stop; SealError; OSError."""
    directory: Path = args.directory
    if not args.force and is_occupied(directory):
        raise Stop(f"{directory} is not empty (--force writes into it all the same)")
    kept = NOBODY if args.no_identity else keep_identity(directory, realm, args.identity, args.post_quantum)
    key = mint(secrets.token_bytes)
    files = tree_files(key, realm, args.listen, kept.identities) | ci_files(install_of(args))
    write_files(directory, files)
    git = "" if args.no_git else make_repository(directory)
    if args.json:
        print_json({"directory": str(directory), "files": sorted(files), "key": key, "git": git, **kept.as_json()})
    else:
        print(farewell(directory, realm, args.listen, key, kept, git, found_by_itself(kept, realm)))
    return 0


def renew_ci(args: argparse.Namespace, _realm: str) -> int:
    """Write the CI files of a tree that is there. Those that have been deleted stay away. Raises: Stop; OSError."""
    directory: Path = args.directory
    if not (directory / "relay.toml").exists():
        raise Stop(f"{directory}: not a config tree, there is no relay.toml")
    made = ci_files(install_of(args))
    files = {path: text for path, text in made.items() if (directory / path).exists()} or made
    write_files(directory, files)
    if args.json:
        print_json({"directory": str(directory), "files": sorted(files)})
    else:
        say("\n".join(f"wrote {directory / path}" for path in sorted(files)))
    return 0


def install_of(args: argparse.Namespace) -> str:
    """Where CI gets relayd from. Says so where that is not known."""
    found: str = args.install or install_source()
    if not found:
        say("note: where CI gets relayd from is not known: its job stops until RELAYD_INSTALL says it")
    return found


def wrong_usage(args: argparse.Namespace, realm: str) -> str:
    """What is wrong with the options; "" when nothing is."""
    if realm != realm_of(realm):
        return f"--realm: expected a-z, 0-9, _ and -, not {realm!r}"
    if args.install and (wrong := wrong_source(args.install)):
        return f"--install: {wrong}"
    if args.no_identity and (args.identity or args.post_quantum):
        return "--no-identity cannot be combined with --identity or --post-quantum"
    try:
        address(args.listen)
    except Bad as error:
        return f"--listen: {error.message()}"
    return ""


def is_occupied(directory: Path) -> bool:
    """Whether there is anything in the directory that is not git's. Raises: OSError when it is not a directory."""
    return directory.exists() and any(entry.name != ".git" for entry in directory.iterdir())


def realm_of(text: str) -> str:
    """A realm from the name of a directory."""
    name = re.sub(r"[^a-z0-9_-]+", "-", text.lower()).strip("-_")[:63]
    return name or "example"


def tree_files(key: str, realm: str, listen: str, identities: Sequence[Identity]) -> dict[str, str]:
    """Every file of a new tree, by path. The key is in none of them."""
    files = {path: template(name) for path, name in TEMPLATES.items()}
    relay: dict[tuple[str, ...], Value] = {
        ("realm",): realm,
        ("server", "listen"): [listen],
        ("secrets", "recipients"): recipients(identities),
    }
    return files | {
        "relay.toml": fill_template(files["relay.toml"], relay),
        "keys.d/demo.toml": fill_template(files["keys.d/demo.toml"], {("hashes",): [hash_entry(key)]}),
        ".taplo.toml": taplo_config(SCHEMA_FOLDER),
        **{f"{SCHEMA_FOLDER}/{kind}.json": json_schema_text(kind) for kind in KINDS},
    }


def template(name: str) -> str:
    """A file that comes with the package."""
    return importlib.resources.files("relayd.cli").joinpath("templates", name).read_text(encoding="utf-8")


def recipients(identities: Sequence[Identity]) -> list[Value]:
    """The recipients of a new relay.toml: each identity's public half."""
    return [
        {"name": f"node-{number}" if number > 1 else "node", "public": identity.public.text, "state": "active"}
        for number, identity in enumerate(identities, 1)
    ]


def write_files(directory: Path, files: dict[str, str]) -> None:
    """Write the files; hooks are made executable. Raises: OSError."""
    for name, text in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="\n")
        if name.startswith(".githooks/"):
            path.chmod(0o755)
