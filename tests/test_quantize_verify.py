"""What goes into a bundle was run first: an artifact that says something else, or does not open, is refused."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from foreign_networks import SIDE, Array, array, body, calibration, images, model_of, small_network
from onnx import numpy_helper
from test_quantize_support import copy_of

from edge.bundle import describe_file
from edge.engines import open_model
from edge.engines.onnx import open_referee
from edge.errors import ConversionError
from edge.frame import GreyImage
from edge.manifest import Artifact
from quantize import Description, export, pipeline, verify
from quantize.onnx_import import import_onnx
from quantize.openvino_ir import write_ir
from quantize.ptq import quantise
from quantize.qdq import complete
from quantize.tflite.lower import to_tflite
from quantize.verify import verified

HALF = Description(mean=(0.5,), std=(0.5,))
ENGINES = ("onnx", "openvino", "litert")


@pytest.fixture(scope="module")
def fp32() -> onnx.ModelProto:
    return import_onnx(small_network(), HALF, name="net").model


@pytest.fixture(scope="module")
def int8(fp32: onnx.ModelProto) -> onnx.ModelProto:
    return complete(quantise(fp32, images(8)), images(8))


def changed(model: onnx.ModelProto, name: str, change: Callable[[Array], Array]) -> onnx.ModelProto:
    """A copy with other values in a constant whose name ends so."""
    result = copy_of(model)
    (tensor,) = [tensor for tensor in result.graph.initializer if tensor.name.endswith(name)]
    values = change(numpy_helper.to_array(tensor)).astype(numpy_helper.to_array(tensor).dtype)
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return result


def written(folder: Path, engine: str, precision: str, model: onnx.ModelProto) -> Artifact:
    """An artifact of a model in an engine's format."""
    source = folder / f"written_{engine}.onnx"
    onnx.save(model, source)
    files = [source]
    if engine == "openvino":
        files = list(write_ir(source, source.with_suffix(".xml")))
    elif engine == "litert":
        files = [source.with_suffix(".tflite")]
        files[0].write_bytes(to_tflite(model))
    return Artifact(engine, precision, tuple(describe_file(folder, file) for file in files))


def saved(folder: Path, model: onnx.ModelProto) -> Path:
    onnx.save(model, folder / "referee.onnx")
    return folder / "referee.onnx"


# What passes.


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("engine", ENGINES)
def test_the_distance_to_the_referee_is_what_a_direct_computation_gives(
    engine: str, precision: str, fp32: onnx.ModelProto, int8: onnx.ModelProto, tmp_path: Path
) -> None:
    """Of another model's artifact, a little off, so that there is a distance."""
    model = fp32 if precision == "fp32" else int8
    artifact = written(tmp_path, engine, precision, changed(model, "b3", lambda b: b + 0.03))
    frames = [*images(24), *images(24)[::-1]]
    found = verified(artifact, tmp_path, saved(tmp_path, model), frames)
    chosen = [frames[index] for index in np.linspace(0, 47, 16).astype(int)]
    opened = open_model(engine, tmp_path / artifact.files[0].path, precision=precision)
    pairs = [(open_referee(tmp_path / "referee.onnx").infer(image), opened.infer(image)) for image in chosen]
    shares = []
    for name in ("mask", "scores"):
        wanted, got = (np.stack([pair[place][name].astype(np.float64) for pair in pairs]) for place in range(2))
        shares.append(np.abs(got - wanted).mean() / (wanted.max() - wanted.min()))
    assert found.referee_delta == pytest.approx(max(shares), rel=1e-3)
    assert 0.005 < max(shares) < 0.05
    assert found.files == artifact.files
    assert found.int8_convolutions == ((2, 4) if (engine, precision) == ("litert", "int8") else None)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_good_artifact_is_close(engine: str, int8: onnx.ModelProto, tmp_path: Path) -> None:
    artifact = written(tmp_path, engine, "int8", int8)
    found = verified(artifact, tmp_path, saved(tmp_path, int8), images(6))
    assert found.referee_delta is not None
    assert found.referee_delta < 0.003


def test_without_frames_nothing_is_measured(int8: onnx.ModelProto, tmp_path: Path) -> None:
    found = verified(written(tmp_path, "litert", "int8", int8), tmp_path, saved(tmp_path, int8), [])
    assert found.referee_delta is None
    assert found.int8_convolutions == (2, 4)


def test_what_is_not_installed_is_not_measured(
    int8: onnx.ModelProto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify, "is_installed", lambda engine: False)
    artifact = written(tmp_path, "openvino", "int8", int8)
    assert verified(artifact, tmp_path, saved(tmp_path, int8), images(2)) == artifact


# What does not.

WRONG: dict[str, tuple[str, Callable[[Array], Array]]] = {
    "scaled": ("w2", lambda w: w * 1.5),
    "swapped": ("w1", lambda w: w[::-1]),
    "sign": ("w3", lambda w: -w),
    "offset": ("b4", lambda b: b + 0.5),
    "not a number": ("w4", lambda w: w * np.nan),
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("engine", ENGINES)
def test_an_artifact_that_computes_something_else_is_refused(
    engine: str, wrong: str, fp32: onnx.ModelProto, tmp_path: Path
) -> None:
    artifact = written(tmp_path, engine, "fp32", changed(fp32, *WRONG[wrong]))
    with pytest.raises(ConversionError) as caught:
        verified(artifact, tmp_path, saved(tmp_path, fp32), images(4))
    message = str(caught.value)
    assert message.startswith(f"{engine} fp32: output ")
    assert "away from ONNX Runtime on the same graph; this engine computes it wrongly, use another one" in message
    assert "\n" not in message


def test_int8_weights_of_another_scale_are_refused(int8: onnx.ModelProto, tmp_path: Path) -> None:
    (scale,) = [tensor.name for tensor in int8.graph.initializer if tensor.name.startswith("scale_w2")]
    artifact = written(tmp_path, "litert", "int8", changed(int8, scale, lambda values: values * 2))
    with pytest.raises(ConversionError, match="computes it wrongly"):
        verified(artifact, tmp_path, saved(tmp_path, int8), images(4))


@pytest.mark.parametrize(("engine", "keep"), [("litert", 200), ("openvino", 300), ("onnx", 100), ("litert", 0)])
def test_an_artifact_that_does_not_open_is_told(engine: str, keep: int, fp32: onnx.ModelProto, tmp_path: Path) -> None:
    artifact = written(tmp_path, engine, "fp32", fp32)
    referee = saved(tmp_path, fp32)
    path = tmp_path / artifact.files[0].path
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ConversionError, match=f"^{engine} fp32: the artifact does not run"):
        verified(artifact, tmp_path, referee, images(2))


def test_a_network_that_is_not_finite_on_the_frames_is_at_fault_itself(tmp_path: Path) -> None:
    """Only on the brightest frame, which no phantom is."""
    nodes, constants = body()
    nodes[4].output[0] = "logits"
    nodes.append(onnx.helper.make_node("Log", ["logits"], ["mask"]))
    constants |= {"b3": array([50.0]), "w3": -np.abs(constants["w3"]) * 20}
    model = model_of(nodes, {"image": (1, 1, SIDE, SIDE)}, {"mask": None, "scores": None}, constants)
    model = import_onnx(model, HALF, name="net").model
    dark: GreyImage = np.full((SIDE, SIDE), 128, np.uint8)
    artifact, referee = written(tmp_path, "litert", "fp32", model), saved(tmp_path, model)
    assert verified(artifact, tmp_path, referee, [dark]).referee_delta is not None
    noisy = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE)).astype(np.uint8)
    with pytest.raises(ConversionError, match="'mask' is not finite on real frames; the network itself is at fault"):
        verified(artifact, tmp_path, referee, [dark, noisy])


# In the pipeline.


@pytest.fixture
def wrong_litert(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lowering with a fault."""
    right = pipeline._WRITERS["litert"]

    def wrong(model: onnx.ModelProto, source: Path) -> object:
        return right(changed(model, "w2", lambda values: values * 2), source)

    monkeypatch.setitem(pipeline._WRITERS, "litert", wrong)


@pytest.mark.usefixtures("wrong_litert")
def test_a_wrong_artifact_is_missing_from_the_bundle(tmp_path: Path) -> None:
    bundle = export(small_network(), tmp_path / "out", calibration=calibration(), description=HALF, int8=False)
    assert [artifact.engine for artifact in bundle.manifest.artifacts] == ["onnx", "openvino"]
    (missing,) = bundle.manifest.missing
    assert (missing.engine, missing.precision) == ("litert", "fp32")
    assert "computes it wrongly" in missing.reason
    assert not (bundle.path / "fp32.tflite").exists()


@pytest.mark.usefixtures("wrong_litert")
def test_a_wrong_artifact_that_was_asked_for_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="computes it wrongly"):
        export(
            small_network(),
            tmp_path / "out",
            calibration=calibration(),
            description=HALF,
            int8=False,
            engines=["litert"],
        )
    assert not list(tmp_path.iterdir())
