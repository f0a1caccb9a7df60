from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from dlr_tf.core._keras import all_layers, flags_at_compile, known_variables, slots_of
from dlr_tf.core._validation import unwrap_optimizer as unwrap
from dlr_tf.core.assignment import assign_variables
from dlr_tf.core.groups import LayerGroup, split_layers
from dlr_tf.core.optimizer import MultiGroupOptimizer
from dlr_tf.training.freezing import freeze_batch_norm, freeze_to, unfreeze_batch_norm
from tests.conftest import Template

LAYERS = keras.layers
DEFAULT = Template("fused_adam")


def values(variables: Any) -> list[np.ndarray]:
    return [v.numpy().copy() for v in variables]


def same(left: list[np.ndarray], right: list[np.ndarray]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(left, right, strict=True))


def paths_of(model: keras.Model, groups: Any, numbers: Any) -> list[int]:
    return sorted(id(p.variable) for p in assign_variables(model, groups) if p.group in numbers)


def learning(model: keras.Model) -> list[int]:
    return sorted(map(id, model.trainable_variables))


def slot_values(optimizer: MultiGroupOptimizer) -> dict[tuple[int, str, int], np.ndarray]:
    """Every slot by group, name and variable."""
    return {
        (number, name, id(variable)): slot.numpy().copy()
        for number, member in enumerate(optimizer.group_optimizers)
        if member.built
        for name, slots in slots_of(member).items()
        for variable, slot in zip(known_variables(member), slots)
    }


def compiled(sample: Any, template: Any, *, run_eagerly: bool = True) -> Any:
    model = sample.model()
    groups = sample.groups(model)
    optimizer = MultiGroupOptimizer(groups, [0.01, 0.02, 0.03], template.argument())
    model.compile(optimizer, "mse", run_eagerly=run_eagerly, jit_compile=False)
    return model, groups, optimizer


def statistics(model: keras.Model) -> list[np.ndarray]:
    return values(
        v
        for layer in all_layers(model)
        if isinstance(layer, LAYERS.BatchNormalization)
        for v in (layer.moving_mean, layer.moving_variance)
    )


class At(keras.callbacks.Callback):
    """Calls a function at the beginning of an epoch."""

    def __init__(self, epoch: int, function: Any) -> None:
        super().__init__()
        self.epoch, self.function = epoch, function

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if epoch == self.epoch:
            self.function()


def test_the_groups_from_n_on_learn(sample):
    model = sample.model()
    groups = sample.groups(model)
    all_trainable = learning(model)
    for n in (0, 1, 2, 3, -1, -2, -3, np.int64(1), 0):
        freeze_to(model, groups, n)
        first = int(n) % 3 if n != 3 else 3
        expected = paths_of(model, groups, range(first, 3))
        assert learning(model) == sorted(set(expected) & set(all_trainable)), n
    assert learning(model) == all_trainable


def test_frozen_layers_have_their_flag_off_and_others_on(samples):
    model = samples["nested"].model()
    groups = samples["nested"].groups(model)
    backbone = model.get_layer("backbone")
    freeze_to(model, groups, 1)
    flags = {layer.name: layer.trainable for layer in backbone.layers[1:]}
    assert flags == {"stem": False, "norm": False, "body": True}
    assert model.get_layer("top").trainable
    assert model.trainable


def test_a_model_that_the_user_froze_stays_frozen_and_is_named_once(samples, caplog):
    model = samples["nested"].model()
    groups = samples["nested"].groups(model)
    everything = learning(model)
    backbone = model.get_layer("backbone")
    backbone.trainable = False
    kept = learning(model)
    assert 0 < len(kept) < len(everything)
    freeze_to(model, groups, -1)
    assert not caplog.messages  # it is not to be trained
    for n in (0, 1, 0):
        freeze_to(model, groups, n)
        assert learning(model) == kept
    assert caplog.messages == [
        "These were frozen before and stay frozen, although their groups are trained: "
        "['backbone']. To train one, set its own flag: `trainable = True`."
    ]
    backbone.trainable = True
    freeze_to(model, groups, -1)
    freeze_to(model, groups, 0)
    assert learning(model) == everything
    assert len(caplog.messages) == 1
    model.trainable = False
    freeze_to(model, groups, 0)
    assert learning(model) == []
    assert "stay frozen, although their groups are trained: ['body', 'top']" in caplog.messages[-1]


def test_what_the_user_froze_is_named_by_its_path(samples, caplog):
    model = samples["attention"].model()
    attention = model.get_layer("attention")
    inner = [part for part in all_layers(attention) if part.weights]
    inner[0].trainable = False
    inner[1].bias.trainable = False
    model.get_layer("top").bias.trainable = False
    model.get_layer("embed").trainable = False
    before = learning(model)
    freeze_and_unfreeze(model, samples["attention"].groups(model))
    assert learning(model) == before
    names = {f"attention/{inner[0].name}", f"attention/{inner[1].name}/bias", "top/bias", "embed"}
    assert all(f"'{name}'" in caplog.text for name in names)
    # In groups that are trained one after the other, each is named when its group is.
    assert len(caplog.messages) == 2


def test_weights_a_model_adds_itself_freeze_with_their_group(samples):
    model = samples["subclassed"].model()
    groups = samples["subclassed"].groups(model)
    freeze_to(model, groups, 1)
    assert not model.offset.trainable
    freeze_to(model, groups, 0)
    assert model.offset.trainable


def test_a_composite_layer_freezes_whole(samples):
    model = samples["attention"].model()
    groups = samples["attention"].groups(model)
    attention = model.get_layer("attention")
    freeze_to(model, groups, 2)
    assert not any(layer.trainable for layer in (attention, *all_layers(attention)))
    freeze_to(model, groups, 1)
    assert all(layer.trainable for layer in (attention, *all_layers(attention)))
    assert len(attention.trainable_variables) == 8


def test_layers_that_no_group_names_are_left_alone(samples):
    model = samples["attention"].model()
    attention = model.get_layer("attention")
    inner = all_layers(attention)
    inner[0].trainable = False
    model.get_layer("norm").trainable = False
    before = {layer: layer.trainable for layer in [*model.layers, *inner]}
    groups = (LayerGroup("embed", ("embed",)), LayerGroup("head", ("top",)))
    for n, embed in ((1, False), (0, True)):
        freeze_to(model, groups, n)
        expected = {**before, model.get_layer("embed"): embed}
        assert {layer: layer.trainable for layer in expected} == expected


def test_layers_of_a_nested_model_that_no_group_names_are_left_alone(samples):
    model = samples["nested"].model()
    backbone = model.get_layer("backbone")
    backbone.get_layer("stem").trainable = False
    groups = (LayerGroup("body", ("body",)), LayerGroup("head", ("top",)))
    for n in (1, 0, -1):
        freeze_to(model, groups, n)
        assert not backbone.get_layer("stem").trainable
        assert backbone.get_layer("body").trainable


@pytest.mark.parametrize(
    ("n", "error", "message"),
    [
        (4, ValueError, "`n` should be the index of a group: from -3 to 3 for 3 groups. .* n=4"),
        (-4, ValueError, "from -3 to 3 for 3 groups. Received: n=-4"),
        (1.0, TypeError, "`n` should be an integer. Received: n=1.0 of type float"),
        (None, TypeError, "`n` should be an integer. Received: n=None"),
        (True, TypeError, "`n` should be an integer. Received: n=True"),
        (
            "hed",
            ValueError,
            r"one of \['early', .*'head'\]. Did you mean 'head'\? .*n='hed'",
        ),
    ],
)
def test_wrong_numbers_change_nothing(samples, n, error, message):
    model = samples["nested"].model()
    groups = samples["nested"].groups(model)
    freeze_to(model, groups, 1)
    before = learning(model)
    with pytest.raises(error, match=message):
        freeze_to(model, groups, n)
    assert learning(model) == before


def test_a_group_may_be_named(samples):
    model = samples["nested"].model()
    groups = samples["nested"].groups(model)
    for n, name in enumerate(group.name for group in groups):
        freeze_to(model, groups, n)
        by_index = learning(model)
        freeze_to(model, groups, len(groups))
        freeze_to(model, groups, name)
        assert learning(model) == by_index


def test_groups_of_another_model_change_nothing(samples):
    model = samples["sequential"].model()
    groups = samples["nested"].groups(samples["nested"].model())
    before = learning(model)
    with pytest.raises(ValueError, match="names the layer 'backbone/stem', which the model does"):
        freeze_to(model, groups, 1)
    assert learning(model) == before


def test_a_frozen_group_costs_no_gradient(samples):
    model = samples["sequential"].model()
    groups = samples["sequential"].groups(model)
    x, y = samples["sequential"].data()

    def products() -> int:
        @tf.function
        def step(x: Any, y: Any) -> Any:
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean((model(x, training=True) - y) ** 2)
            return loss, tape.gradient(loss, model.trainable_variables)

        graph = step.get_concrete_function(x, y).graph
        # TensorFlow runs what the outputs need.
        needed, waiting = set(), [tensor.op for tensor in graph.outputs]
        while waiting:
            operation = waiting.pop()
            if operation not in needed:
                needed.add(operation)
                waiting += [tensor.op for tensor in operation.inputs]
        return sum(operation.type == "MatMul" for operation in needed)

    assert products() == 3 + 3 + 2  # forward, for kernels, for what lies between layers
    freeze_to(model, groups, 1)
    assert products() == 3 + 2 + 1
    freeze_to(model, groups, -1)
    assert products() == 3 + 1


def test_a_group_that_never_trained_costs_no_optimizer_memory(samples, template):
    sample = samples["nested"]
    model, groups, optimizer = compiled(sample, template)
    freeze_to(model, groups, -1)
    model.fit(*sample.data(), verbose=0)
    assert [member.built for member in optimizer.group_optimizers] == [False, False, True]
    assert len(slot_values(optimizer)) == 2 * len(model.trainable_variables) == 4
    freeze_to(model, groups, 0)
    assert len(slot_values(optimizer)) == 2 * len(model.trainable_variables)


@pytest.mark.parametrize(
    ("kind", "traced"),
    [
        ("sequential", True),
        pytest.param("functional", False, marks=pytest.mark.slow),
        ("nested", False),
        ("subclassed", True),
        pytest.param("shared", False, marks=pytest.mark.slow),
        pytest.param("attention", False, marks=pytest.mark.slow),
    ],
)
def test_unfreezing_in_the_middle_of_fit_keeps_the_optimizer_and_its_state(samples, kind, traced):
    sample = samples[kind]
    model, groups, optimizer = compiled(sample, DEFAULT, run_eagerly=not traced)
    freeze_to(model, groups, -1)
    frozen = [p.variable for p in assign_variables(model, groups) if p.group < 2]
    unfrozen = [v for v in frozen if v.trainable or v.path.split("/")[-1][:6] != "moving"]
    start = values(frozen)
    seen: dict[str, Any] = {}

    def unfreeze() -> None:
        seen["frozen"] = values(frozen)
        seen["before"] = slot_values(optimizer)
        seen["head"] = {key: v for key, v in seen["before"].items() if key[0] == 2}
        freeze_to(model, groups, 0)
        seen["after"] = slot_values(optimizer)
        seen["steps"] = optimizer.group_steps.numpy().tolist()

    one_step = At(2, lambda: seen.update(next=values(unfrozen)))
    x, y = sample.data()
    model.fit(x, y, batch_size=12, epochs=3, verbose=0, callbacks=[At(1, unfreeze), one_step])
    assert model.optimizer is optimizer
    assert same(seen["frozen"], start)  # batch-norm statistics too
    assert seen["steps"] == [0, 0, 1]
    for key, value in seen["before"].items():
        np.testing.assert_array_equal(seen["after"][key], value)
    fresh = {key: value for key, value in seen["after"].items() if key not in seen["before"]}
    assert len(fresh) == 2 * (len(model.trainable_variables) - 2)
    assert {key[0] for key in fresh} == {0, 1}
    assert not any(np.any(value) for value in fresh.values())
    # All of it moved at the very next step, and the state of the head went on.
    now = dict(zip(map(id, frozen), start))
    for variable, value in zip(unfrozen, seen["next"]):
        if variable.trainable:
            assert not np.array_equal(value, now[id(variable)]), variable.path
    assert optimizer.group_steps.numpy().tolist() == [2, 2, 3]
    assert int(optimizer.iterations) == 3


def test_freezing_in_the_middle_of_fit_stops_the_layers_and_keeps_their_state(samples):
    sample = samples["nested"]
    model, groups, optimizer = compiled(sample, DEFAULT, run_eagerly=False)
    seen: dict[str, Any] = {}
    frozen = [p.variable for p in assign_variables(model, groups) if p.group == 0]

    def freeze() -> None:
        freeze_to(model, groups, 1)
        seen["weights"], seen["slots"] = values(frozen), slot_values(optimizer)

    x, y = sample.data()
    model.fit(x, y, batch_size=6, epochs=2, verbose=0, callbacks=[At(1, freeze)])
    assert same(values(frozen), seen["weights"])
    after = slot_values(optimizer)
    for key, value in seen["slots"].items():
        assert np.array_equal(after[key], value) == (key[0] == 0)
    assert optimizer.group_steps.numpy().tolist() == [2, 4, 4]
    freeze_to(model, groups, 0)
    for key, value in after.items():
        np.testing.assert_array_equal(slot_values(optimizer)[key], value)


def test_freezing_equals_training_the_other_groups_alone(samples, keras_adam):
    """A frozen model and one whose first groups get no optimizer at all end at the same weights."""
    sample = samples["functional"]
    x, y = sample.data()
    model, groups, _ = compiled(sample, keras_adam)
    freeze_to(model, groups, 2)
    model.fit(x, y, batch_size=4, shuffle=False, verbose=0)
    other = sample.model()
    for name in ("stem", "norm", "left", "right"):
        other.get_layer(name).trainable = False
    other.compile(keras.optimizers.Adam(0.03), "mse", run_eagerly=True)
    other.fit(x, y, batch_size=4, shuffle=False, verbose=0)
    assert same(values(model.weights), values(other.weights))


def test_a_step_traced_before_does_not_go_on(samples, keras_adam):
    sample = samples["sequential"]
    model, groups, _ = compiled(sample, keras_adam, run_eagerly=False)
    x, y = sample.data()
    model.train_on_batch(x, y)
    freeze_to(model, groups, 2)
    before = values(model.get_layer("stem").weights)
    model.train_on_batch(x, y)
    assert same(values(model.get_layer("stem").weights), before)
    freeze_to(model, groups, 0)
    model.train_on_batch(x, y)
    assert not same(values(model.get_layer("stem").weights), before)


def test_a_model_compiled_with_another_optimizer_can_be_frozen(samples):
    model = samples["sequential"].model()
    groups = samples["sequential"].groups(model)
    model.compile(keras.optimizers.Adam(0.1), "mse", run_eagerly=True)
    x, y = samples["sequential"].data()
    model.fit(x, y, verbose=0)
    freeze_to(model, groups, 1)
    before = values(model.get_layer("stem").weights)
    model.fit(x, y, verbose=0)
    assert same(values(model.get_layer("stem").weights), before)


def test_a_model_that_is_not_compiled_can_be_frozen(samples):
    model = samples["sequential"].model()
    freeze_to(model, samples["sequential"].groups(model), 1)
    assert len(model.trainable_variables) == 4


def test_under_mixed_precision(samples):
    sample = samples["sequential"]
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model, groups, optimizer = compiled(sample, DEFAULT, run_eagerly=False)
        freeze_to(model, groups, -1)
        x, y = sample.data()
        start = values(model.get_layer("stem").weights)
        unfreeze = At(1, lambda: freeze_to(model, groups, 0))
        model.fit(x, y, epochs=1, verbose=0)
        assert same(values(model.get_layer("stem").weights), start)
        model.fit(x, y, epochs=2, verbose=0, callbacks=[unfreeze])
    finally:
        keras.config.set_dtype_policy("float32")
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert unwrap(model.optimizer) is optimizer
    assert not same(values(model.get_layer("stem").weights), start)
    assert optimizer.group_steps.numpy().tolist() == [1, 1, 3]


def test_frozen_layers_stay_frozen_when_saved_and_loaded(samples, keras_adam, tmp_path):
    sample = samples["nested"]
    model, groups, _ = compiled(sample, keras_adam)
    freeze_to(model, groups, 2)
    x, y = sample.data()
    model.fit(x, y, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert len(loaded.trainable_variables) == 2
    freeze_to(loaded, groups, 0)
    loaded.fit(x, y, verbose=0)
    assert unwrap(loaded.optimizer)._group_steps.numpy().tolist() == [1, 1, 2]


def test_the_statistics_of_a_frozen_group_stay(samples, keras_adam):
    sample = samples["nested"]
    model, groups, _ = compiled(sample, keras_adam)
    x, y = sample.data()
    freeze_to(model, groups, 1)
    before = statistics(model)
    model.fit(x, y, verbose=0)
    assert same(statistics(model), before)
    freeze_to(model, groups, 0)
    model.fit(x, y, verbose=0)
    assert not same(statistics(model), before)


def test_freeze_batch_norm_holds_statistics_and_scale_through_fit(sample, keras_adam):
    model, groups, _ = compiled(sample, keras_adam)
    norms = [n for n in all_layers(model) if isinstance(n, LAYERS.BatchNormalization)]
    before = values(v for norm in norms for v in norm.weights)
    assert len(before) == 4
    freeze_batch_norm(model)
    x, y = sample.data()
    for plan in ((), (0, -1, 0)):
        for n in plan:
            freeze_to(model, groups, n)
        model.fit(x, y, verbose=0)
        assert same(values(v for norm in norms for v in norm.weights), before)
    assert not any(norm.trainable for norm in norms)


def test_freeze_batch_norm_where_training_false_does_not_help(keras_adam):
    """`fit` moves the statistics of a backbone called with `training=False`."""
    inputs = keras.Input((4,))
    backbone = keras.Model(inputs, LAYERS.BatchNormalization()(inputs), name="backbone")
    inputs = keras.Input((4,))
    outputs = LAYERS.Dense(2, name="top")(backbone(inputs, training=False))
    model = keras.Model(inputs, outputs)
    optimizer = MultiGroupOptimizer(split_layers(model, ["top"]), 0.1, keras_adam.argument())
    model.compile(optimizer, "mse", jit_compile=False)
    x, y = np.full((4, 4), 3.0), np.zeros((4, 2))
    freeze_batch_norm(model)
    before = statistics(model)
    model.fit(x, y, verbose=0)
    assert same(statistics(model), before)


def test_freeze_batch_norm_in_the_middle_of_fit(samples, keras_adam):
    sample = samples["sequential"]
    model, _, _ = compiled(sample, keras_adam, run_eagerly=False)
    seen: dict[str, Any] = {}

    def freeze() -> None:
        freeze_batch_norm(model)
        seen["statistics"] = statistics(model)

    start = statistics(model)
    model.fit(*sample.data(), epochs=2, verbose=0, callbacks=[At(1, freeze)])
    assert same(statistics(model), seen["statistics"])
    assert not same(start, seen["statistics"])


def test_freeze_batch_norm_leaves_other_layers_and_other_models_alone(samples):
    model, other = samples["nested"].model(), samples["nested"].model()
    freeze_batch_norm(model)
    assert len(model.trainable_variables) == len(other.trainable_variables) - 2
    freeze_to(other, samples["nested"].groups(other), 0)
    assert len(other.trainable_variables) == len(model.trainable_variables) + 2


def test_batch_norm_inside_composite_layers_is_frozen_too():
    layer = LAYERS.TimeDistributed(LAYERS.BatchNormalization())
    model = keras.Sequential([keras.Input((3, 4)), layer, LAYERS.Flatten(), LAYERS.Dense(2)])
    freeze_batch_norm(model)
    assert len(model.trainable_variables) == 2
    freeze_to(model, split_layers(model, [model.layers[-1]]), 0)
    assert len(model.trainable_variables) == 2


# --- What is frozen by itself --------------------------------------------------------------------


def names(model: keras.Model) -> set[str]:
    return {"/".join(v.path.split("/")[-2:]) for v in model.trainable_variables}


def body_and_top(layer: Any = None) -> Any:
    """A model of two groups, and the first layer of the first one."""
    layer = layer or LAYERS.Dense(4, name="body")
    model = keras.Sequential([keras.Input((4,)), layer, LAYERS.Dense(2, name="top")])
    return model, split_layers(model, ["top"]), layer


def freeze_and_unfreeze(model: Any, groups: Any) -> None:
    for n in (1, 2, -1, 0):
        freeze_to(model, groups, n)


TOP = {"top/kernel", "top/bias"}


def test_the_base_of_lora_stays_frozen_and_loras_own_weights_learn():
    model, groups, layer = body_and_top()
    layer.enable_lora(2)
    expected = names(model)
    assert "body/lora_kernel_a" in expected
    assert "body/kernel" not in expected
    for by_hand in (False, True):
        if by_hand:
            model.trainable = True
        freeze_to(model, groups, 1)
        assert names(model) == TOP
        freeze_to(model, groups, 0)
        assert names(model) == expected
        model.trainable = False
        model.trainable = True  # Keras turns the base on
        freeze_to(model, groups, 0)
        assert names(model) == expected
    base = layer.get_weights()[0]
    model.compile(MultiGroupOptimizer(groups, 0.1), "mse", run_eagerly=True)
    model.fit(np.ones((4, 4)), np.ones((4, 2)), verbose=0)
    np.testing.assert_array_equal(layer.get_weights()[0], base)


def test_lora_enabled_in_a_frozen_group_learns_when_the_group_does():
    model, groups, layer = body_and_top()
    freeze_to(model, groups, 1)
    layer.enable_lora(2)
    freeze_to(model, groups, 0)
    assert names(model) == TOP | {"body/bias", "body/lora_kernel_a", "body/lora_kernel_b"}


@pytest.mark.filterwarnings("ignore:Layer InputLayer does not have a `quantize` method")
def test_quantised_layers_stay_frozen_with_and_without_lora():
    model, groups, layer = body_and_top()
    model.quantize("int8")
    assert names(model) == {"body/bias", "top/bias"}
    freeze_and_unfreeze(model, groups)
    assert names(model) == {"body/bias", "top/bias"}
    layer.enable_lora(2)
    expected = {"body/bias", "top/bias", "body/lora_kernel_a", "body/lora_kernel_b"}
    freeze_and_unfreeze(model, groups)
    assert names(model) == expected


def test_a_variable_frozen_by_hand_stays_frozen_until_it_is_set_by_hand():
    model, groups, layer = body_and_top()
    layer.kernel.trainable = False
    freeze_and_unfreeze(model, groups)
    assert names(model) == TOP | {"body/bias"}
    freeze_to(model, groups, 1)
    layer.kernel.trainable = True  # in a frozen layer
    freeze_to(model, groups, 0)
    assert names(model) == TOP | {"body/bias", "body/kernel"}


def test_a_layer_with_all_its_variables_frozen_by_hand_stays_frozen():
    model, groups, layer = body_and_top(LAYERS.Dense(4, use_bias=False, name="body"))
    layer.kernel.trainable = False
    freeze_and_unfreeze(model, groups)
    assert names(model) == TOP
    layer.trainable = False
    layer.trainable = True  # Keras turns the kernel on
    freeze_to(model, groups, 0)
    assert names(model) == TOP | {"body/kernel"}


def test_biases_alone():
    """All frozen but the biases, which are set after their layers."""
    model, groups, _ = body_and_top()
    for each in model.layers:
        each.trainable = False
        each.bias.trainable = True
    freeze_and_unfreeze(model, groups)
    assert names(model) == {"body/bias", "top/bias"}


def test_a_layer_frozen_inside_a_composite_layer_stays_frozen():
    layer = LAYERS.Bidirectional(LAYERS.GRU(2), name="body")
    model = keras.Sequential([keras.Input((3, 4)), layer, LAYERS.Dense(2, name="top")])
    groups = split_layers(model, ["top"])
    layer.backward_layer.trainable = False
    expected = learning(model)
    assert len(expected) == 5
    freeze_and_unfreeze(model, groups)
    assert learning(model) == expected
    assert not layer.backward_layer.trainable
    layer.backward_layer.trainable = True
    freeze_and_unfreeze(model, groups)
    assert len(learning(model)) == 8


def test_variables_frozen_inside_a_composite_layer_stay_frozen(samples):
    model = samples["attention"].model()
    groups = samples["attention"].groups(model)
    inner = [part for part in all_layers(model.get_layer("attention")) if part.weights]
    inner[0].enable_lora(2)
    inner[1].kernel.trainable = False
    expected = learning(model)
    freeze_and_unfreeze(model, groups)
    assert learning(model) == expected


def test_a_backbone_in_which_only_lora_learns():
    """As KerasHub's `backbone.enable_lora` leaves it: every other layer of the backbone is off."""
    inputs = keras.Input((3, 4))
    norm = LAYERS.LayerNormalization(name="norm")
    attention = LAYERS.MultiHeadAttention(2, 2, name="attention")
    x = norm(inputs)
    backbone = keras.Model(inputs, LAYERS.Add()([x, attention(x, x)]), name="backbone")
    top = LAYERS.Dense(2, name="top")
    model = keras.Sequential([keras.Input((3, 4)), backbone, LAYERS.Flatten(), top])
    groups = split_layers(model, ["backbone/attention", "top"])
    for layer in all_layers(backbone):
        layer.trainable = False
    query = next(part for part in all_layers(attention) if part.name == "query")
    query.trainable = True
    query.enable_lora(2)
    top.trainable = False  # the head is not in the backbone
    top.trainable = True
    expected = learning(model)
    assert len(expected) == 3 + 2
    for n in (1, 2, 0, -1, 0):
        freeze_to(model, groups, n)
    assert learning(model) == expected
    norm.trainable = True
    freeze_to(model, groups, 0)
    assert len(learning(model)) == 5 + 2


def test_layers_frozen_beside_lora_in_a_model_where_more_learns_are_unfrozen():
    model, groups, layer = body_and_top()
    model.get_layer("top").enable_lora(2)
    layer.trainable = False
    model.get_layer("top").trainable = True
    freeze_to(model, groups, 1)
    layer.trainable = True
    freeze_to(model, groups, 1)
    freeze_to(model, groups, 0)
    assert {"body/kernel", "body/bias"} < names(model)


def test_a_weight_of_the_models_own_frozen_by_hand_stays_frozen(samples):
    model = samples["subclassed"].model()
    groups = samples["subclassed"].groups(model)
    model.offset.trainable = False
    freeze_and_unfreeze(model, groups)
    assert not model.offset.trainable
    model.offset.trainable = True
    freeze_and_unfreeze(model, groups)
    assert model.offset.trainable


def test_layers_that_no_group_names_keep_the_flags_of_their_variables():
    model, _, layer = body_and_top()
    layer.kernel.trainable = False
    for n in (1, 0):
        freeze_to(model, (LayerGroup("head", ("top",)),), n)
        assert not layer.kernel.trainable
        assert layer.bias.trainable


@pytest.mark.parametrize("again", [False, True])
def test_layers_the_user_froze_stay_frozen_when_saved_and_loaded(samples, tmp_path, again):
    """What `freeze_to` froze does not, also if the model is saved twice."""
    model = samples["nested"].model()
    groups = samples["nested"].groups(model)
    backbone = model.get_layer("backbone")
    backbone.get_layer("stem").trainable = False
    freeze_to(model, groups, 2)
    model.compile(MultiGroupOptimizer(groups, 0.1), "mse")
    for _ in range(1 + again):
        model.save(tmp_path / "model.keras")
        model = keras.models.load_model(tmp_path / "model.keras")
    freeze_to(model, groups, 0)
    flags = {layer.name: layer.trainable for layer in model.get_layer("backbone").layers[1:]}
    assert flags == {"stem": False, "norm": True, "body": True}


def test_a_model_saved_without_an_optimizer_counts_as_frozen_by_the_user(samples, tmp_path, caplog):
    model = samples["nested"].model()
    groups = samples["nested"].groups(model)
    freeze_to(model, groups, 1)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    freeze_to(loaded, groups, 0)
    assert len(loaded.trainable_variables) == len(model.trainable_variables)
    assert "['backbone/stem', 'backbone/norm']" in caplog.text
    for name in ("stem", "norm"):
        loaded.get_layer("backbone").get_layer(name).trainable = True
    freeze_to(loaded, groups, 0)
    assert len(loaded.trainable_variables) == len(model.trainable_variables) + 4


def test_batch_norm_of_a_loaded_model_is_unfrozen_where_the_layer_before_is_trained(
    samples, tmp_path
):
    model = samples["nested"].model()
    freeze_batch_norm(model)
    model.save(tmp_path / "model.keras")
    for stem, expected in ((False, False), (True, True)):
        loaded = keras.models.load_model(tmp_path / "model.keras")
        backbone = loaded.get_layer("backbone")
        assert not norm_of(loaded).trainable
        backbone.get_layer("stem").trainable = stem
        unfreeze_batch_norm(loaded)
        assert norm_of(loaded).trainable is expected


# --- Batch normalization, held and released ------------------------------------------------------


def norm_of(model: keras.Model) -> Any:
    return next(n for n in all_layers(model) if isinstance(n, LAYERS.BatchNormalization))


def test_unfreezing_batch_norm_undoes_freezing(sample):
    model = sample.model()
    groups = sample.groups(model)
    everything = learning(model)
    freeze_batch_norm(model)
    freeze_batch_norm(model)
    assert len(learning(model)) == len(everything) - 2
    unfreeze_batch_norm(model)
    assert learning(model) == everything
    unfreeze_batch_norm(model)  # nothing left to do
    freeze_batch_norm(model)
    freeze_to(model, groups, 1)
    unfreeze_batch_norm(model)
    assert not norm_of(model).trainable  # with its group
    freeze_batch_norm(model)
    freeze_to(model, groups, 0)
    assert not norm_of(model).trainable
    unfreeze_batch_norm(model)
    assert learning(model) == everything


def test_batch_norm_set_by_hand_counts_at_the_next_call(samples):
    model = samples["sequential"].model()
    groups = samples["sequential"].groups(model)
    freeze_batch_norm(model)
    freeze_to(model, groups, 0)
    norm_of(model).trainable = True
    for n, learns in ((0, True), (1, False), (0, True)):
        freeze_to(model, groups, n)
        assert norm_of(model).trainable is learns


def test_a_variable_of_batch_norm_frozen_by_hand_stays_frozen(samples):
    model = samples["sequential"].model()
    norm_of(model).gamma.trainable = False
    freeze_batch_norm(model)
    freeze_to(model, samples["sequential"].groups(model), 0)
    unfreeze_batch_norm(model)
    assert (norm_of(model).gamma.trainable, norm_of(model).beta.trainable) == (False, True)


# --- Traces --------------------------------------------------------------------------------------


class Counting(LAYERS.Layer):
    """Counts how often it is traced."""

    traces = 0

    def call(self, inputs: Any) -> Any:
        self.traces += 1
        return inputs


def traced_model() -> Any:
    """A compiled model, its groups, and a function that trains it and returns the new traces."""
    counting = Counting()
    model = keras.Sequential(
        [
            keras.Input((4,)),
            LAYERS.Dense(3, name="body"),
            LAYERS.BatchNormalization(name="norm"),
            counting,
            LAYERS.Dense(2, name="top"),
        ]
    )
    groups = split_layers(model, ["top"])
    model.compile(MultiGroupOptimizer(groups, 0.1), "mse", jit_compile=False)

    def traces() -> int:
        before = counting.traces
        model.train_on_batch(np.eye(4), np.ones((4, 2)))
        return counting.traces - before

    return model, groups, traces


def test_keras_traces_again_only_if_a_flag_has_changed():
    model, groups, traces = traced_model()
    assert traces() == 1
    freeze_to(model, groups, 0)
    # A Keras that does not record the flags traces once more.
    assert traces() == int(flags_at_compile(model) is None)
    for n, expected in ((1, 1), (1, 0), (-1, 0), (0, 1), (0, 0)):
        freeze_to(model, groups, n)
        assert traces() == expected
    freeze_batch_norm(model)
    assert traces() == 1
    freeze_batch_norm(model)
    freeze_to(model, groups, 0)
    assert traces() == 0
    unfreeze_batch_norm(model)
    assert traces() == 1


def test_a_flag_set_by_hand_takes_effect_at_the_next_call():
    model, groups, traces = traced_model()
    top = model.get_layer("top")
    traces()
    freeze_to(model, groups, 1)
    traces()
    for flag in (False, True):
        top.bias.trainable = flag
        freeze_to(model, groups, 1)
        before = top.bias.numpy().copy()
        assert traces() == 1
        assert np.array_equal(before, top.bias.numpy()) is not flag


@pytest.mark.parametrize("new_optimizer", [False, True])
def test_flags_set_by_hand_around_a_compile_take_effect(new_optimizer):
    model, groups, traces = traced_model()
    freeze_to(model, groups, 0)
    traces()
    body = model.get_layer("body")
    body.trainable = False
    optimizer = MultiGroupOptimizer(groups, 0.1) if new_optimizer else model.optimizer
    model.compile(optimizer, "mse", jit_compile=False)
    traces()
    body.trainable = True
    freeze_to(model, groups, 0)
    before = values(body.weights)
    assert traces() == 1
    assert not same(values(body.weights), before)
