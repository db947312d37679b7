"""Export the trained zoo and tell how far its artifacts are from their referee and INT8 from FP32.

    python benchmarks/rival/compare.py zoo --out zoo
    python benchmarks/scripts/zoo_table.py zoo ours

writes ours/NAME (a bundle) and ours/NAME_int8.tflite for `compare.py time-zoo`, and prints one line a network and output:
mean |Δ| as a share of the output's range over 24 phantoms that neither trained nor calibrated it.
"""

import argparse
import shutil
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.zoo.entry import ZooEntry
from benchmarks.zoo.table import ZOO
from calibration.subset import CalibrationFrames
from edge.bundle import Bundle
from edge.engines import open_artifact
from edge.engines.onnx import open_referee
from edge.frame import fingerprint
from edge.predictor import Engine
from quantize import Description, export

FRAMES: Final = 24
_PIXELS: Final = 255.0

Outputs = dict[str, NDArray[np.float32]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("zoo", type=Path)
    parser.add_argument("ours", type=Path)
    parser.add_argument("--name", action="append", choices=ZOO)
    options = parser.parse_args()
    archive = np.load(options.zoo / "frames.npz")
    print("| network | output | range | INT8 layers | INT8 from FP32 | LiteRT | OpenVINO | ONNX Runtime |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name in options.name or ZOO:
        bundle = convert(ZOO[name], options.zoo / f"{name}.onnx", options.ours / name, archive[name][:, 0])
        artifact = bundle.choose(engine="litert", precision="int8")
        shutil.copyfile(bundle.path / artifact.files[0].path, options.ours / f"{name}_int8.tflite")
        layers = "{} of {}".format(*(artifact.int8_convolutions or (0, 0)))
        for output, row in differences(bundle, ZOO[name]).items():
            cells = " | ".join(f"{row[key]:.2%}" for key in ("fp32", "litert", "openvino", "onnx"))
            print(f"| {name} | {output} | {row['range']:.1f} | {layers} | {cells} |", flush=True)


def convert(entry: ZooEntry, model: Path, out: Path, frames: NDArray[np.uint8]) -> Bundle:
    """Export one network, calibrated on (N, H, W) uint8 frames of its own size."""
    calibration = CalibrationFrames("zoo phantoms", tuple(frames), tuple(map(fingerprint, frames)))
    description = Description(
        mean=tuple(value / _PIXELS for value in entry.mean), std=tuple(value / _PIXELS for value in entry.std)
    )
    return export(model, out, calibration=calibration, description=description)


def differences(bundle: Bundle, entry: ZooEntry) -> dict[str, dict[str, float]]:
    """By output: its range, and mean |Δ| as a share of it, of the INT8 referee to FP32 and of each INT8 engine to the referee."""
    frames = entry.frames(FRAMES)[:, 0]
    referees = {
        precision: run(open_referee(bundle.path / f"{precision}.onnx"), frames) for precision in ("fp32", "int8")
    }
    engines = {
        artifact.engine: run(open_artifact(bundle, artifact, threads=1), frames)
        for artifact in bundle.manifest.artifacts
        if artifact.precision == "int8"
    }
    rows = {}
    for name, wanted in referees["int8"].items():
        span = float(wanted.max() - wanted.min())
        pairs = {"fp32": referees["fp32"][name], **{engine: outputs[name] for engine, outputs in engines.items()}}
        shares = {key: float(np.abs(other - wanted).mean()) / span for key, other in pairs.items()}
        rows[name] = {"range": span, **shares}
    return rows


def run(engine: Engine, frames: NDArray[np.uint8]) -> Outputs:
    answers = [engine.infer(frame) for frame in frames]
    return {name: np.stack([answer[name] for answer in answers]) for name in answers[0]}


if __name__ == "__main__":
    main()
