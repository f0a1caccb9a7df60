"""The optimizer: groups, rates, schedules, state. Usable alone."""

# Before any module of this package: Keras loads the public names (see `dlr_tf/__init__.py`), and
# these must not find a module here that is half loaded.
import keras  # noqa: F401
