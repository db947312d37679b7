"""ONNX → OpenVINO IR."""

from pathlib import Path

from edge.engines.openvino import import_openvino
from edge.errors import ConversionError


def write_ir(model: Path, xml: Path) -> tuple[Path, Path]:
    """Convert the ONNX file `model` to OpenVINO IR and return its two files. Weights keep their precision.

    Raises ConversionError when OpenVINO refuses the graph.
    """
    openvino = import_openvino()
    weights = xml.with_suffix(".bin")
    try:
        converted = openvino.convert_model(model)
        openvino.save_model(converted, xml, compress_to_fp16=False)
        openvino.Core().read_model(xml)  # a full disk can truncate the weights without an exception
    except Exception as error:  # openvino raises several classes of its own
        xml.unlink(missing_ok=True)
        weights.unlink(missing_ok=True)
        message = str(error).strip().splitlines() or [type(error).__name__]
        raise ConversionError(f"OpenVINO refused {model.name}: {message[-1]}") from error
    return xml, weights
