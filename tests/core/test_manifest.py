from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

from dlr_tf.core.assignment import AssignedVariable
from dlr_tf.core.manifest import match_groups, match_variables


def entry(key: str, path: str, shape: tuple[int, ...], dtype: str = "float32") -> AssignedVariable:
    variable = keras.Variable(np.zeros(shape), dtype=dtype, trainable=dtype == "float32")
    return AssignedVariable(key, path, variable, 0)


def records(*entries: tuple[str, str, list[int]]) -> dict[str, Any]:
    return {key: {"path": path, "shape": shape} for key, path, shape in entries}


KERNEL, BIAS = ("0.0", "a/kernel", [2, 3]), ("0.1", "a/bias", [3])


def test_the_same_layer_matches_by_position():
    current = [entry("0.0", "b/kernel", (2, 3)), entry("0.1", "b/bias", (3,))]
    assert match_variables(records(KERNEL, BIAS), current) == ({"0.0": "0.0", "0.1": "0.1"}, [])


def test_automatic_names_do_not_count_where_positions_fit():
    """In another process, the name of one variable may be that of another."""
    saved = records(("0.0", "a/variable_2", [3]), ("0.1", "a/variable_3", [3]))
    current = [entry("0.0", "a/variable_3", (3,)), entry("0.1", "a/variable_4", (3,))]
    assert match_variables(saved, current) == ({"0.0": "0.0", "0.1": "0.1"}, [])


def test_a_quantised_layer_matches_by_name():
    current = [
        entry("0.0", "a/bias", (3,)),
        entry("0.1", "a/kernel", (2, 3), "int8"),
        entry("0.2", "a/kernel_scale", (3,)),
    ]
    assert match_variables(records(KERNEL, BIAS), current) == ({"0.1": "0.0"}, ["a/kernel"])


def test_a_variable_that_is_gone():
    saved = records(KERNEL, BIAS, ("0.2", "a/lora_kernel_a", [2, 1]))
    current = [entry("0.0", "a/kernel", (2, 3)), entry("0.1", "a/bias", (3,))]
    keys, gone = match_variables(saved, current)
    assert keys == {"0.0": "0.0", "0.1": "0.1"}
    assert gone == ["a/lora_kernel_a"]


def test_a_composite_layer_that_changed_matches_by_the_paths_inside():
    """LoRA was merged when the file was written, so positions moved; both kernels are alike."""
    saved = records(
        ("0.0", "a/query/kernel", [2, 3]),
        ("0.1", "a/query/lora_kernel_a", [2, 1]),
        ("0.2", "a/value/kernel", [2, 3]),
    )
    current = [entry("0.0", "a/query/kernel", (2, 3)), entry("0.1", "a/value/kernel", (2, 3))]
    keys, gone = match_variables(saved, current)
    assert keys == {"0.0": "0.0", "0.2": "0.1"}
    assert gone == ["a/query/lora_kernel_a"]


def test_one_of_several_with_a_name_is_not_guessed():
    saved = records(("0.0", "a/kernel", [2, 3]), ("0.2", "a/kernel", [2, 3]), ("0.4", "a/b", [3]))
    current = [
        entry("0.0", "a/query/kernel", (2, 3)),
        entry("0.1", "a/value/kernel", (2, 3)),
        entry("0.2", "a/value/b", (3,)),
    ]
    keys, gone = match_variables(saved, current)
    assert keys == {"0.4": "0.2"}
    assert gone == ["a/kernel", "a/kernel"]
    only = records(("0.4", "a/kernel", [2, 3]))
    assert match_variables(only, current) == ({}, ["a/kernel"])


def test_another_shape_is_refused():
    current = [entry("0.0", "a/kernel", (2, 4)), entry("0.1", "a/bias", (4,))]
    with pytest.raises(ValueError, match=r"'a/kernel' of shape \[2, 3\].*has shape \[2, 4\]"):
        match_variables(records(KERNEL, BIAS), current)


def group(name: str, *numbers: int) -> dict[str, Any]:
    return {"name": name, "layers": [f"layer_{n}" for n in numbers], "layer_numbers": numbers}


def test_groups_match_by_their_layers():
    saved = [group("x", 2), group("y", 0, 1)]
    layers = [["layer_0", "layer_1"], ["layer_2"]]
    assert match_groups(saved, ["body", "head"], layers, [(0, 1), (2,)]) == [1, 0]
    message = r"saved group 'x' \(layer_2\); .*'y' \(layer_0 ... layer_1\); this optimizer's group"
    with pytest.raises(ValueError, match=message):
        match_groups(saved, ["body", "head"], layers, [(0,), (1, 2)])
