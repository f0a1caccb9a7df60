"""Several devices train as one does with the joint batch.

The devices are two logical CPUs under `MirroredStrategy` in one process, and two processes on the
loopback address under `MultiWorkerMirroredStrategy`. What is trained and compared stands in
`tests/scripts/`.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.scripts import mirrored, multi_worker

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.slow


def start(module: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", f"tests.scripts.{module}", *arguments],
        cwd=ROOT,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


# --- two devices in one process -------------------------------------------------------------------


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


@pytest.mark.parametrize("name", mirrored.CHECKS)
def test_two_devices_train_as_one(report, name):
    assert report[name] == ""


# --- two processes --------------------------------------------------------------------------------


class Cluster:
    """Two workers on free ports of the loopback address; none is left behind."""

    def __init__(self, phase: str, folder: Path, workers: tuple[int, ...] = (0, 1)) -> None:
        with socket.socket() as one, socket.socket() as two:
            for each in (one, two):
                each.bind(("127.0.0.1", 0))
            addresses = [f"127.0.0.1:{each.getsockname()[1]}" for each in (one, two)]
        self.processes = {}
        for number in workers:
            task = {"type": "worker", "index": number}
            config = json.dumps({"cluster": {"worker": addresses}, "task": task})
            self.processes[number] = start("multi_worker", phase, str(folder), TF_CONFIG=config)

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


@pytest.fixture(scope="module")
def first(folder: Path) -> str:
    """Both workers up to the death of worker 1; what worker 0 wrote."""
    with Cluster("first", folder) as cluster:
        output = cluster.output(1)
        killed = cluster.code(1)
        # What starts workers again starts all of them again.
        cluster.processes[0].kill()
        output = f"worker 1: {output}\nworker 0: {cluster.output(0)}"
    assert killed == -signal.SIGKILL, output
    return output


@pytest.mark.parametrize("part", ["train", "thaw", "interchange"])
def test_two_processes_train_as_one_device(first, folder, part):
    for number in (0, 1):
        assert (folder / f"{part}_{number}.done").exists(), first


def test_fit_does_for_us_what_it_does_for_adam(first, folder):
    """Keras 3.15's own `fit` fails with either; once it works, it should with both."""
    outcomes = json.loads((folder / "fit_0.json").read_text())
    assert outcomes["MultiGroupOptimizer"] == outcomes["Adam"]


def test_a_worker_killed_in_mid_epoch_resumes(first, folder):
    with Cluster("second", folder) as cluster:
        for number in (0, 1):
            output = cluster.output(number)
            assert cluster.code(number) == 0, output
            assert (folder / f"resume_{number}.done").exists()


def test_a_worker_that_waits_in_vain_stops_by_itself(tmp_path):
    with Cluster("first", tmp_path, workers=(0,)) as cluster:
        output = cluster.output(0)
        assert cluster.code(0) == multi_worker.ALONE, output
    assert "No other worker came within" in output
