"""What the commands in ``espnet_des/bin`` share: one call, errors without a traceback."""

import importlib
import logging
import sys


def call(target: str, arguments: dict) -> int:
    """Call ``module:function``; returns the exit code.

    The module is imported only now, so that --help does not wait for ESPnet.

    Args:
        target: such as ``espnet_des.measure.report:report``.
        arguments: its keyword arguments.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    module, function = target.split(":")
    try:
        getattr(importlib.import_module(module), function)(**arguments)
    except (RuntimeError, ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0
