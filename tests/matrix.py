"""Run the suite on every row of versions: `python -m tests.matrix`.

Each row has an environment of its own, made with `uv` where it is installed, else with `venv` and
`pip`, and removed after the row. First TensorFlow and Keras are installed, as a user has them. Then
the package is installed from its source distribution, which must not change them, and the
quickstart of README runs in an empty folder. Then the suite runs on the working tree.

The results are stored in `tests/matrix.json` after every row. A row that has passed with the same
files is not run again. The tables of `docs/versions.md` and README are written from the results.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import dataclasses
import datetime
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.marked_pages import begin_mark, with_part

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).with_suffix(".json")
PAGES = (ROOT / "docs" / "versions.md",)


@dataclasses.dataclass(frozen=True)
class Row:
    """Versions that are installed together.

    Args:
        name: Name of the row, for the command line.
        python: Version of Python.
        packages: What is installed before dlr_tf, in this order.
        may_fail: Whether a failure is only reported.
    """

    name: str
    python: str
    packages: tuple[str, ...]
    may_fail: bool = False


# What pytest returns when all tests passed, and when some failed.
PASSED, FAILED = 0, 1

ROWS = (
    Row("lowest", "3.10", ("tensorflow==2.16.*", "keras==3.10.*")),
    Row("2.18", "3.11", ("tensorflow==2.18.*", "keras==3.11.*")),
    Row("2.19", "3.10", ("tensorflow==2.19.*", "keras==3.12.*")),
    Row("2.20", "3.12", ("tensorflow==2.20.*", "keras==3.13.*")),
    Row("2.21", "3.12", ("tensorflow==2.21.*", "keras==3.14.*")),
    Row("newest", "3.13", ("tensorflow", "keras")),
    Row("nightly", "3.12", ("tensorflow", "keras-nightly>=3.16.0.dev0"), may_fail=True),
)


def find_python(version: str) -> str:
    """Return the path of a Python of this version, else that of the Python that runs this."""
    roots = [Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))]
    candidates = [sys.executable, shutil.which(f"python{version}")]
    candidates += [str(p) for root in roots for p in root.glob(f"versions/{version}.*/bin/python")]
    question = "import sys; print(sys.executable, '%d.%d' % sys.version_info[:2])"
    for candidate in filter(None, candidates):
        answer = subprocess.run([candidate, "-c", question], capture_output=True, text=True)
        if answer.returncode == 0 and answer.stdout.split()[1] == version:
            return answer.stdout.split()[0]
    print(f"Python {version} is not installed here: {sys.executable} is used", flush=True)
    return sys.executable


class Environment:
    """A fresh environment of a row.

    Args:
        folder: Where to make it; it should not exist.
        python: Path of the Python to use.
    """

    def __init__(self, folder: Path, python: str) -> None:
        self.python = str(folder / "bin" / "python")
        self._uv = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
        if self._uv:
            run([self._uv, "venv", "--quiet", "--seed", "--python", python, str(folder)])
        else:
            run([python, "-m", "venv", str(folder)])

    def install(self, *requirements: str) -> None:
        if self._uv:
            command = [self._uv, "pip", "install", "--quiet", "--python", self.python]
        else:
            command = [self.python, "-m", "pip", "install", "--quiet"]
        run([*command, *requirements])

    def versions(self) -> dict[str, str]:
        """Return the versions of Python and of the packages that matter here."""
        names = ("tensorflow", "keras", "keras-nightly", "numpy", "dlr-tf")
        script = (
            "import importlib.metadata as m, json, platform; "
            "v = {d.metadata['Name'].lower().replace('_', '-'): d.version"
            " for d in m.distributions()}; "
            f"print(json.dumps({{'python': platform.python_version(),"
            f" **{{n: v[n] for n in {names} if n in v}}}}))"
        )
        # -I: not what lies in the working folder, such as an `egg-info` of this package.
        return json.loads(run([self.python, "-I", "-c", script], capture=True))


def run(
    command: Sequence[str],
    *,
    folder: Path = ROOT,
    capture: bool = False,
    check: bool = True,
) -> Any:
    """Run a command on the CPU; return its status, or what it printed if `capture`.

    Raises:
        RuntimeError: If it fails, and `check`.
    """
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    environment.pop("PYTHONPATH", None)
    result = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        text=True,
        stdout=subprocess.PIPE if capture else None,
        stderr=subprocess.PIPE if capture else None,
    )
    if check and result.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: failed\n{result.stderr or ''}")
    return result.stdout if capture else result.returncode


def fingerprint(files: Sequence[Path]) -> str:
    """Return a short hash of the names and contents of files."""
    total = hashlib.sha256()
    for path in sorted(files):
        total.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes() + b"\0")
    return total.hexdigest()[:12]


def sources() -> list[Path]:
    """The files on which the results depend."""
    found = [ROOT / "setup.py", ROOT / "setup.cfg"]
    for folder in ("dlr_tf", "tests", "benchmarks"):
        found += (ROOT / folder).rglob("*.py")
    return found


def quickstart() -> str:
    """The first two Python blocks of README."""
    blocks = re.findall(
        r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL
    )
    return "\n".join(blocks[:2])


def read_outcomes(report: Path) -> dict[str, Any]:
    """Return the counts of a JUnit report: passed, failed, and skipped by reason.

    What is expected to fail counts as skipped, with its reason.
    """
    counts: dict[str, Any] = {"passed": 0, "failed": 0}
    skipped: collections.Counter[str] = collections.Counter()
    for case in xml.etree.ElementTree.parse(report).iter("testcase"):
        skip = case.find("skipped")
        if case.find("failure") is not None or case.find("error") is not None:
            counts["failed"] += 1
        elif skip is not None:
            skipped[skip.get("message") or "no reason"] += 1
        else:
            counts["passed"] += 1
    return {**counts, "skipped": dict(sorted(skipped.items()))}


def run_row(row: Row, folder: Path, pytest_arguments: Sequence[str]) -> dict[str, Any]:
    """Run one row in an empty folder; return its result."""
    began = time.monotonic()
    environment = Environment(folder / "environment", find_python(row.python))
    for package in row.packages:  # in turn: `keras-nightly` replaces the files of `keras`
        environment.install(package)
    before = environment.versions()
    build = folder / "build"
    shutil.copytree(
        ROOT,
        build,
        ignore=shutil.ignore_patterns(".git", ".venv", "build", "runs", "site", "*.egg-info"),
    )
    environment.install("setuptools>=65", "wheel")
    run([environment.python, "setup.py", "--quiet", "sdist"], folder=build, capture=True)
    (archive,) = (build / "dist").glob("*.tar.gz")
    environment.install(str(archive))
    unchanged = {k: v for k, v in environment.versions().items() if k != "dlr-tf"} == before
    environment.install(f"{archive}[test]")
    versions = environment.versions()
    script = folder / "quickstart.py"
    script.write_text(quickstart())
    output = run([environment.python, str(script)], folder=folder, capture=True)
    report = folder / "report.xml"
    command = [environment.python, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    status = run([*command, f"--junit-xml={report}", *pytest_arguments], check=False)
    if status not in (PASSED, FAILED):
        raise RuntimeError(f"pytest did not run to its end: status {status}")
    return {
        "row": row.name,
        "date": datetime.date.today().isoformat(),
        **{name: version for name, version in versions.items() if name != "dlr-tf"},
        "may_fail": row.may_fail,
        "pip_changes_nothing": unchanged,
        "quickstart": output.strip().splitlines()[-1],
        **read_outcomes(report),
        "seconds": round(time.monotonic() - began),
        "files": fingerprint(sources()),
    }


def closing_line(result: Mapping[str, Any]) -> str:
    """The result of a row in one line."""
    skipped = sum(result["skipped"].values())
    return f"{result['passed']} passed, {result['failed']} failed, {skipped} skipped"


def is_good(result: Mapping[str, Any]) -> bool:
    return not result["failed"] and result["passed"] > 0 and result["pip_changes_nothing"]


def keras_of(result: Mapping[str, Any]) -> str:
    nightly = result.get("keras-nightly")
    return f"{nightly} (nightly)" if nightly else result["keras"]


def table(results: Sequence[Mapping[str, Any]]) -> str:
    """Return the results as a Markdown table, in the order of the rows."""
    order = [row.name for row in ROWS]
    lines = [
        "| TensorFlow | Keras | Python | NumPy | passed | failed | skipped | date |",
        "| --- | --- | --- | --- | ---: | ---: | ---: | --- |",
    ]
    for result in sorted(results, key=lambda result: order.index(result["row"])):
        cells = (
            result["tensorflow"],
            keras_of(result),
            result["python"],
            result["numpy"],
            result["passed"],
            result["failed"],
            sum(result["skipped"].values()),
            result["date"],
        )
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def skip_table(results: Sequence[Mapping[str, Any]]) -> str:
    """Return how many tests each row skips, by reason, as a Markdown table."""
    order = [row.name for row in ROWS]
    results = sorted(results, key=lambda result: order.index(result["row"]))
    reasons = sorted({reason for result in results for reason in result["skipped"]})
    titles = [f"{result['tensorflow']}, {keras_of(result)}" for result in results]
    lines = [
        "| why a test is skipped | " + " | ".join(titles) + " |",
        "| --- |" + " ---: |" * len(titles),
    ]
    for reason in reasons:
        counts = [str(result["skipped"].get(reason, 0)) for result in results]
        # pytest gives no other reason for a file that `importorskip` leaves out.
        shown = "a whole file: its package is missing" if reason == "collection skipped" else reason
        lines.append(f"| {shown} | " + " | ".join(counts) + " |")
    return "\n".join(lines)


def fill(page: str, results: Sequence[Mapping[str, Any]]) -> str:
    """Return a page with its tables written again; a page need not have both."""
    for name, make in (("matrix", table), ("skipped", skip_table)):
        if begin_mark(name) in page:
            page = with_part(page, name, make(results))
    return page


def stored() -> dict[str, dict[str, Any]]:
    """The stored results by row."""
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    return {result["row"]: result for result in found}


def store(results: Mapping[str, Mapping[str, Any]]) -> None:
    """Write the results, and the pages that show them."""
    found = list(results.values())
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    for page in PAGES:
        page.write_text(fill(page.read_text(), found))


@contextlib.contextmanager
def row_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="dlr_tf-matrix-") as folder:
        yield Path(folder)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    names = [row.name for row in ROWS]
    parser.add_argument("rows", nargs="*", help=f"rows to run, of {', '.join(names)}; default all")
    parser.add_argument("--again", action="store_true", help="run rows that have passed too")
    parser.add_argument("--no-store", action="store_true", help="store nothing, write no table")
    parser.add_argument("--tables", action="store_true", help="write the tables, run nothing")
    parser.add_argument(
        "--pytest", default="", help="more arguments for pytest, in one string; stores nothing"
    )
    arguments = parser.parse_args(argv)
    stores = not (arguments.no_store or arguments.pytest)
    unknown = set(arguments.rows) - set(names)
    if unknown:
        parser.error(f"unknown rows {sorted(unknown)}; known: {', '.join(names)}")
    bad = False
    for row in ROWS if not arguments.tables else ():
        if arguments.rows and row.name not in arguments.rows:
            continue
        known = stored().get(row.name)
        is_done = known and known["files"] == fingerprint(sources()) and is_good(known)
        if is_done and not arguments.again:
            print(f"{row.name}: {closing_line(known)} (stored)", flush=True)
            continue
        print(f"{row.name}: {', '.join(row.packages)}, Python {row.python}", flush=True)
        try:
            with row_folder() as folder:
                result = run_row(row, folder, arguments.pytest.split())
        except (OSError, RuntimeError) as error:
            print(f"{row.name}: {error}", flush=True)
            bad = bad or not row.may_fail
            continue
        print(f"{row.name}: {closing_line(result)}", flush=True)
        if not result["pip_changes_nothing"]:
            print(f"{row.name}: installing dlr_tf changed TensorFlow, Keras or NumPy", flush=True)
        bad = bad or not (is_good(result) or row.may_fail)
        if stores:
            store({**stored(), row.name: result})
    if stores:
        store(stored())
        print(table(list(stored().values())))
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
