"""Usage: what a call consumed; Meter: response bytes in, token counts out.

Rule: never decode an event that cannot carry usage. The meter looks for two event names and at nothing else, so its
cost on the per-chunk path is one scan.
"""

from __future__ import annotations

import attrs


@attrs.frozen(kw_only=True)
class Usage:
    """Token counts by kind, as the Claude API reports them. `input` is the uncached part of the prompt only.

    The whole prompt is `input + cache_write_5m + cache_write_1h + cache_read`.
    """

    input: int = 0
    cache_write_5m: int = 0
    cache_write_1h: int = 0
    cache_read: int = 0
    output: int = 0
    thinking: int = 0  # part of output, not extra
    web_searches: int = 0
    web_fetches: int = 0
    service_tier: str = ""  # "batch", "priority": they change the price
    inference_geo: str = ""
    speed: str = ""

    @property
    def prompt(self) -> int:
        """Tokens of the whole prompt, cached or not."""
        return self.input + self.cache_write_5m + self.cache_write_1h + self.cache_read

    @property
    def total(self) -> int:
        """Tokens in and out, of every kind."""
        return self.prompt + self.output
