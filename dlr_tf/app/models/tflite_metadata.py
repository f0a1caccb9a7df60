"""The metadata of a TFLite file: the names of its classes, inside it.

The format is that of TensorFlow Lite Support, whose package has no version for newer Pythons: a
FlatBuffer in the model describes the outputs, and a zip archive after the model holds `labels.txt`.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence

LABELS_FILE = "labels.txt"
_NAME, _IDENTIFIER = b"TFLITE_METADATA", b"M001"
_AXIS_LABELS = 2  # the type of a file with the name of each output


def with_class_names(model: bytes, names: Sequence[str], channels: int = 3) -> bytes:
    """Return a TFLite model with the names of its outputs, one per line.

    `zipfile.ZipFile(path).read("labels.txt")` reads them, and so do the libraries for phones.
    """
    from tensorflow.lite.python import schema_py_generated as schema
    from tensorflow.lite.tools import flatbuffer_utils

    content = flatbuffer_utils.convert_bytearray_to_object(bytearray(model))
    buffer = schema.BufferT()
    buffer.data = list(_metadata(channels))
    content.buffers.append(buffer)
    entry = schema.MetadataT()
    entry.name, entry.buffer = _NAME, len(content.buffers) - 1
    content.metadata = [*(content.metadata or ()), entry]
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr(LABELS_FILE, "\n".join(names) + "\n")
    return bytes(flatbuffer_utils.convert_object_to_bytearray(content)) + archive.getvalue()


def _metadata(channels: int) -> bytes:
    """Return the FlatBuffer `ModelMetadata` that says what the inputs and outputs are.

    Its numbers are those of metadata_schema.fbs: fields by their order in a table.
    """
    import flatbuffers

    builder = flatbuffers.Builder()

    def table(n_fields: int, fields: dict[int, int], enums: dict[int, int] | None = None) -> int:
        builder.StartObject(n_fields)
        for number, offset in fields.items():
            builder.PrependUOffsetTRelativeSlot(number, offset, 0)
        for number, value in (enums or {}).items():
            builder.PrependInt8Slot(number, value, 0)
        return builder.EndObject()

    def vector(*offsets: int) -> int:
        builder.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            builder.PrependUOffsetTRelative(offset)
        return builder.EndVector()

    def numbers(value: float) -> int:
        builder.StartVector(4, 1, 4)
        builder.PrependFloat32(value)
        return builder.EndVector()

    text = builder.CreateString
    # NormalizationOptions and ProcessUnit: values from 0 to 255 are taken as they are.
    normalization = table(2, {0: numbers(0.0), 1: numbers(1.0)})
    as_they_are = table(2, {1: normalization}, {0: 1})
    colours = table(2, {}, {0: 1 if channels == 3 else 2})  # RGB or grey
    content = table(3, {1: colours}, {0: 2})  # of an image
    images = table(7, {0: text("images"), 3: content, 4: vector(as_they_are)})
    labels = table(5, {0: text(LABELS_FILE)}, {2: _AXIS_LABELS})
    outputs = table(7, {0: text("outputs"), 6: vector(labels)})
    graph = table(10, {2: vector(images), 3: vector(outputs)})
    whole = table(8, {0: text("dlr-tf"), 3: vector(graph), 7: text("1.0.0")})
    builder.Finish(whole, file_identifier=_IDENTIFIER)
    return bytes(builder.Output())
