"""Run all benchmarks, and write their results and the tables of README.md and docs/reliability.md.

`range_test` and `targets` are left out, because they need a folder of images, and `workers`,
because it needs a network of its own, and so the rights of root. The benchmarks run one after the
other in this process, each as with its own command.

    python -m benchmarks [--device cpu|gpu] [--quick] [--output FOLDER] [--tables]
"""

from __future__ import annotations

import functools
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import (
    common,
    goals,
    launches,
    logger_cost,
    range_test,
    reliability,
    schedule_cost,
    schedule_exactness,
    snapshot_ensemble,
    train_step,
    update_by_size,
    update_step,
    workers,
)
from benchmarks.marked_pages import folded, with_part

HERE = Path(__file__).parent


def _reliability_tables(rows: Sequence[Mapping[str, Any]], *, in_short: bool = False) -> str:
    """Return a table per competitor; `in_short`: our table, and the counts of the others."""
    parts = []
    for number, competitor in enumerate(dict.fromkeys(row["competitor"] for row in rows)):
        chosen = [row for row in rows if row["competitor"] == competitor]
        n_exact = sum(row["outcome"] == reliability.EXACT for row in chosen)
        cells: dict[str, dict[str, Any]] = {}
        for row in chosen:
            cells.setdefault(row["situation"], {})[row["format"]] = row
        parts.append(f"**{competitor}**: {n_exact} of {len(chosen)} exact")
        if not (in_short and number):
            parts.append(reliability.table(cells))
    return "\n\n".join(parts)


TABLES: dict[str, Callable[[Any], str]] = {
    "update_step": update_step.table,
    "update_by_size": update_by_size.table,
    "train_step": train_step.table,
    "launches": launches.table,
    "schedule_cost": schedule_cost.table,
    "schedule_exactness": schedule_exactness.table,
    "logger_cost": logger_cost.table,
    "snapshot_ensemble": snapshot_ensemble.table,
    "range_test": range_test.table,
    "workers": workers.table,
    "reliability": _reliability_tables,
}
SHORT_TABLES = {"reliability": functools.partial(_reliability_tables, in_short=True)}

GOALS = "goals"
# The page of the documentation with the short tables.
SHORT_PAGE = HERE.parent / "docs" / "reliability.md"
IN_SHORT = tuple(SHORT_TABLES)


def run(device: str, quick: bool, folder: Path) -> None:
    """Run every benchmark, and write its rows to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    options = ["--quick"] if quick else []
    exactness_device = f"{device.upper()}:0"
    commands: list[tuple[str, str, Callable[[list[str]], int], list[str]]] = [
        ("update_step", device, update_step.main, ["--device", device]),
        ("update_by_size", device, update_by_size.main, ["--device", device]),
        ("train_step", device, train_step.main, ["--device", device]),
        ("launches", device, launches.main, ["--device", device]),
        ("schedule_cost", device, schedule_cost.main, ["--device", device]),
        ("logger_cost", device, logger_cost.main, ["--device", device]),
        ("snapshot_ensemble", device, snapshot_ensemble.main, ["--device", device]),
        ("schedule_exactness", device, schedule_exactness.main, ["--device", exactness_device]),
        ("reliability", "cpu", reliability.main, []),
    ]
    for name, where, main, own_options in commands:
        print(f"\n# {name}\n", flush=True)
        output = folder / f"{name}-{where}.json"
        main([*own_options, *options, "--output", str(output)])


def write_tables(page: str, folder: Path, names: Sequence[str] = (*TABLES, GOALS)) -> str:
    """Return a Markdown page with the tables of all results in `folder` between its marks.

    Args:
        page: The page; a table stands between `<!-- begin NAME -->` and `<!-- end NAME -->`.
        folder: Where the JSON files are, named `<benchmark>-<device>.json`.
        names: The tables that the page shows.

    Raises:
        ValueError: If the page lacks a mark.
    """
    for name in names:
        if name == GOALS:
            text = _goals(folder)
        else:
            files = sorted(folder.glob(f"{name}-*.json"))
            table = SHORT_TABLES[name] if names == IN_SHORT else _folded(TABLES[name])
            parts = [_section(json.loads(file.read_text()), table) for file in files]
            text = "\n\n".join(parts) or "Not run yet."
        page = with_part(page, name, text)
    return page


def _folded(table: Callable[[Any], str]) -> Callable[[Any], str]:
    """Return a function that gives a table which is unfolded by a click, if it is long."""
    return lambda rows: folded(table(rows), "All rows")


def _section(report: Mapping[str, Any], table: Callable[[Any], str]) -> str:
    versions = report["versions"]
    where = (
        f"{report['device']}; TensorFlow {versions['tensorflow']}, Keras {versions['keras']}, "
        f"Python {versions['python']}; {report['date']}"
    )
    if report["quick"]:
        where += "; **a quick run: it shows that the benchmark works; its numbers mean nothing**"
    return f"{where}\n\n{table(report['rows'])}"


def _goals(folder: Path) -> str:
    parts = []
    for device in common.DEVICES:
        reports = [json.loads(file.read_text()) for file in sorted(folder.glob(f"*-{device}.json"))]
        rows_of = {r["benchmark"]: r["rows"] for r in reports if not r["quick"]}
        if any(goal.benchmark in rows_of for goal in goals.GOALS):
            parts.append(f"On the {device.upper()}:\n\n{goals.table(rows_of)}")
    return "\n\n".join(parts) or "No full run yet."


def main(argv: Sequence[str] | None = None) -> int:
    parser = common.make_parser(
        __doc__,
        "folder for README.md and results/*.json; by default the one of the benchmarks, and with "
        "--quick a new temporary one",
    )
    parser.add_argument(
        "--tables", action="store_true", help="run nothing; write README.md from the results"
    )
    arguments = common.parse(parser, argv)
    folder = arguments.output
    if folder is None:
        folder = Path(tempfile.mkdtemp(prefix="benchmarks-")) if arguments.quick else HERE
    if not arguments.tables:
        run(arguments.device, arguments.quick, folder / "results")
    page = write_tables((HERE / "README.md").read_text(), folder / "results")
    (folder / "README.md").write_text(page)
    if folder == HERE:
        SHORT_PAGE.write_text(write_tables(SHORT_PAGE.read_text(), folder / "results", IN_SHORT))
    print(f"\nThe tables are in {folder / 'README.md'}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
