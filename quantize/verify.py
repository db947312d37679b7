"""An artifact is kept when its engine runs it and says what the referee says of the same graph."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from edge.engines import is_installed, open_model
from edge.engines.onnx import open_referee
from edge.errors import ConversionError, EngineError, MissingDependencyError
from edge.frame import GreyImage
from edge.manifest import Artifact

_FRAMES: Final = 16
_LEAST_SPREAD: Final = 0.1
"""An output that hardly varies over so few frames is measured by this share of its magnitude."""
_GROSS: Final = 0.05
"""Mean |Δ| as a share of an output's range and magnitude above which an engine is at fault: more than rounding."""


def verified(artifact: Artifact, folder: Path, model: Path, images: Sequence[GreyImage]) -> Artifact:
    """The artifact with `referee_delta` and, for LiteRT INT8, `int8_convolutions` filled in.

    folder: of the bundle. model: the ONNX file it was made from, which the referee runs. images: network inputs, of which 16
    spread evenly are used. Raises ConversionError when the engine refuses the artifact or disagrees grossly.
    """
    path = folder / artifact.files[0].path
    counted = replace(artifact, int8_convolutions=_int8_convolutions(artifact, path))
    if not is_installed(artifact.engine) or not images:
        return counted
    chosen = [images[index] for index in np.linspace(0, len(images) - 1, min(_FRAMES, len(images))).astype(int)]
    try:
        referee = open_referee(model)
        engine = open_model(artifact.engine, path, precision=artifact.precision)
        pairs = [(referee.infer(image), engine.infer(image)) for image in chosen]
        engine.close()
    except MissingDependencyError:
        return counted
    except EngineError as error:
        raise ConversionError(f"{artifact.engine} {artifact.precision}: the artifact does not run ({error})") from error
    shares = {}
    for name in pairs[0][0]:
        wanted, got = (
            np.stack([pair[place][name].astype(np.float64).reshape(-1) for pair in pairs]) for place in range(2)
        )
        if not np.isfinite(wanted).all():
            raise ConversionError(f"output {name!r} is not finite on real frames; the network itself is at fault")
        difference, spread = float(np.abs(got - wanted).mean()), float(wanted.max() - wanted.min())
        if not difference <= _GROSS * max(spread, float(np.abs(wanted).max()), 1e-6):
            raise ConversionError(
                f"{artifact.engine} {artifact.precision}: output {name!r} is {difference / max(spread, 1e-12):.1%} of its range "
                "away from ONNX Runtime on the same graph; this engine computes it wrongly, use another one"
            )
        shares[name] = difference / max(spread, _LEAST_SPREAD * float(np.abs(wanted).max()), 1e-6)
    return replace(counted, referee_delta=max(shares.values()))


def _int8_convolutions(artifact: Artifact, path: Path) -> tuple[int, int] | None:
    if (artifact.engine, artifact.precision) != ("litert", "int8"):
        return None
    from quantize.tflite.inspect import int8_convolutions

    return int8_convolutions(path.read_bytes())
