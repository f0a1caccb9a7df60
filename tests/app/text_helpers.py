"""A tiny BERT as a preset of KerasHub, and texts that it can learn."""

from __future__ import annotations

from pathlib import Path

WORDS = ("cat", "dog", "meows", "barks", "the", "a", "loud", "##ly", "and", "small", "old")
CLASSES = {"cat": "the {} cat meows", "dog": "a {} dog barks"}
OTHERS = ("loud", "small", "old", "loudly", "small old", "old and loud", "and", "small and old")


def write_preset(folder: Path, *, vocabulary_size: int | None = None) -> None:
    """Write a preset with random weights."""
    import keras_hub

    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    keras_hub.models.BertBackbone(
        vocabulary_size=vocabulary_size or len(vocabulary),
        num_layers=2,
        num_heads=2,
        hidden_dim=8,
        intermediate_dim=16,
        max_sequence_length=32,
    ).save_to_preset(folder)
    keras_hub.tokenizers.BertTokenizer(vocabulary, lowercase=True).save_to_preset(folder)


def write_texts(path: Path) -> Path:
    """Write a CSV file with 16 texts of two classes."""
    rows = [f"{text.format(other)},{name}" for name, text in CLASSES.items() for other in OTHERS]
    path.write_text("\n".join(["text,label", *rows, ""]), encoding="utf-8")
    return path
