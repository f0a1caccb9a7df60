"""The command `layers`: the layers of a model, and where it can be cut into groups."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Sequence
from typing import Any

import keras

from dlr_tf.app import models
from dlr_tf.app.config import LayersConfig
from dlr_tf.app.options import option_name
from dlr_tf.app.run import split_task
from dlr_tf.app.terminal import messages_to_stderr, table, usage_errors
from dlr_tf.core.assignment import assign_layers
from dlr_tf.core.groups import LayerGroup

# A model with more layers is shown by blocks.
MAX_ROWS = 24
# The classes of the head of a network that has none. The number does not matter for the groups.
CLASSES = 10
# What names the block of a layer, as in `block_6_expand`, `conv2_block1_1_bn`, `block2a_se_reduce`.
_BLOCK = re.compile(
    r"^.*(?:block|layer|cell|expanded_conv|stage)s?[_/]?\d+[a-z]?(?=_|/|$)", re.IGNORECASE
)


@dataclasses.dataclass(frozen=True)
class Row:
    """A layer, or a block of layers that follow each other.

    Args:
        name: How to call its first layer in `--boundaries`.
        shape: The output of its last layer with weights, without the batch axis. Empty where it is
            not known.
        n_layers: The number of its layers.
        n_parameters: The number of its parameters.
        groups: The indices of the groups that its layers belong to.
        block: What its layers have in common.
        is_head: Whether it is the head.
    """

    name: str
    shape: tuple[int | None, ...]
    n_layers: int
    n_parameters: int
    groups: tuple[int, ...]
    block: object = None
    is_head: bool = False


def run(config: LayersConfig) -> int:
    """List the layers of a model, and return the exit code, 0.

    Raises:
        UsageError: If there is no such model, or it cannot be cut like this.
    """
    with messages_to_stderr(), usage_errors():
        label, model = _network(config)
        boundaries = config.boundaries.split(",") if config.boundaries else None
        groups = split_task(model, config.groups, boundaries)
        rows = layer_rows(model, groups)
    print(f"{label}: {len(rows)} layers, {model.count_params():,} parameters")
    blocks = merge_blocks(rows)
    print(layer_table(rows if config.all or len(rows) <= MAX_ROWS else blocks, len(groups)))
    if not config.all and len(rows) > MAX_ROWS:
        print("each line is a block, named by its first layer; every layer: --all")
    print("to cut it into groups of about equal sizes, the last one the head alone:")
    for n_groups in (2, 3, 4):
        suggested = suggest_boundaries(blocks, n_groups) or suggest_boundaries(rows, n_groups)
        if suggested:
            print(f"  {n_groups} groups  --boundaries {','.join(suggested)}")
    return 0


def _network(config: LayersConfig) -> tuple[str, keras.Model]:
    """Return a description and the model, without pretrained weights where it has a name."""
    if config.model is None:
        for name in ("image_size", "keep_head"):
            if getattr(config, name):
                raise ValueError(
                    f"{option_name(name)} needs MODEL: a model of keras.applications, a .keras "
                    "file, or hub:NAME."
                )
        backbone = models.digits_backbone()
        return "the network for the digits of scikit-learn", models.classifier(backbone, 5)
    file = models.model_file(config.model)
    known = models.KnownTarget(()) if file is None else models.known_target(file)
    source = models.open_source(
        config.model,
        weights="none" if file is None else None,
        image_size=config.image_size,
        keep_head=config.keep_head,
    )
    own = range(source.own_classes or CLASSES)
    names = source.kept_classes or known.names or [str(index) for index in own]
    model = source.build(names, known.kind)
    nouns = known.nouns if len(names) > 1 else known.nouns.removesuffix("s")
    head = f"{'its own' if config.keep_head else 'a'} head for {len(names)} {nouns}"
    takes = f"images of {source.image_size} x {source.image_size}"
    if source.texts is not None:
        takes = "texts"
    return f"{source.name}, {takes}, {head}", model


def layer_rows(model: keras.Model, groups: Sequence[LayerGroup]) -> list[Row]:
    """Return one row for each layer that is never split, in the order of a classifier."""
    assigned = assign_layers(model, groups)
    names = [leaf.layer.name for leaf, _ in assigned]
    heads = models.head_paths(model)
    shapes = [_output_shape(leaf.layer) for leaf, _ in assigned]
    counts = [leaf.layer.count_params() for leaf, _ in assigned]
    stages = _stages([shape if count else () for shape, count in zip(shapes, counts)])
    return [
        Row(
            name=leaf.layer.name if names.count(leaf.layer.name) == 1 else leaf.path,
            shape=shape,
            n_layers=1,
            n_parameters=count,
            groups=(group,),
            block=found[0] if (found := _BLOCK.match(leaf.path)) else stage if count else None,
            is_head=leaf.path in heads,
        )
        for (leaf, group), shape, count, stage in zip(assigned, shapes, counts, stages)
    ]


def _output_shape(layer: keras.layers.Layer) -> tuple[int | None, ...]:
    try:
        output: Any = layer.output
    except (AttributeError, ValueError):  # it has no graph, or is called on several shapes
        return ()
    return tuple(output.shape[1:]) if isinstance(output, keras.KerasTensor) else ()


def _stages(shapes: Sequence[tuple[int | None, ...]]) -> list[int]:
    """Return the stage of each layer: an integer that falls with the resolution.

    A layer between two of a higher resolution, as in squeeze-and-excitation, belongs to these.

    >>> _stages([(8, 8, 3), (1, 1, 3), (8, 8, 4), (), (4, 4, 4), (5,)])
    [8, 8, 8, 4, 4, 0]
    """
    sizes = [(shape[0] or 0) if len(shape) == 3 else 0 for shape in shapes]
    return list(itertools.accumulate(reversed(sizes), max))[::-1]


def merge_blocks(rows: Sequence[Row]) -> list[Row]:
    """Merge the rows of each block into one. Layers outside of blocks are merged by resolution.

    A layer without weights that names no block belongs to the row before it. The head stays alone.
    """
    merged: list[Row] = []
    for row in rows:
        last = merged[-1] if merged else None
        joins = last is not None and not row.is_head and row.block in (last.block, None)
        if last is None or not joins:
            # What stands before the first block may have no weights: it is part of that block.
            if last is not None and last.block is None and not row.is_head:
                merged.pop()
                row = dataclasses.replace(_sum(last, row), block=row.block)
            merged.append(row)
        else:
            merged[-1] = _sum(last, row)
    return merged


def _sum(first: Row, second: Row) -> Row:
    return dataclasses.replace(
        first,
        shape=second.shape if second.n_parameters or not first.n_parameters else first.shape,
        n_layers=first.n_layers + second.n_layers,
        n_parameters=first.n_parameters + second.n_parameters,
        groups=tuple(dict.fromkeys((*first.groups, *second.groups))),
    )


def suggest_boundaries(rows: Sequence[Row], n_groups: int) -> list[str]:
    """Return the first layers of the groups, so that the sum of squared group sizes is smallest.

    Rows are not cut, and the last one is the head. The first group is left out. The result is empty
    if there are too few rows.

    >>> rows = [Row(name, (), 1, 5, (0,)) for name in "abcdef"]
    >>> suggest_boundaries(rows, 3)
    ['c', 'f']
    """
    *body, head = rows
    sizes = [0, *itertools.accumulate(row.n_parameters for row in body)]
    starts = [index for index, row in enumerate(body) if row.n_parameters][1:]

    def cost(cuts: tuple[int, ...]) -> int:
        edges = (0, *cuts, len(body))
        return sum((sizes[b] - sizes[a]) ** 2 for a, b in itertools.pairwise(edges))

    best = min(itertools.combinations(starts, n_groups - 2), key=cost, default=None)
    return [] if best is None else [*(body[cut].name for cut in best), head.name]


def layer_table(rows: Sequence[Row], n_groups: int) -> str:
    """Format rows as a table. The last of the groups is shown as `head`."""

    def group(index: int) -> str:
        return "head" if index == n_groups - 1 else str(index)

    by_layer = all(row.n_layers == 1 for row in rows)
    columns = ["layer" if by_layer else "first layer", "output", "layers", "parameters", "group"]
    cells = [
        [
            row.name,
            "x".join("?" if size is None else str(size) for size in row.shape),
            f"{row.n_layers:,}",
            f"{row.n_parameters:,}",
            "-".join(group(index) for index in sorted({row.groups[0], row.groups[-1]})),
        ]
        for row in rows
    ]
    if by_layer:
        for line in (columns, *cells):
            del line[2]
    return table(columns, cells, numbers=len(columns) - 1)
