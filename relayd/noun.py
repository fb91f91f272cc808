"""Noun: a class whose objects do not change once they are made, at no cost for being so.

Rule: nobody assigns to a field of a noun. For type checkers `noun` is `attrs.frozen`, so that mypy finds whoever does;
at run time it is a plain class with slots, compared and hashed by value.

Theory: a class that is frozen at run time sets each field through `object.__setattr__`, which makes its objects more
than twice as dear, and a call makes dozens. tests/noun_is_frozen.py, read by mypy only, proves that the checker looks.

There are some 250 nouns in a process, and what attrs generates for one is 8 KB of code and 0.4 ms of the start. So they
share what need not be compiled for each: equality, hash and `repr` are one function for all of them, which know the
fields by an `attrgetter`, as fast as code written out. Only `__init__` is a noun's own. `attrs.fields` gives a plain
tuple; a field is found by its name in `attrs.fields_dict`. Slots are pickled as Python does it by itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from attrs import frozen as noun
else:
    from functools import partial
    from operator import attrgetter
    from reprlib import recursive_repr

    import attrs

    def noun(cls=None, /, **how):
        """As `attrs.frozen`: bare, or with its arguments."""
        return partial(_made, **how) if cls is None else _made(cls, **how)

    def _made(cls, **how):
        if issubclass(cls, BaseException):  # each is itself alone, and pickled by its arguments
            return attrs.define(cls, on_setattr=attrs.setters.NO_OP, **how)
        by_value = how.pop("eq", True)
        own = vars(cls)
        if by_value and "__eq__" not in own:
            cls.__eq__, cls.__hash__ = _equal, own.get("__hash__") or _hash
        if how.pop("repr", True) and "__repr__" not in own:
            cls.__repr__ = _shown
        made = attrs.define(cls, eq=False, repr=False, on_setattr=attrs.setters.NO_OP, getstate_setstate=False, **how)
        # attrs makes a class for this tuple, with a property for each name.
        made.__attrs_attrs__ = fields = tuple(made.__attrs_attrs__)
        if by_value:
            compared = [field.name for field in fields if field.eq]
            made._noun_values = attrgetter(*compared) if compared else _nothing
        return made

    def _nothing(one):
        return ()

    def _equal(self, other):
        if other.__class__ is not self.__class__:
            return NotImplemented
        values = self.__class__._noun_values
        return values(self) == values(other)

    def _hash(self):
        return hash(self.__class__._noun_values(self))

    @recursive_repr()
    def _shown(self):
        shown = ", ".join([f"{one.name}={getattr(self, one.name)!r}" for one in attrs.fields(type(self)) if one.repr])
        return f"{type(self).__qualname__.rsplit('>.', 1)[-1]}({shown})"


__all__ = ["noun"]
