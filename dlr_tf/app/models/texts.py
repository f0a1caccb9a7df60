"""Networks for texts: strings become tokens inside the model, and their vectors one vector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from dlr_tf.app.models.heads import with_head
from dlr_tf.app.models.source import Source
from dlr_tf.app.models.text_inputs import LIMIT, TextInput, tokenized
from dlr_tf.app.terminal import one_line

INPUT = "texts"


@keras.saving.register_keras_serializable("dlr_tf")
class Tokens(keras.layers.Layer):
    """Turn strings into the tokens that a network of KerasHub takes.

    Args:
        preprocessor: A `TextClassifierPreprocessor` of KerasHub.
        outputs: The names of the tensors that the network takes.
    """

    def __init__(self, preprocessor: Any, outputs: Sequence[str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if isinstance(preprocessor, dict):
            preprocessor = keras.saving.deserialize_keras_object(preprocessor)
        self.preprocessor = preprocessor
        self.outputs = list(outputs)
        self.supports_jit = False  # XLA knows no strings

    def build(self, input_shape: Any) -> None:
        """Do nothing: the preprocessor builds itself when it is called."""

    def call(self, texts: Any) -> dict[str, Any]:
        # KerasHub has other code for eager calls.
        tokenize = tf.function(self._tokenize) if tf.executing_eagerly() else self._tokenize
        found: dict[str, Any] = tokenize(texts)
        return found

    def _tokenize(self, texts: Any) -> dict[str, Any]:
        found = tokenized(self.preprocessor, texts)
        return {name: tf.cast(found[name], "int32") for name in self.outputs}

    def compute_output_spec(self, texts: Any) -> dict[str, Any]:
        shape = (None, self.preprocessor.sequence_length)
        return {name: keras.KerasTensor(shape, "int32") for name in self.outputs}

    def get_config(self) -> dict[str, Any]:
        preprocessor = keras.saving.serialize_keras_object(self.preprocessor)
        return {**super().get_config(), "preprocessor": preprocessor, "outputs": self.outputs}


def takes_texts(model: keras.Model) -> bool:
    """Return whether a model takes strings."""
    inputs: Sequence[Any] = getattr(model, "inputs", None) or ()
    return len(inputs) == 1 and bool(inputs[0].dtype == "string")


def text_columns(model: keras.Model) -> int:
    """Return how many texts an example of a model that takes strings has: 1, or 2 for pairs."""
    shape = model.inputs[0].shape
    return int(shape[1]) if len(shape) == 2 else 1


def of_tokens(model: keras.Model) -> tuple[Tokens, keras.Model] | None:
    """Return the layer that makes tokens of strings, and the model from these to the outputs.

    `None` if a model has no such layer.
    """
    layer = next((layer for layer in model.layers if isinstance(layer, Tokens)), None)
    if layer is None:
        return None
    # Keras gives the tensors without their names.
    tokens = keras.tree.pack_sequence_as(
        dict.fromkeys(layer.outputs, 0), keras.tree.flatten(layer.output)
    )
    rest = keras.Model([*tokens.values()], model.outputs[0])
    inputs = {
        name: keras.Input(ids.shape[1:], dtype=ids.dtype, name=name) for name, ids in tokens.items()
    }
    return layer, keras.Model(inputs, rest([*inputs.values()]), name=model.name)


def preset_source(keras_hub: Any, name: str, preset: str, backbone: Any, weights: str) -> Source:
    """Return a network of KerasHub for texts as a network to start from.

    Raises:
        ValueError: If it has no tokenizer, or one that does not fit.
    """
    label = f"The preset {preset!r}"
    try:
        preprocessor = keras_hub.models.TextClassifierPreprocessor.from_preset(preset)
    except Exception as error:  # whatever the library behind the preset's address raises
        raise ValueError(
            f"{label} of KerasHub has no tokenizer for the classification of texts: choose another "
            f"one, such as bert_small_en_uncased. Received: {one_line(error)[:300]}"
        ) from error
    n_tokens = preprocessor.tokenizer.vocabulary_size()
    if n_tokens > backbone.vocabulary_size:
        raise ValueError(
            f"{label} has a tokenizer that does not fit: it knows {n_tokens:,} tokens, and the "
            f"network {backbone.vocabulary_size:,}. Save both again from one model."
        )
    output = backbone.output
    vectors = output["sequence_output"] if isinstance(output, dict) else output
    limit = min(getattr(backbone, "max_sequence_length", None) or LIMIT, LIMIT)
    texts = TextInput(label, preprocessor, limit)
    preprocessor.sequence_length = limit

    def build(class_names: Sequence[str], kind: str = "class") -> keras.Model:
        shape = () if texts.columns == 1 else (texts.columns,)
        inputs = keras.Input(shape, dtype="string", name=INPUT)
        tokens = Tokens(preprocessor, [*backbone.input], name="tokens")(inputs)
        # Without the layers that serve another output.
        body = keras.Model(backbone.input, vectors, name=backbone.name)
        mean = keras.layers.GlobalAveragePooling1D(name="pooling")
        features = mean(body(tokens), mask=tokens["padding_mask"])
        name = f"{backbone.name}_classifier"
        return with_head(inputs, features, len(class_names), name=name, kind=kind)

    return Source(name, weights, None, build, texts=texts)
