"""`relayd init`: a new config tree, ready to be put into git, that serves the simulator until real accounts come."""

from __future__ import annotations

import argparse
import json
import re
import secrets
import shlex
import sys
from pathlib import Path

from relayd.cli.options import add_json
from relayd.config.keys import hint, key_hash, mint
from relayd.config.schema import KINDS, json_schema_text, taplo_config

SCHEMA_FOLDER = ".schema"

RELAY = """\
# The config of this relay. `relayd check` validates the tree, `relayd schema --table` lists every key.
# A key that is left out has its default; some are shown here behind a `#`.
schema = 1

# The realm names this deployment, in state keys and inside sealed secrets: choose it once.
realm = "{realm}"

[server]
listen = ["127.0.0.1:3000"]      # host:port, [v6]:port or unix:/path; put a TLS proxy in front to go public
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

GITIGNORE = """\
# State and logs are not config; identities and credentials must never be committed.
/var/
*.identity
*.key
*~
*.swp
"""

GITATTRIBUTES = """\
*.toml text eol=lf
"""

PRE_COMMIT = """\
#!/bin/sh
# Refuses a commit that relayd would refuse to load. Switch on with: git config core.hooksPath .githooks
exec relayd check --deny-warnings
"""

WORKFLOW = """\
name: relayd
on:
  push:
  pull_request:
permissions:
  contents: read
jobs:
  check:
    runs-on: ubuntu-latest
    steps:
      - uses: actions/checkout@v4
      - uses: actions/setup-python@v5
        with:
          python-version: "3.13"
      - run: pip install relayd
      - run: relayd check --deny-warnings --format github
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", metavar="DIR", type=Path, help="where the tree is made")
    parser.add_argument("--realm", metavar="NAME", help="name of the deployment (default: the directory's name)")
    parser.add_argument(
        "--force", action="store_true", help="write into a directory that is not empty, over what is there"
    )
    add_json(parser)


def main(args: argparse.Namespace) -> int:
    directory: Path = args.directory
    realm = args.realm or realm_of(directory.resolve().name)
    if realm != realm_of(realm):
        print(f"relayd init: --realm: expected a-z, 0-9, _ and -, not {realm!r}", file=sys.stderr)
        return 2
    try:
        if not args.force and is_occupied(directory):
            print(f"relayd init: {directory} is not empty (--force writes into it all the same)", file=sys.stderr)
            return 1
        key = mint(secrets.token_bytes)
        files = tree_files(key, realm)
        write_files(directory, files)
    except OSError as error:
        print(f"relayd init: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    if args.json:
        print(json.dumps({"directory": str(directory), "files": sorted(files), "key": key}, indent=2))
    else:
        print(farewell(directory, key))
    return 0


def is_occupied(directory: Path) -> bool:
    """Whether there is anything in the directory that is not git's. Raises: OSError when it is no directory."""
    return directory.exists() and any(entry.name != ".git" for entry in directory.iterdir())


def realm_of(text: str) -> str:
    """A realm from the name of a directory."""
    name = re.sub(r"[^a-z0-9_-]+", "-", text.lower()).strip("-_")[:63]
    return name or "example"


def tree_files(key: str, realm: str) -> dict[str, str]:
    """Every file of a new tree, by path. The key is in none of them."""
    return {
        "relay.toml": RELAY.format(realm=realm),
        "accounts.d/simulator.toml": ACCOUNT,
        "keys.d/demo.toml": KEY.format(sha256=key_hash(key), hint=hint(key)),
        ".gitignore": GITIGNORE,
        ".gitattributes": GITATTRIBUTES,
        ".taplo.toml": taplo_config(SCHEMA_FOLDER),
        ".githooks/pre-commit": PRE_COMMIT,
        ".github/workflows/relayd.yml": WORKFLOW,
        **{f"{SCHEMA_FOLDER}/{kind}.json": json_schema_text(kind) for kind in KINDS},
    }


def write_files(directory: Path, files: dict[str, str]) -> None:
    """Write the files; hooks are made executable. Raises: OSError."""
    for name, text in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="\n")
        if name.startswith(".githooks/"):
            path.chmod(0o755)


def farewell(directory: Path, key: str) -> str:
    """What to do next."""
    where = shlex.quote(str(directory))
    return f"""\
Made a config tree in {directory}.

The demo key, shown this once (the tree has its hash):

  {key}

Next:

  relayd check {where}
  relayd run --config {where}
  curl http://127.0.0.1:3000/v1/messages -H "x-api-key: {key}" -H "anthropic-version: 2023-06-01" \\
    -H "content-type: application/json" \\
    -d '{{"model": "claude-sonnet-4-5", "max_tokens": 64, "messages": [{{"role": "user", "content": "Hello"}}]}}'

To keep the tree in git, with the check before each commit:

  cd {where} && git init && git config core.hooksPath .githooks && git add . && git commit -m "relayd tree"
"""
