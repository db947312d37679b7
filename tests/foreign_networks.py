"""Small networks of other people's making, written by hand in ONNX, and what running them through the export takes."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from test_quantize_support import run_tflite

from calibration.subset import CalibrationFrames
from edge.engines.openvino import shared_core
from edge.frame import GreyImage, fingerprint
from edge.phantom import phantom_case
from edge.preprocess import preprocess
from quantize.onnx_graph import plain_session
from quantize.tflite.lower import to_tflite

Array = NDArray[Any]
Constants = dict[str, Any]
Dims = Sequence[int | str | None]

SIDE: Final = 32
COUNT: Final = 10
MASK: Final = (1, 1, SIDE, SIDE)
SCORES: Final = (1, 2)


def model_of(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Dims],
    outputs: Mapping[str, Dims | None],
    constants: Constants | None = None,
    *,
    opset: int = 18,
    dtype: int = TensorProto.FLOAT,
    output_dtype: int = TensorProto.FLOAT,
    ir_version: int = 8,
) -> onnx.ModelProto:
    """A checked model. None or text is a side that is left open; an output of shape None has the one that follows."""
    graph = helper.make_graph(
        list(nodes),
        "foreign",
        [helper.make_tensor_value_info(name, dtype, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, output_dtype, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()],
    )
    if ir_version < 4:  # constants are inputs too
        graph.input.extend(helper.make_tensor_value_info(c.name, c.data_type, list(c.dims)) for c in graph.initializer)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)
    if None in outputs.values():
        model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
        model.graph.ClearField("value_info")
    onnx.checker.check_model(model)
    return model


def array(values: Any) -> Array:
    """As float32."""
    return np.asarray(values, np.float32)


def weights(*shape: int, seed: int = 0, gain: float = 1.4) -> Array:
    """Normal values that keep the size of what they multiply."""
    fan = np.sqrt(np.prod(shape[1:]))
    return np.random.default_rng((seed, *shape)).normal(0.0, gain / fan, shape).astype(np.float32)


def body(channels: int = 1, *, source: str = "image") -> tuple[list[onnx.NodeProto], Constants]:
    """`source` → two convolutions → mask logits "mask" (1, 1, H, W), class logits "scores" (1, 2)."""
    nodes = [
        helper.make_node("Conv", [source, "w1", "b1"], ["c1"], name="first", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"], name="relu"),
        helper.make_node("Conv", ["r1", "w2", "b2"], ["c2"], name="second", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c2"], ["r2"], name="relu_2"),
        helper.make_node("Conv", ["r2", "w3", "b3"], ["mask"], name="mask_head"),
        helper.make_node("GlobalAveragePool", ["r2"], ["pooled"], name="pool"),
        helper.make_node("Flatten", ["pooled"], ["flat"], name="flatten"),
        helper.make_node("Gemm", ["flat", "w4", "b4"], ["scores"], name="class_head", transB=1),
    ]
    constants = {
        "w1": weights(6, channels, 3, 3),
        "b1": weights(6, seed=1) * 0.1,
        "w2": weights(8, 6, 3, 3),
        "b2": weights(8, seed=2) * 0.1,
        "w3": weights(1, 8, 1, 1),
        "b3": array([0.1]),
        "w4": weights(2, 8),
        "b4": array([0.2, -0.1]),
    }
    return nodes, constants


def small_network(channels: int = 1, **named: Any) -> onnx.ModelProto:
    """The body behind a float image (1, channels, 32, 32)."""
    nodes, constants = body(channels)
    outputs: dict[str, Dims | None] = {"mask": MASK, "scores": SCORES}
    return model_of(nodes, {"image": (1, channels, SIDE, SIDE)}, outputs, constants, **named)


@cache
def calibration(count: int = COUNT) -> CalibrationFrames:
    """Phantoms to calibrate on."""
    made = tuple(phantom_case(seed, size=(72, 80)).pixels for seed in range(count))
    return CalibrationFrames("phantom", made, tuple(fingerprint(frame) for frame in made))


@cache
def images(count: int = 4, size: tuple[int, int] = (SIDE, SIDE)) -> tuple[GreyImage, ...]:
    """Network inputs, (height, width) each, that nothing was calibrated on."""
    return tuple(preprocess(phantom_case(100 + seed, size=(72, 80)).pixels, size) for seed in range(count))


def every_engine(model: onnx.ModelProto) -> Callable[[GreyImage], dict[str, dict[str, Array]]]:
    """A function from a (height, width) uint8 image to what each engine says of a network of one: outputs by engine.

    "referee" is ONNX Runtime without optimisations.
    """
    (value,) = model.graph.input
    names = [output.name for output in model.graph.output]
    session, content = plain_session(model), to_tflite(model)
    core = shared_core()
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = core.compile_model(core.read_model(model.SerializeToString()), "CPU", settings)

    def run(image: GreyImage) -> dict[str, dict[str, Array]]:
        feeds = {value.name: image[None, None]}
        return {
            "referee": dict(zip(names, session.run(names, feeds), strict=True)),
            "litert": run_tflite(content, feeds),
            "openvino": {name: compiled([feeds[value.name]])[name] for name in names},
        }

    return run
