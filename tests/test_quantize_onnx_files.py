"""Files that are no network: one line that names the file and says what to do."""

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from foreign_networks import model_of, small_network
from onnx import helper

from edge.errors import DataError
from quantize.description import Description
from quantize.pipeline import read_network

HALF = Description(mean=(0.5,), std=(0.5,))


def refused(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        read_network(path, HALF)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


def content() -> bytes:
    return bytes(small_network().SerializeToString())


def test_a_good_file_is_read_with_its_name_and_fingerprint(tmp_path: Path) -> None:
    import hashlib

    path = tmp_path / "lesions v2.onnx"
    path.write_bytes(content())
    network = read_network(path, HALF)
    assert network.name == "lesions v2"
    assert network.source_sha256 == hashlib.sha256(content()).hexdigest()
    assert read_network(small_network(), HALF).name == "foreign"


@pytest.mark.parametrize(
    "made",
    [
        lambda: b"not a network, honestly",
        lambda: b"<!DOCTYPE html><html>404</html>",
        lambda: b"PK\x03\x04" + bytes(range(200)),
        lambda: b"\x20\x00\x00\x00TFL3" + bytes(200),
        lambda: content()[:100],
        lambda: content()[: len(content()) // 2],
        lambda: content()[:-5],
    ],
    ids=["text", "page", "archive", "tflite", "head", "half", "cut off"],
)
def test_what_is_no_onnx_or_was_cut_off_is_said(made: Callable[[], bytes], tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(made())
    assert "not an ONNX file, or a damaged one" in refused(path)


def test_an_empty_file_is_no_network(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(b"")
    assert "not an ONNX file, or an empty one; export the network again" in refused(path)
    path.write_bytes(helper.make_model(helper.make_graph([], "nothing", [], [])).SerializeToString())
    assert "or an empty one" in refused(path)


def test_a_file_that_is_not_there_and_a_folder_say_so(tmp_path: Path) -> None:
    assert refused(tmp_path / "gone.onnx").endswith("cannot be read (No such file or directory)")
    (tmp_path / "net.onnx").mkdir()
    assert refused(tmp_path / "net.onnx").endswith("cannot be read (Is a directory)")


def with_weights_beside(folder: Path) -> tuple[Path, Path]:
    path, weights = folder / "net.onnx", folder / "net.data"
    onnx.save(small_network(), path, save_as_external_data=True, location=weights.name, size_threshold=0)
    return path, weights


def test_weights_in_a_file_beside_are_read(tmp_path: Path) -> None:
    path, weights = with_weights_beside(tmp_path)
    network = read_network(path, HALF)
    weights.unlink()
    names = {tensor.name for tensor in network.model.graph.initializer}
    assert {"w1", "w2", "w3", "w4"} <= names
    assert not any(tensor.external_data for tensor in network.model.graph.initializer)


def test_weights_that_are_missing_or_cut_off_are_asked_for(tmp_path: Path) -> None:
    path, weights = with_weights_beside(tmp_path)
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    assert "its weights are in a file beside it, which cannot be read; copy that too" in refused(path)
    weights.unlink()
    assert "net.data" in refused(path)


def test_weights_outside_the_folder_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(bytes(10_000))
    model = small_network()
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == "w2")
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../secret")
    (tmp_path / "inner").mkdir()
    path = tmp_path / "inner/net.onnx"
    path.write_bytes(model.SerializeToString())
    assert "cannot be read" in refused(path)


def test_a_description_of_a_checkpoint_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="describes itself"):
        read_network(tmp_path / "net.safetensors", HALF)


def test_a_network_of_one_operator_is_one(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(model_of([helper.make_node("Relu", ["x"], ["y"])], {"x": (1, 1, 8, 8)}, {"y": None}), path)
    assert read_network(path, HALF).outputs[0].kind == "mask"
