"""The processes that the environment names."""

from __future__ import annotations

import json
import re

import pytest
import tensorflow as tf

from dlr_tf._clusters import hosts_of, is_cluster, read_cluster, read_slurm, read_tf_config


def tf_config(*ports: int, index: int = 0, job: str = "worker") -> str:
    addresses = [f"127.0.0.1:{port}" for port in ports]
    return json.dumps({"cluster": {job: addresses}, "task": {"type": job, "index": index}})


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"cluster": {"worker": ["one:1"]}}',
        '{"cluster": [], "task": {"type": "worker", "index": 0}}',
        '{"cluster": {"worker": ["one"]}, "task": {"type": "worker", "index": 0}}',
        '{"cluster": {"worker": ["one:x"]}, "task": {"type": "worker", "index": 0}}',
        '{"cluster": {"worker": ["one:1"]}, "task": {"type": "worker", "index": "first"}}',
        '{"cluster": {"worker": ["one:70000"]}, "task": {"type": "worker", "index": 0}}',
        '{"cluster": {"worker": ["one:1", "one:1"]}, "task": {"type": "worker", "index": 0}}',
    ],
)
def test_a_configuration_that_says_nothing(text):
    with pytest.raises(ValueError, match=r"TF_CONFIG should be JSON .* such as .*Received: "):
        read_tf_config(text)


def test_a_worker_outside_of_the_cluster():
    with pytest.raises(ValueError, match="'worker 2', which is not in .*worker 0, worker 1"):
        read_tf_config(tf_config(1, 2, index=2))


def test_a_chief_and_its_workers():
    cluster = {"chief": ["a:1"], "worker": ["b:1", "[::1]:2"], "ps": ["c:1"]}
    text = json.dumps({"cluster": cluster, "task": {"type": "chief", "index": 0}})
    found = read_tf_config(text)
    assert found.workers == {"chief 0": "a:1", "worker 0": "b:1", "worker 1": "[::1]:2"}
    assert found.own == found.chief == "chief 0"
    assert found.is_chief
    assert [*found.others] == ["worker 0", "worker 1"]


SLURM = {
    "SLURM_STEP_NODELIST": "n[01-02],m5",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2),1",
    "SLURM_STEP_NUM_TASKS": "5",
    "SLURM_PROCID": "2",
    "SLURM_NODEID": "1",
    "SLURM_JOB_ID": "123456",
}


def test_the_variables_of_slurm():
    found = read_cluster(SLURM)
    hosts = [address.partition(":")[0] for address in found.workers.values()]
    assert hosts == ["n01", "n01", "n02", "n02", "m5"]
    assert found.own == "worker 2"
    assert len({*found.workers.values()}) == 5
    ports = [int(address.partition(":")[2]) for address in found.workers.values()]
    assert {port - min(ports) for port in ports} == {0, 1}
    other = read_slurm({**SLURM, "SLURM_JOB_ID": "123457"})
    assert not {*found.workers.values()} & {*other.workers.values()}
    # Whoever sets TF_CONFIG under Slurm wants that.
    assert read_cluster({**SLURM, "TF_CONFIG": tf_config(1)}).own == "worker 0"


@pytest.mark.parametrize("own", range(4))
def test_the_hosts_of_tensorflows_resolver(monkeypatch, own):
    """Where it works: hosts in the order of their names, and GPUs."""
    variables = {
        **SLURM,
        "SLURM_STEP_NODELIST": "n[08-09]",
        "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
        "SLURM_STEP_NUM_TASKS": "4",
        "SLURM_PROCID": str(own),
        "SLURM_NODEID": str(own // 2),
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    resolver = tf.distribute.cluster_resolver.SlurmClusterResolver(
        gpus_per_node=2, auto_set_gpu=False
    )
    theirs = resolver.cluster_spec().as_dict()["worker"]
    ours = read_slurm(variables)
    hosts = [address.partition(":")[0] for address in ours.workers.values()]
    assert hosts == [address.partition(":")[0] for address in theirs]
    assert ours.own == f"worker {resolver.task_id}"


def test_hosts_stay_in_the_order_of_slurm():
    assert hosts_of("n[9-11]") == ["n9", "n10", "n11"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"SLURM_PROCID": "5"}, "these do not fit each other.*Start the command with srun"),
        ({"SLURM_STEP_TASKS_PER_NODE": "2"}, "these do not fit each other"),
        ({"SLURM_NODEID": ""}, "invalid literal"),
        ({"SLURM_NODEID": "0"}, "should be on node 1 and is on node 0.*--distribution=block"),
    ],
)
def test_variables_of_slurm_that_do_not_fit(change, message):
    with pytest.raises(ValueError, match=message):
        read_slurm({**SLURM, **change})


def test_neither():
    with pytest.raises(ValueError, match=re.escape("Under Slurm, start the command with srun")):
        read_cluster({"SLURM_JOB_ID": "3"})  # a job, but not a step of it


def test_several():
    assert is_cluster(SLURM)
    assert is_cluster({"TF_CONFIG": tf_config(1, 2)})
    assert not is_cluster({"TF_CONFIG": tf_config(1)})
    assert not is_cluster({"TF_CONFIG": "{"})
    assert not is_cluster({})
