"""Do two workers that are killed at random moments end as two that were never stopped?

They train once without a stop. Then a loop per worker starts the same run again, and only repeats
the command until it ends with 0, as a cluster manager does. Meanwhile one of the workers, the chief
too, gets SIGKILL or SIGTERM at random moments. At the end weights, optimizer state, `log.csv` and
`report.json` (apart from times) should be those of the first run, bit for bit.

    python -m tests.scripts.kill_workers [--kills N] [-- ARGUMENTS OF finetune]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.scripts.kill_and_resume import differences, results, state_of

WORKERS = 2
QUICK = ("--epochs", "4", "--batch-size", "20", "--checkpoint-every", "2", "--keep", "best")
LIMIT = 900.0  # seconds without an end
ALLOWED = {0, 75, 143, -signal.SIGKILL, -signal.SIGTERM}  # before the command handles SIGTERM


def free_addresses() -> list[str]:
    sockets = [socket.socket() for _ in range(WORKERS)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    addresses = [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]
    for each in sockets:
        each.close()
    return addresses


class Cluster:
    """The workers of one run, each of which is started again until it ends with 0.

    Args:
        run: The folder of the run.
        arguments: The arguments of `finetune`.
    """

    def __init__(self, run: Path, arguments: Sequence[str]) -> None:
        self.run = run
        self.arguments = [*arguments, "--strategy", "multi-worker", "--output", str(run)]
        self.addresses = free_addresses()
        self.codes: list[int] = []
        self.begun = [0.0] * WORKERS
        self.processes = [self.start(number) for number in range(WORKERS)]

    def start(self, number: int) -> subprocess.Popen[bytes]:
        is_begun = (self.run / "settings.json").exists()
        what = ["--resume", str(self.run)] if is_begun else self.arguments
        task = {"type": "worker", "index": number}
        config = json.dumps({"cluster": {"worker": self.addresses}, "task": task})
        self.begun[number] = time.perf_counter()
        with open(f"{self.run}_{number}.txt", "ab") as output:
            return subprocess.Popen(
                [sys.executable, "-m", "dlr_tf", "finetune", *what],
                env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "TF_CONFIG": config},
                stdout=output,
                stderr=output,
            )

    def repeat(self) -> bool:
        """Start those again that have ended too early. Return whether all have ended with 0."""
        codes = [process.poll() for process in self.processes]
        for number, code in enumerate(codes):
            if code is not None and code != 0:
                self.codes.append(code)
                if code not in ALLOWED:
                    text = Path(f"{self.run}_{number}.txt").read_text()
                    raise SystemExit(f"worker {number} ended with {code}: {text[-2000:]}")
                self.processes[number] = self.start(number)
        return all(code == 0 for code in codes)

    def until_end(self) -> float:
        begun = time.perf_counter()
        while not self.repeat():
            if time.perf_counter() - begun > LIMIT:
                raise SystemExit(f"no end after {LIMIT:g} s")
            time.sleep(0.1)
        return time.perf_counter() - begun

    def end(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


def main(argv: Sequence[str] | None = None) -> int:
    """Kill and repeat. Return 0 if every run ended as the uninterrupted one."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20, metavar="N")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument("arguments", nargs="*", default=QUICK, help="arguments of finetune")
    options = parser.parse_args(argv)
    random.seed(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        cluster = Cluster(Path(folder, "whole"), options.arguments)
        try:
            whole = cluster.until_end()
        finally:
            cluster.end()
        expected = results(cluster.run)
        print(f"without a stop: {whole:.1f} s, {len(expected)} values to compare", flush=True)
        done, number, different = 0, 0, 0
        while done < options.kills:
            number += 1
            cluster = Cluster(Path(folder, f"killed_{number}"), options.arguments)
            try:
                done = kill_at_random(cluster, whole, done, options.kills)
            finally:
                cluster.end()
            wrong = differences(expected, cluster.run)
            different += bool(wrong)
            print(f"run {number}: {len(wrong)} of {len(expected)} differ {wrong[:5]}", flush=True)
    print(f"{done} kills in {number} runs: {different} runs differ from the uninterrupted one")
    return int(different > 0)


def kill_at_random(cluster: Cluster, whole: float, done: int, kills: int) -> int:
    """Kill workers of a run until it ends. Return how many kills were made in all."""
    while done < kills:
        moment = time.perf_counter() + random.uniform(0.0, whole)
        while time.perf_counter() < moment:
            if cluster.repeat():
                return done
            time.sleep(0.02)
        victim = random.randrange(WORKERS)
        process = cluster.processes[victim]
        if process.poll() is not None:
            continue
        which = random.choice([signal.SIGKILL, signal.SIGTERM])
        state = state_of(cluster.run)
        process.send_signal(which)
        sent = time.perf_counter()
        cluster.codes.clear()
        others = [each for each in cluster.processes if each is not process]
        age = sent - cluster.begun[victim]
        done += 1
        print(f"kill {done} of worker {victim}, {age:.1f} s old, {which.name}: {state}", flush=True)
        process.wait(LIMIT)
        while any(each.poll() is None for each in others) and time.perf_counter() - sent < 60:
            time.sleep(0.1)
        seconds = time.perf_counter() - sent
        codes = [each.poll() for each in (process, *others)]
        print(f"  exit codes {codes} after {seconds:.1f} s", flush=True)
    cluster.until_end()
    return done


if __name__ == "__main__":
    raise SystemExit(main())
