"""The table of account kinds: every kind that the schema knows, and nothing that two rows could both claim."""

from __future__ import annotations

from typing import get_args

from relayd.config.secrets.account_kinds import ACCOUNT_KINDS
from relayd.config.snapshot import AccountKindName


def test_every_kind_of_the_schema_has_a_row_and_no_row_is_of_another() -> None:
    assert tuple(ACCOUNT_KINDS) == get_args(AccountKindName)


def test_a_kind_without_a_credential_says_nothing_about_one() -> None:
    for kind in ACCOUNT_KINDS.values():
        assert kind.has_credential or not (kind.scheme or kind.beta or kind.prefixes or kind.refreshes or kind.warning)


def test_no_credential_looks_like_one_of_two_kinds() -> None:
    prefixes = [prefix for kind in ACCOUNT_KINDS.values() for prefix in kind.prefixes]

    assert not [(one, two) for one in prefixes for two in prefixes if one is not two and one.startswith(two)]
