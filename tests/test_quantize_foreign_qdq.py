"""Networks that come with quantisers of another tool keep them: the same scales and integers in every engine."""

import logging
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from foreign_networks import SIDE, Array, Constants, body, calibration, images, model_of, small_network, weights
from onnx import helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from test_quantize_support import FlatFile, initializers, nodes_of, producers, read_tflite

from edge.bundle import Bundle
from edge.engines import open_artifact
from edge.engines.onnx import open_referee
from edge.errors import ConversionError
from quantize import Description, export
from quantize.onnx_graph import plain_session

HALF = Description(mean=(0.5,), std=(0.5,), labels=("benign", "malignant"))
MASK_ONLY = Description(mean=(0.5,), std=(0.5,))


def node(op: str, inputs: str, output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(), [output], name=output, **attributes)


# Tools.


class _Frames(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self) -> None:
        self._left = iter([((image[None, None] - 127.5) / 127.5).astype(np.float32) for image in images(4)])

    def get_next(self) -> dict[str, Array] | None:
        frame = next(self._left, None)
        return None if frame is None else {"image": frame}


def by_onnx_runtime(
    folder: Path, *, fmt: str = "QDQ", signed: bool = False, per_channel: bool = True
) -> onnx.ModelProto:
    """`onnxruntime.quantization.quantize_static` on the small network."""
    source, target = folder / "float.onnx", folder / "quantised.onnx"
    onnx.save(small_network(), source)
    logging.disable(logging.WARNING)
    try:
        quantize_static(
            source,
            target,
            _Frames(),
            quant_format=QuantFormat[fmt],
            per_channel=per_channel,
            activation_type=QuantType.QInt8 if signed else QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
    finally:
        logging.disable(logging.NOTSET)
    return onnx.load(target)


class _Writer:
    """Quantisers in one tool's style, written behind tensors and weights."""

    def __init__(self, constants: Constants, *, clip: str = "") -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.held = dict(constants)
        self._clip = clip
        if clip:
            self.held |= {"low": np.int8(-127), "high": np.int8(127)}

    def weight(self, name: str) -> str:
        """Float → Quantize → (Clip) → Dequantize, one scale a channel."""
        values = self.held[name]
        scale = np.abs(values).reshape(len(values), -1).max(axis=1) / 127
        return self._pair(name, scale.astype(np.float32), np.zeros(len(values), np.int8), axis=0)

    def activation(self, name: str, scale: float, zero_point: int = 0) -> str:
        return self._pair(name, np.float32(scale), np.int8(zero_point))

    def _pair(self, name: str, scale: Any, zero_point: Any, **axis: int) -> str:
        self.held |= {f"{name}_s": scale, f"{name}_z": zero_point}
        self.nodes.append(node("QuantizeLinear", f"{name} {name}_s {name}_z", f"{name}_q", **axis))
        if self._clip:
            self.nodes.append(node("Clip", f"{name}_q low high", f"{name}_c"))
        self.nodes.append(
            node("DequantizeLinear", f"{name}_{'c' if self._clip else 'q'} {name}_s {name}_z", f"{name}_dq", **axis)
        )
        return f"{name}_dq"


def brevitas() -> onnx.ModelProto:
    """Quantize → Clip → Dequantize around everything, narrow range, weights in float."""
    nodes, constants = body()
    writer = _Writer(constants, clip="narrow")
    renamed = {"image": writer.activation("image", 1 / 127)}
    grids = {"r1": (0.015, -127), "r2": (0.012, -127), "pooled": (0.004, -127)}
    for each in nodes:
        each.input[0] = renamed.get(each.input[0], each.input[0])
        if each.op_type in ("Conv", "Gemm"):
            each.input[1] = writer.weight(each.input[1])
        writer.nodes.append(each)
        name = each.output[0]
        if name in grids:
            renamed[name] = writer.activation(name, *grids[name])
    return model_of(writer.nodes, {"image": (1, 1, SIDE, SIDE)}, {"mask": None, "scores": None}, writer.held)


def model_optimizer() -> onnx.ModelProto:
    """TensorRT's style: what convolutions read is quantised, and nothing else; the residual is added in float."""
    writer = _Writer(
        {"w1": weights(8, 1, 3, 3), "w2": weights(8, 8, 3, 3), "w3": weights(1, 8, 1, 1), "b": weights(8, seed=1)}
    )
    source, kernel = writer.activation("image", 1 / 127), writer.weight("w1")
    writer.nodes += [node("Conv", f"{source} {kernel} b", "c1", pads=[1, 1, 1, 1]), node("Relu", "c1", "r1")]
    source, kernel = writer.activation("r1", 0.03), writer.weight("w2")
    writer.nodes += [
        node("Conv", f"{source} {kernel}", "c2", pads=[1, 1, 1, 1]),
        node("Add", "c2 r1", "sum"),
        node("Relu", "sum", "r2"),
    ]
    source, kernel = writer.activation("r2", 0.04), writer.weight("w3")
    writer.nodes.append(node("Conv", f"{source} {kernel}", "mask"))
    return model_of(writer.nodes, {"image": (1, 1, SIDE, SIDE)}, {"mask": None}, writer.held)


def joined() -> onnx.ModelProto:
    """A Concat of int8 with a zero point other than 0, which OpenVINO 2026.4 gets wrong as it is."""
    writer = _Writer(
        {"w1": weights(6, 1, 3, 3), "w2": weights(4, 1, 3, 3), "w3": weights(5, 10, 3, 3), "w4": weights(1, 5, 1, 1)}
    )
    source = writer.activation("image", 1 / 127)
    for name in ("1", "2"):
        kernel = writer.weight(f"w{name}")
        writer.nodes += [
            node("Conv", f"{source} {kernel}", f"c{name}", pads=[1, 1, 1, 1]),
            node("Relu", f"c{name}", f"r{name}"),
        ]
        writer.activation(f"r{name}", 0.02, -128)
    writer.nodes.append(node("Concat", "r1_dq r2_dq", "both", axis=1))
    source, kernel = writer.activation("both", 0.02, -128), writer.weight("w3")
    writer.nodes += [node("Conv", f"{source} {kernel}", "c3", pads=[1, 1, 1, 1]), node("Relu", "c3", "r3")]
    source, kernel = writer.activation("r3", 0.015, -128), writer.weight("w4")
    writer.nodes.append(node("Conv", f"{source} {kernel}", "mask"))
    return model_of(writer.nodes, {"image": (1, 1, SIDE, SIDE)}, {"mask": None}, writer.held)


TOOLS: dict[str, Callable[[Path], onnx.ModelProto]] = {
    "onnxruntime uint8 per channel": by_onnx_runtime,
    "onnxruntime int8 per channel": lambda folder: by_onnx_runtime(folder, signed=True),
    "onnxruntime uint8 per tensor": lambda folder: by_onnx_runtime(folder, per_channel=False),
    "onnxruntime int8 per tensor": lambda folder: by_onnx_runtime(folder, signed=True, per_channel=False),
    "brevitas": lambda folder: brevitas(),
    "model optimizer": lambda folder: model_optimizer(),
    "joined": lambda folder: joined(),
}
LAYERS = {"brevitas": (2, 4), "model optimizer": (0, 3), "joined": (3, 4)}
"""INT8 layers in the TFLite file, where not all four are: heads, or outputs that have no quantiser."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    yield tmp_path_factory.mktemp("foreign")


@cache
def made(tool: str, folder: Path) -> tuple[onnx.ModelProto, Bundle]:
    here = folder / tool.replace(" ", "_")
    here.mkdir()
    model = TOOLS[tool](here)
    said = HALF if len(model.graph.output) == 2 else MASK_ONLY
    return model, export(model, here / "bundle", calibration=calibration(), description=said)


def flat(bundle: Bundle) -> FlatFile:
    return read_tflite((bundle.path / "int8.tflite").read_bytes())


def grids_of(model: onnx.ModelProto) -> set[tuple[float, int]]:
    """Scale and int8 zero point of every activation's quantiser."""
    held = initializers(model)
    found = set()
    for each in nodes_of(model, "QuantizeLinear"):
        if each.input[0] in held:
            continue
        scale, zero_point = (held[name] for name in each.input[1:3])
        found.add((float(scale.item()), int(zero_point.item()) - 128 * (zero_point.dtype == np.uint8)))
    return found


@pytest.mark.parametrize("tool", TOOLS)
def test_there_are_int8_artifacts_for_every_engine_and_no_others(tool: str, folder: Path) -> None:
    manifest = made(tool, folder)[1].manifest
    found = {(artifact.engine, artifact.precision) for artifact in manifest.artifacts}
    assert found == {(engine, "int8") for engine in ("onnx", "openvino", "litert")}
    assert manifest.missing == ()
    assert manifest.calibration is None, "nothing was calibrated"
    (litert,) = [artifact for artifact in manifest.artifacts if artifact.engine == "litert"]
    assert litert.int8_convolutions == LAYERS.get(tool, (4, 4))


@pytest.mark.parametrize("tool", TOOLS)
def test_the_tflite_file_has_the_scales_and_zero_points_of_the_graph(tool: str, folder: Path) -> None:
    model, bundle = made(tool, folder)
    known, file = grids_of(model), flat(bundle)
    written = {tensor for operator in file.operators for tensor in operator.outputs}
    int8 = [index for index in written if str(file.dtype(index)) == "int8"]
    assert len(int8) >= 3
    found = {(float(file.scale(index).item()), int(file.zero_point(index).item())) for index in int8}
    assert found <= known
    if tool != "model optimizer":
        assert found == known


@pytest.mark.parametrize("tool", TOOLS)
def test_the_tflite_file_has_the_integers_of_the_weights(tool: str, folder: Path) -> None:
    model, bundle = made(tool, folder)
    held, file = initializers(model), flat(bundle)
    stored = {}
    for operator in file.operators:
        if operator.code in ("CONV_2D", "FULLY_CONNECTED") and str(file.dtype(operator.inputs[1])) == "int8":
            stored[file.data(operator.inputs[1]).tobytes()] = file.scale(operator.inputs[1])
    assert len(stored) == LAYERS.get(tool, (4, 4))[0]
    wanted = {}
    for layer in [*nodes_of(model, "Conv"), *nodes_of(model, "Gemm")]:
        integers, scale = _integers(model, held, layer.input[1])
        ohwi = integers.transpose(0, 2, 3, 1) if integers.ndim == 4 else integers
        wanted[np.ascontiguousarray(ohwi).tobytes()] = scale
    for content, scales in stored.items():
        assert content in wanted
        assert np.array_equal(scales, np.broadcast_to(wanted[content].reshape(-1), scales.shape))


def _integers(model: onnx.ModelProto, held: dict[str, Array], name: str) -> tuple[Array, Array]:
    dequantise = producers(model)[name]
    source, scale = dequantise.input[0], held[dequantise.input[1]]
    if source in held:
        return held[source], scale
    values = held[name.removesuffix("_dq")]
    along = (-1, *(1,) * (values.ndim - 1))
    return np.clip(np.rint(values / scale.reshape(along)), -127, 127).astype(np.int8), scale


@pytest.mark.parametrize("tool", TOOLS)
def test_every_engine_says_what_the_referee_says_of_the_tools_own_graph(tool: str, folder: Path) -> None:
    """Rounding ties aside, of which a frame has few."""
    model, bundle = made(tool, folder)
    session = plain_session(model)
    names = [output.name for output in bundle.manifest.outputs]
    referee = open_referee(bundle.path / "int8.onnx")
    for artifact in bundle.manifest.artifacts:
        engine = open_artifact(bundle, artifact, threads=1)
        for image in images(4):
            fed = ((image[None, None] - np.float32(127.5)) / np.float32(127.5)).astype(np.float32)
            theirs = dict(zip(names, session.run(names, {"image": fed}), strict=True))
            judged, got = referee.infer(image), engine.infer(image)
            for name in names:
                spread = float(np.ptp(theirs["mask"]))
                assert spread > 0.3
                assert np.abs(judged[name] - theirs[name]).mean() < 0.002 * spread
                assert np.abs(got[name] - theirs[name]).mean() < 0.005 * spread, (artifact.engine, name)
        assert artifact.referee_delta is not None
        assert artifact.referee_delta < 0.01
        engine.close()


def test_the_concat_of_the_bundle_is_uint8_and_on_the_same_grid(folder: Path) -> None:
    model, bundle = made("joined", folder)
    ours = onnx.load(bundle.path / "int8.onnx")
    assert grids_of(ours) == grids_of(model)
    types = {
        str(initializers(ours)[each.input[2]].dtype)
        for each in nodes_of(ours, "QuantizeLinear")
        if each.input[0][0] in "rb"
    }
    assert types == {"uint8"}


def test_there_is_no_fp32_of_a_quantised_network(tmp_path: Path) -> None:
    with pytest.raises(
        ConversionError, match="has quantisers already, so there is no FP32 of it; leave --precision out"
    ):
        export(brevitas(), tmp_path / "out", calibration=calibration(), description=HALF, precisions=["fp32"])
    assert not list(tmp_path.iterdir())


def test_a_quantised_network_needs_no_int8_asked_for(tmp_path: Path) -> None:
    bundle = export(
        brevitas(), tmp_path / "out", calibration=calibration(), description=HALF, int8=False, engines=["onnx"]
    )
    assert [artifact.precision for artifact in bundle.manifest.artifacts] == ["int8"]


# Integer operators.


def test_the_operator_format_is_onnx_only_and_the_remedy_is_told(tmp_path: Path) -> None:
    model = by_onnx_runtime(tmp_path, fmt="QOperator")
    assert nodes_of(model, "QLinearConv")
    bundle = export(model, tmp_path / "out", calibration=calibration(), description=HALF)
    manifest = bundle.manifest
    assert [output.shape for output in manifest.outputs] == [(1, 1, SIDE, SIDE), (1, 2)]
    assert "onnx" in {artifact.engine for artifact in manifest.artifacts}
    reasons = {missing.engine: missing.reason for missing in manifest.missing}
    assert "QLinearConv" in reasons["litert"]
    assert "QDQ" in reasons["litert"], "what to do about it"
    assert {file.name for file in bundle.path.iterdir()} >= {"int8.onnx", "manifest.json"}
    assert not (bundle.path / "int8.tflite").exists()
    with pytest.raises(ConversionError, match="QDQ"):
        export(model, tmp_path / "other", calibration=calibration(), description=HALF, engines=["litert"])
    assert not (tmp_path / "other").exists()
