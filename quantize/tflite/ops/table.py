"""The table from ONNX operator to its lowering."""

from collections.abc import Callable
from typing import Final

from quantize.onnx_graph import Node
from quantize.tflite.lower import Lowerer

Lowering = Callable[[Node, Lowerer], None]
LOWERINGS: Final[dict[str, Lowering]] = {}

_QOPERATOR = "works on integers without quantiser pairs; export the quantised network in QDQ format"
_CONTROL = "control flow; export the network with fixed shapes and without branches"
_ATTENTION = "part of attention; only convolutional networks are lowered, use the OpenVINO or ONNX artifact"
NO_LOWERING: Final = "no lowering to TFLite; replace the operator"
REMEDIES: Final = {
    **dict.fromkeys(("QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger"), _QOPERATOR),
    **dict.fromkeys(("If", "Loop", "Scan"), _CONTROL),
    **dict.fromkeys(("Attention", "LayerNormalization", "RMSNormalization", "RotaryEmbedding", "Einsum"), _ATTENTION),
    "DynamicQuantizeLinear": "quantises at run time; quantise statically, in QDQ format",
    "InstanceNormalization": "normalises by each image's own statistics; train with batch normalisation",
    "GroupNormalization": "normalises by each image's own statistics; train with batch normalisation",
    "Erf": "part of an exact GELU; train with the tanh form, SiLU or ReLU",
    "Gelu": "GELU; train with SiLU or ReLU",
    "GridSample": "samples at computed places; use Resize",
    "NonMaxSuppression": "chooses boxes; leave it to the code behind the network",
}
"""What to do about operators that people will try; every other one gets a general answer."""


def lowers(*operators: str) -> Callable[[Lowering], Lowering]:
    """Register a lowering for ONNX operators."""

    def register(lowering: Lowering) -> Lowering:
        for operator in operators:
            LOWERINGS[operator] = lowering
        return lowering

    return register
