"""Post-training quantisation: NNCF turns the FP32 ONNX into one QDQ ONNX graph."""

import contextlib
import io
import logging
from collections.abc import Iterator, Sequence
from typing import Final

import nncf
import onnx
from nncf.quantization.advanced_parameters import (
    AdvancedQuantizationParameters,
    OverflowFix,
    QuantizationParameters,
)

from edge.errors import CalibrationError, ConversionError
from edge.frame import GreyImage
from quantize.heads import head_sums
from quantize.onnx_graph import WeightRange

MIN_FRAMES: Final = 8
"""Fewer calibration frames than this give ranges that depend on which ones they are."""


def quantise(
    model: onnx.ModelProto, frames: Sequence[GreyImage], *, weight_range: WeightRange = "full"
) -> onnx.ModelProto:
    """Return `model` with INT8 quantisers, calibrated on preprocessed (height, width) uint8 frames.

    Activations are per tensor (TFLite cannot express per-channel ones), weights per channel and symmetric. weight_range:
    "full" for processors with VNNI, AMX or Arm dot product; "half" keeps INT16 sums of older x86 from saturating.
    Raises CalibrationError with fewer than 8 frames, ConversionError when NNCF refuses the graph.
    """
    if len(frames) < MIN_FRAMES:
        raise CalibrationError(f"{len(frames)} calibration frames; give at least {MIN_FRAMES}")
    parameters = AdvancedQuantizationParameters(
        overflow_fix=OverflowFix.DISABLE if weight_range == "full" else OverflowFix.ENABLE,
        activations_quantization_params=QuantizationParameters(per_channel=False),
    )
    sums = [node.name for node in head_sums(model.graph) if node.name]
    feeds = nncf.Dataset([{model.graph.input[0].name: frame[None, None]} for frame in frames])
    with _quiet_nncf():
        try:
            quantised: onnx.ModelProto = nncf.quantize(
                model,
                feeds,
                preset=nncf.QuantizationPreset.MIXED,
                subset_size=len(frames),
                ignored_scope=nncf.IgnoredScope(names=sums) if sums else None,
                fast_bias_correction=True,
                advanced_parameters=parameters,
            )
        except Exception as error:  # nncf and onnxruntime raise classes of their own
            raise ConversionError(f"quantisation failed: {error}") from error
    return quantised


@contextlib.contextmanager
def _quiet_nncf() -> Iterator[None]:
    """Its progress bars and notices go nowhere; edgekit shows its own."""
    logger = logging.getLogger("nncf")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            yield
        finally:
            logger.setLevel(level)
