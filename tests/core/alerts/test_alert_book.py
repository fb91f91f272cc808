import itertools

import msgspec
import pytest
from alert_world import Receiver, World, said, target
from hypothesis import example, given, settings
from hypothesis import strategies as st

from relayd.core.alerts.book import KEPT, LONGEST_RETRY, MOST_PENDING, SILENT, TOGETHER, AlertBook
from relayd.core.oauth import retry_in


def test_what_begins_together_is_told_in_one_notice_once_it_has_gathered() -> None:
    world = World()
    world.hear(said("account/a"), said("account/b"))

    world.wait(9)
    assert world.told() == []
    world.wait(1)
    assert world.told() == ["begins account/a", "begins account/b"]
    world.wait(100)
    assert world.told() == []


def test_several_nodes_that_see_the_same_begin_it_once_and_it_is_over_when_none_does() -> None:
    world = World()
    world.hear(said("group/g", lasting=True, node="n1"), said("group/g", lasting=True, node="n2"))
    world.wait(10)
    assert world.told() == ["begins group/g"]

    world.hear(said("group/g", "ends", node="n1"))
    world.wait(100)
    assert world.told() == []
    world.hear(said("group/g", "ends", node="n2"))
    world.wait(61)
    world.wait(10)
    assert world.told() == ["ends group/g"]


def test_an_end_that_all_nodes_share_ends_it_whoever_says_so() -> None:
    world = World()
    world.hear(said(everywhere=True, node="n1"))
    world.wait(10)
    world.told()
    world.hear(said(turn="ends", everywhere=True, node="n2"))
    world.wait(61)
    world.wait(10)

    assert world.told() == ["ends account/main"]
    assert not world.book.open


def test_what_comes_and_goes_is_told_once() -> None:
    world = World()
    world.hear(said())
    world.wait(10)
    assert world.told() == ["begins account/main"]
    for _ in range(5):
        world.hear(said(turn="ends"))
        world.wait(30)
        world.hear(said())
        world.wait(30)

    assert world.told() == []


def test_what_is_over_before_anybody_was_told_is_not_told_at_all() -> None:
    world = World()
    world.hear(said())
    world.wait(5)
    world.hear(said(turn="ends"))
    world.wait(61)
    world.wait(100)

    assert world.told() == []
    assert not world.book.open


def test_a_node_that_falls_silent_no_longer_speaks_for_what_lasts_and_the_end_says_so() -> None:
    world = World()
    world.hear(said("config", lasting=True))
    world.wait(10)
    world.told()
    world.wait(SILENT + 1)
    world.wait(61)
    world.wait(10)

    notice = world.due()
    assert notice is not None
    assert [(one.saying, one.occurrence.text) for one in notice.items] == [("ends", "no longer so: config begins")]


def test_what_got_worse_is_told_again_and_a_milder_word_of_another_node_is_not() -> None:
    world = World()
    world.hear(said(severity="warning"))
    world.wait(10)
    world.told()
    world.hear(said(event="account.credential", severity="critical", node="n2"))
    world.wait(10)
    assert world.told() == ["begins account/main"]
    world.hear(said(severity="warning", node="n3"))
    world.wait(10)
    assert world.told() == []


def test_what_lasts_is_told_again_at_the_interval_of_its_target() -> None:
    world = World({"ops": target(repeat=3600.0), "quiet": target(repeat=0.0)})
    world.hear(said(everywhere=True))
    world.wait(10)
    assert world.told("ops") == world.told("quiet") == ["begins account/main"]
    world.wait(3600)
    world.wait(10)

    assert world.told("ops") == ["still account/main"]
    assert world.told("quiet") == []


def test_news_is_told_once_in_its_time_and_then_says_how_often_it_was_not() -> None:
    world = World()
    news = said("price.unknown/x", "once", quiet=3600.0)
    world.hear(news, news, news)
    world.wait(10)
    notice = world.due()
    assert notice is not None
    world.book.sent(notice, world.now)
    assert [one.more for one in notice.items] == [0]

    world.wait(3600)
    world.hear(news)
    world.wait(10)
    notice = world.due()
    assert notice is not None
    assert [one.more for one in notice.items] == [2]


def test_a_target_that_fails_is_tried_ever_more_rarely_and_gets_what_came_meanwhile_in_one_notice() -> None:
    world = World()
    world.hear(said("account/a"))
    world.wait(10)
    world.fail()
    assert world.due() is None
    world.hear(said("account/b"), said("account/c"), said("account/c", "ends"))
    world.wait(5)

    assert world.told() == ["begins account/a", "begins account/b"]
    assert world.book.targets["ops"].failures == 0


def test_a_notice_that_may_have_arrived_goes_out_again_as_it_was() -> None:
    world = World()
    world.hear(said("account/a"))
    world.wait(10)
    first = world.fail(unknown=True)
    world.hear(said("account/b"))
    world.wait(10)
    again = world.due()

    assert again == first
    world.book.sent(first, world.now)
    world.wait(10)
    assert world.told() == ["begins account/b"]


def test_a_receivers_retry_after_is_honoured_up_to_an_hour() -> None:
    world = World()
    world.hear(said())
    world.wait(10)
    world.fail(asked=120.0)
    world.wait(119)
    assert world.due() is None
    world.wait(1)
    assert world.due() is not None
    assert retry_in(1, 86_400.0, world.rng, longest=LONGEST_RETRY) == 3600.0
    assert retry_in(30, 0.0, world.rng, longest=LONGEST_RETRY) <= LONGEST_RETRY


def test_other_settings_of_a_target_are_tried_at_once() -> None:
    world = World()
    world.hear(said())
    world.wait(10)
    world.fail(asked=3600.0)
    world.targets = {"ops": target(url_file="another")}
    world.hear()

    assert world.told() == ["begins account/main"]


def test_what_cannot_be_told_for_a_day_is_dropped_and_counted() -> None:
    world = World()
    world.hear(said("x", "once"))
    world.wait(10)
    world.fail()
    world.wait(KEPT)

    assert world.due() is None
    assert world.book.targets["ops"].dropped == 1


def test_the_queue_of_a_target_is_bounded_and_conditions_outlive_news() -> None:
    world = World()
    world.hear(said("account/a"), *(said(f"n/{number}", "once") for number in range(MOST_PENDING + 50)))
    book = world.book.targets["ops"]

    assert len(book.pending) == MOST_PENDING
    assert book.dropped == 51
    world.wait(10)
    told = world.told()
    assert told[0] == "begins account/a"
    assert len(told) == TOGETHER


def test_a_new_target_is_told_what_lasts() -> None:
    world = World()
    world.hear(said("account/a"))
    world.targets["late"] = target()
    world.hear()
    world.wait(10)

    assert world.told("late") == ["begins account/a"]


@pytest.mark.parametrize(
    ("settings_of", "wanted"),
    [
        ({"severity": "critical"}, False),
        ({"severity": "warning"}, True),
        ({"events": ("account.*",)}, True),
        ({"events": ("limit.*", "state.lost")}, False),
        ({"accounts": ("ma*",)}, True),
        ({"accounts": ("other",)}, False),
        ({"groups": ("default",)}, True),
        ({"groups": ("eu",)}, False),
        ({"keys": ("nobody",), "owners": ("nobody",)}, True),  # it is about no key
    ],
)
def test_filters(settings_of: dict[str, object], wanted: bool) -> None:
    world = World({"ops": target(**settings_of)})
    world.hear(said(account="main", groups=("default",)))
    world.wait(10)

    assert bool(world.told()) is wanted


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["begins", "worse", "ends", "once", "wait", "sent", "failed", "unknown", "arrived"]),
        st.sampled_from(["a", "b", "c"]),
        st.sampled_from(["n1", "n2"]),
        st.sampled_from([1.0, 15.0, 70.0, 1000.0]),
    ),
    max_size=60,
)


def act(world: World, receiver: Receiver, what: str, name: str, node: str, seconds: float) -> None:
    """One step. `arrived` and `unknown` are the same to relayd."""
    match what:
        case "begins" | "ends":
            world.hear(said(name, what, node=node))
        case "worse":
            world.hear(said(name, event="account.credential", severity="critical", node=node))
        case "once":
            world.hear(said(f"news/{name}", "once", quiet=100.0))
        case "wait":
            world.wait(seconds)
        case _:
            tell(world, receiver, what)


def tell(world: World, receiver: Receiver, how: str) -> None:
    notice = world.due()
    if notice is None:
        return
    assert receiver.had.get(notice.id, notice) == notice  # one id, one content
    if how in ("sent", "arrived"):
        receiver.take(notice)
    if how == "sent":
        world.book.sent(notice, world.now)
    else:
        world.book.failed(notice, "x", world.now, world.rng, unknown=how != "failed")


@settings(max_examples=150, deadline=None)
@given(STEPS)
def test_whatever_happens_each_begin_is_told_once_before_its_end_and_the_book_survives_its_note(steps: list) -> None:
    world, receiver = World({"ops": target(repeat=0.0)}), Receiver()
    world.hear()
    for what, name, node, seconds in steps:
        act(world, receiver, "begins" if what == "worse" else what, name, node, seconds)
        world.book = msgspec.json.decode(msgspec.json.encode(world.book), type=AlertBook)
    for name in "abc":
        sayings = [saying for saying, condition in receiver.told if condition == name]
        assert all(one != other for one, other in itertools.pairwise(sayings)), sayings
        assert not sayings or sayings[0] == "begins"


@settings(max_examples=100, deadline=None)
@given(STEPS)
@example(  # it ends while nobody knows whether its beginning arrived, and begins again
    [
        ("begins", "b", "n1", 1.0),
        ("wait", "a", "n1", 15.0),
        ("unknown", "a", "n1", 1.0),
        ("ends", "b", "n1", 1.0),
        ("wait", "a", "n1", 70.0),
        ("begins", "b", "n1", 1.0),
    ]
)
@example(  # it has arrived, and a later try that surely has not says nothing of that
    [
        ("begins", "b", "n1", 1.0),
        ("wait", "a", "n1", 15.0),
        ("arrived", "a", "n1", 1.0),
        ("wait", "a", "n1", 15.0),
        ("failed", "a", "n1", 1.0),
        ("ends", "b", "n1", 1.0),
    ]
)
@example(  # it gets worse, and is over before that was told
    [
        ("begins", "b", "n1", 1.0),
        ("wait", "a", "n1", 15.0),
        ("sent", "a", "n1", 1.0),
        ("worse", "b", "n1", 1.0),
        ("ends", "b", "n1", 1.0),
    ]
)
def test_in_the_end_everybody_knows_what_lasts_and_nobody_believes_what_is_over(steps: list) -> None:
    world, receiver = World({"ops": target(repeat=0.0)}), Receiver()
    world.hear()
    for step in steps:
        act(world, receiver, *step)
    for _ in range(40):
        world.wait(100)
        tell(world, receiver, "sent")

    assert receiver.believed == {condition.last.condition for condition, _ in world.book.firing()}


def test_what_got_worse_while_a_notice_is_under_way_is_told_after_it() -> None:
    world = World()
    world.hear(said())
    world.wait(10)
    first = world.due()
    assert first is not None
    world.hear(said(event="account.credential", severity="critical"))
    world.book.sent(first, world.now)
    world.wait(10)

    assert world.told() == ["begins account/main"]
