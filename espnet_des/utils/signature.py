"""Show an inherited constructor's arguments where ``**kwargs`` passes them on."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any


def combined(
    constructor: Callable, more: Sequence[inspect.Parameter], base: Callable
) -> inspect.Signature:
    """The arguments of a constructor, and those that its ``**kwargs`` pass on.

    ESPnet reads a class's signature to print its default configuration
    (``--print_config``); behind ``**kwargs`` the stock keys would vanish.

    Args:
        constructor: an ``__init__``, or a function.
        more: arguments that come after its own.
        base: of which the others are.
    """
    own = list(inspect.signature(constructor).parameters.values())
    kept = [p for p in own if p.kind is not p.VAR_KEYWORD] + list(more)
    names = {p.name for p in own + kept}
    kept += [
        p.replace(kind=p.KEYWORD_ONLY)
        for p in inspect.signature(base).parameters.values()
        if p.name not in names and p.kind is not p.VAR_KEYWORD
    ]
    return inspect.Signature(kept)


def merge_signature[C: type](base: type) -> Callable[[C], C]:
    """Class decorator: own arguments first, then those of ``base``."""

    def decorate(cls: C) -> C:
        constructor: Any = vars(cls)["__init__"]
        constructor.__signature__ = combined(constructor, (), base)
        return cls

    return decorate
