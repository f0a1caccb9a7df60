"""One training that survives a stop: the loop, checkpoints, signals, comparison.

May import `results`, `models`, `data`, `terminal`, `training` and `core`. Other rooms import what
is below and nothing else.
"""

from dlr_tf.app.run.agreement import ChiefError, all_make, by_chief, lost_workers
from dlr_tf.app.run.checkpoint import CheckpointError, model_arrays
from dlr_tf.app.run.comparison import (
    Comparison,
    compare,
    comparison_lines,
    start_with_seed,
)
from dlr_tf.app.run.divergence import DivergedError, steps_made
from dlr_tf.app.run.interrupts import StoppedError, StopRequests
from dlr_tf.app.run.predictions import (
    Classifier,
    Prediction,
    evaluate_data,
    known_labels,
    predict_files,
    predict_texts,
)
from dlr_tf.app.run.pretraining import pretrain_on_digits
from dlr_tf.app.run.recipe import with_recipe
from dlr_tf.app.run.run import PAGE_FILE, TRAINING, Run, is_finished
from dlr_tf.app.run.seconds import Stopwatch
from dlr_tf.app.run.settings import (
    check_options,
    check_same_data,
    read_settings,
    resumed_config,
    run_settings,
    write_place_of_data,
    write_settings,
)
from dlr_tf.app.run.tasks import (
    Task,
    load_task,
    optimizer_argument,
    parse_rates,
    range_test,
    split_task,
    suited,
    with_usual_epochs,
)
from dlr_tf.app.run.training import Result, schedule_of, train
