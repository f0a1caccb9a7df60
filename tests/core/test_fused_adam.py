from __future__ import annotations

import json
import types
from typing import Any

import keras
import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf

from dlr_tf.core import fused_adam
from dlr_tf.core._keras import moving_averages, slots_of
from dlr_tf.core.fused_adam import AdamStep, FusedAdam
from dlr_tf.core.groups import split_evenly, split_layerwise
from dlr_tf.core.optimizer import MultiGroupOptimizer
from dlr_tf.core.schedules import OneCycle
from tests import reference
from tests.core.core_helpers import with_floatx

SHAPES = ((17, 9), (9,), (3, 3, 2, 4), (1, 1), ())


def make_variables(dtype: str = "float32", seed: int = 0) -> list[keras.Variable]:
    rng = np.random.default_rng(seed)
    return [keras.Variable(rng.normal(size=shape), dtype=dtype) for shape in SHAPES]


def make_gradients(steps: int, dtype: Any = "float32", seed: int = 1) -> list[list[Any]]:
    """Gradients of sizes from 1e-4 to 10, some of them zero."""
    rng = np.random.default_rng(seed)
    sizes = 10.0 ** rng.uniform(-4, 1, steps)
    return [
        [
            (size * rng.normal(size=shape) * (rng.random(shape) > 0.1)).astype(dtype)
            for shape in SHAPES
        ]
        for size in sizes
    ]


def flat(variables: Any) -> np.ndarray:
    return np.concatenate([np.ravel(v.numpy()).astype(np.float64) for v in variables])


def run(
    optimizer: Any, variables: list[Any], gradients: list[list[Any]], mode: str = "graph"
) -> np.ndarray:
    def step(step_gradients: list[Any]) -> None:
        optimizer.apply(step_gradients, variables)

    if mode != "eager":
        optimizer.build(variables)
        step = tf.function(step, jit_compile=mode == "xla")
    for step_gradients in gradients:
        step([tf.convert_to_tensor(g) for g in step_gradients])
    return flat(variables)


def relative_error(actual: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(actual - expected) / np.linalg.norm(expected))


def operations_of(optimizer: Any, variables: list[Any]) -> int:
    """How many operations one traced update has, its inputs left out."""
    specs = [tf.TensorSpec(v.shape, v.dtype) for v in variables]
    optimizer.build(variables)

    @tf.function
    def step(*gradients: Any) -> None:
        optimizer.apply(gradients, variables)

    graph = step.get_concrete_function(*specs).graph
    return sum(op.type != "Placeholder" for op in graph.get_operations())


@pytest.mark.parametrize(
    ("rate", "settings"),
    [(1e-2, {}), (1e-4, {"amsgrad": True}), (1e-3, {"weight_decay": 0.1})],
    ids=str,
)
def test_equals_keras_adam_after_100_steps(rate, settings):
    gradients = make_gradients(100)
    fused = run(FusedAdam(rate, **settings), make_variables(), gradients)
    theirs = run(keras.optimizers.Adam(rate, **settings), make_variables(), gradients)
    assert relative_error(fused, theirs) < 1e-6
    assert relative_error(fused, flat(make_variables())) > 5 * rate  # it did move


KERNELS = ("ResourceApplyAdam", "ResourceApplyAdamWithAmsgrad")


def kernels_of(optimizer: FusedAdam, sizes: list[int], jit_compile: bool = False) -> list[int]:
    """The sizes of the variables that one traced update gives to a kernel of Adam."""
    variables = [keras.Variable(np.zeros(size, "float32")) for size in sizes]
    optimizer.build(variables)

    @tf.function(jit_compile=jit_compile)
    def step(*gradients: Any) -> None:
        optimizer.apply(gradients, variables)

    specs = [tf.TensorSpec(v.shape, v.dtype) for v in variables]
    operations = step.get_concrete_function(*specs).graph.get_operations()
    return [op.inputs[-1].shape[0] for op in operations if op.type in KERNELS]


@pytest.mark.parametrize("amsgrad", [False, True])
def test_neither_tiny_nor_large_variables_are_updated_by_operations(amsgrad):
    sizes = [1, 32, 33, 39_999, 40_000]
    assert kernels_of(FusedAdam(amsgrad=amsgrad), sizes) == [1, 32, 40_000]


def test_in_a_large_step_every_variable_is_given_to_the_kernel():
    assert kernels_of(FusedAdam(), [33, 999_966]) == [999_966]
    assert kernels_of(FusedAdam(), [33, 999_967]) == [33, 999_967]


def test_all_groups_that_move_decide_whether_a_step_is_large():
    """And the update of a single variable is as large as its optimizer."""
    layers = [keras.layers.Dense(1000, name="body"), keras.layers.Dense(2, name="top")]
    model = keras.Sequential([keras.Input((1000,)), *layers])
    optimizer = MultiGroupOptimizer(split_evenly(model, 2), [1e-3, 1e-2])

    def kernels(variables: list[Any]) -> list[Any]:
        gradients = [tf.zeros(v.shape) for v in variables]
        step = tf.function(lambda: optimizer.apply(gradients, variables))
        operations = step.get_concrete_function().graph.get_operations()
        return [op.inputs[-1].shape for op in operations if op.type in KERNELS]

    variables = model.trainable_variables
    assert kernels(variables) == [(1000, 1000), (1000,), (1000, 2), (2,)]
    assert kernels(variables[2:]) == [(2,)]
    body = optimizer.group_optimizers[0]
    step = tf.function(lambda: body.update_step(tf.zeros(1000), variables[1], 1e-3))
    operations = step.get_concrete_function().graph.get_operations()
    assert "ResourceApplyAdam" in {op.type for op in operations}


def test_under_xla_every_variable_is_given_to_the_kernel():
    sizes = [1, 33, 40_000]
    assert kernels_of(FusedAdam(), sizes, jit_compile=True) == sizes


def test_on_a_gpu_every_variable_is_given_to_the_kernel(monkeypatch):
    monkeypatch.setattr(fused_adam, "_on_gpu", lambda variable: True)
    assert kernels_of(FusedAdam(), [1, 33, 40_000]) == [1, 33, 40_000]


@pytest.mark.parametrize(
    ("device", "gpus", "expected"),
    [
        ("/job:localhost/replica:0/task:0/device:GPU:1", [], True),
        ("/job:localhost/replica:0/task:0/device:CPU:0", ["GPU:0"], False),
        # A variable that is made in a traced function.
        ("", [], False),
        ("", ["GPU:0"], True),
    ],
)
def test_the_device_of_a_variable_decides(monkeypatch, device, gpus, expected):
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: gpus)
    variable = types.SimpleNamespace(handle=types.SimpleNamespace(device=device))
    assert fused_adam._on_gpu(variable) is expected


@pytest.mark.parametrize("size", [32, 33, 39_999, 40_000])
@pytest.mark.parametrize("settings", [{}, {"amsgrad": True}], ids=str)
def test_both_ways_equal_keras_adam_after_100_steps(size, settings):
    rng = np.random.default_rng(size)
    gradients = [[rng.normal(size=size).astype("float32")] for _ in range(100)]
    start = rng.normal(size=size)
    variables = [[keras.Variable(start, dtype="float32")] for _ in range(2)]
    fused = run(FusedAdam(1e-2, **settings), variables[0], gradients)
    theirs = run(keras.optimizers.Adam(1e-2, **settings), variables[1], gradients)
    assert relative_error(fused, theirs) < 1e-6


@pytest.mark.parametrize("amsgrad", [False, True])
def test_equals_the_formula(amsgrad):
    gradients = make_gradients(100)
    start = [v.numpy() for v in make_variables()]
    expected = reference.article_adam(start, gradients, [1e-2] * len(start), amsgrad=amsgrad)
    fused = run(FusedAdam(1e-2, amsgrad=amsgrad), make_variables(), gradients)
    assert relative_error(fused, np.concatenate([np.ravel(p) for p in expected])) < 1e-6


@pytest.mark.parametrize("size", [1, 32, 33, 39_999, 40_000])
@pytest.mark.parametrize("settings", [{}, {"amsgrad": True}, {"beta_2": 0.99}], ids=str)
def test_every_way_equals_the_formula_from_zero(size, settings):
    """As biases begin: the weights are the distance that they moved."""
    rng = np.random.default_rng(size)
    gradients = [[(rng.normal(size=size) + 1).astype("float32")] for _ in range(100)]
    start = np.zeros(size, "float32")
    (expected,) = reference.article_adam([start], gradients, [1e-3], **settings)
    (fused, theirs) = (
        run(kind(1e-3, **settings), [keras.Variable(start)], gradients)
        for kind in (FusedAdam, keras.optimizers.Adam)
    )
    assert relative_error(fused, expected) < 1e-6
    assert relative_error(fused, theirs) < 1e-5


@pytest.mark.parametrize("amsgrad", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_rate_is_float64_where_floatx_is(amsgrad):
    """Under XLA, AMSGrad is Keras' own update, which rounds beta_2."""
    gradients = make_gradients(10, "float64")
    start = [v.numpy() for v in make_variables("float64")]
    with with_floatx("float64"):
        fused, theirs = (
            run(kind(1e-2, amsgrad=amsgrad), make_variables("float64"), gradients, "xla")
            for kind in (FusedAdam, keras.optimizers.Adam)
        )
    expected = reference.article_adam(start, gradients, [1e-2] * len(start))
    expected = theirs if amsgrad else np.concatenate([np.ravel(p) for p in expected])
    assert relative_error(fused, expected) < 1e-13


def test_equals_keras_adam_on_gradients_that_depend_on_the_weights():
    rng = np.random.default_rng(5)
    a = tf.constant(rng.normal(size=(50, 20)), tf.float32)
    b = tf.constant(rng.normal(size=(50, 1)), tf.float32)

    def trained(optimizer: Any) -> np.ndarray:
        weights = keras.Variable(np.zeros((20, 1), "float32"))
        optimizer.build([weights])

        @tf.function
        def step() -> None:
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean((a @ weights.value - b) ** 2)
            optimizer.apply([tape.gradient(loss, weights.value)], [weights])

        for _ in range(100):
            step()
        return flat([weights])

    assert relative_error(trained(FusedAdam(1e-2)), trained(keras.optimizers.Adam(1e-2))) < 1e-6


@pytest.mark.parametrize(("mode", "amsgrad"), [("eager", True), ("xla", False)])
def test_runs_eagerly_and_under_xla(mode, amsgrad):
    gradients = make_gradients(20)
    settings = {"amsgrad": amsgrad, "weight_decay": 0.01}
    fused = run(FusedAdam(1e-2, **settings), make_variables(), gradients, mode)
    theirs = run(keras.optimizers.Adam(1e-2, **settings), make_variables(), gradients, "eager")
    assert relative_error(fused, theirs) < 1e-6


@pytest.mark.slow
def test_amsgrad_under_xla_is_keras_own_update():
    gradients = make_gradients(5)
    fused = run(FusedAdam(1e-2, amsgrad=True), make_variables(), gradients, "xla")
    theirs = run(keras.optimizers.Adam(1e-2, amsgrad=True), make_variables(), gradients, "xla")
    np.testing.assert_array_equal(fused, theirs)


def test_float64_variables_are_updated_in_float64():
    gradients = make_gradients(50, "float64")
    start = [v.numpy() for v in make_variables("float64")]
    fused = run(FusedAdam(1e-2), make_variables("float64"), gradients)
    # The rate is a float32 variable, as in Keras.
    expected = reference.article_adam(start, gradients, [float(np.float32(1e-2))] * len(start))
    assert relative_error(fused, np.concatenate([np.ravel(p) for p in expected])) < 1e-13
    # Keras rounds beta_1 and beta_2 to float32 before it raises them to the step.
    theirs = run(keras.optimizers.Adam(1e-2), make_variables("float64"), gradients)
    assert relative_error(fused, theirs) < 1e-6


@pytest.mark.parametrize(
    ("dtype", "mode"), [("float16", "graph"), ("bfloat16", "eager"), ("float16", "eager")]
)
def test_half_precision_is_keras_own_update(dtype, mode):
    numpy_dtype = ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype
    gradients = make_gradients(5, numpy_dtype)
    results = [
        run(optimizer(1e-2), make_variables(dtype), gradients, mode)
        for optimizer in (FusedAdam, keras.optimizers.Adam)
    ]
    np.testing.assert_array_equal(*results)
    # Keras' Adam stands still in bfloat16, where 1 - beta_2 is 0.
    assert np.array_equal(results[0], flat(make_variables(dtype))) == (dtype == "bfloat16")


def test_variables_of_several_dtypes_in_one_optimizer():
    dtypes = ["float16", "float32", "float64", "bfloat16"]
    results = []
    for kind in (FusedAdam, keras.optimizers.Adam):
        variables = [keras.Variable([1.0, 2.0], dtype=dtype) for dtype in dtypes]
        optimizer = kind(1e-2)
        for _ in range(3):
            # As under mixed precision: gradients of another dtype than the variable.
            optimizer.apply([tf.constant([0.5, -0.5])] * 4, variables)
        results.append([v.numpy() for v in variables])
    for dtype, ours, theirs in zip(dtypes, *results):
        assert ours.dtype == theirs.dtype
        tolerance = {"float32": 1e-6, "float64": 1e-6}.get(dtype, 0)
        np.testing.assert_allclose(ours.astype("float64"), theirs.astype("float64"), rtol=tolerance)


@pytest.mark.parametrize(("amsgrad", "mode"), [(False, "graph"), (True, "eager")])
def test_sparse_gradients_are_keras_own_update(amsgrad, mode):

    def trained(optimizer: Any) -> np.ndarray:
        variable = keras.Variable(np.arange(12.0).reshape(6, 2).astype("float32"))
        optimizer.build([variable])

        def step(indices: Any) -> None:
            values = tf.reshape(tf.range(6.0), (3, 2)) - 2.5
            gradient = tf.IndexedSlices(values, indices, tf.constant([6, 2]))
            optimizer.apply([gradient], [variable])

        if mode == "graph":
            step = tf.function(step)
        for indices in ([0, 2, 5], [2, 2, 1], [5, 0, 5]):
            step(tf.constant(indices))
        return variable.numpy()

    fused = trained(FusedAdam(1e-2, amsgrad=amsgrad))
    np.testing.assert_array_equal(fused, trained(keras.optimizers.Adam(1e-2, amsgrad=amsgrad)))
    assert not np.array_equal(fused[0], [0.0, 1.0])


def test_the_rate_may_be_a_schedule_or_a_callable():
    schedule = keras.optimizers.schedules.InverseTimeDecay(1e-2, 1, 0.5)
    gradients = make_gradients(10)
    expected = run(keras.optimizers.Adam(schedule), make_variables(), gradients)
    assert relative_error(run(FusedAdam(schedule), make_variables(), gradients), expected) < 1e-6
    constant = run(FusedAdam(lambda: 0.1), make_variables(), gradients)
    np.testing.assert_array_equal(constant, run(FusedAdam(0.1), make_variables(), gradients))


def test_the_rate_can_be_set_between_traced_steps():
    optimizer, variables = FusedAdam(0.1), make_variables()
    optimizer.build(variables)
    step = tf.function(lambda g: optimizer.apply(g, variables))
    gradients = [tf.convert_to_tensor(g) for g in make_gradients(1)[0]]
    step(gradients)
    before = flat(variables)
    optimizer.learning_rate = 0.0
    step(gradients)
    np.testing.assert_array_equal(flat(variables), before)
    assert int(optimizer.iterations) == 2


@pytest.mark.parametrize(
    "settings",
    [
        {"clipnorm": 0.1},
        {"clipvalue": 0.01},
        {"global_clipnorm": 0.1},
        {"use_ema": True, "ema_momentum": 0.5, "ema_overwrite_frequency": 3},
        {"loss_scale_factor": 4.0},
        {"gradient_accumulation_steps": 2},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_what_keras_does_around_the_update_stays(settings):
    gradients = make_gradients(6)
    fused, theirs, bare = (
        run(optimizer, make_variables(), gradients, "eager")
        for optimizer in (
            FusedAdam(1e-2, **settings),
            keras.optimizers.Adam(1e-2, **settings),
            FusedAdam(1e-2),
        )
    )
    assert relative_error(fused, theirs) < 1e-6
    assert relative_error(fused, bare) > 1e-4


STRATEGIES = {
    "one_device": lambda: tf.distribute.OneDeviceStrategy("/cpu:0"),
    "mirrored": lambda: tf.distribute.MirroredStrategy(["/cpu:0"]),
}


@pytest.mark.parametrize(
    ("strategy", "weight_decay"), [("one_device", 0.1), ("mirrored", None), ("mirrored", 0.1)]
)
def test_shared_constants_reach_the_update_under_a_strategy(strategy, weight_decay):
    strategy = STRATEGIES[strategy]()
    gradients = make_gradients(3)
    seen = []

    class Recording(FusedAdam):
        def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
            seen.append(type(learning_rate))
            super().update_step(gradient, variable, learning_rate)

    with strategy.scope():
        variables = make_variables()
        optimizer = Recording(1e-2, weight_decay=weight_decay)
        optimizer.build(variables)

    @tf.function
    def step(step_gradients: list[Any]) -> None:
        # Strategies look at the device of a gradient, which an argument has not.
        strategy.run(lambda: optimizer.apply([tf.identity(g) for g in step_gradients], variables))

    for step_gradients in gradients:
        step([tf.convert_to_tensor(g) for g in step_gradients])
    assert set(seen) == {AdamStep}
    plain = run(FusedAdam(1e-2, weight_decay=weight_decay), make_variables(), gradients)
    np.testing.assert_allclose(flat(variables), plain, rtol=1e-6)


def test_shared_constants_reach_the_update_without_a_strategy():
    seen = []

    class Recording(FusedAdam):
        def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
            seen.append(learning_rate)
            super().update_step(gradient, variable, learning_rate)

    run(Recording(1e-2), make_variables(), make_gradients(1), "eager")
    assert len(seen) == len(SHAPES)
    assert all(constants is seen[0] for constants in seen)
    assert isinstance(seen[0], AdamStep)
    assert float(seen[0].learning_rate) == np.float32(1e-2)


def test_a_first_step_moves_by_the_rate():
    variable = keras.Variable([1.0, 2.0, 3.0, 4.0])
    FusedAdam(0.5).apply_gradients([(keras.ops.array([1.0, 6.0, 7.0, 2.0]), variable)])
    np.testing.assert_allclose(variable.numpy(), [0.5, 1.5, 2.5, 3.5], rtol=1e-4)


def test_weight_decay_shrinks_what_is_not_excluded():
    zero = keras.ops.zeros(())
    decayed, named, listed = (keras.Variable(2.0, name=name) for name in ("a", "skip_me", "c"))
    FusedAdam(1.0, weight_decay=0.004).apply_gradients([(zero, decayed)])
    by_name = FusedAdam(1.0, weight_decay=0.004)
    by_name.exclude_from_weight_decay(var_names=["skip"])
    by_name.apply_gradients([(zero, decayed), (zero, named)])
    by_list = FusedAdam(1.0, weight_decay=0.004)
    by_list.exclude_from_weight_decay(var_list=[listed])
    by_list.apply_gradients([(zero, decayed), (zero, listed)])
    np.testing.assert_allclose(decayed.numpy(), 1.9760959, rtol=1e-6)
    assert named.numpy() == 2.0
    assert listed.numpy() == 2.0


def test_amsgrad_over_the_first_steps():
    variable = keras.Variable(np.ones(10, "float32"))
    optimizer = FusedAdam(amsgrad=True)
    optimizer.apply_gradients([(keras.ops.full((10,), 0.01), variable)])
    for expected in (0.999, 0.9982, 0.9974, 0.9965, 0.9955):
        np.testing.assert_allclose(variable.numpy(), [expected] * 10, rtol=5e-4)
        optimizer.apply_gradients([(keras.ops.arange(0.1, 1.1, 0.1), variable)])


def test_averages_begin_at_the_first_updated_weights():
    optimizer = FusedAdam(1.0, use_ema=True, ema_momentum=0.9)
    variable = keras.Variable([1.0, 2.0])
    gradient = keras.ops.array([0.1, 0.2])
    optimizer.apply_gradients([(gradient, variable)])
    first = variable.numpy()
    np.testing.assert_array_equal(moving_averages(optimizer)[0].numpy(), first)
    optimizer.apply_gradients([(gradient, variable)])
    expected = 0.9 * first + 0.1 * variable.numpy()
    optimizer.finalize_variable_values([variable])
    np.testing.assert_allclose(variable.numpy(), expected, rtol=1e-6)


def test_clipnorm_with_an_embedding_in_fit():
    layers = [keras.layers.Embedding(10, 4), keras.layers.Flatten(), keras.layers.Dense(2)]
    model = keras.Sequential([keras.Input((5,)), *layers])
    model.compile(FusedAdam(clipnorm=100), "mse", run_eagerly=True)
    before = layers[0].embeddings.numpy()
    model.fit(np.ones((8, 5)), np.zeros((8, 2)), verbose=0)
    moved = np.any(layers[0].embeddings.numpy() != before, axis=1)
    assert moved.tolist() == [False, True] + [False] * 8


def test_constraints_are_applied():
    variable = keras.Variable([0.5, 0.5])
    variable.constraint = keras.constraints.NonNeg()
    FusedAdam(1.0).apply([tf.constant([1.0, -1.0])], [variable])
    np.testing.assert_allclose(variable.numpy(), [0.0, 1.5], rtol=1e-5)


def test_a_subset_of_the_variables_can_be_updated():
    variables = make_variables()
    optimizer = FusedAdam(1e-2)
    optimizer.build(variables)
    before = [v.numpy() for v in variables]
    optimizer.apply([tf.ones((9,))], [variables[1]])
    for i, (variable, value) in enumerate(zip(variables, before)):
        assert np.array_equal(variable.numpy(), value) == (i != 1)


@pytest.mark.parametrize("amsgrad", [False, True])
def test_two_slots_per_variable(amsgrad):
    variables = make_variables()
    optimizer = FusedAdam(amsgrad=amsgrad)
    optimizer.build(variables)
    names = {"momentums", "velocities"} | ({"velocity_hats"} if amsgrad else set())
    slots = slots_of(optimizer)
    assert set(slots) == names
    assert len(optimizer.variables) == 2 + len(names) * len(variables)
    for of_name in slots.values():
        assert [(v.shape, v.dtype) for v in of_name] == [(v.shape, v.dtype) for v in variables]


def test_the_slots_are_keras_own_so_states_can_be_exchanged():
    gradients = make_gradients(8)
    variables = make_variables()
    theirs = keras.optimizers.Adam(1e-2)
    run(theirs, variables, gradients[:4], "eager")
    fused, twins = FusedAdam(1e-2), make_variables()
    fused.build(twins)
    for twin, variable in zip([*twins, *fused.variables], [*variables, *theirs.variables]):
        twin.assign(variable)
    expected = run(theirs, variables, gradients[4:], "eager")
    assert relative_error(run(fused, twins, gradients[4:], "eager"), expected) < 1e-6


def test_configuration_round_trip():
    optimizer = FusedAdam(
        0.5, beta_1=0.5, beta_2=0.67, epsilon=1e-5, amsgrad=True, weight_decay=0.1, clipnorm=2.0
    )
    serialized = keras.saving.serialize_keras_object(optimizer)
    assert serialized["registered_name"] == "dlr_tf>FusedAdam"
    revived = keras.saving.deserialize_keras_object(json.loads(json.dumps(serialized)))
    assert type(revived) is FusedAdam
    assert revived.get_config() == optimizer.get_config()
    theirs = keras.optimizers.Adam(name=optimizer.name)
    assert FusedAdam(name=optimizer.name).get_config() == theirs.get_config()
    assert type(keras.optimizers.get(serialized)) is FusedAdam


def test_saved_with_a_model(tmp_path):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.compile(FusedAdam(0.1), "mse", run_eagerly=True)
    x, y = np.ones((4, 3)), np.zeros((4, 2))
    model.fit(x, y, epochs=2, verbose=0)
    model.save(tmp_path / "model.keras")
    revived = keras.models.load_model(tmp_path / "model.keras")
    assert type(revived.optimizer) is FusedAdam
    for candidate in (model, revived):
        candidate.fit(x, y, epochs=2, verbose=0)
    np.testing.assert_array_equal(flat(revived.weights), flat(model.weights))


def test_wrong_arguments_are_keras_errors():
    with pytest.raises(ValueError, match=r"not recognized: {'beta_3': 0.1}"):
        FusedAdam(beta_3=0.1)
    with pytest.raises(ValueError, match="Only one of `clipnorm`, `clipvalue`"):
        FusedAdam(clipnorm=1.0, clipvalue=1.0)


def wide_model(n_layers: int) -> keras.Model:
    layers = [keras.layers.Dense(4) for _ in range(n_layers)]
    return keras.Sequential([keras.Input((4,)), *layers])


GROUPINGS = {
    "alone": None,
    "three_groups": lambda model: split_evenly(model, 3),
    "group_per_layer": split_layerwise,
}


@pytest.mark.parametrize("grouping", GROUPINGS)
def test_at_most_eight_operations_per_variable(grouping):
    counts = {}
    for n_layers in (4, 20):
        model = wide_model(n_layers)
        if grouping == "alone":
            optimizer = FusedAdam(1e-3)
        else:
            optimizer = MultiGroupOptimizer(GROUPINGS[grouping](model), 1e-3)
        counts[n_layers] = operations_of(optimizer, model.trainable_variables)
    per_variable = (counts[20] - counts[4]) / 32
    assert per_variable <= 8
    assert counts[20] - 40 * per_variable <= 48
    if grouping == "alone":
        # The count means something: Keras' own Adam needs several times as many.
        theirs = operations_of(keras.optimizers.Adam(), wide_model(4).trainable_variables)
        assert theirs > 2 * counts[4]


def test_a_feature_that_is_not_used_costs_nothing():
    """Neither an operation of the step, nor a variable."""

    def cost(template: Any = None, **arguments: Any) -> tuple[int, int]:
        model = wide_model(4)
        optimizer = MultiGroupOptimizer(split_evenly(model, 3), 1e-3, template, **arguments)
        operations = operations_of(optimizer, model.trainable_variables)
        return operations, len(optimizer.variables)

    operations, variables = cost()
    momentum = OneCycle(1.0, 10).momentum()
    for unused in (
        {"weight_decay": None, "decay_to_start": None},
        {"weight_decay": 0.0, "decay_to_start": 0.0},
        {"template": "adam"},
        {"template": FusedAdam(beta_1=0.9)},
    ):
        assert cost(**unused) == (operations, variables)
    # The count means something: what is used costs operations, and one of them variables.
    for used, added in (
        ({"weight_decay": 0.1}, 0),
        ({"template": FusedAdam(beta_1=momentum)}, 0),
        ({"decay_to_start": 0.1}, 6),
    ):
        more, others = cost(**used)
        assert more > operations
        assert others - variables == added


def test_weight_decay_costs_few_operations():
    counts = [
        operations_of(FusedAdam(1e-3, weight_decay=0.1), wide_model(n).trainable_variables)
        for n in (4, 20)
    ]
    assert (counts[1] - counts[0]) / 32 <= 12
