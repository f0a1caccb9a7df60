FORMATS = ("saved-model", "tflite", "onnx")


def run(args):
    return 0
