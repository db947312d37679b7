"""A network small enough to work out by hand, and what it says of one image."""

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edge.frame import GreyImage
from edge.manifest import OutputSpec

SIDE = 32
OUTPUTS = (
    OutputSpec("mask", "mask", "sigmoid", (1, 1, SIDE, SIDE)),
    OutputSpec("malignancy", "class", "sigmoid", (1, 1)),
    OutputSpec("features", "other", "none", (1, 3, SIDE // 2, SIDE)),
)


def tiny_network() -> onnx.ModelProto:
    """mask = 16 · x + 0.5 at every x = (p − 128) / 128; malignancy = 2 · mean(mask) + 0.25; features = (1, 2, 3) · x
    in three channels, of every second row.
    """
    constants = {"offset": 128, "scale": 128, "w": [[[[16]]]], "b": [0.5], "gw": [[2]], "gb": [0.25]}
    constants |= {"fw": np.arange(1, 4).reshape(3, 1, 1, 1), "fb": [0, 0, 0]}
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["float", "offset"], ["centred"]),
        helper.make_node("Div", ["centred", "scale"], ["x"]),
        helper.make_node("Conv", ["x", "w", "b"], ["mask"], kernel_shape=[1, 1]),
        helper.make_node("GlobalAveragePool", ["mask"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "gw", "gb"], ["malignancy"], transB=1),
        helper.make_node("Conv", ["x", "fw", "fb"], ["features"], kernel_shape=[1, 1], strides=[2, 1]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, [1, 1, SIDE, SIDE])],
        [
            helper.make_tensor_value_info("mask", TensorProto.FLOAT, [1, 1, SIDE, SIDE]),
            helper.make_tensor_value_info("malignancy", TensorProto.FLOAT, [1, 1]),
            helper.make_tensor_value_info("features", TensorProto.FLOAT, [1, 3, SIDE // 2, SIDE]),
        ],
        [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    return model


def ramp() -> GreyImage:
    return (np.arange(SIDE * SIDE) % 256).astype(np.uint8).reshape(SIDE, SIDE)


def expected_mask() -> NDArray[np.float64]:
    return 16 * (ramp().astype(np.float64) - 128) / 128 + 0.5
