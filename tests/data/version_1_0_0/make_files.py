"""Write the files of version 1.0.0 that `tests/core/test_version_1_0_0.py` reads.

Run it with dlr_tf 1.0.0, TensorFlow 2.21.0 and Keras 3.15.1:

    python make_files.py DIRECTORY

It writes, for float32 and for mixed_float16, one training of five steps as `.keras`,
`.weights.h5` and `tf.train.Checkpoint`, and `<policy>.npz` with every value that they hold.
"""

import pathlib
import sys

import keras
import numpy as np
import tensorflow as tf

from dlr_tf import SGDR, MultiGroupOptimizer, split_layers

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


for policy in ("float32", "mixed_float16"):
    keras.config.set_dtype_policy(policy)
    model = make_model()
    groups = split_layers(model, ["late", "head"], names=["early", "late", "head"])
    optimizer = MultiGroupOptimizer(
        groups,
        [1e-3, SGDR(2e-3, 3), 1e-2],
        use_ema=True,
        gradient_accumulation_steps=2,
        global_clipnorm=1.0,
    )
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    x = np.random.default_rng(1).normal(size=(40, 4)).astype("float32")
    model.fit(x, np.arange(40) % 3, batch_size=8, shuffle=False, verbose=0)
    optimizer.learning_rate = 5e-3
    stem = str(directory / policy)
    model.save(stem + ".keras")
    model.save_weights(stem + ".weights.h5")
    tf.train.Checkpoint(model=model, optimizer=model.optimizer).write(stem + ".checkpoint")
    state = optimizer.state.arrays()
    values = {f"state/{name}": value for name, value in state.items()}
    values |= {f"weights/{i}": w for i, w in enumerate(model.get_weights())}
    values["iterations"] = optimizer.step_counter.numpy()
    values["steps"] = optimizer.group_steps.numpy()
    values["learning_rates"] = np.array(optimizer.learning_rates)
    if policy == "mixed_float16":
        scale = (model.optimizer.dynamic_scale, model.optimizer.step_counter)
        values["loss_scale"] = np.array([keras.ops.convert_to_numpy(v) for v in scale])
    np.savez_compressed(stem + ".npz", **values)
    print(policy, int(values["iterations"]), optimizer.learning_rates, len(values))
