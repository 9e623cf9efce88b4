"""Options of commands: errors are one line each."""

import pkgutil
import subprocess
import sys

import pytest

import espnet_des.bin
from espnet_des.utils.command import CommandParser

COMMANDS = [module.name for module in pkgutil.iter_modules(espnet_des.bin.__path__)
            if module.name != "spm_train"]  # it passes its options on  # fmt: skip


@pytest.mark.parametrize("name", COMMANDS)
def test_an_unknown_option_takes_one_line(name):
    command = [sys.executable, "-m", f"espnet_des.bin.{name}", "--no_such_option", "1"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and not done.stdout
    assert done.stderr.count("\n") == 1 and "--help lists all options" in done.stderr


@pytest.mark.parametrize("arguments, says", [
    (["--size", "x"], "prog: --size: 'x' must be a whole number\n"),
    (["--rate", "x"], "prog: --rate: 'x' must be a number\n"),
    (["--kind", "x"], "prog: --kind: 'x' must be one of a, b\n"),
    (["--size"], "prog: --size: expected one argument\n"),
    ([], "prog: the following arguments are required: --size; --help lists all options\n"),
])  # fmt: skip
def test_an_error_names_the_option_its_value_and_what_would_be_right(arguments, says, capsys):
    parser = CommandParser(prog="prog")
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--rate", type=float)
    parser.add_argument("--kind", choices=["a", "b"])
    with pytest.raises(SystemExit) as stopped:
        parser.parse_args(arguments)
    assert (
        stopped.value.code == 2 and capsys.readouterr().err.replace("'a', 'b'", "a, b") == says
    )
