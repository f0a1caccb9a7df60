"""Does a killed run of `dlr-tf finetune` end as one that was never stopped, bit for bit?

It trains once without a stop. Then it starts the same run again and kills the process with SIGKILL:
at random moments of the whole run time, and while a file of a checkpoint is written. After each
kill, `--resume` goes on. At the end, weights, optimizer state, `log.csv`, `report.json` (apart from
times) and the plots should be those of the first run. If a run ends before all kills are made,
the next one begins.

    python -m tests.scripts.kill_and_resume [--kills N] [--quick] [-- ARGUMENTS OF finetune]
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

QUICK = ("--epochs", "3", "--checkpoint-every", "2", "--no-compare")
LIMIT = 1800.0  # seconds that a process may take


@dataclasses.dataclass(frozen=True)
class Moment:
    """When to kill.

    Args:
        seconds: After the start of the process. `None`: while a checkpoint is written.
        writes: Which of the checkpoints that this process writes.
    """

    seconds: float | None
    writes: int = 0

    def __str__(self) -> str:
        if self.seconds is None:
            return f"while it writes checkpoint {self.writes}"
        return f"after {self.seconds:.1f} s"


def moments(kills: int, whole: float, seed: int) -> list[Moment]:
    """Return random moments, every third of them while a checkpoint is written."""
    rng = random.Random(seed)
    return [
        Moment(None, rng.randint(1, 6)) if number % 3 == 1 else Moment(rng.uniform(0.0, whole))
        for number in range(kills)
    ]


def earlier(moment: Moment, seconds: float) -> Moment:
    """Return another moment for a process that ended after so many seconds, before this one."""
    if moment.seconds is None:
        return Moment(None, 1 + moment.writes // 2)
    return Moment(random.Random(moment.seconds).uniform(0.0, seconds))


def start(arguments: Sequence[str], run: Path) -> subprocess.Popen[bytes]:
    """Start a run, or go on with it."""
    command = [sys.executable, "-m", "dlr_tf", "finetune"]
    if (run / "settings.json").exists():
        command += ["--resume", str(run)]
    else:
        command += [*arguments, "--output", str(run)]
    with run.with_suffix(".txt").open("ab") as output:
        return subprocess.Popen(command, stdout=output, stderr=output)


def partial_files(run: Path) -> set[str]:
    """Return the files of checkpoints that are being written, or were when the process died."""
    try:
        return {name for name in os.listdir(run / "checkpoint") if ".partial" in name}
    except FileNotFoundError:
        return set()


def kill_at(moment: Moment, process: subprocess.Popen[bytes], run: Path) -> bool:
    """Kill a process at a moment. Return `False` if it ended before."""
    begun = time.perf_counter()
    left_over = partial_files(run)  # by the kill before; a new process removes them
    seen, is_writing = 0, False
    while time.perf_counter() - begun < LIMIT:
        if process.poll() is not None:
            return False
        if moment.seconds is not None:
            if time.perf_counter() - begun >= moment.seconds:
                break
            time.sleep(0.005)
            continue
        now = partial_files(run)
        left_over &= now
        was_writing, is_writing = is_writing, bool(now - left_over)
        seen += is_writing and not was_writing
        if seen >= moment.writes and is_writing:
            break
    process.kill()
    process.wait()
    return True


def state_of(run: Path) -> str:
    """Describe how far a run was when it was killed."""
    if not (run / "settings.json").exists():
        return "before the training"
    found = "no epoch"
    log = run / "log.csv"
    if log.exists() and len(log.read_text().splitlines()) > 1:
        found = f"{len(log.read_text().splitlines()) - 1} epochs"
    if [*(run / "checkpoint").glob("comparison-*.npz")]:
        found += ", in the comparison"
    if (run / "report.json").exists():
        found += ", report written"
    return found


def results(run: Path) -> dict[str, bytes]:
    """Return everything that a run gives, apart from times, by name."""
    found: dict[str, bytes] = {}

    def add(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            content = np.asarray(item).tobytes()
            if name.endswith("manifest"):
                # It lists variables in the order in which they were first trained.
                content = json.dumps(json.loads(content), sort_keys=True).encode()
            found[f"model.keras: {name}"] = content

    with zipfile.ZipFile(run / "model.keras") as archive:
        weights = archive.read("model.weights.h5")
    with h5py.File(io.BytesIO(weights)) as file:
        file.visititems(add)
    for name in ("log.csv", "classes.json"):
        found[name] = (run / name).read_bytes()
    # The curves, with the rate of every step.
    found["curves"] = b"".join(
        re.findall(rb"<svg.*?</svg>", (run / "report.html").read_bytes(), re.S)
    )
    report = json.loads((run / "report.json").read_text())
    for name in ("seconds", "processor_seconds", "command"):  # the command names the folder
        del report[name]
    return found | {
        f"report.json: {key}": json.dumps(value).encode() for key, value in report.items()
    }


def differences(expected: dict[str, bytes], run: Path) -> list[str]:
    """Return the names of what differs between the expected results and those of a run."""
    found = results(run)
    return sorted(name for name in {*expected, *found} if expected.get(name) != found.get(name))


def main(argv: Sequence[str] | None = None) -> int:
    """Kill and resume. Return 0 if every run ended as the uninterrupted one."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20, metavar="N")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument(
        "--quick", action="store_true", help="two kills of a short run without comparison"
    )
    parser.add_argument("--folder", type=Path, help="where the runs are kept (default: nowhere)")
    parser.add_argument("arguments", nargs="*", help="arguments of finetune")
    options = parser.parse_args(argv)
    arguments = [*options.arguments, *(QUICK if options.quick else ())]
    kills = 2 if options.quick else options.kills
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        begun = time.perf_counter()
        if start(arguments, folder / "whole").wait(LIMIT) != 0:
            print((folder / "whole.txt").read_text())
            return 1
        whole = time.perf_counter() - begun
        expected = results(folder / "whole")
        print(f"without a stop: {whole:.1f} s, {len(expected)} values to compare", flush=True)
        return kill_and_compare(arguments, folder, moments(kills, whole, options.seed), expected)


def kill_and_compare(
    arguments: Sequence[str], folder: Path, left: list[Moment], expected: dict[str, bytes]
) -> int:
    """Make all kills, and compare each run at its end."""
    done, half_written, different, number = 0, 0, 0, 0
    while left:
        number += 1
        run = folder / f"killed_{number}"
        while True:
            begun = time.perf_counter()
            process = start(arguments, run)
            if left and kill_at(left[0], process, run):
                done += 1
                moment = left.pop(0)
                was_writing = moment.seconds is None and bool(partial_files(run))
                half_written += was_writing
                end = ", a half-written checkpoint" if was_writing else ""
                print(f"kill {done} {moment}: {state_of(run)}{end}", flush=True)
                continue
            if process.wait(LIMIT) != 0:
                print(run.with_suffix(".txt").read_text())
                return 1
            if left:
                # It ended before: what is left of a run takes less time, and writes less.
                left.insert(0, earlier(left.pop(0), time.perf_counter() - begun))
            break
        wrong = differences(expected, run)
        different += bool(wrong)
        print(f"run {number}: {len(wrong)} of {len(expected)} differ {wrong[:5]}", flush=True)
    print(
        f"{done} kills in {number} runs, {half_written} of them left a half-written checkpoint: "
        f"{'all runs equal' if not different else f'{different} runs differ from'} the "
        "uninterrupted one"
    )
    return int(different > 0)


if __name__ == "__main__":
    raise SystemExit(main())
