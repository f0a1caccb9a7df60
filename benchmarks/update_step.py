"""What does one update of all weights cost, with one Keras Adam and with many groups?

Only the update: a `tf.function` around `apply` on fixed random gradients. The gradients are
constants of the function, not arguments: in training they never pass through Python, and passing
158 arguments takes about as long as the update itself. All competitors update the weights of one
model, in turn. Two limits are shown as well: a plain loop over TensorFlow's Adam kernel, and the
memory traffic that any Adam needs, measured as one sum over a long array. It is 28 bytes per
parameter: Adam reads the weight, the gradient and two moments, and writes all but the gradient. The
first call is tracing, compiling and the first run of a new `tf.function` on a new optimizer. Peak
memory is what the update needs beyond weights, gradients and optimizer state.

    python -m benchmarks.update_step [--device cpu|gpu] [--quick] [--output FILE.json]
"""

from __future__ import annotations

import functools
import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from benchmarks import common
from dlr_tf import LayerGroup, MultiGroupOptimizer, split_evenly, split_layerwise
from dlr_tf.core.assignment import assign_variables

RATES = slice(1e-6, 1e-5)
BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-7
BYTES_PER_PARAMETER = 28
PER_LAYER = "per layer"

KERAS_ADAM = "Keras Adam"
KERAS_MULTI = "Keras MultiOptimizer"
GROUPS_KERAS = "MultiGroupOptimizer, Keras Adam"
GROUPS_FUSED = "MultiGroupOptimizer, FusedAdam"
KERNEL_LOOP = "loop over the kernel"
TRAFFIC = "memory traffic alone"


class Case(NamedTuple):
    """One run in which all competitors take turns.

    Args:
        model: Its name.
        make_model: Builds it.
        groups: The numbers of groups to try, or `"per layer"`.
        xla: Whether the update is compiled by XLA.
        rounds: How often each competitor is timed.
        first_calls: How often each competitor is built and traced afresh.
    """

    model: str
    make_model: Callable[[], keras.Model]
    groups: tuple[int | str, ...]
    xla: bool
    rounds: int
    first_calls: int

    def __str__(self) -> str:
        return self.model + (", XLA" if self.xla else "")


class Competitor(NamedTuple):
    """What is timed: its name, and the number of groups, `None` without groups."""

    name: str
    groups: int | str | None = None


class KernelLoop:
    """The hand-written limit: Adam as a loop over its kernel. Shared values are computed once."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._step = tf.Variable(0, dtype=tf.int64, trainable=False)
        self._slots: list[tuple[tf.Variable, tf.Variable]] = []

    @property
    def variables(self) -> list[tf.Variable]:
        return [self._step, *(slot for pair in self._slots for slot in pair)]

    def build(self, variables: Sequence[Any]) -> None:
        self._slots = [
            (
                tf.Variable(tf.zeros(variable.shape), trainable=False),
                tf.Variable(tf.zeros(variable.shape), trainable=False),
            )
            for variable in variables
        ]

    def apply(self, gradients: Sequence[Any], variables: Sequence[Any]) -> None:
        step = tf.cast(self._step + 1, tf.float32)
        shared = {
            "beta1_power": tf.pow(BETA_1, step),
            "beta2_power": tf.pow(BETA_2, step),
            "lr": tf.constant(self._rate),
            "beta1": tf.constant(BETA_1),
            "beta2": tf.constant(BETA_2),
            "epsilon": tf.constant(EPSILON),
        }
        for gradient, variable, (m, v) in zip(gradients, variables, self._slots):
            tf.raw_ops.ResourceApplyAdam(
                var=variable.value.handle, m=m.handle, v=v.handle, grad=gradient, **shared
            )
        self._step.assign_add(1)


def split(model: keras.Model, groups: int | str) -> tuple[LayerGroup, ...]:
    return split_layerwise(model) if groups == PER_LAYER else split_evenly(model, int(groups))


def multi_optimizer(model: keras.Model, groups: tuple[LayerGroup, ...]) -> Any:
    """Keras' own wrapper, with one Adam per group."""
    rates = MultiGroupOptimizer(groups, RATES).learning_rates
    optimizers = [keras.optimizers.Adam(rate) for rate in rates]
    group_of = {id(entry.variable): entry.group for entry in assign_variables(model, groups)}
    return keras.optimizers.MultiOptimizer(lambda variable: optimizers[group_of[id(variable)]])


def optimizer_makers(
    model: keras.Model, groups: Sequence[int | str]
) -> dict[Competitor, Callable[[], Any]]:
    """Return functions that make a new optimizer of each competitor."""
    makers: dict[Competitor, Callable[[], Any]] = {
        Competitor(KERAS_ADAM): lambda: keras.optimizers.Adam(RATES.stop)
    }
    for count in groups:
        parts = split(model, count)
        wrapper = functools.partial(MultiGroupOptimizer, parts, RATES)
        if hasattr(keras.optimizers, "MultiOptimizer"):
            makers[Competitor(KERAS_MULTI, count)] = functools.partial(
                multi_optimizer, model, parts
            )
        makers[Competitor(GROUPS_KERAS, count)] = functools.partial(
            wrapper, keras.optimizers.Adam()
        )
        makers[Competitor(GROUPS_FUSED, count)] = wrapper
    makers[Competitor(KERNEL_LOOP)] = lambda: KernelLoop(RATES.stop)
    return makers


class FirstCall(NamedTuple):
    """A competitor after its first call, and the seconds that the call took."""

    step: Callable[[], Any]
    build: float
    trace: float
    run: float
    graph_ops: int
    state_bytes: int

    @property
    def seconds(self) -> float:
        return self.trace + self.run


def first_call(
    make: Callable[[], Any], variables: Sequence[Any], gradients: Sequence[tf.Tensor], xla: bool
) -> FirstCall:
    gc.collect()
    common.synchronize()
    started = time.perf_counter()
    optimizer = make()
    optimizer.build(variables)
    built = time.perf_counter()

    @tf.function(jit_compile=xla)
    def step() -> None:
        optimizer.apply(gradients, variables)

    traced_function = step.get_concrete_function()
    traced = time.perf_counter()
    run = common.seconds_of(step)
    return FirstCall(
        step=step,
        build=built - started,
        trace=traced - built,
        run=run,
        graph_ops=count_ops(traced_function),
        state_bytes=state_bytes(optimizer),
    )


def count_ops(function: Any) -> int:
    """Count the operations of a traced function and of the functions that it calls."""
    definition = function.graph.as_graph_def()
    return len(definition.node) + sum(len(f.node_def) for f in definition.library.function)


def state_bytes(optimizer: Any) -> int:
    """Return the memory of an optimizer's state in bytes, with that of its inner optimizers."""
    inner = getattr(optimizer, "group_optimizers", getattr(optimizer, "optimizers", ()))
    kept = {id(v): v for one in (optimizer, *inner) for v in one.variables}
    return sum(
        tf.as_dtype(v.dtype).size * tf.TensorShape(v.shape).num_elements() for v in kept.values()
    )


def traffic(n_parameters: int) -> Callable[[], Any]:
    """Move 28 bytes per parameter: read two long arrays and write one, 12 bytes per element."""
    length = round(n_parameters * BYTES_PER_PARAMETER / 12)
    total, part = tf.Variable(tf.zeros(length), trainable=False), tf.zeros(length)

    @tf.function
    def add() -> None:
        total.assign_add(part, read_value=False)

    return add


def measure(case: Case, device: str) -> list[dict[str, Any]]:
    """One row per competitor."""
    model = case.make_model()
    variables = model.trainable_variables
    n_parameters = sum(v.value.shape.num_elements() for v in variables)
    generator = tf.random.Generator.from_seed(0)
    gradients = [generator.normal(v.shape, stddev=1e-2) for v in variables]
    makers = optimizer_makers(model, case.groups)

    firsts: dict[Competitor, list[FirstCall]] = {competitor: [] for competitor in makers}
    for _ in range(case.first_calls):
        for competitor, make in makers.items():
            # Only the cost of earlier calls is kept: a step keeps its optimizer's state alive.
            earlier = [call._replace(step=lambda: None) for call in firsts[competitor]]
            firsts[competitor] = earlier
            firsts[competitor].append(first_call(make, variables, gradients, case.xla))
    steps = {competitor: calls[-1].step for competitor, calls in firsts.items()}
    peaks = {competitor: common.peak_bytes_of(step, device) for competitor, step in steps.items()}
    times = common.time_in_turn(
        {**steps, Competitor(TRAFFIC): traffic(n_parameters)}, rounds=case.rounds
    )

    def ratio(competitor: Competitor, reference: Competitor) -> common.Ratio | None:
        if reference not in times:
            return None
        return common.ratio_of(times[competitor], times[reference])

    reference_calls = [call.seconds for call in firsts[Competitor(KERAS_ADAM)]]
    rows = []
    for competitor, seconds in times.items():
        row: dict[str, Any] = {
            "model": case.model,
            "n_variables": len(variables),
            "n_parameters": n_parameters,
            "xla": case.xla,
            "competitor": competitor.name,
            "groups": competitor.groups,
            "n_groups": competitor.groups and len(split(model, competitor.groups)),
            "seconds": statistics.median(seconds),
            "to_keras_adam": ratio(competitor, Competitor(KERAS_ADAM)),
            "to_multi_optimizer": ratio(competitor, Competitor(KERAS_MULTI, competitor.groups)),
            "to_kernel_loop": ratio(competitor, Competitor(KERNEL_LOOP)),
            "to_one_group": ratio(competitor, Competitor(competitor.name, 1)),
        }
        if competitor.name == TRAFFIC:
            row["bytes_per_second"] = BYTES_PER_PARAMETER * n_parameters / row["seconds"]
        else:
            calls = firsts[competitor]
            peak = peaks[competitor]
            row |= {
                "build_seconds": statistics.median(call.build for call in calls),
                "trace_seconds": statistics.median(call.trace for call in calls),
                "first_call_seconds": statistics.median(call.seconds for call in calls),
                "first_call_to_keras_adam": common.ratio_of(
                    [call.seconds for call in calls], reference_calls
                ),
                "graph_ops": calls[-1].graph_ops,
                "state_bytes_per_parameter": calls[-1].state_bytes / n_parameters,
                "peak_bytes_per_parameter": None if peak is None else peak / n_parameters,
            }
        rows.append(row)
    return rows


def cases(quick: bool) -> list[Case]:
    small = common.small_convnet
    rehearsal = [
        Case("small convnet", small, (1, PER_LAYER), xla=False, rounds=2, first_calls=1),
        Case("small convnet", small, (3,), xla=True, rounds=2, first_calls=1),
    ]
    if quick:
        return rehearsal
    mobile = functools.partial(common.classifier, "MobileNetV2", 96)
    resnet = functools.partial(common.classifier, "ResNet50", 96)
    return [
        Case("MobileNetV2", mobile, (1, 3, 50, PER_LAYER), xla=False, rounds=40, first_calls=2),
        Case("ResNet50", resnet, (1, 3, 50, PER_LAYER), xla=False, rounds=30, first_calls=2),
        Case(
            "ViT-B/16", common.transformer, (1, 3, PER_LAYER), xla=False, rounds=12, first_calls=1
        ),
        Case("MobileNetV2", mobile, (3,), xla=True, rounds=40, first_calls=1),
        Case("ResNet50", resnet, (3,), xla=True, rounds=30, first_calls=1),
        Case("ViT-B/16", common.transformer, (3,), xla=True, rounds=12, first_calls=1),
    ]


def run(device: str, quick: bool) -> list[dict[str, Any]]:
    """All rows."""
    if not quick:
        for case in cases(quick=True):
            measure(case, device)  # what a process loads only once is not timed
    return common.rows_of_cases(cases(quick), functools.partial(measure, device=device))


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Two Markdown tables per model, with and without XLA: the update, and the first call."""
    parts = []
    for model, xla in dict.fromkeys((row["model"], row["xla"]) for row in rows):
        chosen = [row for row in rows if (row["model"], row["xla"]) == (model, xla)]
        parts.append(
            f"**{model}**, {'with' if xla else 'without'} XLA: {chosen[0]['n_variables']} "
            f"variables, {chosen[0]['n_parameters'] / 1e6:.1f} M parameters"
        )
        parts.append(
            common.markdown_table(
                [
                    "competitor", "groups", "ms", "to Keras Adam", "to MultiOptimizer",
                    "to the loop", "to 1 group",
                ],
                [_update_line(row) for row in chosen],
            )
        )  # fmt: skip
        parts.append(
            common.markdown_table(
                [
                    "competitor", "groups", "first call, s", "to Keras Adam's", "build, s", "ops",
                    "ops/variable", "state B/param", "peak B/param",
                ],
                [_first_call_line(row) for row in chosen if row["competitor"] != TRAFFIC],
            )
        )  # fmt: skip
    return "\n\n".join(parts)


def _labels(row: Mapping[str, Any]) -> list[str]:
    groups = "-" if row["groups"] is None else str(row["groups"])
    if groups == PER_LAYER:
        groups = f"{row['n_groups']}, one per layer"
    name = row["competitor"]
    if name == TRAFFIC:
        name += f" at {row['bytes_per_second'] / 1e9:.1f} GB/s"
    return [name, groups]


def _update_line(row: Mapping[str, Any]) -> list[str]:
    references = ("keras_adam", "multi_optimizer", "kernel_loop", "one_group")
    ratios = [row[f"to_{reference}"] for reference in references]
    return [
        *_labels(row),
        common.number(1e3 * row["seconds"]),
        *(common.number(ratio and ratio[0]) for ratio in ratios),
    ]


def _first_call_line(row: Mapping[str, Any]) -> list[str]:
    return [
        *_labels(row),
        common.number(row["first_call_seconds"]),
        common.number(row["first_call_to_keras_adam"][0]),
        common.number(row["build_seconds"]),
        f"{row['graph_ops']:,}",
        common.number(row["graph_ops"] / row["n_variables"], 1),
        common.number(row["state_bytes_per_parameter"]),
        common.number(row["peak_bytes_per_parameter"]),
    ]


def main(argv: Sequence[str] | None = None) -> int:
    return common.main("update_step", __doc__, run, table, argv)


if __name__ == "__main__":
    raise SystemExit(main())
