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
