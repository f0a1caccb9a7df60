"""A name becomes a network to start from, and a file or a run a model that predicts.

May import `terminal`, `training` and `core`. Other rooms import what is below and nothing else.
"""

from dlr_tf.app.models.applications import application_model
from dlr_tf.app.models.embedded import digits_backbone
from dlr_tf.app.models.examples import example_inputs
from dlr_tf.app.models.export_formats import FORMATS, Format
from dlr_tf.app.models.heads import HEAD, classifier, head_paths, set_scaling
from dlr_tf.app.models.inputs import image_shape
from dlr_tf.app.models.keras_hub import HUB
from dlr_tf.app.models.outputs import to_probabilities, to_scores
from dlr_tf.app.models.rebuilding import in_float32
from dlr_tf.app.models.source import Source
from dlr_tf.app.models.sources import model_file, open_source
from dlr_tf.app.models.texts import of_tokens, takes_texts, text_columns
from dlr_tf.app.models.tflite import line_of_python
from dlr_tf.app.models.trained import (
    CHECKPOINTS,
    CLASSES_FILE,
    MODEL_FILE,
    KnownTarget,
    TrainedModel,
    known_target,
    load_model_file,
    load_trained,
    model_path,
    write_target,
)
