"""ONNX operator by ONNX operator: what it is in TFLite. Importing the modules fills the table."""

from quantize.tflite.ops import convolution, elementwise, movement, pooling, resize
from quantize.tflite.ops.table import LOWERINGS, REMEDIES

__all__ = ["LOWERINGS", "REMEDIES", "convolution", "elementwise", "movement", "pooling", "resize"]
