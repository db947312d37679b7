"""What a TFLite file really computes in INT8."""

from typing import Final

from ai_edge_litert import schema_py_generated as schema

LAYERS: Final = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV")
_CODES: Final = {getattr(schema.BuiltinOperator, name) for name in LAYERS}


def int8_convolutions(content: bytes) -> tuple[int, int]:
    """Layers with weights that write INT8, and all of them."""
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    graph = model.subgraphs[0]
    layers = [op for op in graph.operators if model.operatorCodes[op.opcodeIndex].builtinCode in _CODES]
    int8 = [op for op in layers if graph.tensors[op.outputs[0]].type == schema.TensorType.INT8]
    return len(int8), len(layers)
