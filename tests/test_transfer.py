from __future__ import annotations

import dataclasses
import doctest
import io
import json
import math
import pathlib
import re
import tarfile
from collections import Counter
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from rich.console import Console
from scipy import stats
from sklearn.linear_model import LogisticRegression

from benchmarks.transfer import __main__ as command
from benchmarks.transfer import (
    arms,
    choices,
    intervals,
    pictures,
    protocol,
    rates,
    recipe,
    recipe_report,
    report,
    runs,
    solved_head,
    study,
    tasks,
    text_encoder,
    training,
)
from benchmarks.transfer.arms import Arm
from benchmarks.transfer.protocol import FINAL, SENSITIVITY, TUNE, Run
from dlr_tf import (
    FusedAdam,
    GradualUnfreezing,
    fine_tune,
    split_layers,
    split_layerwise,
)
from dlr_tf.app.models import HEAD
from dlr_tf.training.auto_rates import auto_sweep
from dlr_tf.training.rate_choice import rates_from_sweep


def toy_task(**changes: Any) -> tasks.Task:
    """A task in which a run takes milliseconds."""

    def build() -> keras.Model:
        keras.utils.set_random_seed(0)
        x = inputs = keras.Input((6,))
        for number in range(3):
            x = keras.layers.Dense(5, name=f"dense_{number}")(x)
            x = keras.layers.BatchNormalization(name=f"norm_{number}")(x)
            x = keras.layers.ReLU(name=f"relu_{number}")(x)
        x = keras.layers.Dropout(0.2, name="dropout")(x)
        return keras.Model(inputs, keras.layers.Dense(3, activation="softmax", name=HEAD)(x))

    def part(size: int, seed: int) -> tasks.Part:
        generator = np.random.default_rng(seed)
        labels = generator.integers(0, 3, size).astype("int32")
        x = generator.normal(size=(size, 6)) + labels[:, None]
        return tasks.Part(x.astype("float32"), labels)

    task = tasks.Task(
        name="toy",
        build=build,
        split=lambda seed: tasks.Split(part(22, seed), part(30, 100), part(31, 101)),
        blocks=("dense_1", "dense_2", HEAD),
        epochs=4,
        batch_size=8,
        seconds=0.1,
    )
    return dataclasses.replace(task, **changes)


@pytest.fixture(scope="module")
def trainer() -> training.Trainer:
    return training.Trainer(toy_task())


REPRESENTATIVE = (rates.OLD_DEFAULT, "decay 0.75, one-cycle")


class Recorder(keras.callbacks.Callback):
    """The rates and weights after each step of `fit`."""

    def __init__(self) -> None:
        super().__init__()
        self.rates: list[np.ndarray] = []
        self.weights: list[list[np.ndarray]] = []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.rates.append(self.model.optimizer.last_learning_rates)
        self.weights.append(self.model.get_weights())


def batches_in_order(task: tasks.Task, seed: int, epochs: int) -> tf.data.Dataset:
    """The batches that the trainer gives in as many epochs."""
    x, y = task.split(seed).train
    batches = training.batches_of(len(y), task.batch_size, epochs, seed)
    inputs = [x[indices] for epoch in batches for indices in epoch]
    labels = [y[indices] for epoch in batches for indices in epoch]
    return tf.data.Dataset.from_generator(
        lambda: zip(inputs, labels),
        output_signature=(tf.TensorSpec((None, 6)), tf.TensorSpec((None,), tf.int32)),
    )


def fine_tuned(task: tasks.Task, arm: Arm, learning_rate: float, seed: int) -> Recorder:
    """The arm by the product: `fine_tune` with real schedules, on the same batches."""
    model = task.build()
    training.start_head_and_dropout(model, seed)
    data = batches_in_order(task, seed, task.epochs)
    groups = arms.groups_of(arm, model, task.blocks)
    peaks = arms.peak_rates(arm, learning_rate, len(groups))
    steps = task.steps_per_epoch()
    # The trainer does not use XLA, which has other random numbers.
    model.compile(FusedAdam(), "sparse_categorical_crossentropy", jit_compile=False)
    recorder = Recorder()
    fine_tune(
        model,
        groups,
        data,
        learning_rate=None,
        schedule=[arms.schedule_of(arm, peak, task.epochs, steps) for peak in peaks],
        epochs=task.epochs,
        steps_per_epoch=steps,
        frozen_epochs=task.epochs if arm.head_only else arm.frozen_epochs,
        batch_norm=arm.batch_norm,
        callbacks=[recorder, *([GradualUnfreezing(groups)] if arm.gradual else [])],
        verbose=0,
    )
    return recorder


@pytest.mark.filterwarnings("ignore:Only the head:UserWarning")
@pytest.mark.parametrize(
    "arm",
    [
        pytest.param(arm, id=arm.name, marks=[] if arm.name in REPRESENTATIVE else pytest.mark.slow)
        for arm in rates.ARMS
        if not arm.chosen_by
    ],
)
def test_a_run_is_the_one_of_the_product(trainer: training.Trainer, arm: Arm) -> None:
    rates: list[np.ndarray] = []
    weights: list[list[np.ndarray]] = []

    def on_step(step: int) -> None:
        rates.append(trainer.optimizer.last_learning_rates)
        weights.append(trainer.model.get_weights())

    runs.run_arm(trainer, arm, 0.01, 3, with_test=False, on_step=on_step)
    expected = fine_tuned(trainer.task, arm, 0.01, 3)
    assert len(rates) == len(expected.rates) == 4 * 3
    dense = [
        number
        for number, group in enumerate(trainer.layer_groups)
        if not group.layers[0].startswith("norm")  # frozen: it has no rate of its own then
    ]
    of_layer = np.array(trainer.group_of_each_layer(arm))[dense]
    # Keras' own schedule rounds differently in a graph; those of the product do not.
    rtol = 3e-7 if arm.schedule == arms.COSINE else 0
    for mine, theirs in zip(rates, expected.rates):
        np.testing.assert_allclose(mine[dense], theirs[of_layer], rtol=rtol)
    for step, (ours, theirs) in enumerate(zip(weights, expected.weights)):
        for one, other in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5, err_msg=f"step {step}")


def test_the_swept_rates_are_those_of_the_product(trainer: training.Trainer) -> None:
    arm = next(arm for arm in rates.ARMS if arm.name == rates.DEFAULT)
    found = runs.run_arm(trainer, arm, protocol.CHOSEN_IN_RUN, 3, with_test=False)
    task = trainer.task
    model = task.build()
    training.start_head_and_dropout(model, 3)
    # As many epochs as the sweep has, so that no batch comes twice.
    data = batches_in_order(task, 3, epochs=-(-100 // task.steps_per_epoch()))
    groups = arms.groups_of(arm, model, task.blocks)
    model.compile(FusedAdam(), "sparse_categorical_crossentropy", jit_compile=False)
    ratios = arms.peak_rates(arm, 1.0, len(groups))
    product = rates_from_sweep(auto_sweep(model, groups, ratios, data), ratios)
    assert found.rates == pytest.approx(product.rates, rel=1e-6)
    assert 1e-4 < product.rates[-1] < 0.1
    assert (
        found.loss
        == runs.run_arm(
            trainer, dataclasses.replace(arm, chosen_by=""), product.rates[-1], 3, with_test=False
        ).loss
    )


def test_rates_chosen_per_group_and_by_trials(trainer: training.Trainer) -> None:
    by_choice = {arm.chosen_by: arm for arm in rates.ARMS if arm.chosen_by}
    per_group = runs.run_arm(trainer, by_choice["sweeps"], 0.0, 3, with_test=False).rates
    assert per_group is not None and len(per_group) == 3 and len({*per_group}) > 1
    tried = runs.run_arm(trainer, by_choice["trials"], 0.0, 3, with_test=False).rates
    assert tried is not None and tried[-1] in choices.TRIAL_RATES
    assert tried[0] == pytest.approx(tried[-1] / 10)


def test_nothing_is_traced_twice_and_a_run_repeats_exactly() -> None:
    trainer = training.Trainer(toy_task())
    by_name = {arm.name: arm for arm in rates.ARMS}
    first = runs.run_arm(trainer, by_name[rates.OLD_DEFAULT], 0.01, 0, with_test=True)
    traces = dict(trainer.n_traces)
    assert traces == {"6, frozen": 1, "0, frozen": 1, "predict": 1}
    others = (rates.RIVAL, "decay 0.6, one-cycle", "ratio 10, SGDR 1", "head only")
    for name in (*others, "one rate, one-cycle, batch norm trains"):
        runs.run_arm(trainer, by_name[name], 0.1, 1, with_test=False)
    assert trainer.n_traces == {**traces, "0, train": 1}
    assert runs.run_arm(trainer, by_name[rates.OLD_DEFAULT], 0.01, 0, with_test=True) == first
    assert runs.run_arm(trainer, by_name[rates.OLD_DEFAULT], 0.01, 1, with_test=True) != first
    assert trainer.n_traces == {**traces, "0, train": 1}


def test_a_longer_run_is_that_of_a_task_with_more_epochs(trainer: training.Trainer) -> None:
    arm = recipe.BY_RATIO[10][1]
    found = runs.run_arm(trainer, arm, 0.0, 3, with_test=True, each_epoch=False)
    longer = training.Trainer(toy_task(epochs=3 * 4))
    expected = runs.run_arm(longer, recipe.SHORTEST, 0.0, 3, with_test=True, each_epoch=False)
    assert found == expected
    assert found.steps == 3 * 4 * 3 and len(found.loss) == 12 and len(found.validation) == 1
    assert found.training_seconds > 0 and found.training_processor_seconds > 0


def test_a_solved_head_is_the_regression_of_scikit_learn(trainer: training.Trainer) -> None:
    split = trainer.task.split(3)
    features, test_features = trainer.features(split.train), trainer.features(split.test)
    found = runs.run_arm(trainer, recipe.FEATURES, 0.0, 3, with_test=True)
    assert found.steps == 0 and found.loss == []
    scale = features.std()
    candidates = [
        LogisticRegression(C=strength, max_iter=5000).fit(features / scale, split.train.y)
        for strength in solved_head.STRENGTHS
    ]
    probabilities = trainer.predict(split.test)
    errors = [
        np.abs(one.predict_proba(test_features / scale) - probabilities).max() for one in candidates
    ]
    assert min(errors) < 1e-5
    assert found.test == training.accuracy(probabilities, split.test.y)


def test_training_starts_from_the_solved_head(trainer: training.Trainer) -> None:
    head: list[list[np.ndarray]] = []

    def on_step(step: int) -> None:
        head.append(trainer.model.get_layer(HEAD).get_weights())

    (arm,) = (arm for arm in recipe.SOLVED if (arm.value, arm.length) == (10, 1))
    runs.run_arm(trainer, arm, 0.0, 3, with_test=False, on_step=on_step)
    train = trainer.task.split(3).train
    kernel, _ = solved_head.solve_head(trainer.features(train), train.y, 3)
    # The first step has a small rate.
    np.testing.assert_allclose(head[0][0], kernel, atol=2e-3)
    runs.run_arm(trainer, recipe.SHORTEST, 0.0, 3, with_test=False, on_step=on_step)
    assert np.abs(head[-12][0] - kernel).max() > 0.01


def test_the_rivals_train_as_their_guides_say(trainer: training.Trainer) -> None:
    _, guide, fastai = recipe.TUNED_RIVALS
    table = arms.rates_of(guide, arms.peak_rates(guide, 1e-4, 3), epochs=6, steps_per_epoch=2)
    assert arms.first_trainable_groups(guide, 3, epochs=6) == [2, 2, 2, 2, 0, 0]
    assert table[:8, -1].tolist() == [1e-3] * 8 and (table[8:] == 1e-4).all()
    table = arms.rates_of(fastai, arms.peak_rates(fastai, 0.1, 3), epochs=6, steps_per_epoch=10)
    assert arms.first_trainable_groups(fastai, 3, epochs=6) == [2, 0, 0, 0, 0, 0]
    assert table.shape == (60, 3)
    # The rise of the frozen epoch ends near its peak; then half of it, after three tenths.
    np.testing.assert_allclose(table[:10].max(axis=0), [1e-3, 1e-2, 1e-1], rtol=0.05)
    np.testing.assert_allclose(table[10:].max(axis=0), [5e-4, 5e-3, 5e-2], rtol=0.01)
    assert table[10:, -1].argmax() == 15 and table[10, -1] == pytest.approx(0.01)
    for arm in (guide, fastai):
        first: list[list[np.ndarray]] = []
        found = runs.run_arm(
            trainer,
            arm,
            1e-3,
            3,
            with_test=False,
            each_epoch=False,
            on_step=lambda step, seen=first: seen.append(trainer.model.get_weights()),
        )
        n_frozen = arms.frozen_epochs_of(arm, 12) * 3
        assert found.steps == len(first) == 36 and n_frozen == (24 if arm is guide else 3)
        np.testing.assert_array_equal(first[n_frozen - 1][0], trainer.task.build().get_weights()[0])
        assert np.any(first[n_frozen][0] != first[n_frozen - 1][0])


# --- What there is to do, and what is stored


PLAN = protocol.Protocol(
    rates=(0.1, 1.0, 10.0),
    first_seeds=(7,),
    n_best=2,
    more_seeds=(8,),
    seeds=(0, 1, 2),
    multipliers=(0.1, 10.0),
    sensitivity_seeds=(0, 1),
)
STUDY = dataclasses.replace(rates.STUDY, plan=PLAN)
NAMES = ("digits", "text")
REST = ("digits", rates.ARMS[rates.N_KEY].name, TUNE)
ARM = Arm("one rate, one-cycle", arms.ONE, arms.ONECYCLE, in_sensitivity=True)


def record_of(run: Run, validation: float, test: float | None = None) -> dict[str, Any]:
    return {
        "protocol": protocol.VERSION,
        **run._asdict(),
        "loss": [1.0, 0.5],
        "validation": [validation / 2, validation],
        "test": test,
        "ensemble_validation": None,
        "ensemble_test": None,
        "seconds": 2.0,
        "time": "2026-11-25T10:00:00+00:00",
        "device": "an abacus, 1 core",
        "tensorflow": "2",
        "keras": "3",
        "python": "3",
    }


def tuned(scores: dict[tuple[float, int], float]) -> dict[Run, Any]:
    """Records of the tuning, by rate and seed."""
    runs = {Run("digits", ARM.name, TUNE, *key): score for key, score in scores.items()}
    return {run: record_of(run, score) for run, score in runs.items()}


def test_the_rate_is_chosen_by_the_mean_over_all_seeds_of_the_best_rates() -> None:
    records = tuned({(0.1, 7): 0.5, (1.0, 7): 0.9})
    assert protocol.second_tuning(PLAN, "digits", ARM.name, records) is None
    records |= tuned({(10.0, 7): 0.8})
    again = protocol.second_tuning(PLAN, "digits", ARM.name, records)
    assert again == [Run("digits", ARM.name, TUNE, rate, 8) for rate in (1.0, 10.0)]
    assert protocol.chosen_rate(PLAN, "digits", ARM.name, records) is None
    # The first seed favours 1.0 by 0.1, the second one 10.0 by 0.2.
    records |= tuned({(1.0, 8): 0.6, (10.0, 8): 0.8})
    assert protocol.chosen_rate(PLAN, "digits", ARM.name, records) == 10.0
    assert protocol.final_runs(PLAN, "digits", ARM.name, records) == [
        Run("digits", ARM.name, FINAL, 10.0, seed) for seed in (0, 1, 2)
    ]
    runs = protocol.sensitivity_runs(PLAN, "digits", ARM.name, records)
    assert runs is not None
    assert [(run.learning_rate, run.seed) for run in runs] == [(1, 0), (1, 1), (100, 0), (100, 1)]
    assert all(run.stage == SENSITIVITY for run in runs)
    one_arm = dataclasses.replace(rates.STUDY, arms=[ARM], plan=PLAN)
    assert one_arm.n_left("digits", records) == 3 + 4
    assert one_arm.n_left("digits", {}) == 3 + 2 + 3 + 4


def test_rates_above_one_that_diverged_are_not_tried() -> None:
    def tried(scores: dict[tuple[float, int], float]) -> list[float]:
        runs = protocol.first_tuning(PLAN, "digits", ARM.name, tuned(scores))
        return [run.learning_rate for run in runs]

    assert tried({}) == tried({(0.1, 7): 0.1}) == [0.1, 1.0, 10.0]
    assert tried({(0.1, 7): 0.1, (1.0, 7): 0.9}) == [0.1, 1.0, 10.0]
    assert tried({(0.1, 7): 0.9, (1.0, 7): 0.5}) == [0.1, 1.0, 10.0]
    assert tried({(0.1, 7): 0.9, (1.0, 7): 0.4}) == [0.1, 1.0]
    records = tuned({(0.1, 7): 0.9, (1.0, 7): 0.4, (0.1, 8): 0.9, (1.0, 8): 0.4})
    assert protocol.chosen_rate(PLAN, "digits", ARM.name, records) == 0.1


def test_of_equal_rates_the_lower_one_is_chosen() -> None:
    scores = {(rate, seed): 0.5 for rate in PLAN.rates for seed in (7, 8)}
    assert protocol.chosen_rate(PLAN, "digits", ARM.name, tuned(scores)) == 0.1


def test_key_arms_come_first_and_each_stage_follows_what_it_needs(tmp_path: pathlib.Path) -> None:
    chosen = [toy_task(name=name) for name in ("digits", "text")]
    path = tmp_path / "transfer.jsonl"
    of_study = dataclasses.replace(rates.STUDY, plan=protocol.QUICK)
    computation = command.Computation(of_study, chosen, path, "cpu", Console(file=io.StringIO()))
    order = []
    for task, arm, run in computation.work():
        order.append((task.name, arm.name, run.stage))
        computation.records[run] = record_of(run, 0.5, 0.5)
    n_key = {task: sum(name == task for name, *_ in order[: order.index(REST)]) for task in NAMES}
    key = rates.ARMS[: rates.N_KEY]
    # 3 runs tune, 2 are final, 4 are for the sensitivity; arms that choose have final runs alone.
    for task in NAMES:
        of_task = [arm for arm in of_study.arms_of(task) if arm in key]
        n_runs = [2 if arm.chosen_by else 9 if arm.in_sensitivity else 5 for arm in of_task]
        assert n_key[task] == sum(n_runs)
    assert {name for _, name, _ in order[: sum(n_key.values())]} == {arm.name for arm in key}
    first = list(dict.fromkeys((task, stage) for task, _, stage in order[: sum(n_key.values())]))
    assert first == [
        *((task, stage) for task in NAMES for stage in (TUNE, FINAL)),
        *((task, SENSITIVITY) for task in NAMES),
    ]
    assert computation.seconds_left() == 0


def test_a_torn_last_line_is_run_again(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "new" / "transfer.jsonl"
    assert protocol.read_records(path) == {}
    first, second = (Run("digits", "a", FINAL, 1e-3, seed) for seed in (0, 1))
    protocol.append_record(path, record_of(first, 0.5))
    complete = path.read_bytes()
    path.write_bytes(complete + b'{"protocol": 1, "task"')
    assert [*protocol.read_records(path)] == [first]
    protocol.append_record(path, record_of(second, math.nan))
    assert path.read_bytes().startswith(complete)
    records = protocol.read_records(path)
    assert [*records] == [first, second]
    assert records[second]["validation"] == [None, None]  # JSON has no NaN
    path.write_bytes(b"nonsense\n" + path.read_bytes())
    with pytest.raises(ValueError, match="Line 1 of .*transfer.jsonl is not JSON.*Delete the line"):
        protocol.read_records(path)


def test_runs_of_another_protocol_do_not_count(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "transfer.jsonl"
    old = {**record_of(Run("digits", "a", FINAL, 1e-3, 0), 0.5), "protocol": 0}
    path.write_text(json.dumps(old) + "\n")
    assert protocol.read_records(path) == {}


# --- Statistics and report


def test_intervals_are_those_of_scipy() -> None:
    generator = np.random.default_rng(0)
    ours, theirs = generator.normal(0.8, 0.1, 5).tolist(), generator.normal(0.7, 0.1, 5).tolist()
    expected = stats.ttest_1samp(ours, 0).confidence_interval(0.95)
    found = intervals.t_interval(ours)
    np.testing.assert_allclose(found, (np.mean(ours), expected.low, expected.high))
    paired = stats.ttest_rel(ours, theirs).confidence_interval(0.9)
    found = intervals.paired_interval(ours, theirs, confidence=0.9)
    np.testing.assert_allclose(found[1:], (paired.low, paired.high))
    assert intervals.t_interval([0.3]) == (0.3, -math.inf, math.inf)


def test_samples_that_cannot_be_compared_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one value"):
        intervals.t_interval([])
    with pytest.raises(ValueError, match="one value per seed. Received: 2 and 1 values"):
        intervals.paired_interval([1.0, 2.0], [1.0])


def finished(test_of: dict[str, float]) -> dict[Run, Any]:
    """Records of arms, of which each has this test accuracy, better by a point per seed."""
    records: dict[Run, Any] = {}
    for name, test in test_of.items():
        for rate, seed in ((r, s) for r in PLAN.rates for s in (7, 8)):
            run = Run("digits", name, TUNE, rate, seed)
            records[run] = record_of(run, 0.9 if rate == 1.0 else 0.5)
        for seed in PLAN.seeds:
            run = Run("digits", name, FINAL, 1.0, seed)
            records[run] = record_of(run, test, test + 0.01 * seed)
        for rate, loss in ((0.1, 0.3), (10.0, 0.6)):
            for seed in PLAN.sensitivity_seeds:
                run = Run("digits", name, SENSITIVITY, rate, seed)
                records[run] = record_of(run, 0.1, test - loss)
    return records


def test_tables_compare_seed_by_seed() -> None:
    records = finished({rates.RIVAL: 0.7, rates.COMMON: 0.75})
    text = report.text(records, STUDY)
    assert text.startswith(
        "an abacus, 1 core; TensorFlow 2, Keras 3, Python 3; 2026-11-25; 26 runs"
    )
    assert "### Digits 0 to 4" in text
    assert "first tuning of 25 of 37 arms" in text
    assert "Not run: text, images, " in text
    final, factors = text.split("Test accuracy at the tuned rate times a factor:")
    constant, rival = (
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in final.splitlines()
        if line.startswith("| one rate, ")
    )
    # The difference is the same for every seed, so its interval is a point.
    assert constant == [
        rates.COMMON, "1", "0.900", "0.760 (0.735 to 0.785)", "+5.0 (+5.0 to +5.0)", "-", "2"
    ]  # fmt: skip
    assert rival[4:] == ["-", "-5.0 (-5.0 to -5.0)", "2"]
    (line,) = (line for line in factors.splitlines() if line.startswith("| one rate, constant"))
    # The mean over the seeds 0 and 1 of 0.45, 0.755 and 0.15.
    expected = [rates.COMMON, "0.450", "0.755", "0.150", "0.452", "+5.0 (+5.0 to +5.0)"]
    assert [cell.strip() for cell in line.split("|")[1:-1]] == expected


def test_report_of_any_part_of_the_runs(tmp_path: pathlib.Path) -> None:
    records = finished({rates.RIVAL: 0.7, "ratio 10, one-cycle": 0.8})
    for run in [*records][:: max(1, len(records) // 8)]:
        del records[run]
        text = report.text(records, STUDY)
        assert "Not complete" in text
        pictures.draw(records, STUDY, tmp_path)


def test_every_name_is_that_of_an_arm() -> None:
    names = [arm.name for arm in rates.ARMS]
    assert len(set(names)) == len(names)
    for outline in rates.OUTLINES.values():
        assert set(outline.arms or ()) <= set(names)
    assert {rates.RIVAL, rates.COMMON, rates.DEFAULT, rates.OLD_DEFAULT, *pictures.SHOWN} <= set(
        names
    )
    assert {*tasks.MAKERS} == {*rates.OUTLINES, *recipe.OUTLINES}


# --- The command


@pytest.mark.slow
def test_quick_run_and_its_continuation(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--study", "rates", "--quick", "--device", "cpu", "--output", str(tmp_path)]
    assert command.main([*options, "--hours", "0"]) == 2  # no time for any run
    assert "digits: 18 runs left" in capsys.readouterr().err
    assert command.main(options) == 0
    output = capsys.readouterr()
    assert "all runs are there; 18 of them are new" in output.err
    assert "| one rate, one-cycle |" in output.out
    assert (tmp_path / pictures.CURVES).stat().st_size > 1000
    assert (tmp_path / pictures.SENSITIVITY).stat().st_size > 1000
    path = tmp_path / rates.STUDY.file
    lines = path.read_text().splitlines()
    assert len(lines) == 18
    for line in map(json.loads, lines):
        # Nothing that chooses has seen the test part.
        assert (line["test"] is None) == (line["stage"] == TUNE)
        assert len(line["loss"]) == 2
        # Only curves need the epochs before the last one.
        assert len(line["validation"]) == (2 if line["stage"] == FINAL else 1)
    # A run that is lost is done again, and gives the same.
    path.write_text("".join(f"{line}\n" for line in lines[:-1]))
    assert command.main(options) == 0
    assert "1 of them are new" in capsys.readouterr().err
    last = json.loads(path.read_text().splitlines()[-1])
    for key in ("learning_rate", "seed", "validation", "test"):
        assert last[key] == json.loads(lines[-1])[key]


@pytest.mark.slow
def test_quick_run_of_the_recipe(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--quick", "--device", "cpu", "--output", str(tmp_path)]
    assert command.main(options) == 0
    output = capsys.readouterr()
    assert "all runs are there; 6 of them are new" in output.err
    assert "| features alone " in output.out and "| length 3 instead of 1 " in output.out
    assert (tmp_path / pictures.SECONDS).stat().st_size > 1000
    records = protocol.read_records(tmp_path / recipe.STUDY.file).values()
    assert [record["steps"] for record in records] == [0, 0, 14, 14, 42, 42]
    for record in records:
        assert record["source"] == "scikit-learn's digits"
        assert 0 < record["training_processor_seconds"] <= record["processor_seconds"]


def test_averaged_weights_are_those_of_the_product(trainer: training.Trainer) -> None:
    task = toy_task()
    arm = Arm("averaged", arms.RATIO, arms.ONECYCLE, 10.0, averaged=True)
    trainer.train(arm, arms.peak_rates(arm, 1e-2, 3), task.split(0).train, 0, task.epochs)
    last = trainer.model.get_weights()
    trainer.use_averages()
    groups_model = task.build()
    training.start_head_and_dropout(groups_model, 0)
    groups = arms.groups_of(arm, groups_model, task.blocks)
    peaks = arms.peak_rates(arm, 1e-2, len(groups))
    steps = task.steps_per_epoch()
    groups_model.compile(FusedAdam(), "sparse_categorical_crossentropy", jit_compile=False)
    fine_tune(
        groups_model,
        groups,
        batches_in_order(task, 0, task.epochs),
        learning_rate=None,
        schedule=[arms.schedule_of(arm, peak, task.epochs, steps) for peak in peaks],
        epochs=task.epochs,
        steps_per_epoch=steps,
        use_ema=True,
        ema_momentum=None,
        verbose=0,
    )
    for ours, theirs in zip(trainer.model.get_weights(), groups_model.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    assert any(not np.allclose(a, b) for a, b in zip(last, trainer.model.get_weights()))


def test_every_run_of_the_recipe_is_in_a_wave(tmp_path: pathlib.Path) -> None:
    chosen = [toy_task(name=name) for name in recipe.OUTLINES]
    console = Console(file=io.StringIO())
    computation = command.Computation(recipe.STUDY, chosen, tmp_path / "runs", "cpu", console)
    order = []
    for _, _, run in computation.work():
        order.append(run)
        computation.records[run] = record_of(run, 0.5, 0.5)
    assert computation.seconds_left() == 0
    assert len(order) == len(set(order))
    # What the default can be has all seeds; a tuned arm tries 8 rates, and 3 again with 2 seeds.
    n_runs = Counter((run.task, run.arm) for run in order)
    for task, n_seeds in zip(recipe.TWENTY, (20, 10, 10, 20), strict=True):
        for arm in recipe.DECISIVE:
            assert n_runs[task, arm.name] == n_seeds + (0 if arm.chosen_by else 8 + 6)
        assert all(n_runs[task, arm.name] >= 3 for arm in recipe.STUDY.arms_of(task))
    # The lengths come first, with three seeds on each task.
    first_tuned = next(number for number, run in enumerate(order) if run.stage == TUNE)
    before = {(run.task, run.arm) for run in order[:first_tuned] if run.seed == 2}
    lengths = [arm.name for arm in recipe.BY_RATIO[10]]
    assert {(task, name) for task in recipe.TWENTY for name in lengths} <= before


def test_missing_data_is_a_clear_error(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        command.main(["--device", "cpu", "--task", "images-20", "--data", str(tmp_path)])
    message = capsys.readouterr().err
    assert "needs the file mobilenet_v2_imagenet_notop.weights.h5, which is not in" in message
    assert "Give the folder of the data with --data" in message


def test_missing_packages_are_a_clear_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(text_encoder, "NEEDED", ("a_package_that_is_not_there",))
    with pytest.raises(SystemExit, match="2"):
        command.main(["--device", "cpu", "--task", "text-20"])
    assert "a_package_that_is_not_there. Run: pip install" in capsys.readouterr().err


def test_parts_of_the_digits_do_not_overlap() -> None:
    task = tasks.digits_task()
    splits = [task.split(seed) for seed in (0, 1)]
    parts = [*(split.train for split in splits), *splits[0][1:]]
    pixels = [{image.tobytes() for image in part.x} for part in parts]
    assert [len(part.y) for part in parts] == [100, 100, 200, 400]
    for other in pixels[2:]:
        assert not pixels[0] & other and not pixels[1] & other
    assert not pixels[2] & pixels[3]
    assert pixels[0] != pixels[1]
    assert all(np.bincount(part.y).min() == len(part.y) // 5 for part in parts)


def test_the_larger_test_is_all_that_is_left_over() -> None:
    pool = tasks.Part(np.arange(40), np.repeat([0, 1], 20))
    validation = tasks.Part(np.arange(40, 44), np.array([0, 0, 1, 1]))
    found = tasks.split_left_over(pool, 5, 0, validation)
    assert np.bincount(found.train.y).tolist() == [5, 5] and found.validation is validation
    assert sorted([*found.train.x, *found.test.x]) == [*range(40)]
    assert tasks.split_left_over(pool, 5, 1, validation).train.x.tolist() != found.train.x.tolist()
    for name, n_train, n_test in (("digits-20", 100, 596), ("digits-100", 500, 196)):
        split = tasks.MAKERS[name]().split(0)
        assert [len(part.y) for part in split] == [n_train, 200, n_test]
        images = [{image.tobytes() for image in part.x} for part in split]
        assert not images[0] & images[1] and not images[0] & images[2] and not images[1] & images[2]


def test_halves_are_of_each_class() -> None:
    found = tasks.split_in_halves(tasks.Part(np.arange(15), np.repeat([0, 1, 2], [4, 5, 6])), 0)
    assert np.bincount(found.train.y).tolist() == [2, 2, 3]
    assert np.bincount(found.test.y).tolist() == [2, 3, 3]
    assert sorted([*found.train.x, *found.test.x]) == [*range(15)]


def test_images_of_an_archive(tmp_path: pathlib.Path) -> None:
    generator = np.random.default_rng(0)
    for part, label, size in (("train", "a", 4), ("train", "b", 4), ("test", "a", 6)):
        folder = tmp_path / "things" / part / label
        folder.mkdir(parents=True)
        keras.utils.save_img(folder / "0.png", generator.integers(0, 255, (size, size, 3)))
    with tarfile.open(tmp_path / "things.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "things", "things")
    train, test = tasks.read_archive(tmp_path / "things.tar.gz", 5)
    assert train.x.shape == (2, 5, 5, 3) and train.y.tolist() == [0, 1]
    assert test.x.shape == (1, 5, 5, 3) and test.y.tolist() == [0]


def test_without_a_folder_keras_downloads_the_images(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(10, dtype="uint8"), 70)
    loaded = [(generator.integers(0, 256, (700, 4, 4)).astype("uint8"), labels) for _ in range(2)]
    monkeypatch.setattr(keras.datasets.fashion_mnist, "load_data", lambda: loaded)
    made: list[Any] = []
    monkeypatch.setattr(tasks, "application_model", lambda *args, **keys: made.append(keys))
    task = tasks.MAKERS["images-20"](None, size=5)
    assert task.source == "keras.datasets, Keras' weights of MobileNetV2"
    split = task.split(0)
    assert [part.x.shape for part in split] == [(200, 5, 5, 3), (200, 5, 5, 3), (800, 5, 5, 3)]
    assert all((np.bincount(part.y) == len(part.y) // 10).all() for part in split)
    task.build()
    assert made == [{"weights": "imagenet", "image_size": 5}]


def test_runs_with_other_data_are_not_mixed(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run("digits-20", recipe.SHORTEST.name, FINAL, 0.0, 0)
    record = {**record_of(run, 0.5, 0.5), "source": "other digits"}
    protocol.append_record(tmp_path / recipe.STUDY.file, record)
    options = ["--device", "cpu", "--task", "digits-20", "--output", str(tmp_path)]
    with pytest.raises(SystemExit, match="2"):
        command.main(options)
    message = " ".join(capsys.readouterr().err.split())
    assert "they had other digits, this run would have scikit-learn's digits" in message


def test_pictures_that_are_not_downloaded_are_a_clear_error(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit, match="2"):
        command.main(["--device", "cpu", "--task", "objects"])
    assert "needs the file objects.tar.gz, which is not downloaded" in capsys.readouterr().err


def test_a_task_of_another_study_is_a_clear_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        command.main(["--device", "cpu", "--task", "images-half"])
    assert "the study 'recipe' has no task 'images-half'; it has" in capsys.readouterr().err


# --- The text encoder


def random_bert(n_tokens: int, width: int, inner: int, n_blocks: int) -> dict[str, np.ndarray]:
    """Weights with the names and shapes of the file."""
    generator = np.random.default_rng(0)
    weights = {}

    def add(name: str, *shape: int) -> None:
        weights[name] = generator.normal(0, 0.5, shape).astype("float32")

    def add_dense(name: str, outputs: int, inputs: int) -> None:
        add(f"{name}.weight", outputs, inputs)
        add(f"{name}.bias", outputs)

    def add_norm(name: str) -> None:
        add(f"{name}.weight", width)
        add(f"{name}.bias", width)

    for name, size in (("word", n_tokens), ("position", 8), ("token_type", 2)):
        add(f"embeddings.{name}_embeddings.weight", size, width)
    add_norm("embeddings.LayerNorm")
    for block in range(n_blocks):
        prefix = f"encoder.layer.{block}"
        for name in ("self.query", "self.key", "self.value", "output.dense"):
            add_dense(f"{prefix}.attention.{name}", width, width)
        add_norm(f"{prefix}.attention.output.LayerNorm")
        add_dense(f"{prefix}.intermediate.dense", inner, width)
        add_dense(f"{prefix}.output.dense", width, inner)
        add_norm(f"{prefix}.output.LayerNorm")
    return weights


def bert_in_numpy(weights: dict[str, np.ndarray], ids: np.ndarray, n_heads: int) -> np.ndarray:
    """One text through BERT, without padding, as the article writes it; the mean of its tokens."""

    def dense(x: np.ndarray, name: str) -> np.ndarray:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        x = x - x.mean(axis=-1, keepdims=True)
        x = x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-12)
        return x * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    x = weights["embeddings.word_embeddings.weight"][ids]
    x = x + weights["embeddings.position_embeddings.weight"][: len(ids)]
    x = x + weights["embeddings.token_type_embeddings.weight"][0]
    x = norm(x, "embeddings.LayerNorm")
    n_blocks = sum(name.endswith("attention.self.query.weight") for name in weights)
    for block in range(n_blocks):
        prefix = f"encoder.layer.{block}"
        q, k, v = (
            np.split(dense(x, f"{prefix}.attention.self.{name}"), n_heads, axis=-1)
            for name in ("query", "key", "value")
        )
        heads = []
        for head in range(n_heads):
            scores = np.exp(q[head] @ k[head].T / np.sqrt(q[head].shape[-1]))
            heads.append(scores / scores.sum(axis=-1, keepdims=True) @ v[head])
        y = dense(np.concatenate(heads, axis=-1), f"{prefix}.attention.output.dense")
        x = norm(x + y, f"{prefix}.attention.output.LayerNorm")
        y = dense(x, f"{prefix}.intermediate.dense")
        y = dense(y * stats.norm.cdf(y), f"{prefix}.output.dense")
        x = norm(x + y, f"{prefix}.output.LayerNorm")
    return x.mean(axis=0)


def test_the_encoder_is_bert() -> None:
    weights = random_bert(n_tokens=11, width=6, inner=10, n_blocks=2)
    model = text_encoder.build_encoder(weights, length=5, n_heads=3)
    texts = [[1, 2, 3, 4, 5], [9, 10], [7, 7, 1]]
    ids = np.array([text + [0] * (5 - len(text)) for text in texts])
    found = model(ids).numpy()
    for vector, text in zip(found, texts):
        expected = bert_in_numpy(weights, np.array(text), n_heads=3)
        np.testing.assert_allclose(vector, expected, rtol=1e-4, atol=1e-5)


def test_tokens_that_do_not_occur_can_be_left_out() -> None:
    weights = random_bert(n_tokens=11, width=6, inner=10, n_blocks=1)
    ids = np.array([[9, 2, 0], [3, 9, 9]])
    expected = text_encoder.build_encoder(weights, length=3, n_heads=2)(ids)
    fewer, table = text_encoder.only_used_tokens(ids, weights)
    small = text_encoder.build_encoder(table, length=3, n_heads=2)
    np.testing.assert_array_equal(small(fewer), expected)
    assert small.get_layer("embedding").weights[0].shape == (4, 6)


def test_every_layer_of_the_encoder_is_a_leaf() -> None:
    weights = random_bert(n_tokens=11, width=6, inner=10, n_blocks=1)
    model = text_encoder.build_encoder(weights, length=3, n_heads=2)
    assert [group.layers[0] for group in split_layerwise(model)] == [
        "embedding",  # with its normalization
        *(f"block_0_{part}" for part in ("attention", "norm_1", "dense_1", "dense_2", "norm_2")),
    ]
    first, second = split_layers(model, ["block_0_dense_1"])
    assert "block_0_norm_1" in first.layers and second.layers[0] == "block_0_dense_1"


@pytest.mark.slow
def test_the_pretrained_encoder_knows_the_sections() -> None:
    missing = text_encoder.missing_packages()
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    texts, sections, splits = tasks.read_sections()
    ids = text_encoder.tokenize(texts, 32)
    ids, weights = text_encoder.only_used_tokens(ids, text_encoder.read_weights())
    vectors = text_encoder.build_encoder(weights, 32).predict(ids, verbose=0)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    train, validation = splits == "train", splits == "validation"
    nearest = (vectors[validation] @ vectors[train].T).argmax(axis=1)
    accuracy = np.mean(sections[train][nearest] == sections[validation])
    assert accuracy == pytest.approx(0.76, abs=0.01)


def test_examples_in_docstrings() -> None:
    modules = (
        *(arms, command, intervals, protocol, recipe_report, report, runs),
        *(solved_head, study, tasks, text_encoder, training),
    )
    found = [doctest.testmod(module) for module in modules]
    assert sum(one.attempted for one in found) >= 15
    assert not any(one.failed for one in found)


# --- The page


@pytest.fixture(scope="module")
def section() -> tuple[str, str]:
    """The conclusions on the page, and the tables after them."""
    page = command.PAGE.read_text()
    _, _, after = page.partition("### Conclusions\n")
    conclusions, _, rest = after.partition("<!-- begin transfer-rates -->")
    tables, _, _ = rest.partition("<!-- end transfer-rates -->")
    return conclusions, tables


def test_the_page_shows_the_stored_runs(section: tuple[str, str]) -> None:
    records = protocol.read_records(command.RESULTS / rates.STUDY.file)
    assert section[1].strip() == report.text(records, rates.STUDY).strip()


def test_the_page_shows_the_stored_runs_of_the_recipe() -> None:
    page = command.PAGE.read_text()
    _, _, after = page.partition("<!-- begin transfer-recipe -->")
    tables, _, _ = after.partition("<!-- end transfer-recipe -->")
    records = protocol.read_records(command.RESULTS / recipe.STUDY.file)
    assert tables.strip() == recipe_report.text(records, recipe.STUDY).strip()


def test_every_conclusion_quotes_an_interval_of_the_tables(section: tuple[str, str]) -> None:
    conclusions, tables = section
    sentences = re.findall(r"^\d+\. .*?(?=^\d+\. |\Z)", conclusions, re.MULTILINE | re.DOTALL)
    assert len(sentences) == 10
    for sentence in sentences:
        intervals = re.findall(
            r"[-+]?[\d.]+ \([-+]?[\d.]+ to [-+]?[\d.]+\)", " ".join(sentence.split())
        )
        assert intervals, sentence
        assert [quoted for quoted in intervals if quoted not in tables] == []
