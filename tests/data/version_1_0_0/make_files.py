"""Write the files of version 1.0.0 that `tests/core/test_version_1_0_0.py` reads.

Run it with dlr_tf 1.0.0, TensorFlow 2.21.0 and Keras 3.15.1:

    python make_files.py DIRECTORY [NAME ...]

It writes, for each of `NAMES`, one training of five steps as `.keras`, `.weights.h5` and
`tf.train.Checkpoint`, and `<name>.npz` with every value that they hold. `patterns` has groups by
pattern, momentum and weight decay by schedules, a warm-up, and decay to the start.
"""

import pathlib
import sys

import keras
import numpy as np
import tensorflow as tf

from dlr_tf import (
    SGDR,
    FusedAdam,
    MultiGroupOptimizer,
    OneCycle,
    WarmUp,
    split_by_pattern,
    split_layers,
)

NAMES = ("float32", "mixed_float16", "patterns")
directory = pathlib.Path(sys.argv[1])


def make_model():
    keras.utils.set_random_seed(7)
    return keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(6, activation="relu", name="body"),
            keras.layers.BatchNormalization(name="norm"),
            keras.layers.Dense(5, activation="relu", name="late"),
            keras.layers.Dense(3, dtype="float32", name="head"),
        ],
        name="model",
    )


def make_optimizer(model):
    groups = split_layers(model, ["late", "head"], names=["early", "late", "head"])
    return MultiGroupOptimizer(
        groups,
        [1e-3, SGDR(2e-3, 3), 1e-2],
        use_ema=True,
        gradient_accumulation_steps=2,
        global_clipnorm=1.0,
    )


def make_optimizer_with_patterns(model):
    patterns = {"no_decay": "(bias|gamma|beta)$", "body": "^(body|late)", "head": "^head"}
    decay = keras.optimizers.schedules.PolynomialDecay(0.5, 10, end_learning_rate=0.1)
    return MultiGroupOptimizer(
        split_by_pattern(model, patterns),
        [1e-3, WarmUp(SGDR(2e-3, 3), 2), WarmUp(1e-2, 4)],
        FusedAdam(beta_1=OneCycle(1.0, 20).momentum(0.9, 0.8)),
        weight_decay={"no_decay": 0.0, "body": decay, "head": 0.25},
        decay_to_start={"no_decay": 0.0, "body": 0.5, "head": 0.0},
    )


for name in sys.argv[2:] or NAMES:
    with_patterns = name == "patterns"
    keras.config.set_dtype_policy("float32" if with_patterns else name)
    model = make_model()
    optimizer = make_optimizer_with_patterns(model) if with_patterns else make_optimizer(model)
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    x = np.random.default_rng(1).normal(size=(40, 4)).astype("float32")
    model.fit(x, np.arange(40) % 3, batch_size=8, shuffle=False, verbose=0)
    optimizer.learning_rate = 5e-3
    stem = str(directory / name)
    model.save(stem + ".keras")
    model.save_weights(stem + ".weights.h5")
    tf.train.Checkpoint(model=model, optimizer=model.optimizer).write(stem + ".checkpoint")
    state = {}
    optimizer.save_own_variables(state)
    values = {f"state/{key}": value for key, value in state.items() if key != "manifest"}
    values |= {f"weights/{i}": w for i, w in enumerate(model.get_weights())}
    values["iterations"] = optimizer.step_counter.numpy()
    values["steps"] = optimizer.group_steps.numpy()
    values["learning_rates"] = np.array(optimizer.learning_rates)
    if name == "mixed_float16":
        scale = (model.optimizer.dynamic_scale, model.optimizer.step_counter)
        values["loss_scale"] = np.array([keras.ops.convert_to_numpy(v) for v in scale])
    np.savez_compressed(stem + ".npz", **values)
    print(name, int(values["iterations"]), optimizer.learning_rates, len(values))
