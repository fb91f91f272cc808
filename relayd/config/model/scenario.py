"""Scenarios: what an operator expects of a tree, written in tests.d and tried by `relayd test`.

Rule: nouns only, as in snapshot.py; rules/scenario.py judges them and core/dry_run.py plays them. A scenario holds no
secret: it names a key by its id.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Literal

from relayd.config.snapshot import NO_MAP, MicroUsd, ObjectId, Size
from relayd.config.snapshot import key as field
from relayd.noun import noun


@noun(kw_only=True)
class UsedWindow:
    """What has been consumed in one window of the general form."""

    window: str = field(doc="The window, as in the key's `limits.windows`.", form="window")
    requests: int = field(0, doc="Requests.", low=0)
    tokens: int = field(0, doc="Tokens of every kind.", low=0)
    cost: MicroUsd = field(MicroUsd(0), doc="Cost in USD, as a string.", low=0)


@noun(kw_only=True)
class Used:
    """What the key has consumed already, under the names of its limits."""

    concurrency: int = field(0, doc="Calls in flight.", low=0)
    rate: int = field(0, doc="Requests in the window of `limits.rate`.", low=0)
    tokens_per_minute: int = field(0, doc="Tokens in the last minute.", low=0)
    daily_requests: int = field(0, doc="Requests today.", low=0)
    monthly_requests: int = field(0, doc="Requests this month.", low=0)
    daily_tokens: int = field(0, doc="Tokens today.", low=0)
    monthly_tokens: int = field(0, doc="Tokens this month.", low=0)
    daily_cost: MicroUsd = field(MicroUsd(0), doc="Cost today, USD.", low=0)
    monthly_cost: MicroUsd = field(MicroUsd(0), doc="Cost this month, USD.", low=0)
    total_cost: MicroUsd = field(MicroUsd(0), doc="Cost over the life of the key, USD.", low=0)
    count_tokens: int = field(0, doc="Token counts in the last minute.", low=0)
    windows: tuple[UsedWindow, ...] = field((), doc="Consumption in further windows.")


@noun(kw_only=True)
class Scenario:
    """[[scenario]]: a call, and what should become of it."""

    name: str = field(doc="What it shows; `relayd test` prints it.")
    key: ObjectId = field(doc="The id of the API key that calls.")
    client: str = field("", doc="The User-Agent.")
    headers: Mapping[str, str] = field(NO_MAP, doc="Further request headers.")
    model: str = field("", doc="The model asked for.")
    endpoint: Literal["messages", "count_tokens", "openai", "models", "batches", "files", "skills"] = field(
        "messages", doc="What is called."
    )
    address: str = field("", doc='The client\'s address; "" = a unix socket.')
    time: datetime.datetime | None = field(None, doc="When; left out: a time at which nothing has expired.")
    max_tokens: int = field(0, doc="The call's max_tokens; 0 = none.", low=0)
    prompt: Size = field(Size(0), doc="Size of the request body, for limits on tokens and cost.", low=0)
    used: Used = field(Used(), doc="What the key has consumed already.")
    down: tuple[str, ...] = field((), doc="Accounts that are resting.", form="name")
    expect: Literal["allow", "refuse"] = field(doc="Whether the call is served.")
    accounts: tuple[str, ...] = field(
        (), doc="Exactly the accounts that may serve it; [] = not looked at.", form="name"
    )
    first: tuple[str, ...] = field(
        (), doc="Exactly the accounts that are asked first, by group and priority; [] = not looked at.", form="name"
    )
    sent_model: str = field("", doc='The model after aliases and the account\'s model_map; "" = not looked at.')
    limits: tuple[str, ...] = field((), doc='Limits that the call has to pass, such as "100 requests per 1m".')
    status: int = field(0, doc="Status of the refusal; 0 = not looked at.", low=0, high=599)
    text: str = field("", doc="Part of the refusal's message.")


@noun(kw_only=True)
class Scenarios:
    """A file of tests.d."""

    scenario: tuple[Scenario, ...] = field(doc="What is expected.")
