"""What a call is going to consume at most: tokens by the length of its body, money by the prices of its model.

Theory: tokens and money are not known before the answer, so an upper estimate is reserved, and the difference is given
back at settlement.
"""

from __future__ import annotations

from relayd.config.snapshot import Price
from relayd.noun import noun

# A Claude model's prompt holds at most 1,000,000 tokens (API docs, models overview); a larger estimate is never true.
LARGEST_PROMPT = 1_000_000

# English prose has about 4 bytes a token, source code about 3.5 (API docs, glossary: "approximately 3.5 English
# characters"); the JSON around the text costs bytes but few tokens, and images cost far fewer tokens than base64 bytes.
# So 2 tokens for 7 bytes is an upper bound for what clients of this API send in ASCII. Beyond it a character has 2 to 4
# bytes and may be more than a token: 1 more for 3 bytes beyond a character's first makes 1.5 for a Chinese one. No
# tokenizer is run on the way of a call; settlement puts the real number in its place.
TOKENS, BYTES, WIDE = 2, 7, 3

# Output reserved for a call that sets no max_tokens. The API refuses it, so nothing will come of that.
DEFAULT_OUTPUT = 4096


@noun(kw_only=True)
class Estimate:
    """An upper estimate of what a call will consume. Costs are micro-USD; None for a model without a price."""

    input: int
    output: int
    cost: int | None
    input_cost: int | None

    @property
    def tokens(self) -> int:
        """Tokens in and out."""
        return self.input + self.output


NOTHING = Estimate(input=0, output=0, cost=0, input_cost=0)


def prompt_bound(length: int, wide: int) -> int:
    """An upper bound on the prompt tokens of a request body.

    Args:
        length: bytes.
        wide: how many of them are not the first of a character.
    """
    return min(-(-length * TOKENS // BYTES) - (-wide // WIDE), LARGEST_PROMPT)


def dearest_percent(price: Price, *, fast: bool) -> int:
    """The share of its token prices that a call may cost: kept in the US, which a workspace may ask for unseen, and in
    fast mode, where the call asks for it."""
    return max(price.us_percent, 100) * (max(price.fast_percent, 100) if fast else 100) // 100


def estimate(prompt: int, max_tokens: int | None, price: Price | None, percent: int = 100) -> Estimate:
    """What a message call is going to consume at most.

    Args:
        prompt: tokens, as `prompt_bound`.
        max_tokens: the cap on output that is sent.
        price: of the model; None when it has none.
        percent: of the token prices, as `dearest_percent`.
    """
    output = DEFAULT_OUTPUT if max_tokens is None else max(max_tokens, 0)
    if price is None:
        return Estimate(input=prompt, output=output, cost=None, input_cost=None)
    # Any part of the prompt may be written to the one-hour cache, the dearest kind; and it may be a long prompt.
    long = price.long_context
    each = max(price.input, price.cache_write_5m, price.cache_write_1h)
    answer = int(price.output)
    if long.above and prompt > long.above:
        each = max(each, long.input, long.cache_write_5m, long.cache_write_1h)
        answer = max(answer, long.output)
    input_cost = -(-prompt * each * percent // 100_000_000)
    output_cost = -(-output * answer * percent // 100_000_000)
    return Estimate(input=prompt, output=output, cost=input_cost + output_cost, input_cost=input_cost)
