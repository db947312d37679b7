"""ONNX → OpenVINO IR."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from test_quantize_support import build, fp32_model, frames, run_referee

from edge.engines import open_model
from edge.errors import ConversionError, SinkError
from quantize.openvino_ir import write_ir


def test_the_ir_keeps_float32_weights_and_the_answers(tmp_path: Path) -> None:
    source = tmp_path / "fp32.onnx"
    source.write_bytes(fp32_model().SerializeToString())
    xml, weights = write_ir(source, tmp_path / "fp32.xml")
    assert (xml.name, weights.name) == ("fp32.xml", "fp32.bin")
    assert weights.stat().st_size > 13e6
    engine = open_model("openvino", xml, precision="fp32", threads=1)
    wanted = run_referee(fp32_model(), {"image": frames()[12][None, None]})
    for name, array in engine.infer(frames()[12]).items():
        np.testing.assert_allclose(array, wanted[name], atol=2e-4)


@pytest.mark.parametrize("content", [b"not an ONNX file", b""], ids=["damaged", "empty"])
def test_a_file_that_openvino_refuses_leaves_nothing(content: bytes, tmp_path: Path) -> None:
    source = tmp_path / "network.onnx"
    source.write_bytes(content)
    with pytest.raises(ConversionError, match=r"OpenVINO refused network\.onnx"):
        write_ir(source, tmp_path / "network.xml")
    assert list(tmp_path.iterdir()) == [source]


def test_an_operator_that_openvino_does_not_know_is_refused(tmp_path: Path) -> None:
    model = build([helper.make_node("Relu", ["x"], ["y"])], {"x": (2,)}, ["y"])
    model.graph.node[0].op_type = "NoSuchOperator"
    source = tmp_path / "odd.onnx"
    onnx.save(model, source)
    with pytest.raises(ConversionError, match=r"OpenVINO refused odd\.onnx: .*NoSuchOperator"):
        write_ir(source, tmp_path / "odd.xml")
    assert list(tmp_path.iterdir()) == [source]


def test_weights_that_were_cut_short_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk can do that without an exception."""
    from edge.engines.openvino import import_openvino

    openvino = import_openvino()
    real = openvino.save_model

    def save(model: object, xml: Path, **options: bool) -> None:
        real(model, xml, **options)
        weights = xml.with_suffix(".bin")
        weights.write_bytes(weights.read_bytes()[:100])

    monkeypatch.setattr(openvino, "save_model", save)
    source = tmp_path / "fp32.onnx"
    source.write_bytes(fp32_model().SerializeToString())
    with pytest.raises(SinkError, match=r"fp32\.xml: cannot be written .*weights.*is the disk full"):
        write_ir(source, tmp_path / "fp32.xml")
