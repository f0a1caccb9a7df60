"""Names of files and classes that are not UTF-8, through every command."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")

from app_helpers import FILES, write_images

from dlr_tf.app import cli

FOLDER, FILE = b"caf\xe9", b"\xff.png"  # as an old zip file leaves them on Linux


@pytest.fixture
def badly_named(image_folder: Callable[..., Path]) -> Path:
    images = image_folder("images")
    write_images(images / "class_1" / "more", 3, size=16, value=0)  # some are mistaken
    try:
        os.rename(images / "class_0", os.fsencode(images) + b"/" + FOLDER)
        for number, path in enumerate(images.rglob("*.png")):
            os.rename(path, os.fsencode(path.parent) + f"/{number}".encode() + FILE)
    except (OSError, UnicodeError):
        pytest.skip("this file system has no such names")
    return images


@pytest.mark.slow
def test_names_that_are_not_utf_8(
    tiny_applications: None, badly_named: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--weights", "none", "--image-size", "16", "--epochs", "1", "--output", "out"]
    assert cli.main(["finetune", str(badly_named), *options]) == 0
    assert sorted(path.name for path in Path("out").iterdir()) == FILES
    assert json.loads(Path("out/classes.json").read_text("utf-8")) == [r"caf\xe9", "class_1"]
    report = json.loads(Path("out/report.json").read_text("utf-8"))
    assert report["data"]["class_names"] == [r"caf\xe9", "class_1"]
    assert r"caf\xe9" in Path("out/report.html").read_text("utf-8")
    assert cli.main(["finetune", "--resume", "out"]) == 0
    capsys.readouterr()
    for form in ([], ["--csv"], ["--json"]):
        assert cli.main(["predict", "out", str(badly_named), *form]) == 0
        out = capsys.readouterr().out
        assert "\\xff.png" in out
        out.encode()
    assert len({Path(row["path"]).name for row in json.loads(out)}) == 13
    assert cli.main(["evaluate", "out"]) == 0
    assert cli.main(["evaluate", "out", str(badly_named), "--output", "again"]) == 0
    capsys.readouterr().out.encode()
    for path in [*Path("out").rglob("*"), *Path("again").iterdir()]:
        if path.suffix in (".json", ".csv", ".html"):
            path.read_text("utf-8")
