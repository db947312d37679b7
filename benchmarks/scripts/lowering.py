"""How long the lowering of a 25 MB network takes: ONNX model in memory → TFLite bytes, median of five.

python benchmarks/scripts/lowering.py
"""

import statistics
import time
from typing import Final

import numpy as np
import onnx
from onnx import helper, numpy_helper

from quantize.tflite.lower import to_tflite

LAYERS: Final = 11
CHANNELS: Final = 256
_REPEATS: Final = 5


def network() -> onnx.ModelProto:
    """3×3 convolutions of 256 channels with ReLU on 1×256×32×32, float32."""
    rng = np.random.default_rng(0)
    nodes, constants, name = [], [], "x"
    for index in range(LAYERS):
        weights = rng.normal(size=(CHANNELS, CHANNELS, 3, 3)).astype(np.float32) / 48
        constants.append(numpy_helper.from_array(weights, f"w{index}"))
        nodes.append(helper.make_node("Conv", [name, f"w{index}"], [f"c{index}"], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"c{index}"], [f"y{index}"]))
        name = f"y{index}"
    shape = [1, CHANNELS, 32, 32]
    graph = helper.make_graph(
        nodes,
        "convolutions",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def main() -> None:
    model = network()
    seconds = []
    for _ in range(_REPEATS):
        started = time.perf_counter()
        to_tflite(model)
        seconds.append(time.perf_counter() - started)
    print(f"{model.ByteSize() / 1e6:.1f} MB of ONNX lowered in {statistics.median(seconds):.2f} s")


if __name__ == "__main__":
    main()
