"""Examples: command lines that the help texts show. A test reads each of them with the parser that shows it."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from relayd.wire.current_models import LARGE, USUAL

EXAMPLES: Mapping[str, tuple[str, ...]] = {
    "run": (
        "relayd run --config /srv/relay",
        "relayd run --listen 127.0.0.1:8080 --state redis://127.0.0.1:6379/0 --node n1",
        "relayd run --source git+ssh://git@git.example.com/relay-config.git#main",
    ),
    "check": (
        "relayd check",
        "relayd check --deny-warnings --format github --base origin/main     in CI",
        "relayd check --base HEAD --replay calls.log --format markdown",
        "relayd check --env                 also what this machine needs: files and identities",
    ),
    "ci-comment": ("relayd ci-comment < comment.md", "relayd ci-comment --name eu < comment.md"),
    "test": (
        "relayd test",
        "relayd test -v /srv/relay",
        "relayd test --replay /var/log/relayd/relayd.log      what the tree would have done to past calls",
        "relayd test --days 7 --base HEAD",
    ),
    "diff": ("relayd diff", "relayd diff HEAD~3", "relayd diff v1 v2 --json", "relayd diff --base origin/main --full"),
    "revoke": (
        "relayd revoke alice                 a key or an account, whatever else is wrong with the tree",
        "relayd revoke 203.0.113.0/24",
        "relayd revoke --undo alice",
    ),
    "reload": ("relayd reload", "relayd reload --dry-run", "relayd reload --accept 98c2b1d0f3aa"),
    "rollback": ("relayd rollback",),
    "status": ("relayd status", "relayd status --watch", "relayd status --json"),
    "doctor": ("relayd doctor", "relayd doctor --offline --json"),
    "explain": (
        f'relayd explain --key dev --model {USUAL} --client "claude-cli/2.1.0 (external, cli)"',
        f"relayd explain --key dev --model {USUAL} --at HEAD~1",
    ),
    "usage": ("relayd usage",),
    "report": ("relayd report --day 2026-11-22", "relayd report --by key,model --json"),
    "backup": ("relayd backup /var/backups/relayd.backup --force",),
    "restore": (
        "relayd restore --dry-run relayd.backup            verifies it",
        "relayd restore relayd.backup --config /srv/relay",
        "relayd restore relayd.backup --only state --state redis://127.0.0.1:6379/0",
    ),
    "serve-git": ("relayd serve-git /srv/relay", "relayd serve-git /etc/relayd/tree --bare /srv/git/relay.git"),
    "manifest": ("relayd manifest --write",),
    "schema": ("relayd schema --table",),
    "key new": (
        'relayd key new "Development key" --owner dev-team --limit 1000 --expires 365d',
        "relayd key new ci --clients claude_code --models 'claude-haiku-*' --limit 5usd/day --limit 60/1m",
    ),
    "key list": ("relayd key list", "relayd key list --json"),
    "key show": ("relayd key show dev",),
    "key rotate": ("relayd key rotate dev --grace 2d", "relayd key rotate dev --grace 0s       it has leaked"),
    "key disable": ("relayd key disable dev",),
    "key delete": ("relayd key delete dev --yes",),
    "key which": ("relayd key which < key.txt",),
    "create-api-key": ('relayd create-api-key --name "Development key" --limit 1000',),
    "account add": (
        "relayd account add main --kind api-key               asks for the key and does not show it",
        "relayd account add main --kind api-key < key.txt",
        "relayd account add eu --kind api-key --groups eu --proxy socks5://10.0.0.7:1080 --priority 10",
        "relayd account add lab --kind simulator",
    ),
    "account seal": ("relayd account seal main < new-key.txt",),
    "account test": ("relayd account test main", f"relayd account test main --model {LARGE}"),
    "account login": ("relayd account login max", "relayd account login max --paste      no browser on this machine"),
    "account disable": ("relayd account disable main",),
    "account delete": ("relayd account delete old --with-dependents",),
    "demo remove": ("relayd demo remove",),
    "secret keygen": ("relayd secret keygen", "relayd secret keygen /secure/break-glass.identity"),
    "secret seal": (
        "relayd secret seal --account main < key.txt",
        "relayd secret seal --alert ops < webhook.txt",
        "relayd secret seal --alert-key ops < key.txt",
    ),
    "alert test": ("relayd alert test ops",),
    "alert list": ("relayd alert list", "relayd alert list --json"),
    "secret inspect": ("relayd secret inspect", "relayd secret inspect --open"),
    "secret reseal": (
        "relayd secret reseal",
        "relayd secret reseal main --from-origin https://api.anthropic.com      base_url has changed",
        "relayd secret reseal new-name --from-id old-name",
    ),
    "secret recipients": (
        "relayd secret recipients",
        "relayd secret recipients add prod-2 rlpub1.cHI1-mUi_3Yp06IRpvvyzmlSLk4sLQvDF0r-r9m_wHo.ay0gSA",
        "relayd secret recipients retire prod",
    ),
    "secret password": ("relayd secret password alice --role editor --add",),
    "secret token": ("relayd secret token prometheus", "relayd secret token deploy --role editor --add"),
    "import crs": ("relayd import crs backup.json --dry-run",),
    "completion": ("relayd completion bash > ~/.local/share/bash-completion/completions/relayd",),
    "simulate": ("relayd simulate",),
}

FIRST = """\
getting started:
  relayd init ~/relay                        a tree with a simulator account and a first key
  relayd run --config ~/relay                serve it
  relayd account add main --kind api-key     a real account; its credential is sealed into the tree
  relayd key new alice                       an API key for a client; printed once
  relayd check && relayd test                what CI runs
  relayd status                              what runs, and what is wrong with it

`relayd VERB --help` explains a verb. Where a tree is needed, it is --config DIR, else RELAYD_CONFIG, else the working
directory.
"""


def show_examples(path: str, parser: argparse.ArgumentParser) -> None:
    """Put the examples of a verb, and of what is below it, under their help texts."""
    if path in EXAMPLES:
        shown = "\n".join(["examples:", *(f"  {line}" for line in EXAMPLES[path])])
        parser.epilog = f"{parser.epilog}\n\n{shown}" if parser.epilog else shown
        parser.formatter_class = argparse.RawDescriptionHelpFormatter
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, sub in action.choices.items():
                show_examples(f"{path} {name}", sub)
