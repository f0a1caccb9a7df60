"""Several devices train as one does with the joint batch.

The devices are two logical CPUs under `MirroredStrategy` in one process, and two processes on the
loopback address under `MultiWorkerMirroredStrategy`. What is trained and compared is in
`tests/scripts/`.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from dlr_tf.app import cli
from dlr_tf.training.distribution import distributed_fit, is_chief, make_strategy
from tests.scripts import mirrored

ROOT = Path(__file__).parents[2]


def start(module: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", f"tests.scripts.{module}", *arguments],
        cwd=ROOT,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_an_unknown_strategy():
    with pytest.raises(ValueError, match=r"one of \('mirrored', 'multi-worker'\).*'mirorred'"):
        make_strategy("mirorred")


@pytest.mark.parametrize("text", [None, ""])
def test_workers_need_a_configuration(monkeypatch, text):
    if text is None:
        monkeypatch.delenv("TF_CONFIG", raising=False)
    else:
        monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(ValueError, match="needs the environment variable TF_CONFIG"):
        make_strategy("multi-worker")


DATA = np.zeros((2, 2)), np.zeros((2, 1))


def test_one_device_writes_and_needs_nothing():
    assert is_chief(tf.distribute.get_strategy())
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("adam", "mse")
    before = dict(vars(model))
    with distributed_fit(model, DATA):
        assert vars(model).keys() == before.keys()


def test_nothing_stays_on_a_model_of_a_strategy():
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        model.compile("sgd", "mse", metrics=["mae"])
    model.fit(*DATA, verbose=0)
    before = set(vars(model))
    with pytest.raises(RuntimeError, match="in the block"), distributed_fit(model, DATA):
        assert set(vars(model)) > before
        raise RuntimeError("in the block")
    assert set(vars(model)) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--strategy", "mirorred"], "invalid choice: 'mirorred'"),
        (
            ["--strategy", "multi-worker", "--learning-rate", "1e-3"],
            "needs the environment variable TF_CONFIG",
        ),
        (["--wait", "0"], "expected a number above 0"),
    ],
)
def test_the_command_refuses(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    output = tmp_path / "run"
    assert cli.main(["finetune", *arguments, "--output", str(output)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert message in lines[-1]
    assert not output.exists()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    path = tmp_path_factory.mktemp("mirrored") / "report.json"
    process = start("mirrored", str(path))
    try:
        output, _ = process.communicate(timeout=600)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, output
    found: dict[str, str] = json.loads(path.read_text())
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", mirrored.CHECKS)
def test_two_devices_train_as_one(report, name):
    assert report[name] == ""


class Cluster:
    """Two workers on free ports of the loopback address; none is left behind."""

    def __init__(
        self, phase: str, folder: Path, workers: tuple[int, ...] = (0, 1), wait: float = 40.0
    ) -> None:
        with socket.socket() as one, socket.socket() as two:
            for each in (one, two):
                each.bind(("127.0.0.1", 0))
            addresses = [f"127.0.0.1:{each.getsockname()[1]}" for each in (one, two)]
        self.processes = {}
        for number in workers:
            task = {"type": "worker", "index": number}
            config = json.dumps({"cluster": {"worker": addresses}, "task": task})
            self.processes[number] = start(
                "multi_worker", phase, str(folder), str(wait), TF_CONFIG=config
            )

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: Any) -> None:
        for process in self.processes.values():
            process.kill()
            process.communicate()

    def output(self, number: int, timeout: float = 170.0) -> str:
        """Waits for a worker to end, and returns all it wrote."""
        return self.processes[number].communicate(timeout=timeout)[0]

    def code(self, number: int) -> int | None:
        return self.processes[number].returncode


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("workers")


def until_killed(phase: str, folder: Path) -> str:
    """Both workers up to the death of worker 1; what they wrote."""
    with Cluster(phase, folder) as cluster:
        output = cluster.output(1)
        killed = cluster.code(1)
        # What starts workers again starts all of them again.
        cluster.processes[0].kill()
        output = f"worker 1: {output}\nworker 0: {cluster.output(0)}"
    assert killed == -signal.SIGKILL, output
    return output


@pytest.fixture(scope="module")
def first(folder: Path) -> str:
    return until_killed("first", folder)


@pytest.fixture(scope="module")
def second(first: str, folder: Path) -> str:
    return until_killed("second", folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    "part", ["train", "unfreeze", "interchange", "fit_on_all_workers", "refused_fit"]
)
def test_two_processes_train_as_one_device(first, folder, part):
    for number in (0, 1):
        assert (folder / f"{part}_{number}.done").exists(), first


@pytest.mark.slow
def test_keras_own_fit_still_fails_on_several_machines(first, folder):
    """Once it works with Adam, `dlr_tf.training.distribution.distributed_fit` is not needed."""
    outcomes = json.loads((folder / "fit_0.json").read_text())
    assert outcomes["MultiGroupOptimizer"] == outcomes["Adam"] != "works"


@pytest.mark.slow
def test_a_worker_killed_in_the_middle_of_an_epoch_resumes(second, folder):
    for number in (0, 1):
        assert (folder / f"resume_{number}.done").exists(), second


@pytest.mark.slow
def test_a_worker_killed_while_fine_tuning_resumes_from_the_backup(second, folder):
    with Cluster("third", folder) as cluster:
        for number in (0, 1):
            output = cluster.output(number)
            assert cluster.code(number) == 0, output
            assert (folder / f"resume_fine_tuning_{number}.done").exists()


@pytest.mark.slow
def test_a_worker_whose_others_do_not_come_ends_by_itself(tmp_path):
    """The first worker, for which TensorFlow has no limit of its own, and another one."""
    first = Cluster("first", tmp_path, workers=(0,), wait=2.0)
    second = Cluster("first", tmp_path, workers=(1,), wait=2.0)
    with first, second:
        for number, cluster in enumerate((first, second)):
            output = cluster.output(number)
            assert cluster.code(number) == 1, output
            expected = rf"worker {number} of 2: waiting up to 2 s for worker {1 - number} at 127\."
            assert re.search(expected, output), output
            expected = rf"TimeoutError: Worker {number} has waited 2 s for worker {1 - number} at"
            assert re.search(expected, output), output
