"""Permissions: the model that a call will be sent with, the groups it may use, how often it may be tried.

Rule: permissions are decided here and nowhere else, because each further attempt asks again with the newest snapshot.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from functools import lru_cache

import attrs

from relayd.config.snapshot import ApiKey, KeyEndpoint, Snapshot
from relayd.core.quota.prices import undated
from relayd.noun import noun
from relayd.wire.call import Call
from relayd.wire.named_models import NamedModels
from relayd.wire.refusal import Refusal

LONGEST = 256  # characters of a model's name; the longest known are ARNs with some 150


@noun(kw_only=True)
class Plan:
    """One call, resolved.

    Args:
        model: after relayd's aliases; an account's own `model_map` comes later, in outbound.
        groups: account groups in order of preference.
        attempts: accounts that may be tried.
    """

    call: Call
    key: ApiKey
    model: str
    groups: tuple[str, ...]
    attempts: int

    @property
    def limited_model(self) -> str:
        """The model whose upstream limits the call counts for; "" for token counts, files and lists."""
        return self.model if self.call.endpoint == "messages" else ""


def resolve(call: Call, key: ApiKey, snapshot: Snapshot) -> Plan:
    """Check what the key may ask for, and say how it is served.

    Raises: Refusal 403 for the endpoint or a model, 400 for max_tokens or a key in place of a model.
    """
    allow_endpoint(call, key)
    # A key pasted into the wrong field: models are logged and booked.
    if "sk-relay-" in call.model or "sk-ant-" in call.model:
        raise Refusal(status=400, message="model: this is an API key, not the name of a model", param="model")
    if max(len(model) for model in (call.model, *call.named.models)) > LONGEST:
        raise Refusal(status=400, message=f"model: longer than {LONGEST} characters", param="model")
    model = snapshot.relay.models.get(call.model, call.model)
    if call.model and not model_allowed(key, call.model, model):
        raise Refusal(
            status=403,
            message=f"model {_shown(call.model)} is not allowed for this key",
            param="model",
            code="model_not_allowed",
        )
    if key.max_tokens and call.max_tokens is not None and call.max_tokens > key.max_tokens:
        raise Refusal(
            status=400,
            message=f"max_tokens: {call.max_tokens} is more than this key's cap of {key.max_tokens}",
            param="max_tokens",
            code="max_tokens_cap",
        )
    check_named(call.named, key)
    if call.language == "openai":
        call = _fitted(call, key)
    return Plan(call=call, key=key, model=model, groups=key.groups, attempts=snapshot.relay.upstream.max_attempts)


def check_named(named: NamedModels, key: ApiKey, place: str = "") -> None:
    """Whether a key may have the models that a request names besides its own. No alias is replaced in those.

    Args:
        place: where in a body the request is, for error messages.
    Raises: Refusal 403 for a model, 400 for max_tokens.
    """
    for model in named.models:
        if not model_allowed(key, model, model):
            message = f"{place}model {_shown(model)} is not allowed for this key (the request names it besides its own)"
            raise Refusal(status=403, message=message, code="model_not_allowed")
    if named.any_model and (key.models or key.deny_models):
        message = f'{place}fallbacks: "default" may be any model, and this key may not use all (name them instead)'
        raise Refusal(status=403, message=message, param="fallbacks", code="model_not_allowed")
    if key.max_tokens and named.max_tokens is not None and named.max_tokens > key.max_tokens:
        message = f"{place}max_tokens: {named.max_tokens} is more than this key's cap of {key.max_tokens}"
        raise Refusal(status=400, message=message, param="max_tokens", code="max_tokens_cap")


def served_beyond(served: Iterable[str], expected: Collection[str], key: ApiKey) -> str:
    """The first of the models that an answer says it is from which the key may not use; "" when it may use them all.

    Args:
        expected: the models that were asked for, under which an upstream may also say a dated name.
    """
    asked = {undated(model) for model in expected}
    others = (model for model in served if model and undated(model) not in asked)
    return next((model for model in others if not model_allowed(key, model, model)), "")


def _fitted(call: Call, key: ApiKey) -> Call:
    """A translated call, with what only relayd could have put in it brought in line with the key."""
    from relayd.wire.openai.request import lower_max_tokens, with_cache_mark

    body, room = call.body, call.room
    if key.max_tokens and call.max_tokens is None:  # the client gave none, and got a default
        body = lower_max_tokens(body, key.max_tokens)
        room = None if room is None else min(room, key.max_tokens)
    if key.cache_prompts:
        body = with_cache_mark(body)
    return call if body is call.body else attrs.evolve(call, body=body, room=room)


def allow_endpoint(call: Call, key: ApiKey) -> None:
    """Raises: Refusal 403 when the key may not use the call's endpoint."""
    needed = permission_of(call)
    if needed not in key.endpoints:
        raise Refusal(
            status=403,
            message=f"endpoint {needed} is not allowed for this key (it may use {', '.join(key.endpoints)})",
            code="endpoint_not_allowed",
        )


def permission_of(call: Call) -> KeyEndpoint:
    """Which of a key's `endpoints` a call needs. Token counting rides on `messages`, OpenAI's dialects have one."""
    match call.endpoint:
        case "messages" | "count_tokens":
            return "openai" if call.language == "openai" else "messages"
        case other:
            return other


def model_allowed(key: ApiKey, asked: str, sent: str) -> bool:
    """Whether a key may ask for `asked`, which relayd's aliases turn into `sent`.

    A denial of either name counts; an alias may be allowed by its own name or by that of the model behind it.
    """
    if any(_denies(glob, name) for glob in key.deny_models for name in (asked, sent)):
        return False
    return not key.models or any(glob_matches(glob, name) for glob in key.models for name in (asked, sent))


def glob_matches(glob: str, name: str) -> bool:
    """Whether `name` fits a model glob, in which `*` is any text and `?` any one character.

    What an upstream may read as another name fits no glob but `*` and itself.
    """
    if glob == "*" or glob == name:
        return True
    return reads_plainly(name) and _compiled(glob).fullmatch(name) is not None


def _denies(glob: str, name: str) -> bool:
    """Whether a glob denies a name: also in other letters, or where an upstream may read anything into it."""
    return not reads_plainly(name) or glob_matches(glob.lower(), name.lower())


@lru_cache(maxsize=4096)
def reads_plainly(model: str) -> bool:
    """Whether every upstream reads a name as it is written.

    Some put it into the path of a URL, where `claude-haiku/../claude-opus` and `%2e%2e` mean another one, or trim it.
    Source: RFC 3986 sections 2.1, 3.3 and 5.2.4.
    """
    return _PLAIN.fullmatch(model) is not None and not {"", ".", ".."}.intersection(model.split("/"))


_PLAIN = re.compile(r"[!\"$&->@-\[\]-~]+")  # visible ASCII but for # % ? and the backslash


@lru_cache(maxsize=4096)
def _compiled(glob: str) -> re.Pattern[str]:
    return re.compile("".join(".*" if c == "*" else "." if c == "?" else re.escape(c) for c in glob), re.DOTALL)


def _shown(model: str) -> str:
    """A client's text, fit for an error message and a log line."""
    return ascii(model[:100])[1:-1]
