"""How an optimizer is stored in checkpoints and files."""

from __future__ import annotations

from typing import Any

import keras


class CheckpointableOptimizer(keras.optimizers.Optimizer):
    """A Keras optimizer that defines the names under which TensorFlow stores its parts.

    By default TensorFlow stores every list that Keras keeps, by position, the model's weights
    among them. The names come from two private methods of TensorFlow's `Trackable`; both are
    called while the base class is initialized.
    """

    def checkpoint_children(self, save_type: str) -> dict[str, Any]:
        """Return the parts to store, by name.

        Args:
            save_type: `"checkpoint"` or `"savedmodel"`.
        """
        raise NotImplementedError

    def checkpoint_child(self, name: str) -> Any:
        """Return the part that a stored name belongs to, `None` if there is none."""
        raise NotImplementedError

    def restore_deferred(self, name: str, child: Any) -> None:
        """Restore a new part from a checkpoint that was read before the part existed."""
        self._handle_deferred_dependencies(name, child)

    def _trackable_children(self, save_type: str = "checkpoint", **kwargs: Any) -> dict[str, Any]:
        return self.checkpoint_children(save_type)

    def _lookup_dependency(self, name: str, cached_dependencies: Any = None) -> Any:
        # `cached_dependencies` is not used: it may lack a part that is created now.
        return self.checkpoint_child(name)


def related_stores(store: Any, child: str) -> list[Any]:
    """Return what a file holds under the parent and under a child of an object's own path.

    `load_own_variables` is given the object's own part of the file alone. Whether an optimizer was
    saved inside another one decides where its state is.

    Args:
        store: What `load_own_variables` is given: Keras' HDF5 store; for others nothing is found.
        child: Name of the attribute that holds an inner object.

    Returns:
        The contents found, as mappings from names to data sets.
    """
    file, path = getattr(store, "h5_file", None), getattr(store, "_h5_entry_path", None)
    if file is None or path is None:
        return []
    paths = [f"{path}/{child}"]
    if path.endswith(f"/{child}"):
        paths.append(path[: -len(f"/{child}")])
    return [file[near]["vars"] for near in paths if near in file and "vars" in file[near]]
