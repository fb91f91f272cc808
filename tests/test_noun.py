from __future__ import annotations

import copy
import pickle
import weakref
from typing import Generic, TypeVar

import attrs
import pytest

from relayd.noun import noun

Kind = TypeVar("Kind")


@noun(kw_only=True)
class Town:
    name: str
    people: int = 0
    streets: tuple[str, ...] = attrs.field(default=(), converter=tuple)


@noun
class Box(Generic[Kind]):
    inside: Kind


@noun
class Crate(Box[Kind]):
    label: str = ""


@noun(eq=False)
class Being:
    name: str


@noun
class Visit:
    town: Town
    secret: str = attrs.field(default="", repr=False)
    noticed: int = attrs.field(default=0, eq=False)


@noun
class Knot:
    ends: list[Knot]


@noun
class Named:
    name: str

    def __repr__(self) -> str:
        return f"<{self.name}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Named) and self.name.lower() == other.name.lower()

    def __hash__(self) -> int:
        return hash(self.name.lower())


@noun
class Nothing: ...


@noun(kw_only=True)
class Refused(Exception):
    status: int


def test_nouns_are_compared_and_hashed_by_value() -> None:
    one, same = Town(name="Ulm", streets=["a"]), Town(name="Ulm", streets=("a",))

    assert one == same
    assert hash(one) == hash(same)
    assert {one: 1}[same] == 1
    assert one != attrs.evolve(one, people=3) == Town(name="Ulm", people=3, streets=("a",))
    assert Crate(1, "x") == Crate(1, "x") != Box(1)
    assert len({Crate(1, "x"), Crate(1, "x"), Crate(1, "y")}) == 2


def test_of_two_nouns_the_fields_that_count_are_compared() -> None:
    one, same = Visit(Town(name="Ulm"), noticed=1), Visit(Town(name="Ulm"), noticed=2)

    assert one == same
    assert hash(one) == hash(same)
    assert one != Visit(Town(name="Ulm"), "x")
    assert one != "Ulm"
    assert Nothing() == Nothing()
    assert hash(Nothing()) == hash(Nothing())
    with pytest.raises(TypeError):
        hash(Knot([]))


def test_a_noun_is_shown_with_its_fields_but_for_those_that_are_hidden() -> None:
    knot = Knot([])
    knot.ends.append(knot)

    assert repr(Visit(Town(name="Ulm"), "sk-1")) == "Visit(town=Town(name='Ulm', people=0, streets=()), noticed=0)"
    assert repr(Crate(1, "x")) == "Crate(inside=1, label='x')"
    assert repr(knot) == "Knot(ends=[...])"
    assert repr(Refused(status=403)) == "Refused(status=403)"


def test_what_a_noun_says_of_itself_stands() -> None:
    assert repr(Named("Ulm")) == "<Ulm>"
    assert Named("Ulm") == Named("ULM")
    assert hash(Named("Ulm")) == hash(Named("ULM"))


def test_a_noun_without_eq_is_itself_alone() -> None:
    one, other = Being("a"), Being("a")

    assert one != other
    assert len({one, other}) == 2


def test_a_noun_can_be_pickled_copied_and_held_weakly() -> None:
    one = Town(name="Ulm", people=2)

    assert pickle.loads(pickle.dumps(one)) == copy.deepcopy(one) == one
    assert weakref.ref(one)() is one


def test_a_noun_has_slots_and_sets_them_plainly() -> None:
    one = Town(name="Ulm")

    assert not hasattr(one, "__dict__")
    with pytest.raises(AttributeError):
        one.nmae = "Bonn"
    assert "__setattr__" not in vars(Town)


def test_an_exception_may_be_a_noun() -> None:
    with pytest.raises(Refused) as caught:
        raise Refused(status=403) from ValueError("why")

    assert caught.value.status == 403
    assert isinstance(caught.value.__cause__, ValueError)
    assert caught.value != Refused(status=403)
