"""`relayd init`: a new config tree, ready to be put into git, that serves the simulator until real accounts come.

Rule: nothing that is there is overwritten without --force, an identity never. The identity is made first and lies
outside the tree, where `relayd run` looks for it by the tree's realm.
"""

from __future__ import annotations

import argparse
import json
import re
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path

from relayd.cli.first_run import NOBODY, farewell, found_by_itself, keep_identity, make_repository
from relayd.cli.options import add_json
from relayd.config.model.addresses import address
from relayd.config.model.json_schema import KINDS, json_schema_text, taplo_config
from relayd.config.model.values import Bad
from relayd.config.secrets.api_keys import hint, key_hash, mint
from relayd.config.secrets.recipients import SealError
from relayd.config.secrets.seal import Identity

SCHEMA_FOLDER = ".schema"
LISTEN = "127.0.0.1:3000"

RELAY = """\
# The config of this relay. `relayd check` validates the tree, `relayd schema --table` lists every key.
# A key that is left out has its default; some are shown here behind a `#`.
schema = 1

# The realm names this deployment, in state keys and inside sealed secrets: choose it once.
realm = "{realm}"

[server]
listen = ["{listen}"]{pad}# host:port, [v6]:port or unix:/path; put a TLS proxy in front to go public
# max_request_body = "32MiB"
# max_connections = 10000
# max_concurrent_requests = 0    # 0 = no limit; over it a call is answered 529 at once
# sse_keepalive = "15s"          # a comment line when the upstream is silent
# drain_timeout = "10m"          # how long calls may finish when the daemon stops
# trusted_proxies = ["127.0.0.1", "::1"]    # whose X-Forwarded-For is believed

[state]
url = "sqlite:var/relayd.db"     # or redis://host:6379/0 for several nodes
# on_outage = "allow"            # "deny" answers 503 while the store is away
# timezone = "UTC"               # where days, weeks and months begin

[upstream]                       # defaults of every account
# base_url = "https://api.anthropic.com"
# first_byte_timeout = "5m"
# idle_timeout = "5m"
# max_attempts = 3               # accounts tried for one call

[routing]
# strategy = "balanced"          # balanced, priority or round-robin
# affinity = "1h"                # a conversation stays on its account this long

[limits]                         # for keys that do not say otherwise; 0 = none
concurrency = 20
# rate = {{ requests = 100, window = "1m" }}
# daily_cost = "10.00"

# [models]                       # other names for models, for every key
# fast = "claude-haiku-4-5"

[secrets]                        # who can open sealed values; `relayd secret recipients` edits this list
{recipients}
[log]
# level = "info"
# format = "json"                # or "text"
"""

ACCOUNT = """\
# A Claude API inside relayd, for trying things out: it answers every model with made-up text and costs nothing.
# Remove this file when real accounts are in place.
kind = "simulator"
name = "Simulator"
groups = ["simulator"]           # not "default": keys get it only by naming it
"""

KEY = """\
# A key for trying things out. The key itself was printed once; here is its hash.
name = "Demo key"
hashes = [{{ sha256 = "{sha256}", hint = "{hint}" }}]
groups = ["simulator"]

[limits]
concurrency = 10
"""

SCENARIOS = """\
# What this tree is expected to do. `relayd test` plays these calls offline, through the daemon's own decisions.
# A scenario names a key by its id, so there is no secret in it.

[[scenario]]
name = "the demo key is served by the simulator"
key = "demo"
model = "claude-sonnet-4-5"
expect = "allow"
accounts = ["simulator"]

[[scenario]]
name = "it has no access to batches"
key = "demo"
endpoint = "batches"
expect = "refuse"
status = 403
"""

GITIGNORE = """\
# State and logs are not config; identities and credentials must never be committed.
/var/
*.identity
*.key
.*.tmp
*~
*.swp
"""

GITATTRIBUTES = """\
*.toml text eol=lf
"""

PRE_COMMIT = """\
#!/bin/sh
# Refuses a commit that relayd would refuse to load, or that does not do what tests.d expects. What is looked at is what
# is about to be committed, not what lies in the directory. Switch on with: git config core.hooksPath .githooks
set -eu
if ! command -v relayd > /dev/null; then
    echo "pre-commit: there is no relayd on the PATH to check this commit (git commit --no-verify goes without)" >&2
    exit 1
fi
staged=$(mktemp -d)
trap 'rm -rf "$staged"' EXIT
git checkout-index --all --prefix="$staged/"
relayd check --deny-warnings "$staged"
relayd test "$staged"
"""

WORKFLOW = """\
name: relayd
on:
  push:
    branches: [main, master]
  pull_request:
permissions:
  contents: read
jobs:
  check:
    runs-on: ubuntu-latest
    steps:
      - uses: actions/checkout@v4
        with:
          fetch-depth: 0             # --base looks at the branch that the pull request is for
      - uses: actions/setup-python@v5
        with:
          python-version: "3.13"
      - run: pip install relayd
      - if: github.event_name != 'pull_request'
        run: relayd check --deny-warnings --format github
      - if: github.event_name == 'pull_request'
        run: relayd check --deny-warnings --format github --base "origin/$GITHUB_BASE_REF"
      - run: relayd test --format github
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", metavar="DIR", type=Path, help="where the tree is made")
    parser.add_argument("--realm", metavar="NAME", help="name of the deployment (default: the directory's name)")
    parser.add_argument(
        "--listen", metavar="ADDRESS", default="127.0.0.1:3000", help="where it is to listen (%(default)s)"
    )
    parser.add_argument(
        "--identity",
        metavar="FILE",
        type=Path,
        help="where the identity is made, or the one to use (default: REALM.identity in ~/.config/relayd, for root in "
        "/etc/relayd)",
    )
    parser.add_argument("--no-identity", action="store_true", help="make none, and list no recipient")
    parser.add_argument("--post-quantum", action="store_true", help="a new identity is a hybrid with ML-KEM-768")
    parser.add_argument("--no-git", action="store_true", help="make no git repository")
    parser.add_argument(
        "--force", action="store_true", help="write into a directory that is not empty, over what is there"
    )
    add_json(parser)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = """\
examples:
  relayd init ~/relay                           a first look
  relayd init /srv/relay --realm prod           on a server; several nodes share one realm
  relayd init . --identity /secure/prod.identity --no-git

The directory gets relay.toml, a simulator account and a key to try it with, scenarios for `relayd test`, a GitHub
workflow and a pre-commit hook. The identity, which opens sealed credentials, is put outside of it. Where there is git,
and DIR is in no repository yet, it becomes one, with the hook switched on; nothing is committed.
"""


def main(args: argparse.Namespace) -> int:
    directory: Path = args.directory
    realm = args.realm or realm_of(directory.resolve().name)
    if wrong := wrong_usage(args, realm):
        print(f"relayd init: {wrong}", file=sys.stderr)
        return 2
    try:
        if not args.force and is_occupied(directory):
            print(f"relayd init: {directory} is not empty (--force writes into it all the same)", file=sys.stderr)
            return 1
        kept = NOBODY if args.no_identity else keep_identity(directory, realm, args.identity, args.post_quantum)
        key = mint(secrets.token_bytes)
        files = tree_files(key, realm, args.listen, kept.identities)
        write_files(directory, files)
    except SealError as error:
        print(f"relayd init: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"relayd init: {error.filename}: {(error.strerror or 'failed').lower()}", file=sys.stderr)
        return 1
    git = "" if args.no_git else make_repository(directory)
    if args.json:
        told = {"directory": str(directory), "files": sorted(files), "key": key, "git": git, **kept.as_json()}
        print(json.dumps(told, indent=2))
    else:
        print(farewell(directory, realm, args.listen, key, kept, git, found_by_itself(kept, realm)))
    return 0


def wrong_usage(args: argparse.Namespace, realm: str) -> str:
    """What is wrong with the options; "" when nothing is."""
    if realm != realm_of(realm):
        return f"--realm: expected a-z, 0-9, _ and -, not {realm!r}"
    if args.no_identity and (args.identity or args.post_quantum):
        return "--no-identity goes with neither --identity nor --post-quantum"
    try:
        address(args.listen)
    except Bad as error:
        return f"--listen: {error.message()}"
    return ""


def is_occupied(directory: Path) -> bool:
    """Whether there is anything in the directory that is not git's. Raises: OSError when it is no directory."""
    return directory.exists() and any(entry.name != ".git" for entry in directory.iterdir())


def realm_of(text: str) -> str:
    """A realm from the name of a directory."""
    name = re.sub(r"[^a-z0-9_-]+", "-", text.lower()).strip("-_")[:63]
    return name or "example"


def tree_files(key: str, realm: str, listen: str, identities: Sequence[Identity]) -> dict[str, str]:
    """Every file of a new tree, by path. The key is in none of them."""
    relay = RELAY.format(
        realm=realm, listen=listen, pad=" " * max(1, 20 - len(listen)), recipients=recipients_text(identities)
    )
    return {
        "relay.toml": relay,
        "accounts.d/simulator.toml": ACCOUNT,
        "keys.d/demo.toml": KEY.format(sha256=key_hash(key), hint=hint(key)),
        "tests.d/demo.toml": SCENARIOS,
        ".gitignore": GITIGNORE,
        ".gitattributes": GITATTRIBUTES,
        ".taplo.toml": taplo_config(SCHEMA_FOLDER),
        ".githooks/pre-commit": PRE_COMMIT,
        ".github/workflows/relayd.yml": WORKFLOW,
        **{f"{SCHEMA_FOLDER}/{kind}.json": json_schema_text(kind) for kind in KINDS},
    }


def recipients_text(identities: Sequence[Identity]) -> str:
    """The recipients of a new relay.toml."""
    if not identities:
        return "# make an identity (relayd secret keygen) and list its public half (relayd secret recipients add)\n"
    names = ["node", *(f"node-{number}" for number in range(2, len(identities) + 1))]
    entries = [
        f'  {{ name = "{name}", public = "{identity.public.text}", state = "active" }},\n'
        for name, identity in zip(names, identities, strict=True)
    ]
    return "recipients = [\n" + "".join(entries) + "]\n"


def write_files(directory: Path, files: dict[str, str]) -> None:
    """Write the files; hooks are made executable. Raises: OSError."""
    for name, text in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="\n")
        if name.startswith(".githooks/"):
            path.chmod(0o755)
