from __future__ import annotations

import keras

from dlr_tf.core.fused_adam import FusedAdam
from dlr_tf.core.groups import LayerGroup
from dlr_tf.core.optimizer import MultiGroupOptimizer
from dlr_tf.core.summary import GroupRow, group_table


def cells(table: str) -> list[list[str]]:
    lines = [line.split("│") for line in table.splitlines() if "│" in line]
    return [[cell.strip() for cell in line[1:-1]] for line in lines]


def test_summary_shows_every_group(samples, capsys):
    sample = samples["nested"]
    model = sample.model()
    optimizer = MultiGroupOptimizer(
        sample.groups(model),
        [1e-5, 1e-4, 1e-3],
        [keras.optimizers.SGD(), FusedAdam(), keras.optimizers.Adam()],
        name="three_rates",
    )
    unknown = MultiGroupOptimizer(
        tuple(LayerGroup(g.name, g.layers) for g in optimizer.groups), 0.1
    )
    unknown.summary()
    assert capsys.readouterr().out.count("not built") == 3
    optimizer.build(model.trainable_variables)
    model.get_layer("backbone").get_layer("stem").trainable = False
    model.get_layer("backbone").get_layer("norm").trainable = False
    tables: list[str] = []
    optimizer.summary(print_fn=tables.append)
    (table,) = tables
    assert capsys.readouterr().out == ""
    assert cells(table) == [
        ["early", "backbone/stem ... backbone/norm (2)", "6", "78", "SGD", "1e-05", "frozen"],
        ["middle", "backbone/body ... body (2)", "4", "59", "FusedAdam", "0.0001", "trainable"],
        ["head", "top (1)", "2", "15", "Adam", "0.001", "trainable"],
    ]
    assert table.startswith("three_rates")
    for column in ("group", "layers (first to last)", "variables", "parameters", "learning rate"):
        assert column in table


def test_long_paths_are_shown_without_their_models():
    layers = [f"a_model_with_a_long_name/{name}" for name in ("first", "middle", "last")]
    row = GroupRow("body", layers, 2, 1234, "Adam", 1e-3, "trainable")
    assert cells(group_table("title", [row]))[0][:4] == ["body", "first ... last (3)", "2", "1,234"]


def test_on_a_narrow_terminal_no_line_is_too_wide_and_no_number_is_cut(monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    layers = ("backbone/block_1/a_long_name_of_a_layer", "backbone/block_9/another_long_name")
    row = GroupRow("group_0", layers, 230, 1_198_144, "FusedAdam", 3.16e-5, "trainable")
    table = group_table("optimizer", [row])
    assert max(map(len, table.splitlines())) <= 80
    for text in ("230", "1,198,144", "FusedAdam", "3.16e-05", "trainable", "vars", "params"):
        assert text in table
