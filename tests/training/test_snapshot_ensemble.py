"""The snapshots of SGDR cycles in a real `fit`, of models that run eagerly."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from dlr_tf.core.groups import split_layers
from dlr_tf.core.optimizer import MultiGroupOptimizer
from dlr_tf.core.schedules import SGDR
from dlr_tf.training import snapshot_ensemble
from dlr_tf.training.fine_tuning import fine_tune
from dlr_tf.training.snapshot_ensemble import SnapshotEnsemble, probability_activation

# Keras saves variables through NumPy's old protocol.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def data(count=24):
    generator = np.random.default_rng(0)
    x = generator.normal(size=(count, 4)).astype("float32")
    return x, (x[:, 0] > 0).astype("int32")


def make_model(learning_rate=1e-2, optimizer=None, steps_per_execution=None, **arguments):
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(5, activation="relu", name="body_layer"),
            keras.layers.Dense(2, name="head_layer"),
        ]
    )
    if optimizer is None:
        groups = split_layers(model, ["head_layer"])
        optimizer = MultiGroupOptimizer(groups, learning_rate, **arguments)
    options = {"run_eagerly": True}
    if steps_per_execution is not None:
        options = {"jit_compile": False, "steps_per_execution": steps_per_execution}
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss=loss, **options)
    return model


def fit(model, *members, count=24, **arguments):
    options = {"batch_size": 4, "verbose": 0} | arguments
    return model.fit(*data(count), callbacks=list(members), **options)


SCHEDULE = SGDR(5e-2, 3)  # with 6 steps per epoch, cycles end at 3, 9, 21


class Weights(keras.callbacks.Callback):
    """The weights after every step."""

    def __init__(self):
        super().__init__()
        self.after = {}

    def on_train_batch_end(self, batch, logs=None):
        self.after[int(self.model.optimizer.iterations)] = self.model.get_weights()


def ensemble(model, directory, *members, schedule=SCHEDULE, epochs=4, **arguments):
    snapshots = SnapshotEnsemble(schedule, directory, **arguments)
    fit(model, snapshots, *members, epochs=epochs)
    return snapshots


def assert_holds(path, weights):
    model = make_model()
    keras.saving.load_weights(model, path, objects_to_skip=[model.optimizer])
    for ours, theirs in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_every_cycle_saves_the_weights_of_its_last_step(tmp_path):
    model, weights = make_model(SCHEDULE), Weights()
    snapshots = ensemble(model, tmp_path / "new" / "folder", weights)
    assert [path.name for path in snapshots.members] == [
        f"cycle-0{cycle}.weights.h5" for cycle in (1, 2, 3)
    ]
    for path, step in zip(snapshots.members, (3, 9, 21), strict=True):
        assert_holds(path, weights.after[step])
    assert sorted(path.name for path in (tmp_path / "new" / "folder").iterdir()) == [
        path.name for path in snapshots.members
    ]


def test_a_cycle_that_ends_with_the_training_is_saved(tmp_path):
    model = make_model(SGDR(1e-2, 6, t_mul=1, warmup_steps=6))
    snapshots = ensemble(model, tmp_path, schedule=SGDR(1e-2, 6, t_mul=1, warmup_steps=6))
    assert len(snapshots.members) == 3
    assert_holds(snapshots.members[-1], model.get_weights())


@pytest.mark.parametrize("wrapper", ["plain", "mixed", "accumulation"])
def test_steps_are_those_of_the_optimizer(tmp_path, wrapper):
    if wrapper == "plain":
        model = make_model(optimizer=keras.optimizers.SGD(SCHEDULE))
    elif wrapper == "mixed":
        model = make_model(SCHEDULE)
        scaled = keras.optimizers.LossScaleOptimizer(model.optimizer, initial_scale=2.0)
        model.compile(scaled, loss=model.loss, run_eagerly=True)
    else:
        model = make_model(SCHEDULE, gradient_accumulation_steps=2)
    snapshots = ensemble(model, tmp_path)
    assert len(snapshots.members) == (2 if wrapper == "accumulation" else 3)


@pytest.mark.slow
def test_predictions_are_the_mean_of_the_probabilities_of_the_members(tmp_path):
    model = make_model(SCHEDULE)
    snapshots = ensemble(model, tmp_path)
    before = [variable.numpy() for variable in (*model.variables, *model.optimizer.variables)]
    x = data()[0]
    prediction = snapshots.predict(x, verbose=0)
    expected = []
    for path in snapshots.members:
        member = make_model()
        keras.saving.load_weights(member, path, objects_to_skip=[member.optimizer])
        (kernel, bias), (kernel_2, bias_2) = (layer.get_weights() for layer in member.layers)
        logits = np.maximum(x.astype("float64") @ kernel + bias, 0) @ kernel_2 + bias_2
        exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
        expected.append(exponentials / exponentials.sum(axis=1, keepdims=True))
    np.testing.assert_allclose(prediction, np.mean(expected, axis=0), atol=1e-6)
    assert prediction.dtype == np.float32
    after = [variable.numpy() for variable in (*model.variables, *model.optimizer.variables)]
    for ours, theirs in zip(before, after, strict=True):
        np.testing.assert_array_equal(ours, theirs)

    raw = np.mean([load_and_predict(path, x) for path in snapshots.members], axis=0)
    np.testing.assert_allclose(snapshots.predict(x, activation=None, verbose=0), raw, atol=1e-6)
    dataset = tf.data.Dataset.from_tensor_slices(x).batch(5)
    np.testing.assert_allclose(snapshots.predict(dataset, verbose=0), prediction, atol=1e-6)


def load_and_predict(path, x):
    member = make_model()
    keras.saving.load_weights(member, path, objects_to_skip=[member.optimizer])
    return member.predict(x, verbose=0)


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        (["mse"], "linear"),
        (["sparse_categorical_crossentropy"], "linear"),
        ([keras.losses.BinaryCrossentropy(from_logits=True)], "sigmoid"),
        ([keras.losses.SparseCategoricalCrossentropy()], "linear"),
        ([lambda y, prediction: keras.ops.mean(prediction)], "linear"),
        (["mse", keras.losses.BinaryCrossentropy()], "linear"),
    ],
    ids=["regression", "name", "binary", "probabilities", "function", "several"],
)
def test_the_loss_shows_what_the_outputs_are(losses, expected):
    values = np.array([[-1.0, 2.0]], "float32")
    reference = {"linear": values, "sigmoid": 1 / (1 + np.exp(-values))}
    found = probability_activation(losses)(values)
    np.testing.assert_allclose(found, reference[expected], rtol=1e-6)


def test_a_model_that_does_not_tell_is_asked_about(tmp_path):
    model = make_model(SCHEDULE)
    snapshots = ensemble(model, tmp_path, epochs=1)
    again = SnapshotEnsemble(SCHEDULE, tmp_path)
    with pytest.raises(ValueError, match="The ensemble has no model"):
        again.predict(data()[0])
    plain = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(5, "relu"), keras.layers.Dense(2)]
    )
    again.set_model(plain)
    with pytest.raises(ValueError, match="not compiled.*activation='softmax'"):
        again.predict(data()[0], verbose=0)
    np.testing.assert_allclose(
        again.predict(data()[0], activation="softmax", verbose=0),
        snapshots.predict(data()[0], verbose=0),
        atol=1e-6,
    )
    inputs = keras.Input((4,))
    outputs = [keras.layers.Dense(2, name=name)(inputs) for name in ("p", "q")]
    both = keras.Model(inputs, outputs)
    logits = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    both.compile("sgd", loss=[logits, logits])
    again.set_model(both)
    with pytest.raises(ValueError, match="Some of the model's outputs are logits"):
        again.predict(data()[0], verbose=0)


def test_models_with_several_outputs(tmp_path):
    inputs = keras.Input((4,))
    outputs = {name: keras.layers.Dense(2, name=name)(inputs) for name in ("p", "q")}
    model = keras.Model(inputs, outputs)
    losses = {"p": "mse", "q": "mse"}
    model.compile(keras.optimizers.SGD(SCHEDULE), loss=losses, run_eagerly=True)
    snapshots = SnapshotEnsemble(SCHEDULE, tmp_path)
    x, y = data()
    targets = {"p": np.eye(2)[y], "q": np.eye(2)[y]}
    model.fit(x, targets, batch_size=4, epochs=2, callbacks=[snapshots], verbose=0)
    prediction = snapshots.predict(x, verbose=0)
    assert {name: part.shape for name, part in prediction.items()} == {"p": (24, 2), "q": (24, 2)}


def test_data_that_cannot_be_read_again_are_refused(tmp_path):
    model = make_model(SCHEDULE)
    snapshots = ensemble(model, tmp_path)
    before = model.get_weights()
    with pytest.raises(TypeError, match="read them more than once"):
        snapshots.predict(batch for batch in [data()[0]])
    shuffled = tf.data.Dataset.from_tensor_slices(data()[0]).shuffle(24, seed=1).batch(4)
    with pytest.raises(ValueError, match="another order.*Leave out `shuffle`"):
        snapshots.predict(shuffled, verbose=0)
    for ours, theirs in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_restarts_are_not_listed(tmp_path, monkeypatch):
    """A list grows with the number of restarts."""
    schedule = SGDR(5e-2, 2, t_mul=1.0, warmup_steps=1)
    monkeypatch.setattr(SGDR, "restart_steps", None)
    model = make_model(schedule)
    model.optimizer.iterations.assign(2**39)
    snapshots = ensemble(model, tmp_path, schedule=schedule, epochs=1)
    cycles = [2**38 + i for i in range(3)]
    assert [path.name for path in snapshots.members] == [f"cycle-{i}.weights.h5" for i in cycles]


def test_an_ensemble_without_members_says_what_to_do(tmp_path):
    snapshots = SnapshotEnsemble(SCHEDULE, tmp_path / "missing")
    assert snapshots.members == []
    snapshots.set_model(make_model(SCHEDULE))
    with pytest.raises(ValueError, match="no members.*at least 3 steps"):
        snapshots.predict(data()[0])


def test_files_of_another_training_are_not_written_over(tmp_path):
    ensemble(make_model(SCHEDULE), tmp_path, epochs=2)
    stranger = tmp_path / "cycle-01.weights.h5.txt"
    stranger.write_text("mine")
    contents = {path: path.read_bytes() for path in tmp_path.iterdir()}
    model = make_model(SCHEDULE)
    before = model.get_weights()
    with pytest.raises(ValueError, match=r"at step 0.*overwrite=True.*cycle-01.weights.h5"):
        ensemble(model, tmp_path)
    assert contents == {path: path.read_bytes() for path in tmp_path.iterdir()}
    for ours, theirs in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    snapshots = ensemble(model, tmp_path, epochs=1, overwrite=True)
    assert [path.name for path in snapshots.members] == ["cycle-01.weights.h5"]
    assert stranger.read_text() == "mine"


def test_a_resumed_training_goes_on_with_the_next_cycle(tmp_path):
    directory = tmp_path / "snapshots"

    class Dies(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise RuntimeError("killed")

    def backup():
        return keras.callbacks.BackupAndRestore(tmp_path / "backup")

    with pytest.raises(RuntimeError, match="killed"):
        ensemble(make_model(SCHEDULE), directory, backup(), Dies())
    first = [path.read_bytes() for path in sorted(directory.iterdir())]
    assert len(first) == 2
    snapshots = ensemble(make_model(SCHEDULE), directory, backup())
    assert len(snapshots.members) == 3
    assert [path.read_bytes() for path in snapshots.members[:2]] == first


def test_a_file_is_whole_or_not_there(tmp_path, monkeypatch):
    def fail(source, target):
        raise OSError("disk full")

    monkeypatch.setattr(snapshot_ensemble.os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        ensemble(make_model(SCHEDULE), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_cycle_that_ends_inside_of_an_execution_warns(tmp_path):
    model, weights = make_model(SCHEDULE, steps_per_execution=2), Weights()
    with pytest.warns(UserWarning, match="Cycle 1 ended at step 3.*weights of step 4 were saved"):
        snapshots = ensemble(model, tmp_path, weights, epochs=1)
    assert_holds(snapshots.members[0], weights.after[4])


def test_arguments_of_the_ensemble_are_checked(tmp_path):
    with pytest.raises(TypeError, match="should be the `SGDR`"):
        SnapshotEnsemble(keras.optimizers.schedules.CosineDecay(0.1, 10), tmp_path)
    optimizer = keras.optimizers.SGD(SCHEDULE, gradient_accumulation_steps=2)
    model = make_model(optimizer=optimizer)
    with pytest.raises(ValueError, match="every batch under gradient accumulation"):
        ensemble(model, tmp_path)


OTHER = keras.optimizers.schedules.CosineDecay(5e-2, 9)


@pytest.mark.parametrize(
    ("rates", "received"),
    [
        (1e-2, "a constant rate"),
        (SGDR(5e-2, 4), r"\[SGDR\(initial_learning_rate=0.05, first_decay_steps=4"),
        (SGDR(5e-2, 3, warmup_steps=2), r"warmup_steps=2"),
        ([1e-2, OTHER], "CosineDecay"),
        ([SGDR(5e-2, 3), OTHER], "CosineDecay"),
    ],
)
def test_an_optimizer_that_does_not_follow_the_schedule_is_refused(tmp_path, rates, received):
    model = make_model(rates)
    before = model.get_weights()
    with pytest.raises(ValueError, match=f"does not follow `schedule`.*{received}"):
        ensemble(model, tmp_path / "new")
    if not isinstance(rates, list):
        plain = make_model(optimizer=keras.optimizers.SGD(rates))
        with pytest.raises(ValueError, match=f"does not follow `schedule`.*{received}"):
            ensemble(plain, tmp_path / "new")
    assert not (tmp_path / "new").exists()
    for ours, theirs in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_groups_may_follow_the_cycles_at_their_own_peaks_or_at_constant_rates(tmp_path):
    snapshots = ensemble(make_model([1e-3, SGDR(1e-2, 3, m_mul=0.5)]), tmp_path)
    assert len(snapshots.members) == 3


@pytest.mark.slow
def test_only_the_first_of_several_workers_writes(tmp_path, monkeypatch):
    ensemble(make_model(SCHEDULE), tmp_path, epochs=2)
    contents = {path: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setattr(snapshot_ensemble, "is_chief", lambda strategy: False)
    ensemble(make_model(SCHEDULE), tmp_path, overwrite=True)
    assert contents == {path: path.read_bytes() for path in tmp_path.iterdir()}
    ensemble(make_model(SCHEDULE), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_unfinished_files_of_two_processes_have_two_names(tmp_path, monkeypatch):
    """Processes of two machines may have one number; a file may be removed by another one."""
    names = []
    replace = snapshot_ensemble.os.replace

    def keep(source, target):
        names.append(source.name)
        replace(source, target)

    monkeypatch.setattr(snapshot_ensemble.os, "replace", keep)
    ensemble(make_model(SCHEDULE), tmp_path)
    assert len(set(names)) == 3
    unlink = snapshot_ensemble.pathlib.Path.unlink

    def twice(path, missing_ok=False):
        unlink(path, missing_ok=True)
        unlink(path, missing_ok)

    monkeypatch.setattr(snapshot_ensemble.pathlib.Path, "unlink", twice)
    assert len(ensemble(make_model(SCHEDULE), tmp_path, overwrite=True).members) == 3


# --- Averaged weights ----------------------------------------------------------------------------


def with_norm(schedule=SCHEDULE):
    keras.utils.set_random_seed(2)
    layers = [
        keras.Input((4,)),
        keras.layers.Dense(5, name="body_layer"),
        keras.layers.BatchNormalization(name="norm"),
        keras.layers.ReLU(),
        keras.layers.Dense(2, name="head_layer"),
    ]
    model = keras.Sequential(layers)
    optimizer = MultiGroupOptimizer(split_layers(model, ["head_layer"]), schedule)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss=loss, run_eagerly=True)
    return model


def test_the_averaged_model_has_the_mean_of_the_weights(tmp_path):
    model, weights = make_model(SCHEDULE), Weights()
    snapshots = ensemble(model, tmp_path, weights)
    before = [v.numpy() for v in (*model.variables, *model.optimizer.variables)]
    averaged = snapshots.averaged_model()
    members = [weights.after[step] for step in (3, 9, 21)]
    for mean, *parts in zip(averaged.get_weights(), *members, strict=True):
        np.testing.assert_allclose(mean, np.mean(parts, axis=0, dtype="float64"), rtol=1e-6)
    assert averaged is not model
    for ours, theirs in zip(before, (*model.variables, *model.optimizer.variables), strict=True):
        np.testing.assert_array_equal(ours, theirs.numpy())
    again = SnapshotEnsemble(SCHEDULE, tmp_path)
    again.set_model(make_model(SCHEDULE))
    for ours, theirs in zip(
        averaged.get_weights(), again.averaged_model().get_weights(), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    "kind",
    [
        "array",
        *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("pair", "dataset", "sequence")),
    ],
)
def test_its_statistics_are_computed_afresh(tmp_path, kind):
    """As PyTorch's `update_bn`: the mean over the batches of what each gives."""
    model = with_norm()
    snapshots = ensemble(model, tmp_path)
    x, y = data(10)

    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 3

        def __getitem__(self, number):
            return x[4 * number :][:4], y[4 * number :][:4]

    train_data = {
        "array": x,
        "pair": (x, y),
        "dataset": tf.data.Dataset.from_tensor_slices((x, y)).batch(4),
        "sequence": Batches(),
    }[kind]
    averaged = snapshots.averaged_model(train_data, batch_size=4)
    kernel, bias = averaged.get_layer("body_layer").get_weights()
    hidden = [part.astype("float64") @ kernel + bias for part in (x[:4], x[4:8], x[8:])]
    norm = averaged.get_layer("norm")
    means = np.mean([part.mean(axis=0) for part in hidden], axis=0)
    variances = np.mean([part.var(axis=0) for part in hidden], axis=0)
    np.testing.assert_allclose(norm.moving_mean, means, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(norm.moving_variance, variances, rtol=1e-5)
    assert norm.momentum == 0.99


def test_data_are_asked_for_where_statistics_move(tmp_path):
    model = with_norm()
    snapshots = ensemble(model, tmp_path)
    with pytest.raises(ValueError, match=r"Pass the training data.*Layers: \['norm'\]"):
        snapshots.averaged_model()
    endless = tf.data.Dataset.from_tensors(data()[0]).repeat()
    with pytest.raises(ValueError, match="does not end"):
        snapshots.averaged_model(endless)
    with pytest.raises(ValueError, match="holds no batch"):
        snapshots.averaged_model(endless.take(0))
    model.get_layer("norm").trainable = False
    assert snapshots.averaged_model().get_layer("norm").trainable is False
    with pytest.raises(ValueError, match="has no model"):
        SnapshotEnsemble(SCHEDULE, tmp_path).averaged_model()


class Dies(keras.callbacks.Callback):
    """Ends the training before a batch, the first time that it comes there."""

    def __init__(self, batch):
        super().__init__()
        self.left = batch

    def on_train_batch_begin(self, batch, logs=None):
        self.left -= 1
        if self.left < 0:
            raise RuntimeError("killed")


@pytest.mark.parametrize("way", [pytest.param("fit", marks=pytest.mark.slow), "fine_tune"])
def test_the_average_of_a_resumed_training_is_the_same(tmp_path, way):
    """Killed in the middle of a cycle and of an epoch, after a member that is written again."""
    x, y = data(28)

    def averaged(folder, *callbacks):
        snapshots = SnapshotEnsemble(SCHEDULE, folder / "snapshots", overwrite=True)
        backup = keras.callbacks.BackupAndRestore(folder / "backup")
        options = {
            "epochs": 3,
            "batch_size": 4,
            "shuffle": False,
            "verbose": 0,
            "callbacks": [backup, snapshots, *callbacks],
        }
        model = with_norm()
        if way == "fit":
            model.fit(x, y, **options)
        else:
            schedules = [SGDR(1e-2, 3), SGDR(5e-2, 3)]
            groups = split_layers(model, ["head_layer"])
            options |= {"learning_rate": None, "schedule": schedules, "batch_norm": "train"}
            fine_tune(model, groups, (x, y), **options)
        assert len(snapshots.members) == 3
        return snapshots.averaged_model((x, y), batch_size=4).get_weights()

    whole = averaged(tmp_path / "whole")
    with pytest.raises(RuntimeError, match="killed"):
        averaged(tmp_path / "killed", Dies(11))
    assert len(list((tmp_path / "killed" / "snapshots").iterdir())) == 2
    for ours, theirs in zip(averaged(tmp_path / "killed"), whole, strict=True):
        np.testing.assert_array_equal(ours, theirs)
