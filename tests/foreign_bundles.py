"""Bundles of small networks that are not ours: any mix of a mask, a class and another output, with or without INT8."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edge.bundle import Bundle, describe_file, write_manifest
from edge.manifest import SCHEMA, Artifact, InputSpec, Manifest, OperatingPoint, OutputSpec
from edge.presence import Presence

HEIGHT, WIDTH = 40, 64
MASK = OutputSpec("segmentation", "mask", "softmax", (1, 2, HEIGHT, WIDTH))
CLASSES = OutputSpec("scores", "class", "softmax", (1, 3))
FEATURES = OutputSpec("features", "other", "none", (1, 3, HEIGHT, WIDTH))
LABELS = ("normal", "benign", "malignant")


def network(outputs: Sequence[OutputSpec], *, brighter: float = 0.0) -> onnx.ModelProto:
    """Lesion is what is darker than the frame's own mean, and malignant what is dark as a whole; `brighter` is an error
    of the network's, in grey levels.
    """
    constants = {
        "offset": np.full((1, 3, 1, 1), 128 - brighter),
        "scale": np.full((1, 3, 1, 1), 128),
        "mix": np.array([[8, 8, 8], [-8, -8, -8]]).reshape(2, 3, 1, 1),
        "head": np.array([[0, 0, 0], [4, 4, 4], [-4, -4, -4]]),
        "bias": np.array([0, 1, -1]),
    }
    nodes = [
        helper.make_node("Cast", ["frame"], ["grey"], to=TensorProto.FLOAT),
        helper.make_node("Concat", ["grey", "grey", "grey"], ["colour"], axis=1),
        helper.make_node("Sub", ["colour", "offset"], ["centred"]),
        helper.make_node("Div", ["centred", "scale"], ["features"]),
        helper.make_node("GlobalAveragePool", ["features"], ["mean"]),
        helper.make_node("Sub", ["features", "mean"], ["contrast"]),
        helper.make_node("Conv", ["contrast", "mix"], ["segmentation"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("Gemm", ["flat", "head", "bias"], ["scores"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "foreign",
        [helper.make_tensor_value_info("frame", TensorProto.UINT8, [1, 1, HEIGHT, WIDTH])],
        [helper.make_tensor_value_info(spec.name, TensorProto.FLOAT, spec.shape) for spec in outputs],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    return model


def write_bundle(
    folder: Path,
    *outputs: OutputSpec,
    positive: str = "malignant",
    threshold: float = 0.5,
    int8_threshold: float | None = None,
    presence: Presence | None = None,
    int8_brighter: float = 0.0,
    openvino_brighter: float = 0.0,
) -> Bundle:
    """FP32 and "INT8" for ONNX Runtime, and "INT8" for OpenVINO, which reads the same files; none is really quantised."""
    folder.mkdir(parents=True)
    errors = {"fp32.onnx": 0.0, "int8.onnx": int8_brighter, "openvino.onnx": int8_brighter + openvino_brighter}
    for name, brighter in errors.items():
        onnx.save(network(outputs, brighter=brighter), folder / name)
    scored = any(output.kind == "class" for output in outputs)
    manifest = Manifest(
        schema=SCHEMA,
        network="foreign",
        source_sha256="0" * 64,
        input=InputSpec("frame", HEIGHT, WIDTH, 3, (128.0,) * 3, (128.0,) * 3, "letterbox"),
        outputs=outputs,
        labels=LABELS if scored else (),
        operating_point=OperatingPoint(threshold, positive, "nothing", 1.0, int8_threshold) if scored else None,
        presence=presence,
        weight_range="full",
        artifacts=tuple(
            Artifact(engine, precision, (describe_file(folder, folder / name),))
            for engine, precision, name in (
                ("onnx", "fp32", "fp32.onnx"),
                ("onnx", "int8", "int8.onnx"),
                ("openvino", "int8", "openvino.onnx"),
            )
        ),
        missing=(),
        guesses=("everything",),
        drift=None,
        versions={},
        calibration=None,
    )
    write_manifest(folder, manifest)
    return Bundle.open(folder)
