"""Names of the core as they are after its rewrite; to be deleted then."""

from dlr_tf.core.groups import Unit as LeafLayer
from dlr_tf.core.groups import assign_units as assign_layers
from dlr_tf.core.groups import assign_variables
from dlr_tf.core.groups import layer_units as leaf_layers
from dlr_tf.core.optimizer import _check_groups as check_groups

__all__ = ["LeafLayer", "assign_layers", "assign_variables", "check_groups", "leaf_layers"]
