"""ONNX operator by ONNX operator: what it is in TFLite. Importing the modules fills the table."""

from quantize.tflite.ops import activation, convolution, elementwise, movement, pooling, resize
from quantize.tflite.ops.table import LOWERINGS, NO_LOWERING, REMEDIES

__all__ = [
    "LOWERINGS",
    "NO_LOWERING",
    "REMEDIES",
    "activation",
    "convolution",
    "elementwise",
    "movement",
    "pooling",
    "resize",
]
