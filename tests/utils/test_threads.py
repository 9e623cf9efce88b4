"""How threads wait: chosen before torch is loaded, unless the user has chosen."""

import os
import subprocess
import sys
from unittest import mock

import pytest

from espnet_des.utils.processes import spawned
from espnet_des.utils.threads import BY_US, SETTINGS, as_applications_wait, wait_asleep

SHOW = "import os, torch; print(os.environ.get('OMP_WAIT_POLICY'))"
AS_COMMAND = f"""
import sys
from espnet_des.utils.command import as_command
with as_command():
    assert "torch" not in sys.modules
    {SHOW}
"""
WAYS = {"plugin": ["-m", "espnet_des", "-c", SHOW], "command": ["-c", AS_COMMAND]}


def run(command, **settings):
    """What libgomp itself says that it does comes on stderr."""
    environment = {k: v for k, v in os.environ.items() if k not in SETTINGS} | settings
    return subprocess.run(
        [sys.executable, *command], env=environment | {"OMP_DISPLAY_ENV": "verbose"},
        capture_output=True, text=True,
    )  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_threads_sleep_while_they_wait(way):
    done = run(WAYS[way])
    assert done.stdout == "PASSIVE\n", done.stderr
    if "GOMP_SPINCOUNT" in done.stderr:  # another system may have another library
        assert "GOMP_SPINCOUNT = '0'" in done.stderr


@pytest.mark.parametrize("way", WAYS)
def test_the_users_own_settings_win(way):
    assert run(WAYS[way], OMP_WAIT_POLICY="ACTIVE").stdout == "ACTIVE\n"
    done = run(WAYS[way], GOMP_SPINCOUNT="7")
    assert done.stdout == "None\n"
    if "GOMP_SPINCOUNT" in done.stderr:
        assert "GOMP_SPINCOUNT = '7'" in done.stderr


POLICY = "OMP_WAIT_POLICY"


@pytest.fixture
def nothing_chosen():
    """What a test sets in the environment is gone after it."""
    with mock.patch.dict(os.environ):
        for name in (*SETTINGS, BY_US):
            os.environ.pop(name, None)
        yield


def test_what_a_model_costs_is_measured_as_applications_wait(nothing_chosen):
    """Also below a command that has chosen; what the user chose is theirs as well."""
    wait_asleep()
    assert seen_by_a_process() == ("PASSIVE", None)
    os.environ[POLICY] = "ACTIVE"  # in a shell below our command
    assert seen_by_a_process() == ("ACTIVE", "ACTIVE")
    for name in (POLICY, BY_US):
        del os.environ[name]
    assert seen_by_a_process() == (None, None)
    os.environ[POLICY] = "PASSIVE"
    wait_asleep()
    assert seen_by_a_process() == ("PASSIVE", "PASSIVE")


def seen_by_a_process():
    """The policy, for processes as they are usually started and for those that measure."""
    with spawned(1) as pool:
        usual = pool.submit(os.getenv, POLICY).result()
    with as_applications_wait(), spawned(1) as pool:
        measuring = pool.submit(os.getenv, POLICY).result()
    assert os.getenv(POLICY) == usual
    return usual, measuring


@pytest.mark.parametrize("name", ["benchmark_threads", "compare", "decode_best_path", "recipe",
                                  "report"])  # fmt: skip
def test_commands_load_torch_only_once_that_is_chosen(name):
    """Imported at the top it would have read its settings before."""
    code = f"import sys, espnet_des.bin.{name}; print('torch' in sys.modules)"
    assert run(["-c", code]).stdout == "False\n"
