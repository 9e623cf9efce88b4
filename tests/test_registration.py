"""The plugin is there in every process that needs it, and costs nothing elsewhere."""

import shlex
import subprocess
import sys
import textwrap
import types
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def python(*args, stdin=None, cwd=ROOT):
    run = subprocess.run(
        [sys.executable, *args], capture_output=True, text=True, cwd=cwd, input=stdin
    )
    assert run.returncode == 0, run.stderr
    return run


def code(text):
    return textwrap.dedent(text)


SHOW = (
    "import espnet2.tasks.asr as a; "
    "print(a.encoder_choices.classes['des_conformer'].__name__, "
    "a.model_choices.classes['des'].__name__, a.ASRTask.__module__)"
)
REGISTERED = "DESConformerEncoder DESModel espnet_des.task\n"


def test_import_is_light_and_silent():
    run = python(
        "-c",
        "import espnet_des, sys; "
        "sys.exit(any(m.split('.')[0] in ('torch', 'espnet2') for m in sys.modules))",
    )
    assert run.stdout == "" and run.stderr == ""


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(f"import espnet_des; {SHOW}", marks=pytest.mark.thorough),
        f"import espnet2.tasks.asr, espnet_des; {SHOW}",
        f"import espnet_des, espnet2.bin.asr_inference; {SHOW}",
    ],
    ids=["before", "after", "through a command"],
)
def test_import_registers_before_and_after_espnet(text):
    assert python("-c", text).stdout == REGISTERED


def test_commands_imported_earlier_get_the_task_too():
    text = ("import espnet2.bin.asr_train as t, espnet2.bin.asr_inference as i, espnet_des;"
            "print(t.ASRTask.__module__, i.ASRTask.__module__)")  # fmt: skip
    assert python("-c", text).stdout == "espnet_des.task espnet_des.task\n"


def test_stock_task_stays_what_it_was():
    text = code("""
        import espnet_des, pickle
        import espnet2.tasks.asr as a
        from espnet2.train.trainer import Trainer
        print(a.ASRTask.__name__, a.ASRTask.trainer is Trainer)
        print(pickle.loads(pickle.dumps(a.ASRTask.main_worker)).__self__ is a.ASRTask)
    """)
    assert python("-c", text).stdout == "ASRTask True\nTrue\n"


def test_main_runs_any_python_command_line(tmp_path):
    # That the hook is there says it as well as ESPnet's import, in less time.
    show = "import sys; print(sys.meta_path[0].__class__.__module__)"
    script = tmp_path / "my script.py"
    script.write_text("import helper\n" + show + "\nprint(sys.argv)\n")
    (tmp_path / "helper.py").write_text("")
    run = python("-m", "espnet_des", str(script), "--a", "b c")
    hooked = "espnet_des.registry\n"
    assert run.stdout == hooked + str([str(script), "--a", "b c"]) + "\n"
    for flags in ([], ["-u"], ["-W", "ignore", "-X", "utf8"]):
        run = python("-m", "espnet_des", *flags, "-c", show + "; print(sys.argv)", "x")
        assert run.stdout == hooked + "['-c', 'x']\n"
    assert python("-m", "espnet_des", "-", stdin=show).stdout == hooked
    run = python("-m", "espnet_des", "-m", "timeit", "-n", "1", "-r", "1", "pass")
    assert "1 loop" in run.stdout


def test_main_passes_on_exit_codes_and_refuses_nothing_to_run():
    run = subprocess.run([sys.executable, "-m", "espnet_des", "-c", "import sys; sys.exit(7)"])
    assert run.returncode == 7
    for args in ([], ["-m"], ["no_such_file.py"]):
        run = subprocess.run([sys.executable, "-m", "espnet_des", *args],
                             capture_output=True, text=True)  # fmt: skip
        assert run.returncode == 1 and "usage" in run.stderr


def test_commands_that_need_no_model_do_not_import_one():
    text = "a b c\n"
    run = python("-X", "importtime", "-m", "espnet_des", "-m", "espnet2.bin.tokenize_text",
                 "--input", "-", "--output", "-", "--token_type", "word", stdin=text)  # fmt: skip
    assert run.stdout == text  # stage 13 reads it: nothing else may be printed
    assert "espnet_des.registry" in run.stderr and "espnet_des.task" not in run.stderr


def test_spawned_workers_know_the_classes(tmp_path):
    """ESPnet starts them with the Task's method, as --ngpu 2 does."""
    script = tmp_path / "spawn.py"
    script.write_text(
        code("""
        import argparse, torch
        import espnet2.tasks.asr as asr

        if __name__ == "__main__":
            context = torch.multiprocessing.get_context("spawn")
            args = argparse.Namespace(encoder="des_conformer", model="no_such_model")
            process = context.Process(target=asr.ASRTask.main_worker, args=(args,))
            process.start(); process.join()
            print(process.exitcode)
    """)
    )
    run = python("-m", "espnet_des", str(script))
    assert run.stdout == "1\n"
    # The plugin's own message, from within the worker.
    assert "model: 'no_such_model' cannot be used with encoder: des_conformer" in run.stderr


def test_workers_that_import_nothing_first_know_the_classes(tmp_path):
    """Unpickling the Task is then the first thing that imports the plugin."""
    script = tmp_path / "guarded.py"
    script.write_text(
        code("""
        if __name__ == "__main__":
            import argparse, torch
            import espnet_des
            import espnet2.tasks.asr as asr

            args = argparse.Namespace(encoder="des_conformer", model="no_such_model")
            context = torch.multiprocessing.get_context("spawn")
            process = context.Process(target=asr.ASRTask.main_worker, args=(args,))
            process.start(); process.join()
    """)
    )
    run = python(str(script))
    assert "model: 'no_such_model' cannot be used with encoder: des_conformer" in run.stderr
    assert python("-c", f"import espnet_des.task; {SHOW}").stdout == REGISTERED


@pytest.mark.thorough
def test_launched_processes_know_the_classes(tmp_path):
    """espnet2.bin.launch starts the command that asr.sh gives it."""
    run = python(
        "-m", "espnet_des", "-m", "espnet2.bin.launch",
        "--cmd", shlex.quote(str(ROOT / "tests/data/run.pl.sh")),
        "--log", str(tmp_path / "out.log"), "--ngpu", "0", "--",
        sys.executable, "-m", "espnet_des", "-c", SHOW,
    )  # fmt: skip
    assert REGISTERED in (tmp_path / "out.log").read_text(), run.stderr


def test_objects_without_attributes_among_the_modules_are_no_obstacle(monkeypatch):
    """Some programs put other things than modules into sys.modules."""
    from espnet_des.task import STOCK_TASK, ASRTask, put_in_place

    class Bare:
        __slots__ = ()

    late = types.ModuleType("late")
    late.ASRTask = STOCK_TASK
    monkeypatch.setitem(sys.modules, "bare", Bare())
    monkeypatch.setitem(sys.modules, "late", late)
    put_in_place(ASRTask)
    assert late.ASRTask is ASRTask
