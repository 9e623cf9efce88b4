"""What the commands in ``espnet_des/bin`` share: one call, errors without a traceback."""

import argparse
import contextlib
import importlib
import logging
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from espnet_des.utils.processes import end_with_parent, stopped_by_signals
from espnet_des.utils.threads import wait_asleep

# What argparse calls a type, and what a user does.
TYPES = {"int": "a whole number", "float": "a number", "str2bool": "true or false",
         "size": "a number of layers, or any"}  # fmt: skip
# Packages that only some commands need, and what installs them.
OF_EXTRAS = {
    "onnx": "onnx", "onnxruntime": "onnx", "onnxscript": "onnx", "sherpa_onnx": "sherpa",
}  # fmt: skip


class CommandParser(argparse.ArgumentParser):
    """A parser whose errors are one line; --help has the usage.

    It names the option, its value and what would be right.
    """

    def error(self, message: str) -> NoReturn:
        message = message.removeprefix("argument ")
        if found := re.match(r"(.*?)invalid (\w+) value: (.*)$", message):
            where, kind, value = found.groups()
            message = f"{where}{value} must be {TYPES.get(kind, f'of type {kind}')}"
        elif found := re.match(r"(.*?)invalid choice: (.*) \(choose from (.*)\)$", message):
            where, value, choices = found.groups()
            message = f"{where}{value} must be one of {choices}"
        elif message.startswith(("unrecognized", "the following arguments")):
            message += "; --help lists all options"
        self.exit(2, f"{self.prog}: {message}\n")

    def add_budgets(self) -> None:
        """Options that choose a size by what it costs (espnet_des.inference.budget)."""
        self.add_argument("--macs", help="the largest size within it, such as 150M per second")
        self.add_argument("--params", help="the largest size within it, such as 2M")
        self.add_argument("--rtf", help="the largest size within it, such as 0.005")
        self.add_argument("--ms", help="the same in milliseconds, for the table's audio")
        self.add_argument(
            "--cost_table", type=Path, help="for --rtf and --ms: what bin.cost_table wrote"
        )
        self.add_argument(
            "--slices", type=Path,
            help="slices.json of a recipe: only its sizes and costs count",
        )  # fmt: skip


@contextlib.contextmanager
def as_command() -> Iterator[None]:
    """What a command works in; torch must not be imported yet.

    Its threads share the processors with others, it ends with what started it, and takes with
    it what it has started.
    """
    wait_asleep()
    end_with_parent()
    with stopped_by_signals():
        yield


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
        with as_command():
            getattr(importlib.import_module(module), function)(**arguments)
    except (RuntimeError, ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        extra = OF_EXTRAS.get(str(error.name).split(".")[0])
        if extra is None:
            raise
        print(f"{error}: pip install 'espnet_des[{extra}]'", file=sys.stderr)
        return 1
    return 0
