"""Show an inherited constructor's arguments where ``**kwargs`` passes them on."""

import inspect


def merge_signature(base: type):
    """Class decorator: own arguments first, then those of ``base``.

    ESPnet reads a class's signature to print its default configuration
    (``--print_config``); behind ``**kwargs`` the stock keys would vanish.
    """

    def decorate(cls: type) -> type:
        own = inspect.signature(cls.__init__).parameters
        inherited = inspect.signature(base.__init__).parameters
        kept = [p for p in own.values() if p.kind is not p.VAR_KEYWORD]
        kept += [
            p.replace(kind=p.KEYWORD_ONLY)
            for p in inherited.values()
            if p.name not in own and p.kind is not p.VAR_KEYWORD
        ]
        cls.__init__.__signature__ = inspect.Signature(kept)
        return cls

    return decorate
