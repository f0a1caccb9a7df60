"""Workers that cannot begin say so to all others."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dlr_tf._clusters import Cluster, read_tf_config
from dlr_tf._rendezvous import Meeting, meet
from dlr_tf.app import cli
from dlr_tf.app.arguments import parse_arguments
from dlr_tf.app.config import FinetuneConfig
from dlr_tf.app.meeting import LostWorkerError, meet_workers
from dlr_tf.app.terminal import UsageError
from tests.test_rendezvous import addresses

DOCS = Path(__file__).parents[2] / "docs"
MULTI = ["--strategy", "multi-worker"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", *MULTI], "The data 'nowhere' do not exist"),
        ([*MULTI, "--epochs", "0"], "expected an integer of at least 1"),
        (["--resume", "nowhere"], "There is no run to resume"),
        ([*MULTI, "--output", "full"], "The output folder 'full' is not empty"),
    ],
)
def test_a_worker_that_cannot_begin(
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("full").mkdir()
    Path("full/precious").touch()
    workers = addresses(2)
    own = 0 if "full" in arguments else 1
    cluster = {"worker": [*workers.values()]}
    config = {"cluster": cluster, "task": {"type": "worker", "index": own}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(config))
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(meet, Cluster(workers, f"worker {1 - own}"), wait=60.0)
        assert cli.main(["finetune", *arguments]) == 2
        troubles = other.result().troubles
    assert [*troubles] == [f"worker {own}"]
    assert message in troubles[f"worker {own}"]
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == f"dlr-tf: error: {troubles[f'worker {own}']}"


@pytest.mark.parametrize(
    ("meeting", "error", "message"),
    [
        (Meeting({"worker 1": "no data"}), UsageError, "Worker 1 cannot begin. It says: no data"),
        (Meeting(missing=["worker 1"]), LostWorkerError, "has waited 3 s for worker 1 at b:1"),
    ],
)
def test_what_the_others_are_told(
    meeting: Meeting,
    error: type[Exception],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("dlr_tf.app.meeting.meet", lambda *_, **__: meeting)
    cluster = Cluster({"worker 0": "a:1", "worker 1": "b:1"}, "worker 0")
    with pytest.raises(error, match=message):
        meet_workers(cluster, wait=3.0, said=None, is_over=lambda: False)


def commands(script: list[str], folder: Path, **variables: str) -> tuple[str, FinetuneConfig]:
    """The `TF_CONFIG` and the arguments of the `dlr-tf` that a script starts.

    Args:
        script: The command.
        folder: A folder for programs in the place of the real ones.
        **variables: Of the environment.
    """
    programs = {
        # `srun` starts what follows its own options, here once.
        "srun": 'while [ "${1#-}" != "$1" ]; do shift; done; exec "$@"',
        "dlr-tf": f'printf "%s\\n" "$TF_CONFIG" "$@" > "{folder}/called"; exit 75',
        "scontrol": f'echo "$@" > "{folder}/scontrol"',
    }
    for name, text in programs.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", **variables}
    subprocess.run(script, env=environment, check=False, timeout=30)
    config, *arguments = (folder / "called").read_text().splitlines()
    parsed = parse_arguments(arguments)
    assert isinstance(parsed, FinetuneConfig)
    assert parsed.strategy == "multi-worker"
    assert parsed.output is not None
    return config, parsed


def test_the_job_of_slurm(tmp_path: Path) -> None:
    commands(["sh", str(DOCS / "slurm.sh")], tmp_path, SLURM_JOB_ID="7", TF_CONFIG="")
    assert (tmp_path / "scontrol").read_text() == "requeue 7\n"


@pytest.mark.parametrize("index", [0, 1])
def test_the_job_of_kubernetes(tmp_path: Path, index: int) -> None:
    yaml = pytest.importorskip("yaml")
    service, job = yaml.safe_load_all((DOCS / "kubernetes.yaml").read_text())
    template = job["spec"]["template"]["spec"]
    (container,) = template["containers"]
    variables = {each["name"]: each["value"] for each in container["env"]}
    config, _ = commands(
        container["command"], tmp_path, JOB_COMPLETION_INDEX=str(index), **variables
    )
    cluster = read_tf_config(config)
    assert cluster.own == f"worker {index}"
    assert len(cluster.workers) == job["spec"]["completions"] == job["spec"]["parallelism"]
    # The names that Kubernetes gives to the pods of an indexed job.
    name, subdomain = job["metadata"]["name"], template["subdomain"]
    assert subdomain == service["metadata"]["name"]
    for number, address in enumerate(cluster.workers.values()):
        assert address == f"{name}-{number}.{subdomain}:{service['spec']['ports'][0]['port']}"
    (fails, again) = job["spec"]["podFailurePolicy"]["rules"]
    assert (fails["action"], fails["onExitCodes"]["values"]) == ("FailJob", [1, 2])
    assert (again["action"], again["onExitCodes"]["values"]) == ("Ignore", [75, 137, 143])


@pytest.mark.parametrize(("codes", "end"), [("75 143 137 0", 0), ("75 2", 2), ("1", 1)])
def test_the_loop(tmp_path: Path, codes: str, end: int) -> None:
    program = tmp_path / "program"
    program.write_text(
        f"set -- {codes}\nn=$(($(cat {tmp_path}/n 2>/dev/null || echo 0) + 1))\n"
        f"echo $n > {tmp_path}/n\neval exit \\${{$n}}\n"
    )
    done = subprocess.run(
        ["sh", str(DOCS / "repeat.sh"), "sh", str(program)],
        env={**os.environ, "PAUSE": "0"},
        check=False,
        timeout=30,
    )
    assert done.returncode == end
    assert int((tmp_path / "n").read_text()) == len(codes.split())


@pytest.mark.parametrize(
    "arguments",
    [
        ["finetune", "--output", "gs://bucket/run"],
        ["finetune", "s3://bucket/photos"],
        ["finetune", "--resume", "gs://bucket/run"],
        ["predict", "gs://bucket/run", "photo.jpg"],
    ],
)
def test_addresses_of_buckets(
    arguments: list[str], assert_mistake: Callable[[list[str], str], None]
) -> None:
    address = next(word for word in arguments if "://" in word)
    assert_mistake(arguments, f"'{address}', given as ")
