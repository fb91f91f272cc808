import subprocess
import sys
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relayd.config.model.values import money
from relayd.config.snapshot import LongContext, MicroUsd, Price
from relayd.core.quota.prices import cost, cost_at, dated, has_unpriced_part, price_of, served_model, shipped
from relayd.wire.usage import Usage, UsagePart

USD = 1_000_000


def price(**changes: object) -> Price:
    values = {"input": 4 * USD, "output": 20 * USD, "cache_write_5m": 5 * USD, "cache_write_1h": 8 * USD}
    return Price(**{**values, "cache_read": USD // 5, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("model", "usage", "expected"),
    [
        ("claude-opus-5-5", Usage(input=1_000_000), 4 * USD),
        ("claude-opus-5-5", Usage(output=1_000_000), 20 * USD),
        ("claude-opus-5-5", Usage(cache_write_5m=1_000_000), 5 * USD),
        ("claude-opus-5-5", Usage(cache_write_1h=1_000_000), 8 * USD),
        ("claude-opus-5-5", Usage(cache_read=1_000_000), 200_000),
        ("claude-opus-5-5", Usage(output=100, thinking=100), 2000),
        ("claude-opus-5-5", Usage(output=100, service_tier="batch"), 1000),
        ("claude-opus-5-5", Usage(output=100, inference_geo="us"), 2200),
        ("claude-opus-5-5", Usage(output=100, speed="fast"), 4000),
        ("claude-opus-5-5", Usage(output=100, speed="fast", inference_geo="us", service_tier="batch"), 2200),
        ("claude-opus-5-5", Usage(web_searches=3, web_fetches=9), 30_000),
        ("claude-opus-5-5", Usage(web_searches=3, service_tier="batch"), 30_000),
        ("claude-sonnet-4-5", Usage(output=100, inference_geo="us"), 1500),
        ("claude-fable-5-1", Usage(cache_read=1_000_000), 250_000),
        ("claude-haiku-5-5", Usage(input=100_000), 10_000),
        ("claude-haiku-5-5", Usage(input=100_001), 50_001),  # 50,000.5 rounded half up
        ("claude-haiku-5-5", Usage(input=1, cache_read=100_000, output=1000), 7501),
        ("claude-haiku-5-5", Usage(input=4), 0),
        ("claude-haiku-5-5", Usage(input=5), 1),
        ("claude-haiku-5-5", Usage(input=14), 1),
    ],
)
def test_a_call_costs(model: str, usage: Usage, expected: int) -> None:
    assert cost(usage, model, {}) == expected


@pytest.mark.parametrize("model", ["claude-fable-5-2", "claude-opus-5-5-preview", "gpt-6", "", "claude-opus-5-5-2026"])
def test_an_unknown_model_has_no_cost(model: str) -> None:
    assert cost(Usage(input=1), model, {}) is None


def test_a_dated_id_has_the_price_of_its_base_id() -> None:
    assert price_of("claude-opus-5-5-20261001", {}) == price_of("claude-opus-5-5", {})
    assert price_of("claude-3-5-haiku-20241022", {}) != price_of("claude-3-5-haiku-latest", {})


def test_the_operators_prices_go_before_the_shipped_ones_also_for_dated_ids() -> None:
    ours = {"claude-opus-5-5": price(input=MicroUsd(7)), "house-model": price()}
    assert price_of("claude-opus-5-5-20261001", ours) == price(input=MicroUsd(7))
    assert price_of("house-model", ours) == price()
    assert price_of("claude-opus-5", ours) == shipped()["claude-opus-5"]


# Input, output, cache writes of 5 minutes and 1 hour, cache reads, in USD per million tokens; ids without "claude-".
PUBLISHED = {
    "15 75 18.75 30 1.5": "3-opus-20240229 3-opus-latest 4-opus-20250514 opus-4-1 opus-4-1-20250805 opus-4-20250514",
    "10 50 12.5 20 1": "fable-5 mythos-5 mythos-preview",
    "10 50 12.5 20 0.25": "fable-5-1 mythos-5-1",
    "5 25 6.25 10 0.5": "opus-4-5 opus-4-5-20251101 opus-4-6 opus-4-6-20260205 opus-4-6-thinking opus-4-7"
    " opus-4-7-20260416 opus-4-8 opus-5",
    "4 20 5 8 0.2": "opus-5-5",
    "3 15 3.75 6 0.3": "3-5-sonnet-20240620 3-5-sonnet-20241022 3-5-sonnet-latest 3-7-sonnet-20250219"
    " 3-7-sonnet-latest 4-sonnet-20250514 sonnet-4-20250514 sonnet-4-5 sonnet-4-5-20250929 sonnet-4-6",
    "2 10 2.5 4 0.2": "sonnet-5",
    "2 10 2.5 4 0.1": "sonnet-5-5",
    "1 5 1.25 2 0.1": "3-5-haiku-latest haiku-4-5 haiku-4-5-20251001",
    "0.8 4 1 1.6 0.08": "3-5-haiku-20241022",
    "0.25 1.25 0.3 0.5 0.03": "3-haiku-20240307",
    "0.1 0.5 0.125 0.2 0.01": "haiku-5-5",
}
US = (
    "fable-5 fable-5-1 haiku-5-5 mythos-5 mythos-5-1 mythos-preview opus-4-6 opus-4-6-thinking opus-4-7 opus-4-8 opus-5"
    " opus-5-5 sonnet-4-6 sonnet-5 sonnet-5-5"
)


def test_every_model_has_the_price_that_is_published() -> None:
    models = {f"claude-{name}": usd.split() for usd, names in PUBLISHED.items() for name in names.split()}
    assert len(models) == 39
    assert models.keys() == shipped().keys() | dated()
    for model, usd in models.items():
        one = price_of(model, {})
        assert one is not None
        kinds = (one.input, one.output, one.cache_write_5m, one.cache_write_1h, one.cache_read)
        assert kinds == tuple(money(amount) for amount in usd), model


def test_what_is_dearer_than_its_table_is_so_by_the_published_share() -> None:
    dearer = {model: one.us_percent for model, one in shipped().items() if one.us_percent != 100}
    assert dearer == {f"claude-{name}": 110 for name in US.split()}
    fast = {model: one.fast_percent for model, one in shipped().items() if one.fast_percent != 100}
    names = ("claude-opus-4-8", "claude-opus-5", "claude-opus-5-5")
    assert fast == {**dict.fromkeys(names, 200), "claude-opus-4-6-thinking": 600}
    assert {one.web_search for one in shipped().values()} == {10 * USD}
    assert {one.batch_percent for one in shipped().values()} == {50}
    assert {model: one.long_context.above for model, one in shipped().items() if one.long_context.above} == {
        "claude-haiku-5-5": 100_000
    }


def test_every_shipped_price_is_sound() -> None:
    assert len(shipped()) > 30
    for model, one in shipped().items():
        # The one-hour write is twice, the five-minute write 1.25 times the input, but for a rounding of 3-haiku.
        assert one.cache_read < one.input < one.cache_write_5m < one.cache_write_1h, model
        assert one.cache_write_1h == 2 * one.input, model
        assert one.output == 5 * one.input, model


counts = st.integers(0, 10_000_000)
rates = st.integers(0, 10**9)


@settings(deadline=None, max_examples=300)
@given(
    st.builds(
        Usage,
        input=counts,
        output=counts,
        cache_write_5m=counts,
        cache_write_1h=counts,
        cache_read=counts,
        web_searches=st.integers(0, 100),
        service_tier=st.sampled_from(["", "batch", "priority", "standard"]),
        inference_geo=st.sampled_from(["", "us", "eu"]),
        speed=st.sampled_from(["", "fast"]),
    ),
    st.tuples(*[rates] * 5),
    st.tuples(*[st.integers(0, 700)] * 3),
    st.integers(0, 20_000_000),
)
def test_a_cost_is_the_exact_fraction_rounded_half_up_once(
    usage: Usage, each: tuple[int, ...], shares: tuple[int, ...], above: int
) -> None:
    names = ("input", "output", "cache_write_5m", "cache_write_1h", "cache_read")
    dear = LongContext(above=above, **{name: MicroUsd(rate * 3) for name, rate in zip(names, each, strict=True)})
    one = price(
        **dict(zip(names, each, strict=True)),
        long_context=dear,
        batch_percent=shares[0],
        us_percent=shares[1],
        fast_percent=shares[2],
    )
    exact = sum(Fraction(getattr(usage, name) * rate, 10**6) for name, rate in zip(names, each, strict=True))
    if above and usage.prompt > above:
        exact *= 3
    if usage.service_tier == "batch":
        exact *= Fraction(shares[0], 100)
    if usage.inference_geo == "us":
        exact *= Fraction(shares[1], 100)
    if usage.speed == "fast":
        exact *= Fraction(shares[2], 100)
    exact += Fraction(usage.web_searches * one.web_search, 1000)
    assert cost_at(usage, one) == (exact + Fraction(1, 2)).__floor__()


def test_the_table_is_not_read_before_it_is_needed() -> None:
    code = "import relayd.core.quota.prices as p; assert p.shipped.cache_info().currsize == 0"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_each_inference_is_long_or_short_by_its_own_prompt() -> None:
    short = UsagePart(model="", usage=Usage(input=90_000))
    both = Usage(input=180_000, parts=(short, short))

    assert cost(both, "claude-haiku-5-5", {}) == 2 * (cost(Usage(input=90_000), "claude-haiku-5-5", {}) or 0)
    assert (cost(Usage(input=180_000), "claude-haiku-5-5", {}) or 0) > (cost(both, "claude-haiku-5-5", {}) or 0)


def test_what_is_in_no_part_is_priced_as_the_answers_own() -> None:
    part = UsagePart(model="claude-fable-5-1", usage=Usage(output=100))
    usage = Usage(output=150, web_searches=1, parts=(part,))
    fable, opus = cost(Usage(output=100), "claude-fable-5-1", {}), cost(Usage(output=50), "claude-opus-5-5", {})

    assert cost(usage, "claude-opus-5-5", {}) == (fable or 0) + (opus or 0) + 10_000


def test_a_part_without_a_price_is_told() -> None:
    usage = Usage(output=150, parts=(UsagePart(model="gpt-6", usage=Usage(output=100)),))

    assert has_unpriced_part(usage, "claude-opus-5-5", {})
    assert cost(usage, "claude-opus-5-5", {}) == cost(Usage(output=50), "claude-opus-5-5", {})
    assert not has_unpriced_part(Usage(output=150), "claude-opus-5-5", {})
    assert cost(usage, "gpt-6", {}) is None


def test_the_model_that_served_decides_where_it_has_a_price_and_is_another() -> None:
    assert served_model("claude-fable-5-1", "claude-opus-5-5", {}) == "claude-opus-5-5"
    assert served_model("claude-opus-4-5", "claude-opus-4-5-20251101", {}) == "claude-opus-4-5"
    assert served_model("claude-opus-5-5", "gpt-6", {}) == "claude-opus-5-5"
    assert served_model("claude-opus-5-5", "", {}) == "claude-opus-5-5"
    assert served_model("mine", "theirs", {"theirs": price()}) == "theirs"


def test_what_is_not_billed_costs_nothing_but_its_searches() -> None:
    assert cost(Usage(input=1_000_000, free=True, web_searches=1), "claude-opus-5-5", {}) == 10_000
