"""The smallest graph on which OpenVINO 2026.4 is wrong: a convolution behind a Concat of int8 tensors.

    python benchmarks/scripts/openvino_concat.py

x → QuantizeLinear → DequantizeLinear → Concat with itself → Conv, against ONNX Runtime without optimisations. The same grid
in uint8 is right, and so is int8 without the Concat. `quantize/qdq.py` therefore stores what meets in a Concat as uint8.
"""

from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from edge.engines.openvino import import_openvino, shared_core
from quantize.onnx_graph import plain_session

CHANNELS: Final = 4
SIDE: Final = 8


def graph(dtype: type[np.int8] | type[np.uint8], zero_point: int, *, concat: bool) -> onnx.ModelProto:
    """The model; zero_point as in int8."""
    rng = np.random.default_rng(0)
    inputs = CHANNELS * (2 if concat else 1)
    constants = {
        "scale": np.float32(0.04),
        "zero": dtype(zero_point + (128 if dtype is np.uint8 else 0)),
        "w": rng.integers(-127, 128, (2, inputs, 3, 3)).astype(np.int8),
        "w_scale": np.full(2, 0.01, np.float32),
        "w_zero": np.zeros(2, np.int8),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["dq"]),
        helper.make_node("DequantizeLinear", ["w", "w_scale", "w_zero"], ["weights"], axis=0),
        *([helper.make_node("Concat", ["dq", "dq"], ["c"], axis=1)] if concat else []),
        helper.make_node("Conv", ["c" if concat else "dq", "weights"], ["y"], pads=[1, 1, 1, 1]),
    ]
    made = helper.make_graph(
        nodes,
        "concat",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, CHANNELS, SIDE, SIDE])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 2, SIDE, SIDE])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def error(model: onnx.ModelProto) -> float:
    """Largest |Δ| to ONNX Runtime as a share of the output's range."""
    x = np.random.default_rng(1).normal(size=(1, CHANNELS, SIDE, SIDE)).astype(np.float32)
    (wanted,) = plain_session(model).run(None, {"x": x})
    core = shared_core()
    compiled = core.compile_model(
        core.read_model(model.SerializeToString()), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    got: NDArray[np.float32] = compiled(x)[0]
    return float(np.abs(got - wanted).max() / (wanted.max() - wanted.min()))


def main() -> None:
    print(f"OpenVINO {import_openvino().__version__}")
    for concat in (True, False):
        for dtype in (np.int8, np.uint8):
            errors = [f"{error(graph(dtype, zero_point, concat=concat)):.3f}" for zero_point in (0, -20, -128)]
            print(
                f"{'Concat' if concat else 'plain ':6s} {np.dtype(dtype).name:5s} zero points 0, -20, -128: {', '.join(errors)}"
            )


if __name__ == "__main__":
    main()
