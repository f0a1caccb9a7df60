"""What a person sees before a command begins."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import dlr_tf

ROOT = Path(dlr_tf.__file__).parents[1]


def run(code: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("TF_CPP_MIN_LOG_LEVEL", None)
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False
    )


# Stands for TensorFlow: its C++ code writes to the file descriptor.
NOISY = """
import os, sys, types
from dlr_tf.app import startup
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "tensorflow":
            os.write(2, b"lines about the machine\\n")
            {then}
sys.meta_path.insert(0, Finder())
startup.load_tensorflow(verbose={verbose})
print("after", file=sys.stderr)
"""


def test_the_lines_of_tensorflow_are_hidden() -> None:
    silent = run(
        "import sys; from dlr_tf.app import startup; startup.load_tensorflow(verbose=False); "
        "import tensorflow as tf; tf.constant(1); print('after', file=sys.stderr)"
    )
    assert silent.stderr == "after\n"


def test_the_lines_are_shown_where_the_import_fails() -> None:
    failed = run(NOISY.format(then="raise ImportError('broken')", verbose=False))
    first, *_, last = failed.stderr.splitlines()
    assert (first, last) == ("lines about the machine", "ImportError: broken")


@pytest.mark.parametrize("moment", ["argparse", "tensorflow", "keras"])
def test_ctrl_c_while_modules_are_loaded_is_one_line(moment: str) -> None:
    code = f"""
import os, signal, sys
from dlr_tf.__main__ import main
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == {moment!r}:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
main(["schedule", "sgdr"])
"""
    stopped = run(code)
    assert (stopped.returncode, stopped.stdout) == (128 + signal.SIGINT, "")
    assert stopped.stderr == "dlr-tf: stopped\n"
