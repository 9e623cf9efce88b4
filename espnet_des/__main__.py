"""Run any python command with the plugin registered.

    python3 -m espnet_des -m espnet2.bin.asr_train --config conf/train.yaml
    python3 -m espnet_des my_script.py --option
    python3 -m espnet_des -u -c 'print("hello")'

Give it to ESPnet's recipes as ``--python "python3 -m espnet_des"``.
"""

import os
import runpy
import sys
from pathlib import Path

from espnet_des.utils.processes import end_with_parent
from espnet_des.utils.threads import wait_asleep

USAGE = (
    "usage: python3 -m espnet_des [python options] (-m module | -c code | script.py) [args]"
)
# Python's options that take a value of their own.
WITH_VALUE = ("-W", "-X", "--check-hash-based-pycs")


def main(argv: list[str]) -> None:
    flags: list[str] = []
    while (
        argv and argv[0].startswith("-") and argv[0][:2] not in ("-m", "-c") and argv[0] != "-"
    ):
        if argv[0] in ("-h", "--help"):
            print(__doc__, USAGE, sep="\n")
            return
        count = 2 if argv[0] in WITH_VALUE else 1
        flags, argv = flags + argv[:count], argv[count:]
    if not argv:
        sys.exit(USAGE)
    if flags:
        # Only a new interpreter can take its options.
        os.execv(sys.executable, [sys.executable, *flags, "-m", "espnet_des", *argv])
    wait_asleep()
    end_with_parent()
    what, rest = argv[0], argv[1:]
    if what[:2] in ("-m", "-c"):
        # Python takes the value behind a space, or right behind the letter.
        value, rest = (what[2:], rest) if len(what) > 2 else (rest[0:1], rest[1:])
        if not value:
            sys.exit(f"{what} needs a value\n{USAGE}")
        value = value if isinstance(value, str) else value[0]
        if what[:2] == "-m":
            sys.argv = ["-m", *rest]
            runpy.run_module(value, run_name="__main__", alter_sys=True)
        else:
            sys.argv = ["-c", *rest]
            exec(compile(value, "<string>", "exec"), _new_main())
    elif what == "-":
        sys.argv = ["-", *rest]
        exec(compile(sys.stdin.read(), "<stdin>", "exec"), _new_main())
    else:
        if not Path(what).exists():
            sys.exit(f"{what}: no such file\n{USAGE}")
        sys.argv = argv
        sys.path[0] = str(Path(what).resolve().parent)
        runpy.run_path(what, run_name="__main__")


def _new_main() -> dict:
    main_module = type(sys)("__main__")
    sys.modules["__main__"] = main_module
    return main_module.__dict__


if __name__ == "__main__":
    main(sys.argv[1:])
