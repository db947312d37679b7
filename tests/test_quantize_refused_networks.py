"""Networks that TFLite cannot express: one message with every node, and a bundle of what the other engines make."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
from foreign_networks import (
    MASK,
    SCORES,
    SIDE,
    Array,
    Constants,
    array,
    body,
    calibration,
    images,
    model_of,
    small_network,
    weights,
)
from onnx import helper

from edge.bundle import Bundle
from edge.engines import open_artifact
from edge.errors import ConversionError
from edge.frame import GreyImage
from edge.predictor import Predictor
from quantize import Description, export
from quantize.onnx_graph import plain_session
from quantize.pipeline import _phantoms

SAID = Description(mean=(0.5,), std=(0.5,), class_output="scores", labels=("benign", "malignant"))
SIZE = (SIDE, SIDE)
IMAGE = {"image": (1, 1, *SIZE)}


def node(op: str, inputs: str, outputs: str, **attributes: object) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(), outputs.split(), name=outputs, **attributes)  # type: ignore[arg-type]


def between(
    middle: list[onnx.NodeProto], last: str, constants: Constants, **outputs: tuple[int, ...]
) -> onnx.ModelProto:
    """The small network with `middle` behind its features "r2", and its heads behind `last`."""
    nodes, held = body()
    for head in nodes[4:]:
        head.input[0] = {"r2": last}.get(head.input[0], head.input[0])
    every = [*nodes[:4], *middle, *nodes[4:]]
    return model_of(every, IMAGE, {"mask": MASK, "scores": SCORES, **outputs}, held | constants)


def attention() -> onnx.ModelProto:
    """A transformer's block on pooled features, added to them."""
    middle = [
        node("AveragePool", "r2", "small", kernel_shape=[4, 4], strides=[4, 4]),
        node("Reshape", "small rows", "columns"),
        node("Transpose", "columns", "tokens", perm=[0, 2, 1]),
        node("LayerNormalization", "tokens gain shift", "normed", axis=-1),
        node("MatMul", "normed wq", "query"),
        node("MatMul", "normed wk", "key"),
        node("MatMul", "normed wv", "value"),
        node("Transpose", "key", "turned", perm=[0, 2, 1]),
        node("MatMul", "query turned", "similarity"),
        node("Softmax", "similarity", "attention", axis=-1),
        node("MatMul", "attention value", "mixed"),
        node("Transpose", "mixed", "back", perm=[0, 2, 1]),
        node("Reshape", "back map", "deep"),
        node("ConvTranspose", "deep up", "wide", strides=[4, 4]),
        node("Add", "wide r2", "last"),
    ]
    constants: Constants = {
        "rows": np.asarray([1, 8, 64]),
        "map": np.asarray([1, 8, 8, 8]),
        "gain": array(np.ones(8)),
        "shift": array(np.zeros(8)),
        "up": weights(8, 8, 4, 4),
    }
    constants |= {name: weights(8, 8, seed=seed) for seed, name in enumerate(("wq", "wk", "wv"))}
    return between(middle, "last", constants)


def branch() -> onnx.ModelProto:
    """Bright frames go another way, which reads features and constants from outside."""
    value = helper.make_tensor_value_info
    shape = (1, 8, SIDE, SIDE)
    then = helper.make_graph([node("Mul", "r2 half", "dimmed")], "then", [], [value("dimmed", 1, shape)])
    other = helper.make_graph([node("Add", "r2 side", "same")], "else", [], [value("same", 1, shape)])
    middle = [
        node("Tanh", "c1", "gate"),
        node("ReduceMean", "gate", "side", keepdims=1),
        node("ReduceMean", "r2", "level", keepdims=0),
        node("Greater", "level half", "bright"),
        node("If", "bright", "last", then_branch=then, else_branch=other),
    ]
    return between(middle, "last", {"half": np.float32(0.5)})


def points() -> onnx.ModelProto:
    """As many points as the features have; their mean is an output."""
    middle = [
        node("NonZero", "r2", "places"),
        node("Cast", "places", "numbers", to=1),
        node("ReduceMean", "numbers last_axis", "centre_flat", keepdims=0),
        node("Reshape", "centre_flat row", "centre"),
        node("Gelu", "r2", "last"),
    ]
    constants: Constants = {"last_axis": np.asarray([1]), "row": np.asarray([1, 4])}
    nodes, held = body()
    for head in nodes[4:]:
        head.input[0] = {"r2": "last"}.get(head.input[0], head.input[0])
    outputs = {"mask": MASK, "scores": SCORES, "centre": (1, 4)}
    return model_of([*nodes[:4], *middle, *nodes[4:]], IMAGE, dict(outputs), held | constants, opset=20, ir_version=9)


NETWORKS: dict[str, tuple[Callable[[], onnx.ModelProto], dict[str, str]]] = {
    "attention": (
        attention,
        {
            "LayerNormalization 'normed'": "use the OpenVINO or ONNX artifact",
            "MatMul 'similarity', 'mixed'": "only layers with constant weights are lowered",
        },
    ),
    "branch": (branch, {"If 'last'": "without branches", "Greater 'bright'": "replace the operator"}),
    "points": (points, {"NonZero 'places'": "replace the operator", "Gelu 'last'": "train with SiLU or ReLU"}),
}
"""Networks, and what must be said of which nodes."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    yield tmp_path_factory.mktemp("refused")


@cache
def made(name: str, folder: Path) -> tuple[onnx.ModelProto, Bundle]:
    model = NETWORKS[name][0]()
    return model, export(model, folder / name, calibration=calibration(), description=SAID)


def require_every_offender(message: str, name: str) -> None:
    offenders = NETWORKS[name][1]
    assert message.startswith("TFLite cannot express ")
    assert "\n" not in message
    for nodes, remedy in offenders.items():
        assert nodes in message
        assert remedy in message.partition(nodes)[2]
    count = sum(nodes.count("'") // 2 for nodes in offenders)
    assert message.startswith(f"TFLite cannot express {count} of "), message


@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_missing_names_every_node_with_reason_and_remedy(name: str, folder: Path) -> None:
    manifest = made(name, folder)[1].manifest
    assert [(missing.engine, missing.precision) for missing in manifest.missing] == [
        ("litert", "fp32"),
        ("litert", "int8"),
    ]
    for missing in manifest.missing:
        require_every_offender(missing.reason, name)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_other_engines_have_their_artifacts_and_they_agree(name: str, folder: Path) -> None:
    model, bundle = made(name, folder)
    found = {(artifact.engine, artifact.precision) for artifact in bundle.manifest.artifacts}
    assert found == {(engine, precision) for engine in ("onnx", "openvino") for precision in ("fp32", "int8")}
    assert not list(bundle.path.glob("*.tflite"))
    session = plain_session(model)
    names = [output.name for output in bundle.manifest.outputs]
    for artifact in bundle.manifest.artifacts:
        engine = open_artifact(bundle, artifact, threads=1)
        for image in images(3):
            fed = ((image[None, None] - np.float32(127.5)) / np.float32(127.5)).astype(np.float32)
            wanted: dict[str, Array] = dict(zip(names, session.run(names, {"image": fed}), strict=True))
            got = engine.infer(image)
            limit = 0.05 if artifact.precision == "int8" else 1e-4
            for output in ("mask", "scores"):
                spread = max(float(np.ptp(wanted["mask"])), 0.3)
                assert np.abs(got[output] - wanted[output]).mean() < limit * spread, (artifact.engine, output)
        engine.close()


@pytest.mark.parametrize("name", NETWORKS)
def test_a_bundle_without_litert_predicts(name: str, folder: Path) -> None:
    with Predictor.open(made(name, folder)[1].path) as predictor:
        answer = predictor.predict(calibration().frames[0])
    assert answer.decision in ("benign", "malignant", "no lesion")


@pytest.mark.parametrize("name", NETWORKS)
def test_litert_asked_for_by_name_raises_and_leaves_nothing(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConversionError) as caught:
        export(
            NETWORKS[name][0](),
            tmp_path / "out",
            calibration=calibration(),
            description=SAID,
            int8=False,
            engines=["litert"],
        )
    require_every_offender(str(caught.value), name)
    assert not list(tmp_path.iterdir())


def test_litert_asked_for_by_name_leaves_the_old_bundle(tmp_path: Path) -> None:
    old = export(small_network(), tmp_path / "out", calibration=calibration(), description=SAID, int8=False)
    before = {file: file.read_bytes() for file in old.path.rglob("*") if file.is_file()}
    with pytest.raises(ConversionError, match="attention"):
        export(
            attention(), old.path, calibration=calibration(), description=SAID, int8=False, engines=["litert", "onnx"]
        )
    assert {file: file.read_bytes() for file in old.path.rglob("*") if file.is_file()} == before
    assert [item.name for item in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(("op", "kind"), [("Greater", onnx.TensorProto.BOOL), ("ArgMax", onnx.TensorProto.INT64)])
def test_decisions_among_the_outputs_are_compared_but_not_read(op: str, kind: int, tmp_path: Path) -> None:
    nodes, constants = body()
    model = model_of(nodes, IMAGE, {"mask": MASK, "scores": SCORES}, constants | {"zero": np.float32(0)})
    model.graph.node.append(
        node("Greater", "scores zero", "call") if op == "Greater" else node("ArgMax", "scores", "call", axis=1)
    )
    model.graph.output.append(helper.make_tensor_value_info("call", kind, (1, 2 if op == "Greater" else 1)))
    bundle = export(model, tmp_path / "out", calibration=calibration(), description=replace(SAID, class_output=None))
    assert {output.name: output.kind for output in bundle.manifest.outputs} == {
        "mask": "mask",
        "scores": "class",
        "call": "other",
    }
    assert {artifact.engine for artifact in bundle.manifest.artifacts} >= {"onnx", "openvino"}
    assert all(artifact.referee_delta is not None for artifact in bundle.manifest.artifacts)


def test_a_shape_that_depends_on_the_frame_cannot_be_an_output(tmp_path: Path) -> None:
    nodes, constants = body()
    nodes += [node("NonZero", "r2", "places"), node("Cast", "places", "points", to=1)]
    outputs = {"mask": MASK, "scores": SCORES, "points": (4, "n")}
    model = model_of(nodes, IMAGE, dict(outputs), constants)
    with pytest.raises(ConversionError, match="shape of output 'points' is not known before the network runs"):
        export(model, tmp_path / "out", calibration=calibration(), description=SAID)
    assert not list(tmp_path.iterdir())


def test_a_bundle_of_nothing_is_not_written(tmp_path: Path) -> None:
    """A logarithm that is finite on phantoms, and on one calibration frame not: every engine is refused."""
    nodes, constants = body()
    nodes[4].output[0] = "logits"
    nodes.append(node("Log", "logits", "mask"))
    noise = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE)).astype(np.uint8)
    constants["w3"] = -np.abs(constants["w3"])
    smallest = [
        _least_logit(nodes[:5], constants, [noise]),
        _least_logit(nodes[:5], constants, _phantoms(SIZE, "stretch")),
    ]
    assert smallest[0] < smallest[1]
    constants["b3"] = constants["b3"] - array([np.mean(smallest)])
    model = model_of(nodes, IMAGE, {"mask": MASK, "scores": SCORES}, constants)
    strange = replace(calibration(), frames=(*_phantoms(SIZE, "stretch"), noise))
    with pytest.raises(ConversionError, match="'mask' is not finite on real frames"):
        export(model, tmp_path / "out", calibration=strange, description=SAID, int8=False)
    assert not list(tmp_path.iterdir())


def _least_logit(nodes: list[onnx.NodeProto], constants: Constants, frames: Sequence[GreyImage]) -> float:
    session = plain_session(model_of(nodes, IMAGE, {"logits": MASK}, constants))
    fed = [((frame[None, None] - np.float32(127.5)) / np.float32(127.5)).astype(np.float32) for frame in frames]
    return float(min(session.run(["logits"], {"image": image})[0].min() for image in fed))


@pytest.mark.parametrize("asked", [{"engines": ["tflite"]}, {"precisions": ["fp16"]}], ids=str)
def test_engines_and_precisions_there_are_none_of_are_a_mistake(asked: dict[str, list[str]], tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"(tflite|fp16): neither an engine \(onnx, openvino, litert\) nor a precision"
    ):
        export(small_network(), tmp_path / "out", calibration=calibration(), description=SAID, **asked)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())
