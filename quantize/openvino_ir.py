"""ONNX → OpenVINO IR."""

from pathlib import Path

from edge.engines.openvino import import_openvino, shared_core
from edge.errors import ConversionError, SinkError


def write_ir(model: Path, xml: Path) -> tuple[Path, Path]:
    """Convert the ONNX file `model` to OpenVINO IR and return its two files. Weights keep their precision.

    Raises ConversionError when OpenVINO refuses the graph, SinkError when the files cannot be written.
    """
    openvino = import_openvino()
    weights = xml.with_suffix(".bin")
    try:
        converted = openvino.convert_model(model)
    except Exception as error:  # openvino raises several classes of its own
        raise ConversionError(f"OpenVINO refused {model.name}: {_last_line(error)}") from error
    try:
        openvino.save_model(converted, xml, compress_to_fp16=False)
        shared_core().read_model(xml)  # a full disk can truncate the weights without an exception
    except Exception as error:
        raise SinkError(f"{xml.name}: cannot be written ({_last_line(error)}); is the disk full?") from error
    return xml, weights


def _last_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]
