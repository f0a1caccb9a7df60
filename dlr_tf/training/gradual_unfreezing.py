"""A callback that unfreezes the groups one by one, from the head to the first group."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from dlr_tf.core._validation import check_integer
from dlr_tf.core.groups import LayerGroup, check_groups
from dlr_tf.training.checked_callback import CheckedCallback
from dlr_tf.training.freezing import freeze_to

_logger = logging.getLogger(__name__)


class GradualUnfreezing(CheckedCallback):
    """Train the head first, and unfreeze one more group every few epochs.

    In epoch `e`, counted from 0, the groups from index `n - 1 - e // epochs_per_group` on are
    trainable, for `n` groups. All groups are trainable once that index is below 0. The index
    depends only on the number of the epoch, so a run that continues with `initial_epoch` or
    `BackupAndRestore` trains the right groups.

    The logs of an epoch get `trainable_groups`, the number of groups that were trainable. The
    logger `dlr_tf.training.gradual_unfreezing` names each group that is unfrozen, at level
    `INFO`.

    Use `fine_tune` to train only the head first, and then all groups at once. If the rates of the
    first groups are much lower than that of the head, freezing is often not needed.

    Args:
        groups: What `split_layers` and the others return, first to head.
        epochs_per_group: Epochs until the next group is unfrozen, at least 1. Defaults to `1`, as
            in the source.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If there is no group, two groups name one layer, or `epochs_per_group` is
            below 1.

    Example:

    >>> import keras
    >>> from dlr_tf import MultiGroupOptimizer, split_layers
    >>> model = keras.Sequential(
    ...     [keras.Input((4,)), keras.layers.Dense(8), keras.layers.Dense(2, name="top")]
    ... )
    >>> groups = split_layers(model, ["top"])
    >>> model.compile(MultiGroupOptimizer(groups, slice(1e-4, 1e-2)), loss="mse")
    >>> unfreezing = GradualUnfreezing(groups)
    >>> [unfreezing.first_trainable_group(epoch) for epoch in (0, 1, 9)]
    [1, 0, 0]

    Source: Howard and Ruder, 2018, https://arxiv.org/abs/1801.06146, section 3.3.
    """

    def __init__(self, groups: Sequence[LayerGroup], epochs_per_group: int = 1) -> None:
        super().__init__()
        self.groups = check_groups(groups)
        self.epochs_per_group = check_integer("epochs_per_group", epochs_per_group, minimum=1)
        self._first: int | None = None

    def first_trainable_group(self, epoch: int) -> int:
        """Return the index of the first trainable group in an epoch, counted from 0."""
        return max(len(self.groups) - 1 - epoch // self.epochs_per_group, 0)

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        self._first = None

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        first = self.first_trainable_group(epoch)
        if first == self._first:
            return
        freeze_to(self.model, self.groups, first)
        new = ", ".join(group.name for group in self.groups[first : self._first])
        self._first = first
        _logger.info("Epoch %d: starts to train %s.", epoch + 1, new)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if logs is not None:
            logs["trainable_groups"] = len(self.groups) - self.first_trainable_group(epoch)
