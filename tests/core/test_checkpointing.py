"""What is stored of training, in which place it lands, and what is refused.

That training goes on bit for bit in a new process is `test_state_processes.py`'s; here files are
wrong, optimizers are of every kind, and state comes before the variables it belongs to.
"""

from __future__ import annotations

import copy
import json
import pickle
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf

from dlr_tf.core._keras import slots_of, variable_index
from dlr_tf.core._validation import unwrap_optimizer as unwrap
from dlr_tf.core.groups import LayerGroup, split_layers
from dlr_tf.core.optimizer import MultiGroupOptimizer
from dlr_tf.core.schedules import SGDR
from dlr_tf.training.freezing import freeze_to
from tests.core.core_helpers import BareModel, apply_of, push

RATES = [1e-3, 3e-3, 1e-2]
WIDTH = 4


@pytest.fixture
def mixed_float16() -> Iterator[None]:
    keras.config.set_dtype_policy("mixed_float16")
    yield
    keras.config.set_dtype_policy("float32")


def stack(seed: int = 0, n_layers: int = 3) -> keras.Model:
    """Layers of equal shapes, so that a slot in a wrong place does no harm but a wrong value."""
    keras.utils.set_random_seed(seed)
    layers = [keras.layers.Dense(WIDTH, name=f"layer_{n}") for n in range(n_layers)]
    return keras.Sequential([keras.Input((WIDTH,)), *layers])


def groups_of(model: keras.Model, *boundaries: str) -> tuple[LayerGroup, ...]:
    return split_layers(model, boundaries or ("layer_1", "layer_2"))


def by_hand(groups: Any) -> list[LayerGroup]:
    """Equal groups that know no model."""
    return [LayerGroup(group.name, group.layers) for group in groups]


def compiled(
    model: keras.Model,
    groups: Any = None,
    rates: Any = None,
    optimizer: Any = None,
    **arguments: Any,
) -> keras.Model:
    groups = groups_of(model) if groups is None else groups
    rates = RATES[: len(groups)] if rates is None else rates
    wrapper = MultiGroupOptimizer(groups, rates, optimizer, **arguments)
    model.compile(wrapper, "mse", run_eagerly=True)
    return model


def train(
    model: keras.Model, steps: range = range(3), n_inputs: int = WIDTH, n_outputs: int = WIDTH
) -> keras.Model:
    for step in steps:
        rng = np.random.default_rng(step)
        x, y = (rng.normal(size=(6, n)).astype("float32") for n in (n_inputs, n_outputs))
        model.train_on_batch(x, y)
    return model


def state(model: keras.Model) -> dict[str, np.ndarray]:
    return state_of(unwrap(model.optimizer))


def state_of(optimizer: MultiGroupOptimizer) -> dict[str, np.ndarray]:
    """All of the optimizer's state by name, and its groups' by their names."""
    values = {
        name: keras.ops.convert_to_numpy(v) for name, v in optimizer._state.variables().items()
    }
    values["iterations"] = optimizer.step_counter.numpy()
    for group, member in zip(optimizer.groups, optimizer.group_optimizers):
        values[f"steps of {group.name}"] = member.iterations.numpy()
        values[f"rate of {group.name}"] = member.learning_rate.numpy()
    return values


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def weights(model: keras.Model) -> dict[str, np.ndarray]:
    return {f"weight {n}": v.numpy() for n, v in enumerate(model.weights)}


def assert_goes_on_alike(twin: keras.Model, model: keras.Model, steps: range, **sizes: int) -> None:
    assert_same(weights(twin), weights(model))
    assert_same(state(twin), state(model))
    train(model, steps, **sizes)
    train(twin, steps, **sizes)
    assert_same(weights(twin), weights(model))
    assert_same(state(twin), state(model))


def through_archive(model: keras.Model, make: Callable[[], keras.Model], folder: Path) -> Any:
    model.save(folder / "model.keras")
    return keras.models.load_model(folder / "model.keras")


def through_weights(model: keras.Model, make: Callable[[], keras.Model], folder: Path) -> Any:
    model.save_weights(folder / "model.weights.h5")
    twin = make()
    twin.load_weights(folder / "model.weights.h5")
    return twin


def through_checkpoint(model: keras.Model, make: Callable[[], keras.Model], folder: Path) -> Any:
    path = tf.train.Checkpoint(model=model, optimizer=model.optimizer).save(folder / "checkpoint")
    twin = make()
    checkpoint = tf.train.Checkpoint(model=twin, optimizer=twin.optimizer)
    checkpoint.restore(path).assert_consumed()
    return twin


WAYS = (through_archive, through_weights, through_checkpoint)


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> Callable[..., keras.Model]:
    return request.param


# Each kind in one way, and the other pairs.
@pytest.mark.parametrize(
    ("sample", "way"),
    [
        pytest.param(kind, way, marks=[] if (row + column) % 3 == 0 else pytest.mark.slow)
        for row, kind in enumerate(
            ("sequential", "functional", "nested", "subclassed", "shared", "attention")
        )
        for column, way in enumerate(WAYS)
    ],
    indirect=True,
)
def test_training_goes_on_alike_for_every_kind_of_model(sample, way, tmp_path):
    def make(seed: int = 1) -> keras.Model:
        model = sample.model(seed)
        return compiled(model, sample.groups(model))

    sizes = {"n_inputs": 8, "n_outputs": 3}
    model = train(make(0), range(3), **sizes)
    assert_goes_on_alike(way(model, make, tmp_path), model, range(3, 5), **sizes)


def test_training_goes_on_alike_with_every_optimizer_of_keras(any_optimizer, tmp_path):
    def make(value: float = 2.0) -> BareModel:
        model = BareModel([np.full((4, 3), value), np.full(3, value)], [np.full((3, 2), value)])
        model.compile(model.optimizer([1e-3, 1e-2], any_optimizer(0.1)))
        return model

    def steps(model: BareModel, seed: int) -> list[dict[str, np.ndarray]]:
        push(apply_of(unwrap(model.optimizer)), model.weights, steps=2, seed=seed)
        return [state(model), weights(model)]

    model = make(1.0)
    before = steps(model, 0)
    twins = [way(model, make, tmp_path) for way in (through_archive, through_checkpoint)]
    after = steps(model, 1)
    for twin in twins:
        for found, expected in zip(
            [state(twin), weights(twin), *steps(twin, 1)], [*before, *after], strict=True
        ):
            assert_same(found, expected)


def test_training_goes_on_alike_with_an_optimizer_of_its_own_for_every_group(way, tmp_path):
    def make(seed: int = 1) -> keras.Model:
        members = [
            keras.optimizers.SGD(0.1),
            keras.optimizers.AdamW(0.02),
            keras.optimizers.Nadam(SGDR(0.03, 2)),
        ]
        model = stack(seed)
        model.compile(MultiGroupOptimizer(groups_of(model), None, members), "mse", run_eagerly=True)
        return model

    model = make(0)
    train(model)
    assert_goes_on_alike(way(model, make, tmp_path), model, range(3, 6))


def test_state_and_rates_follow_their_groups_into_another_order(tmp_path):
    order = [1, 2, 0]  # not its own inverse

    def make(seed: int = 1) -> keras.Model:
        model = stack(seed)
        groups = groups_of(model)
        # Other rates than the stored ones, which come with the state.
        return compiled(model, [groups[n] for n in order], [0.5, 0.25, 0.125])

    model = compiled(stack(0))
    model.optimizer.learning_rate = 0.004
    train(model, range(2))
    freeze_to(model, groups_of(model), 1)  # so that the groups' step counts differ
    train(model, range(2, 3))
    for way in (through_weights, through_checkpoint):
        twin = way(model, make, tmp_path)
        assert twin.optimizer.learning_rates == [model.optimizer.learning_rates[n] for n in order]
        freeze_to(twin, groups_of(twin), 1)
        assert_goes_on_alike(twin, model, range(3, 5))
        model.load_weights(tmp_path / "model.weights.h5")


def test_set_weights_follows_the_groups_into_another_order():
    model, twin = compiled(stack(0)), stack(1)
    train(model, range(2))
    freeze_to(model, groups_of(model), 2)
    train(model, range(2, 3))
    compiled(twin, groups_of(twin)[::-1], [0.5, 0.25, 0.125])
    twin.optimizer.build(twin.trainable_variables)
    twin.set_weights(model.get_weights())
    twin.optimizer.set_weights([v.numpy() for v in model.optimizer.variables])
    freeze_to(twin, groups_of(twin), 2)
    assert_goes_on_alike(twin, model, range(3, 5))


def test_a_group_that_never_trained_is_stored_as_such(way, tmp_path):
    def make(seed: int = 1) -> keras.Model:
        model = stack(seed)
        freeze_to(model, groups_of(model), 1)
        return compiled(model)

    model = make(0)
    train(model)
    twin = way(model, make, tmp_path)
    assert not any(name.startswith("0.") for name in state(twin))
    assert state(twin)["steps of group_0"] == 0
    assert_goes_on_alike(twin, model, range(3, 5))


# When the twin's layers thaw: before its state comes, or after. An archive makes the model itself.
@pytest.mark.parametrize(
    ("when", "way"),
    [
        ("before", through_archive),
        ("before", through_weights),
        ("after", through_weights),
        ("before", through_checkpoint),
        ("after", through_checkpoint),
    ],
)
def test_what_was_stored_frozen_goes_on_thawed(when, way, tmp_path):
    """Group 0 never trained, group 1 trained before it was frozen."""

    def make(seed: int = 1) -> keras.Model:
        model = compiled(stack(seed))
        if when == "after":
            freeze_to(model, groups_of(model), 2)
        return model

    model = compiled(stack(0))
    freeze_to(model, groups_of(model), 1)
    train(model, range(2))
    freeze_to(model, groups_of(model), 2)
    train(model, range(2, 3))
    twin = way(model, make, tmp_path)
    for each in (model, twin):
        freeze_to(each, groups_of(each), 0)
    assert_goes_on_alike(twin, model, range(3, 5))


@pytest.mark.parametrize("kind", ["file", "checkpoint"])
def test_a_running_optimizer_gives_up_state_that_was_not_stored(kind, tmp_path):
    """What trained here and not there begins anew, averages and accumulators too."""
    settings = {"use_ema": True, "gradient_accumulation_steps": 2}
    model = compiled(stack(0), **settings)
    freeze_to(model, groups_of(model), 1)
    train(model, range(3))
    twin = train(compiled(stack(1), **settings), range(3))
    if kind == "file":
        model.save_weights(tmp_path / "model.weights.h5")
        twin.load_weights(tmp_path / "model.weights.h5")
    else:
        # An average begins at the weight there is, and a checkpoint brings the weights last.
        twin.set_weights(model.get_weights())
        path = tf.train.Checkpoint(model=model, optimizer=model.optimizer).save(tmp_path / "c")
        tf.train.Checkpoint(model=twin, optimizer=twin.optimizer).restore(path)
    freeze_to(model, groups_of(model), 0)
    assert_goes_on_alike(twin, model, range(3, 7))


def test_a_checkpoint_holds_the_weights_of_layers_in_lists(samples, tmp_path):
    """TensorFlow alone would pass by them; a frozen layer's too."""
    sample = samples["subclassed"]
    sizes = {"n_inputs": 8, "n_outputs": 3}
    model, twin = (compiled(m, sample.groups(m)) for m in (sample.model(0), sample.model(1)))
    freeze_to(model, sample.groups(model), 2)
    train(model, range(2), **sizes)
    path = tf.train.Checkpoint(optimizer=model.optimizer).save(tmp_path / "c")
    tf.train.Checkpoint(optimizer=twin.optimizer).restore(path).assert_consumed()
    assert_same(weights(twin), weights(model))


def test_every_slot_lands_on_its_own_variable(tmp_path):
    """With values that tell the slots apart, where training would hide a swap."""
    model = compiled(stack(0))
    model.optimizer.build(model.trainable_variables)
    marks = {}
    for number, (name, slot) in enumerate(model.optimizer._state.variables().items()):
        marks[name] = number + 0.5
        slot.assign(np.full(slot.shape, marks[name]))

    def make() -> keras.Model:
        twin = stack(1)
        return compiled(twin, groups_of(twin)[::-1])

    for way in (through_weights, through_checkpoint):
        twin = way(model, make, tmp_path)
        for layer, unit in zip(twin.layers, range(3)):
            member = twin.optimizer.group_optimizers[2 - unit]
            for number, variable in enumerate([layer.kernel, layer.bias]):
                for name, slots in slots_of(member).items():
                    np.testing.assert_array_equal(
                        slots[variable_index(member, variable)].numpy(),
                        marks[f"{unit}.{number}.{name}"],
                    )


def test_a_checkpoint_may_be_restored_before_the_model_is_compiled(tmp_path):
    model = compiled(stack(0))
    train(model)
    path = tf.train.Checkpoint(model=model, optimizer=model.optimizer).save(tmp_path / "c")
    twin = stack(1)
    optimizer = MultiGroupOptimizer(groups_of(twin), RATES)
    status = tf.train.Checkpoint(model=twin, optimizer=optimizer).restore(path)
    twin.compile(optimizer, "mse", run_eagerly=True)
    optimizer.build(twin.trainable_variables)
    status.assert_consumed()
    assert_goes_on_alike(twin, model, range(3, 5))


def test_a_checkpoint_may_be_restored_into_the_first_step_of_a_traced_function(tmp_path):
    model = compiled(stack(0))
    train(model)
    path = tf.train.Checkpoint(model=model, optimizer=model.optimizer).save(tmp_path / "c")
    twin = stack(1)
    optimizer = MultiGroupOptimizer(groups_of(twin), RATES)
    tf.train.Checkpoint(model=twin, optimizer=optimizer).restore(path)
    variables = twin.trainable_variables
    gradients = [tf.fill(v.shape, 0.1) for v in variables]
    tf.function(lambda: optimizer.apply(gradients, variables))()
    model.optimizer.apply(gradients, model.trainable_variables)
    twin.compile(optimizer, "mse", run_eagerly=True)
    assert_same(weights(twin), weights(model))
    assert_same(state(twin), state(model))


def test_a_checkpoint_with_a_manager_keeps_the_newest(tmp_path):
    model = compiled(stack(0))
    checkpoint = tf.train.Checkpoint(model=model, optimizer=model.optimizer)
    manager = tf.train.CheckpointManager(checkpoint, tmp_path, max_to_keep=1)
    for step in range(3):
        train(model, range(step, step + 1))
        manager.save()
    twin = compiled(stack(1))
    checkpoint = tf.train.Checkpoint(model=twin, optimizer=twin.optimizer)
    manager = tf.train.CheckpointManager(checkpoint, tmp_path, max_to_keep=1)
    assert manager.restore_or_initialize() is not None
    assert_goes_on_alike(twin, model, range(3, 5))


def test_a_checkpoint_holds_nothing_by_position(tmp_path):
    model = compiled(stack(0), use_ema=True, gradient_accumulation_steps=2)
    train(model)
    path = tf.train.Checkpoint(optimizer=model.optimizer).save(tmp_path / "c")
    names = {
        name.split("/")[1].replace("..", ".")  # TensorFlow doubles the dots
        for name, _ in tf.train.list_variables(path)
        if name.startswith("optimizer/")
    }
    slots = ("accumulator", "average", "momentums", "velocities", "weight")
    assert names == {"manifest"} | {
        f"{u}.{v}.{s}" for u in range(3) for v in range(2) for s in slots
    }


def test_the_configuration_restores_settings_rates_and_scale():
    model = compiled(
        stack(),
        rates=[SGDR(0.1, 3), 0.02, SGDR(0.3, 4)],
        optimizer=keras.optimizers.AdamW(weight_decay=0.1, beta_1=0.8),
        global_clipnorm=0.5,
        use_ema=True,
        ema_momentum=0.8,
        ema_overwrite_frequency=4,
        gradient_accumulation_steps=2,
        name="mine",
    )
    optimizer = model.optimizer
    optimizer.learning_rate = 0.15
    config = optimizer.get_config()
    copies = [
        MultiGroupOptimizer.from_config(copy.deepcopy(config)),
        MultiGroupOptimizer.from_config(pickle.loads(pickle.dumps(config))),
        MultiGroupOptimizer.from_config(json.loads(json.dumps(config))),
        keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(optimizer)),
        keras.optimizers.deserialize(keras.optimizers.serialize(optimizer)),
        pickle.loads(pickle.dumps(MultiGroupOptimizer.from_config(config))),
    ]
    for copied in copies:
        assert copied.get_config() == config
        assert copied.learning_rates == optimizer.learning_rates
        assert copied.groups == optimizer.groups
        assert not copied.built
    keras.utils.set_random_seed(0)
    twin = stack()
    twin.compile(copies[0], "mse", run_eagerly=True)
    train(model, range(6))
    train(twin, range(6))
    assert_same(weights(twin), weights(model))


@pytest.mark.parametrize("way", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
def test_a_copy_has_the_same_state(way):
    model = train(compiled(stack(), use_ema=True, gradient_accumulation_steps=2))
    model.optimizer.learning_rate = 0.5
    copied = way(model.optimizer)
    assert copied.learning_rates == model.optimizer.learning_rates
    assert int(copied.iterations) == int(model.optimizer.iterations)
    copied.bind(model)
    assert_same(state_of(copied), state_of(model.optimizer))
    train(model, range(3, 4))  # the copy keeps its own
    assert int(copied.step_counter.numpy()) == 3


def test_a_deep_copy_goes_on_with_the_same_model_or_with_a_copy_of_it():
    model, twin, third = train(compiled(stack())), stack(), stack()
    for other in (twin, third):
        other.set_weights(model.get_weights())
    copied = copy.deepcopy(model.optimizer)
    twin.compile(copied, "mse", run_eagerly=True)
    third.compile(pickle.loads(pickle.dumps(copied)), "mse", run_eagerly=True)
    again = copy.deepcopy(model.optimizer)
    variables = model.trainable_variables
    again.build(variables)
    assert_same(state_of(again), state_of(model.optimizer))
    train(model, range(3, 5))
    for other in (twin, third):
        train(other, range(3, 5))
        assert_same(weights(other), weights(model))
        assert_same(state(other), state(model))


def test_a_copy_of_an_optimizer_without_state():
    copied = copy.deepcopy(MultiGroupOptimizer(groups_of(stack()), RATES))
    assert copied.learning_rates == pytest.approx(RATES)
    assert not copied.built


def test_state_that_was_saved_without_accumulation_empties_the_accumulators(tmp_path):
    model = train(compiled(stack()))
    other = train(compiled(stack(1), gradient_accumulation_steps=2), range(3))
    assert any(np.any(v) for name, v in state(other).items() if name.endswith("accumulator"))
    other.load_weights(stored(tmp_path, model))
    assert not any(np.any(v) for name, v in state(other).items() if name.endswith("accumulator"))
    assert int(other.optimizer.iterations) == int(model.optimizer.iterations)


def test_state_of_a_group_begins_anew_though_its_first_layer_is_frozen(tmp_path):
    """Nadam keeps a product for all variables of a group; the file has none for it."""

    def make(seed: int) -> keras.Model:
        model = stack(seed)
        return compiled(model, groups_of(model, "layer_2"), optimizer=keras.optimizers.Nadam())

    model, twin = make(0), make(1)
    freeze_to(model, groups_of(model, "layer_2"), 1)
    path = stored(tmp_path, model)
    twin.layers[0].trainable = False
    twin.make_train_function(force=True)
    train(twin)
    twin.load_weights(path)
    assert state(twin)["steps of group_0"] == 0
    assert state(twin)["0.group.u_product"] == 1


def test_averages_that_a_file_lacks_begin_at_the_weights(tmp_path):
    model = train(compiled(stack()))
    other = train(compiled(stack(1), use_ema=True))
    other.load_weights(stored(tmp_path, model))
    averages = [v for name, v in state(other).items() if name.endswith("average")]
    assert_same(dict(enumerate(averages)), dict(enumerate(model.get_weights())))


@pytest.mark.parametrize("saved_in", ["float32", "mixed_float16"])
@pytest.mark.parametrize("kind", ["keras", "weights"])
def test_the_loss_scale_around_the_optimizer_makes_no_difference(saved_in, kind, tmp_path):
    """Written inside `LossScaleOptimizer` and read outside of it, or the other way round."""
    read_in = {"float32": "mixed_float16", "mixed_float16": "float32"}[saved_in]
    policy = keras.config.dtype_policy()
    try:
        keras.config.set_dtype_policy(saved_in)
        model = train(compiled(stack()))
        path = stored(tmp_path, model) if kind == "weights" else tmp_path / "m.keras"
        if kind == "keras":
            model.save(path)
        keras.config.set_dtype_policy(read_in)
        with warnings.catch_warnings():
            # Keras' wrapper says that it finds nothing of its own.
            warnings.filterwarnings("ignore", "Skipping variable loading for optimizer 'loss_sc")
            if kind == "keras":
                other = keras.models.load_model(path)
            else:
                other = compiled(stack(1))
                other.optimizer.build(other.trainable_variables)
                other.load_weights(path)
    finally:
        keras.config.set_dtype_policy(policy)
    assert isinstance(other.optimizer, keras.optimizers.LossScaleOptimizer) == (
        read_in == "mixed_float16"
    )
    assert_same(state_of(unwrap(other.optimizer)), state_of(unwrap(model.optimizer)))


def test_a_quantised_model_loads_without_the_state_of_its_kernels(tmp_path):
    model = train(compiled(stack()))
    before = state(model)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*does not have a `quantize` method")
        model.quantize("int8")
    model.save(tmp_path / "m.keras")
    message = r"no longer has these variables .* dropped: \['layer_0/kernel', 'layer_1/kernel', "
    with pytest.warns(UserWarning, match=message):
        loaded = keras.models.load_model(tmp_path / "m.keras")
    after = state(loaded)
    assert int(loaded.optimizer.iterations) == 3
    for layer in range(3):
        for slot in ("momentums", "velocities"):
            saved = before[f"{layer}.1.{slot}"]
            np.testing.assert_array_equal(after[f"{layer}.0.{slot}"], saved)
            assert f"{layer}.1.{slot}" not in after


@pytest.mark.parametrize("knows", [False, True], ids=["model not known yet", "model known"])
def test_a_checkpoint_restores_a_quantised_model_too(knows, tmp_path):
    """Its biases moved to the front of their layers."""
    model = train(compiled(stack()))
    path = tf.train.Checkpoint(optimizer=model.optimizer).save(tmp_path / "c")
    twin = stack(1)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*does not have a `quantize` method")
        twin.quantize("int8")
    groups = groups_of(twin)
    optimizer = MultiGroupOptimizer(groups if knows else [*groups], RATES)
    kernels = [layer.kernel.numpy() for layer in twin.layers]
    with pytest.warns(UserWarning, match=r"dropped: \['layer_0/kernel', 'layer_1/kernel', "):
        tf.train.Checkpoint(optimizer=optimizer).restore(path)
        optimizer.bind(twin)
        optimizer.build(twin.trainable_variables)
    for number, layer in enumerate(twin.layers):
        for slot in ("momentums", "velocities"):
            saved = state(model)[f"{number}.1.{slot}"]
            np.testing.assert_array_equal(state_of(optimizer)[f"{number}.0.{slot}"], saved)
        np.testing.assert_array_equal(layer.bias.numpy(), model.layers[number].bias.numpy())
        np.testing.assert_array_equal(layer.kernel.numpy(), kernels[number])


def test_state_that_the_model_outgrew_is_not_saved_with_a_warning(tmp_path):
    model = train(compiled(stack()))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*does not have a `quantize` method")
        model.layers[0].quantize("int8")
    model.optimizer._assignment.refresh()
    with pytest.warns(UserWarning, match=r"no longer has .* not saved: \['.*layer_0/kernel'\]"):
        model.save(tmp_path / "m.keras")
    keras.models.load_model(tmp_path / "m.keras")


def test_lora_enabled_after_training_keeps_the_state(tmp_path):
    model = train(compiled(stack()))
    before = state(model)
    model.layers[0].enable_lora(2)
    model.compile(model.optimizer, "mse", run_eagerly=True)
    train(model, range(3, 4))
    after = state(model)
    assert {"0.2.momentums", "0.3.momentums"} <= after.keys() - before.keys()
    twin = stack(1)
    twin.layers[0].enable_lora(2)
    twin = compiled(twin)
    path = tf.train.Checkpoint(model=model, optimizer=model.optimizer).save(tmp_path / "c")
    tf.train.Checkpoint(model=twin, optimizer=twin.optimizer).restore(path)
    assert_same(state(twin), after)


@pytest.mark.filterwarnings("ignore:.*compiled metrics have yet to be built")
@pytest.mark.parametrize("inner", [None, keras.optimizers.Nadam()], ids=["Adam", "Nadam"])
def test_a_legacy_file_holds_everything(inner, tmp_path):
    """With Keras' Adam, that format loses the moments."""
    model = stack()
    rates = [0.01, SGDR(0.1, 2), 0.1]
    model.compile(
        MultiGroupOptimizer(groups_of(model), rates, inner),
        keras.losses.MeanSquaredError(),
        run_eagerly=True,
    )
    train(model)
    model.optimizer.learning_rate = 0.05
    model.save(tmp_path / "m.h5")
    loaded = keras.models.load_model(tmp_path / "m.h5")
    assert int(loaded.optimizer.iterations) == 3
    assert loaded.optimizer.learning_rates == model.optimizer.learning_rates
    assert_same(state(loaded), state(model))


def test_a_pickled_model_goes_on_alike():
    model = train(compiled(stack()))
    assert_goes_on_alike(pickle.loads(pickle.dumps(model)), model, range(3, 5))


def build_first(make: Callable[..., keras.Model]) -> Callable[..., keras.Model]:
    def built(seed: int = 1) -> keras.Model:
        model = make(seed)
        model.optimizer.build(model.trainable_variables)
        return model

    return built


@pytest.mark.parametrize(
    ("order", "way"),
    [
        ([0, 1, 2], through_archive),  # which makes the optimizer itself, in the order it had
        ([2, 0, 1], through_weights),
        ([2, 0, 1], through_checkpoint),
    ],
)
def test_the_loss_scale_comes_back_too(order, way, mixed_float16, tmp_path):
    @build_first
    def make(seed: int = 1) -> keras.Model:
        model = stack(seed)
        groups = groups_of(model)
        return compiled(model, [groups[n] for n in order], [RATES[n] for n in order])

    model = compiled(stack(0))
    train(model)
    model.optimizer.dynamic_scale.assign(64.0)
    twin = way(model, make, tmp_path)
    assert float(twin.optimizer.dynamic_scale) == 64.0
    assert int(twin.optimizer.step_counter) == 3
    assert_goes_on_alike(twin, model, range(3, 5))


def test_frozen_and_thawed_inside_the_loss_scale(way, mixed_float16, tmp_path):
    """Keras' wrapper wants to be built on what trained when a file was written; for a checkpoint,
    on what it was first built on."""

    def make(seed: int = 1) -> keras.Model:
        model = stack(seed)
        freeze_to(model, groups_of(model), 1 if seed and way is through_weights else 2)
        compiled(model)
        model.optimizer.build(model.trainable_variables)
        return model

    model = train(make(0), range(2))
    freeze_to(model, groups_of(model), 1)
    train(model, range(2, 3))
    model.optimizer.dynamic_scale.assign(64.0)
    twin = way(model, make, tmp_path)
    assert float(twin.optimizer.dynamic_scale) == 64.0
    for each in (model, twin):
        freeze_to(each, groups_of(each), 0)
    assert_goes_on_alike(twin, model, range(3, 5))


def test_a_file_with_more_variables_keeps_its_state_inside_the_loss_scale(mixed_float16, tmp_path):
    """The scale itself starts anew then, as Keras warns."""
    model = train(compiled(stack(0)))
    model.save_weights(tmp_path / "model.weights.h5")
    twin = stack(1)
    freeze_to(twin, groups_of(twin), 2)
    compiled(twin)
    twin.optimizer.build(twin.trainable_variables)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        twin.load_weights(tmp_path / "model.weights.h5")
    assert any(
        "Skipping variable loading for optimizer 'loss_scale" in str(w.message) for w in caught
    )
    freeze_to(twin, groups_of(twin), 0)
    assert_goes_on_alike(twin, model, range(3, 5))


class Running:
    """A model in the middle of training, whose optimizer is to stay as it is."""

    def __init__(self) -> None:
        self.model = train(compiled(stack(5)), range(7, 9))
        self.before = self.all()

    def all(self) -> dict[str, np.ndarray]:
        optimizer = unwrap(self.model.optimizer)
        return {**state(self.model), "last rates": optimizer.last_learning_rates}

    def assert_untouched(self) -> None:
        assert_same(self.all(), self.before)

    def assert_refuses(self, path: Path, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            self.model.load_weights(path)
        self.assert_untouched()


@pytest.fixture(scope="module")
def running() -> Running:
    """One for all tests: each of them checks that it was not touched."""
    return Running()


def stored(folder: Path, model: keras.Model) -> Path:
    train(model)
    model.save_weights(folder / "stored.weights.h5")
    return folder / "stored.weights.h5"


OTHER_GROUPS = (
    r"differ from this one's.*saved group 'group_0' \(layer_0 \.\.\. layer_1\).*"
    r"this optimizer's group 'group_0' \(layer_0\).*'group_1' \(layer_1\).*left as it is"
)


def with_other_groups() -> keras.Model:
    model = stack(0)
    return compiled(model, groups_of(model, "layer_2"))


def test_other_groups_are_refused_by_a_file(running, tmp_path):
    running.assert_refuses(stored(tmp_path, with_other_groups()), OTHER_GROUPS)


def test_other_groups_are_refused_by_an_archive(running, tmp_path):
    model = with_other_groups()
    train(model)
    model.save(tmp_path / "model.keras")
    running.assert_refuses(tmp_path / "model.keras", OTHER_GROUPS)


def test_other_groups_are_refused_by_a_checkpoint_and_the_model_is_untouched_too(running, tmp_path):
    model = with_other_groups()
    train(model)
    path = tf.train.Checkpoint(model=model, optimizer=model.optimizer).save(tmp_path / "c")
    before = weights(running.model)
    checkpoint = tf.train.Checkpoint(model=running.model, optimizer=running.model.optimizer)
    with pytest.raises(ValueError, match=OTHER_GROUPS):
        checkpoint.restore(path)
    running.assert_untouched()
    assert_same(weights(running.model), before)


def test_other_groups_are_refused_when_the_state_meets_its_variables(tmp_path):
    model = with_other_groups()
    train(model)
    path = tf.train.Checkpoint(optimizer=model.optimizer).save(tmp_path / "c")
    twin = stack(1)
    optimizer = MultiGroupOptimizer(groups_of(twin), RATES)
    with pytest.raises(ValueError, match=OTHER_GROUPS):
        tf.train.Checkpoint(optimizer=optimizer).restore(path)
    assert optimizer.learning_rates == pytest.approx(RATES)
    assert int(optimizer.iterations) == 0


def test_other_groups_are_refused_by_set_weights():
    """Cut elsewhere, with as many variables of the same shapes in all."""
    model, other = stack(0, 4), stack(1, 4)
    compiled(model, groups_of(model, "layer_1", "layer_2"))
    compiled(other, groups_of(other, "layer_1", "layer_3"))
    before = state(train(model))
    with pytest.raises(ValueError, match="groups of the saved optimizer differ"):
        model.optimizer.set_weights([v.numpy() for v in train(other).optimizer.variables])
    assert_same(state(model), before)


def test_other_groups_are_refused_inside_the_loss_scale(mixed_float16, tmp_path):
    """Keras' wrapper writes by position first: not one variable of ours."""
    model, other = stack(0, 4), stack(1, 4)
    compiled(model, groups_of(model, "layer_1", "layer_2"))
    compiled(other, groups_of(other, "layer_1", "layer_3"))
    before = state(train(model))
    path = stored(tmp_path, other)
    with pytest.raises(ValueError, match="groups of the saved optimizer differ from this one's"):
        model.load_weights(path)
    assert_same(state(model), before)


@pytest.mark.parametrize("scaled", [False, True])
def test_the_weights_alone_can_be_loaded_from_a_file_of_other_groups(tmp_path, scaled):
    model, other = stack(0, 4), stack(1, 4)
    optimizer = MultiGroupOptimizer(groups_of(model, "layer_1", "layer_2"), RATES)
    theirs = MultiGroupOptimizer(groups_of(other, "layer_1", "layer_3"), RATES)
    if scaled:
        optimizer, theirs = map(keras.optimizers.LossScaleOptimizer, (optimizer, theirs))
    model.compile(optimizer, "mse", run_eagerly=True)
    other.compile(theirs, "mse", run_eagerly=True)
    path = stored(tmp_path, other)
    before = state(train(model))
    with pytest.raises(
        ValueError, match=r"load_weights\(path, objects_to_skip=\[model.optimizer\]"
    ):
        model.load_weights(path)
    train(model)
    before = state(model)
    model.load_weights(path, objects_to_skip=[model.optimizer])
    assert_same(weights(model), weights(other))
    assert_same(state(model), before)


def test_another_model_is_refused(running, tmp_path):
    """One more layer: the groups hold other layers; wider layers: other shapes."""
    deeper = compiled(stack(0, 4), groups_of(stack(0, 4), "layer_1", "layer_2"))
    path = tf.train.Checkpoint(optimizer=train(deeper).optimizer).save(tmp_path / "deeper")
    checkpoint = tf.train.Checkpoint(optimizer=running.model.optimizer)
    with pytest.raises(ValueError, match=r"saved group 'head' \(layer_2 \.\.\. layer_3\)"):
        checkpoint.restore(path)
    wider = keras.Sequential(
        [keras.Input((WIDTH,))] + [keras.layers.Dense(5, name=f"layer_{n}") for n in range(3)]
    )
    path = tf.train.Checkpoint(optimizer=train(compiled(wider), n_outputs=5).optimizer).save(
        tmp_path / "wider"
    )
    with pytest.raises(
        ValueError, match=r"trained 'layer_0/kernel' of shape \[4, 5\].*'layer_0/kernel' has shape"
    ):
        checkpoint.restore(path)
    running.assert_untouched()


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        (
            "file",
            {"optimizer": keras.optimizers.SGD(momentum=0.9)},
            r"\(SGD\) kept momentums .*this one \(FusedAdam\) keeps",
        ),
        (
            "checkpoint",
            {"use_ema": True},
            r"kept average .*`use_ema` and `decay_to_start` that",
        ),
        (
            "file",
            {"gradient_accumulation_steps": 2},
            r"middle of gradient accumulation \(step 1 of 2\)",
        ),
    ],
    ids=["inner optimizer", "ema", "accumulation"],
)
def test_other_settings_are_refused(kind, arguments, message, running, tmp_path):
    model = compiled(stack(0), **arguments)
    path = stored(tmp_path, model)
    if kind == "file":
        running.assert_refuses(path, message)
        return
    path = tf.train.Checkpoint(optimizer=model.optimizer).save(tmp_path / "c")
    with pytest.raises(ValueError, match=message):
        tf.train.Checkpoint(optimizer=running.model.optimizer).restore(path)
    running.assert_untouched()


def test_accumulation_may_change_between_two_steps(tmp_path):
    model = compiled(stack(0), gradient_accumulation_steps=3)
    path = stored(tmp_path, model)  # three gradients, which make one step
    twin = compiled(stack(1))
    twin.load_weights(path)
    assert int(twin.optimizer.iterations) == int(model.optimizer.iterations) == 1
    expected = {name: v for name, v in state(model).items() if not name.endswith(".accumulator")}
    assert_same(state(twin), {**expected, "iterations": np.asarray(1)})


@pytest.mark.parametrize("other", ["Adam", "none"])
def test_a_file_without_our_state_gives_a_warning_and_its_weights(other, tmp_path):
    model, twin = stack(0), compiled(stack(1))
    path = tmp_path / "m.weights.h5"
    if other == "Adam":
        model.compile(keras.optimizers.Adam(), "mse", run_eagerly=True)
        train(model)
    model.save_weights(path)
    twin.optimizer.build(twin.trainable_variables)
    with pytest.warns(UserWarning, match="Skipping variable loading for optimizer 'multi_group"):
        twin.load_weights(path)
    assert_same(weights(twin), weights(model))
    assert int(twin.optimizer.iterations) == 0


def test_the_file_of_another_optimizer_inside_the_loss_scale(mixed_float16, tmp_path):
    model, twin = stack(0), compiled(stack(1))
    model.compile(keras.optimizers.Adam(), "mse", run_eagerly=True)
    with pytest.warns(UserWarning, match="Skipping variable loading") as caught:
        twin.load_weights(stored(tmp_path, model))
    assert any("multi_group_optimizer" in str(item.message) for item in caught)
    assert_same(weights(twin), weights(model))


def test_the_checkpoint_of_another_optimizer_changes_nothing(running, tmp_path):
    model = stack(0)
    model.compile(keras.optimizers.Adam(), "mse", run_eagerly=True)
    train(model)
    path = tf.train.Checkpoint(optimizer=model.optimizer).save(tmp_path / "c")
    status = tf.train.Checkpoint(optimizer=running.model.optimizer).restore(path)
    with pytest.raises(AssertionError, match="not bound to checkpointed values"):
        status.assert_consumed()
    running.assert_untouched()


def test_weights_without_an_optimizer_give_the_warning_of_keras(running, tmp_path):
    stack(0).save_weights(tmp_path / "bare.weights.h5")
    with pytest.warns(UserWarning, match="Skipping variable loading for optimizer"):
        running.model.load_weights(tmp_path / "bare.weights.h5")
    running.assert_untouched()


def test_random_bytes_are_refused(running, tmp_path):
    path = tmp_path / "random.weights.h5"
    path.write_bytes(np.random.default_rng(0).bytes(4096))
    before = weights(running.model)
    with pytest.raises(OSError, match="file signature not found"):
        running.model.load_weights(path)
    running.assert_untouched()
    assert_same(weights(running.model), before)


def test_a_truncated_file_is_refused(running, stored_file, tmp_path):
    path = tmp_path / "truncated.weights.h5"
    whole = stored_file.read_bytes()
    for share in (0.2, 0.5, 0.9):
        path.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(OSError, match="truncated file"):
            running.model.load_weights(path)
        running.assert_untouched()


@pytest.fixture(scope="module")
def stored_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stored(tmp_path_factory.mktemp("stored"), compiled(stack(0)))


@pytest.fixture
def damaged(stored_file, tmp_path) -> Callable[[Callable[[Any], None]], Path]:
    path = stored_file

    def damage(how: Callable[[Any], None]) -> Path:
        copied = tmp_path / "damaged.weights.h5"
        shutil.copy(path, copied)
        with h5py.File(copied, "r+") as file:
            how(file["optimizer/vars"])
        return copied

    return damage


def test_every_entry_of_a_file_is_needed(running, damaged):
    names: list[str] = []
    damaged(lambda entries: names.extend(entries))
    assert len(names) == 13  # the manifest, and two slots of six variables
    for name in names:

        def remove(entries: Any, name: str = name) -> None:
            del entries[name]

        message = (
            "another optimizer" if name == "manifest" else f"incomplete: '{name}' cannot be read"
        )
        running.assert_refuses(damaged(remove), message)


def replace(entries: Any, name: str, value: Any) -> None:
    del entries[name]
    entries[name] = value


def test_a_slot_of_another_shape_is_refused(running, damaged):
    path = damaged(lambda entries: replace(entries, "1.0.momentums", np.zeros((4, 5), "float32")))
    running.assert_refuses(path, r"damaged: '1.0.momentums' should have shape \[4, 4\].*\[4, 5\]")


def test_a_broken_manifest_is_refused(running, damaged):
    for content in (b"", b"{", b"[]", b"\xff\xfe", b'{"format": "x"}', b'{"format": 1}', b"null"):
        bytes_of = np.frombuffer(content, np.uint8)
        path = damaged(lambda entries, new=bytes_of: replace(entries, "manifest", new))
        running.assert_refuses(path, "damaged|later version")


def test_the_manifest_of_a_later_version_is_refused(running, damaged):
    def later(entries: Any) -> None:
        manifest = json.loads(bytes(entries["manifest"][()]))
        manifest["format"] += 1
        replace(entries, "manifest", np.frombuffer(json.dumps(manifest).encode(), np.uint8))

    running.assert_refuses(
        damaged(later), r"later version of dlr_tf \(format 2; this version reads up to 1\)"
    )


def test_an_optimizer_that_knows_no_model_takes_the_state_when_it_does():
    optimizer = MultiGroupOptimizer(by_hand(groups_of(stack())), RATES)
    model = train(compiled(stack(0)))
    store: dict[str, np.ndarray] = {}
    model.optimizer.save_own_variables(store)
    optimizer.load_own_variables(store)
    assert int(optimizer.iterations) == 3
    optimizer.bind(model)
    assert_same(state_of(optimizer), state_of(model.optimizer))


@pytest.mark.filterwarnings("ignore:Skipping variable loading for optimizer 'loss_scale")
@pytest.mark.parametrize("way", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
def test_a_copy_of_the_loss_scale_and_the_optimizer_in_it(mixed_float16, way):
    model, twin = train(compiled(stack())), stack()
    copied = way(model.optimizer)
    assert int(copied.iterations) == int(model.optimizer.iterations)
    twin.compile(copied, "mse", run_eagerly=True)
    copied.inner_optimizer.bind(twin)
    copied.build(twin.trainable_variables)
    assert_same(state(twin), state(model))


def test_a_checkpoint_written_inside_the_loss_scale_is_read_outside_of_it(tmp_path):
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = train(compiled(stack()))
    finally:
        keras.config.set_dtype_policy("float32")
    path = tf.train.Checkpoint(model=model, optimizer=model.optimizer).write(tmp_path / "c")
    twin = compiled(stack(1))
    tf.train.Checkpoint(model=twin, optimizer=twin.optimizer).read(path)
    assert_same(state(twin), state(model))
    assert_same(weights(twin), weights(model))


def test_quantised_then_lora_trains_on(tmp_path):
    model = train(compiled(stack()))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*does not have a `quantize` method")
        model.quantize("int8")
    model.layers[0].enable_lora(2)
    model.optimizer.bind(model)
    model.optimizer.build(model.trainable_variables)
    model.compile(model.optimizer, "mse", run_eagerly=True)
    train(model, range(3, 5))
    assert {"0.1.momentums", "0.2.momentums"} <= state(model).keys()
    tables: list[str] = []
    model.optimizer.summary(print_fn=tables.append)
    assert "trainable" in tables[0]


@keras.saving.register_keras_serializable(package="dlr_tf_tests")
class Distiller(keras.Model):
    """Trains one of two models of the same structure."""

    def __init__(self, student: keras.Model, teacher: keras.Model, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.student, self.teacher = student, teacher
        self.teacher.trainable = False

    def call(self, inputs: Any) -> Any:
        return self.student(inputs)

    def get_config(self) -> dict[str, Any]:
        serialize = keras.saving.serialize_keras_object
        return {"student": serialize(self.student), "teacher": serialize(self.teacher)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Distiller:
        return cls(**{n: keras.saving.deserialize_keras_object(c) for n, c in config.items()})


def test_the_groups_of_a_model_inside_the_compiled_one(tmp_path):
    student, teacher = stack(0), stack(1)
    student.name, teacher.name = "student", "teacher"
    model = Distiller(student, teacher)
    model.build((None, WIDTH))
    model.compile(
        MultiGroupOptimizer(groups_of(student), RATES),
        keras.losses.MeanSquaredError(),
        run_eagerly=True,
    )
    train(model)
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert loaded.optimizer._assignment.model is loaded.student
    assert_same(state(loaded), state(model))
    loaded.compile(loaded.optimizer, "mse", run_eagerly=True)
    train(loaded, range(3, 5))
    train(model, range(3, 5))
    assert_same(weights(loaded.student), weights(model.student))


@pytest.mark.filterwarnings("ignore:.*compiled metrics have yet to be built")
def test_a_legacy_file_of_other_trained_variables_keeps_steps_and_rates(tmp_path):
    model = stack()
    rates = [0.01, SGDR(0.1, 8), 0.1]
    optimizer = MultiGroupOptimizer(groups_of(model), rates)
    model.compile(optimizer, keras.losses.MeanSquaredError(), run_eagerly=True)
    train(model)
    freeze_to(model, optimizer.groups, -1)
    model.save(tmp_path / "m.h5")
    with pytest.warns(UserWarning, match="Only its steps and rates were restored"):
        loaded = keras.models.load_model(tmp_path / "m.h5")
    assert int(loaded.optimizer.iterations) == 3
    assert loaded.optimizer.learning_rates == model.optimizer.learning_rates
    assert loaded.optimizer.group_steps.numpy().tolist() == [0, 0, 0]


def test_set_weights_of_other_groups_says_so(running):
    other = train(compiled(stack(1), groups_of(stack(1), "layer_1")))
    with pytest.raises(ValueError, match="one array per variable|groups of the saved optimizer"):
        running.model.optimizer.set_weights([v.numpy() for v in other.optimizer.variables])
    other = compiled(stack(1, 4), groups_of(stack(1, 4), "layer_1", "layer_3"))
    model = compiled(stack(0, 4), groups_of(stack(0, 4), "layer_1", "layer_2"))
    with pytest.raises(ValueError, match="groups of the saved optimizer differ"):
        train(model).optimizer.set_weights([v.numpy() for v in train(other).optimizer.variables])
    running.assert_untouched()


def test_state_that_was_saved_before_the_model_was_known_is_the_configuration():
    optimizer = MultiGroupOptimizer(by_hand(groups_of(stack())), RATES)
    store: dict[str, np.ndarray] = {}
    optimizer.save_own_variables(store)
    assert store.keys() == {"manifest"}
    model = train(compiled(stack()))
    before = state(model)
    model.optimizer.load_own_variables(store)
    assert_same(state(model), before)


def test_set_weights_wants_all_of_them(running):
    arrays = [v.numpy() for v in running.model.optimizer.variables]
    with pytest.raises(ValueError, match=f"Received {len(arrays) - 1} arrays for {len(arrays)}"):
        running.model.optimizer.set_weights(arrays[:-1])
    for groups in (groups_of(stack()), by_hand(groups_of(stack()))):
        fresh = MultiGroupOptimizer(groups, RATES)
        with pytest.raises(ValueError, match="not built or does not know its model"):
            fresh.set_weights(arrays)
    running.assert_untouched()


def test_the_manifest_is_plain_json():
    model = compiled(stack(0), rates=[SGDR(0.1, 3), 0.02, 0.3])
    train(model)
    manifest = model.optimizer._state.manifest()
    assert json.loads(json.dumps(manifest)) == manifest
    assert [group["name"] for group in manifest["groups"]] == ["group_0", "group_1", "head"]


@pytest.mark.parametrize("form", ["archive", "checkpoint"])
def test_a_copy_that_is_saved_before_it_trains_keeps_its_state(form, tmp_path):
    model = train(compiled(stack()))
    model.compile(copy.deepcopy(model.optimizer), keras.losses.MeanSquaredError())
    if form == "archive":
        model.save(tmp_path / "m.keras")
        twin = keras.models.load_model(tmp_path / "m.keras")
    else:
        path = tf.train.Checkpoint(model=model, optimizer=model.optimizer).save(tmp_path / "c")
        twin = compiled(stack(1))
        tf.train.Checkpoint(model=twin, optimizer=twin.optimizer).restore(path)
    assert {"0.0.momentums", "2.1.velocities"} <= state(twin).keys()
    assert_same(state(twin), state(model))


def test_a_copy_that_was_bound_to_a_wrong_model_is_not_lost():
    model = train(compiled(stack()))
    wider = keras.Sequential(
        [keras.Input((WIDTH,))] + [keras.layers.Dense(5, name=f"layer_{n}") for n in range(3)]
    )
    copied = pickle.loads(pickle.dumps(model.optimizer))
    with pytest.raises(ValueError, match="Load it into the model it was saved with"):
        copied.bind(wider)
    assert not copied._assignment.is_known
    copied.bind(model)
    assert_same(state_of(copied), state_of(model.optimizer))


def test_a_checkpoint_written_after_one_of_other_names_was_read(tmp_path):
    model = train(compiled(stack()))
    path = tf.train.Checkpoint(optimizer=model.optimizer).save(tmp_path / "c")
    twin, third = stack(1), stack(2)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*does not have a `quantize` method")
        twin.quantize("int8")
        third.quantize("int8")
    optimizer = MultiGroupOptimizer([*groups_of(twin)], RATES)
    with pytest.warns(UserWarning, match="state was dropped"):
        tf.train.Checkpoint(optimizer=optimizer).restore(path)
        optimizer.bind(twin)
        optimizer.build(twin.trainable_variables)
    path = tf.train.Checkpoint(optimizer=optimizer).save(tmp_path / "d")
    other = MultiGroupOptimizer(groups_of(third), RATES)
    tf.train.Checkpoint(optimizer=other).restore(path)
    assert_same(state_of(other), state_of(optimizer))


def test_slots_of_one_name_may_mean_something_else(tmp_path):
    model = train(compiled(stack(), optimizer=keras.optimizers.Lion()))
    twin = compiled(stack(1), optimizer=keras.optimizers.SGD(momentum=0.9))
    with pytest.raises(ValueError, match=r"\(Lion\) kept momentums .*this one \(SGD\) keeps"):
        twin.load_weights(stored(tmp_path, model))


def test_a_checkpoint_from_before_the_model_was_known(tmp_path):
    optimizer = MultiGroupOptimizer([*groups_of(stack())], RATES)
    path = tf.train.Checkpoint(optimizer=optimizer).save(tmp_path / "c")
    twin = compiled(stack())
    tf.train.Checkpoint(optimizer=twin.optimizer).restore(path)
    assert int(train(twin).optimizer.iterations) == 3
