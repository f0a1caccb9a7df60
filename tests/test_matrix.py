"""The matrix of versions: its tables, and that pages show what was run."""

from __future__ import annotations

import pytest

from dlr_tf import _versions
from tests import matrix

RESULT = {
    "row": "lowest",
    "date": "2026-01-02",
    "python": "3.10.1",
    "tensorflow": "2.16.2",
    "keras": "3.10.0",
    "numpy": "1.26.4",
    "may_fail": False,
    "pip_changes_nothing": True,
    "passed": 7,
    "failed": 0,
    "skipped": {"no network": 2, "slow": 3},
}
REPORT = """<testsuites><testsuite>
<testcase name="a"/><testcase name="b"><failure message="x"/></testcase>
<testcase name="c"><skipped message="slow"/></testcase><testcase name="d"><error/></testcase>
<testcase name="e"><skipped message="slow"/></testcase>
<testcase name="f"><skipped message="gone" type="pytest.xfail"/></testcase>
</testsuite></testsuites>"""


def test_outcomes_are_counted_by_reason(tmp_path):
    report = tmp_path / "report.xml"
    report.write_text(REPORT)
    expected = {"passed": 1, "failed": 2, "skipped": {"gone": 1, "slow": 2}}
    assert matrix.read_outcomes(report) == expected


def test_a_row_is_good_if_nothing_failed_and_pip_changed_nothing():
    assert matrix.is_good(RESULT)
    for change in ({"failed": 1}, {"passed": 0}, {"pip_changes_nothing": False}):
        assert not matrix.is_good({**RESULT, **change})
    assert matrix.closing_line(RESULT) == "7 passed, 0 failed, 5 skipped"


def test_a_page_gets_its_tables():
    # `keras` is there too, as TensorFlow requires it.
    nightly = {**RESULT, "row": "nightly", "keras-nightly": "3.16.0.dev1", "skipped": {"slow": 3}}
    page = "a\n<!-- begin matrix -->\nold\n<!-- end matrix -->\nb\n"
    filled = matrix.fill(page, [nightly, RESULT])
    lines = filled.splitlines()
    assert lines[5] == "| 2.16.2 | 3.10.0 | 3.10.1 | 1.26.4 | 7 | 0 | 5 | 2026-01-02 |"
    assert "3.16.0.dev1 (nightly)" in lines[6]
    assert "old" not in filled
    assert matrix.fill(filled, [nightly, RESULT]) == filled
    skipped = matrix.skip_table([RESULT, nightly]).splitlines()
    assert skipped[2] == "| no network | 2 | 0 |"


def test_unknown_rows_are_refused(capsys):
    with pytest.raises(SystemExit, match="2"):
        matrix.main(["nosuch"])
    assert "unknown rows ['nosuch']; known: lowest" in capsys.readouterr().err


@pytest.fixture
def one_row(monkeypatch, tmp_path):
    """One row, results and a page of the test's own, and a run that only counts."""
    monkeypatch.setattr(matrix, "ROWS", matrix.ROWS[:1])
    monkeypatch.setattr(matrix, "RESULTS", tmp_path / "results.json")
    page = tmp_path / "page.md"
    page.write_text("<!-- begin matrix --><!-- end matrix -->")
    monkeypatch.setattr(matrix, "PAGES", (page,))
    runs = []

    def run_row(row, folder, pytest_arguments):
        runs.append(row.name)
        return {**RESULT, "files": matrix.fingerprint(matrix.sources())}

    monkeypatch.setattr(matrix, "run_row", run_row)
    return runs


def test_a_row_that_passed_is_not_run_again(one_row, capsys):
    assert matrix.main([]) == 0
    assert "| 2.16.2 | 3.10.0 |" in matrix.PAGES[0].read_text()
    assert matrix.main([]) == 0
    assert one_row == ["lowest"]
    assert "lowest: 7 passed, 0 failed, 5 skipped (stored)" in capsys.readouterr().out
    matrix.main(["--again"])
    assert one_row == ["lowest"] * 2


@pytest.mark.parametrize("argument", ["--no-store", "--pytest=-k one"])
def test_a_part_of_a_run_is_not_stored(one_row, argument):
    assert matrix.main([argument]) == 0
    assert not matrix.RESULTS.exists()
    assert "2.16.2" not in matrix.PAGES[0].read_text()


@pytest.mark.parametrize("error", [RuntimeError("pip failed"), FileNotFoundError("no report")])
def test_a_row_that_breaks_is_said_and_the_others_go_on(one_row, monkeypatch, capsys, error):
    def breaks(*arguments):
        raise error

    monkeypatch.setattr(matrix, "run_row", breaks)
    assert matrix.main([]) == 1
    assert f"lowest: {error}" in capsys.readouterr().out


def test_the_rows_begin_with_the_lowest_versions():
    lowest = matrix.ROWS[0]
    for requirement, version in zip(
        lowest.packages, (_versions.LOWEST_TENSORFLOW, _versions.LOWEST_KERAS)
    ):
        assert requirement.endswith(f"=={version[0]}.{version[1]}.*")
    assert matrix.ROWS[-2].packages == ("tensorflow", "keras")


def test_pages_show_the_stored_results():
    results = list(matrix.stored().values())
    if "newest" in matrix.stored():
        assert _versions.release(matrix.stored()["newest"]["keras"]) == _versions.NEWEST_KERAS
    for page in matrix.PAGES:
        text = page.read_text()
        assert matrix.fill(text, results) == text, "run `python -m tests.matrix --tables`"
