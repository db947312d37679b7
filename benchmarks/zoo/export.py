"""The zoo as ONNX, through both of PyTorch's exporters."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import numpy as np
import torch

from benchmarks.zoo.entry import ZooEntry

if TYPE_CHECKING:
    import onnx

INPUT: Final = "image"
TOLERANCE: Final = 1e-4
_CHECKED_ON: Final = 3


def export_onnx(entry: ZooEntry, *, opset: int = 18, dynamo: bool = True, steps: int = 0) -> "onnx.ModelProto":
    """Export a network of the zoo and check it with ONNX Runtime against PyTorch on three frames.

    dynamo: torch.export's graph, opset 18 and up; otherwise the older tracing exporter, opset 11 and up. steps: as in
    `ZooEntry.build`. Raises AssertionError when an output differs by more than 1e-4 of its largest magnitude.
    """
    import onnx

    network = entry.build(steps=steps)
    stream = io.BytesIO()
    with _quiet():
        program = torch.onnx.export(
            network,
            (torch.zeros(entry.shape),),
            None if dynamo else stream,  # type: ignore[arg-type]  # a stream is fine for the older one
            dynamo=dynamo,
            input_names=[INPUT],
            output_names=list(entry.outputs),
            opset_version=opset,
            verbose=False,
        )
    model: onnx.ModelProto = onnx.load_from_string(stream.getvalue()) if program is None else program.model_proto
    found = {item.domain: item.version for item in model.opset_import}[""]
    assert found == opset, f"{entry.name}: opset {found} instead of {opset}"
    _check(model, network, entry)
    return model


def _check(model: "onnx.ModelProto", network: torch.nn.Module, entry: ZooEntry) -> None:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    images = entry.normalise(entry.frames(_CHECKED_ON))
    with torch.inference_mode():
        computed = network(torch.from_numpy(images))
    expected = computed if isinstance(computed, tuple) else (computed,)
    runs = [session.run(list(entry.outputs), {INPUT: image[None]}) for image in images]
    for place, (name, wanted) in enumerate(zip(entry.outputs, expected, strict=True)):
        found = np.concatenate([run[place] for run in runs])
        error = np.abs(found - wanted.numpy()).max() / np.abs(wanted.numpy()).max()
        assert error <= TOLERANCE, f"{entry.name}: {name} in ONNX differs from PyTorch by {error:.1e}"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporters talk and the older one calls itself deprecated; errors still come as exceptions."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logger.setLevel(level)
