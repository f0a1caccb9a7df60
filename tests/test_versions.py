from __future__ import annotations

import os
import subprocess
import sys
import warnings

import keras
import pytest
import tensorflow as tf

from dlr_tf import _versions
from dlr_tf._versions import check_versions, release, unknown_version_error


def test_the_versions_that_are_installed_are_accepted():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Keras .* is newer than")
        check_versions(tf.__version__, keras.__version__)


@pytest.mark.parametrize(
    ("tensorflow", "keras_version", "message"),
    [
        (
            "2.15.1",
            "3.10.0",
            r'needs TensorFlow 2\.16 .*TensorFlow 2\.15\.1\..*"tensorflow>=2\.16"',
        ),
        ("2.21.0", "3.9.2", r'needs Keras 3\.10 .*Keras 3\.9\.2\..*"keras>=3\.10"'),
        ("2.18.0", "2.15.0", r"needs Keras 3\.10 .*Received: Keras 2\.15\.0"),
    ],
)
def test_old_versions_are_refused(tensorflow, keras_version, message):
    with pytest.raises(ImportError, match=message):
        check_versions(tensorflow, keras_version)


@pytest.mark.parametrize("version", ["3.16.0", "3.16.0.dev2026112503", "4.0.0"])
def test_a_newer_keras_is_accepted_with_a_warning(version):
    with pytest.warns(UserWarning, match=rf"Keras {version} is newer than .*\(3\.15\)\. If some"):
        check_versions("2.30.0", version)


def test_a_private_name_that_is_gone_gives_one_clear_error():
    """In a process of its own, with a Keras that lacks the module of the Functional class."""
    code = """
import sys, keras
sys.modules["keras.src.models.functional"] = type(sys)("functional")
import dlr_tf
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: dlr_tf uses a private name that Keras")
    assert "Functional" in last
    assert "tested with Keras 3.10 to 3.15" in last


def test_a_missing_tensorflow_is_said():
    code = """
import importlib.util
importlib.util.find_spec = lambda name: None
import dlr_tf
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    last = done.stderr.strip().splitlines()[-1]
    assert last == "ImportError: dlr_tf needs TensorFlow. Run `pip install tensorflow`."


def test_a_backend_that_is_not_installed_gives_one_clear_line():
    done = subprocess.run(
        [sys.executable, "-c", "import dlr_tf"],
        env={**os.environ, "KERAS_BACKEND": "jax"},
        capture_output=True,
        text=True,
        check=False,
    )
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: dlr_tf works with Keras on TensorFlow.")
    assert last.endswith("Received: 'jax'")


def test_the_error_of_an_unknown_version_names_the_cause():
    error = unknown_version_error("3.99.0", ImportError("no name 'x'"))
    assert "Keras 3.99.0" in str(error)
    assert "no name 'x'" in str(error)
    assert release("3.99.0") > _versions.NEWEST_KERAS
