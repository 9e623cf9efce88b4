"""Show an inherited constructor's arguments where ``**kwargs`` passes them on."""

import inspect
from collections.abc import Callable
from typing import Any


def merge_signature[C: type](base: type) -> Callable[[C], C]:
    """Class decorator: own arguments first, then those of ``base``.

    ESPnet reads a class's signature to print its default configuration
    (``--print_config``); behind ``**kwargs`` the stock keys would vanish.
    """

    def decorate(cls: C) -> C:
        constructor: Any = vars(cls)["__init__"]
        own = inspect.signature(constructor).parameters
        inherited = inspect.signature(base).parameters
        kept = [p for p in own.values() if p.kind is not p.VAR_KEYWORD]
        kept += [
            p.replace(kind=p.KEYWORD_ONLY)
            for p in inherited.values()
            if p.name not in own and p.kind is not p.VAR_KEYWORD
        ]
        constructor.__signature__ = inspect.Signature(kept)
        return cls

    return decorate
