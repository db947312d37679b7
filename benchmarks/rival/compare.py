"""Our TFLite files against those of litert-torch and ai-edge-quantizer, in one interleaved run.

    python benchmarks/rival/compare.py frames --data DIR --folds 1,2,3 --out frames.npz
    ../rival/bin/python benchmarks/rival/convert.py --checkpoint emtnet/data/emtnet.safetensors \\
        --calibration frames.npz --out rival
    python benchmarks/rival/compare.py time BUNDLE rival

`frames` writes the calibration frames that `edgekit export` would use; `time` prints a table and a JSON line of median
latencies and ratios (ours over theirs, below 1 is faster). See `convert.py` for its environment.
"""

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from benchmarks.latency import measure
from calibration.dataset import Dataset, parse_folds
from calibration.subset import calibration_frames
from edge.bundle import Bundle
from edge.preprocess import preprocess


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    commands = parser.add_subparsers(dest="command", required=True)
    frames = commands.add_parser("frames")
    frames.add_argument("--data", type=Path, action="append", required=True)
    frames.add_argument("--folds")
    frames.add_argument("--out", type=Path, required=True)
    timing = commands.add_parser("time")
    timing.add_argument("bundle", type=Path)
    timing.add_argument("rival", type=Path)
    timing.add_argument("--rounds", type=int, default=200)
    options = parser.parse_args()
    if options.command == "frames":
        chosen = calibration_frames(Dataset.open(options.data, folds=parse_folds(options.folds)))
        np.savez(options.out, frames=np.stack([preprocess(frame, (224, 224)) for frame in chosen.frames]))
    else:
        compare(options.bundle, options.rival, options.rounds)


def compare(bundle: Path, rival: Path, rounds: int) -> None:
    """Time four files and print the ratios."""
    opened = Bundle.open(bundle)
    files = {f"rival {precision}": rival / f"rival_{precision}.tflite" for precision in ("fp32", "int8")}
    for precision in ("fp32", "int8"):
        files[f"ours {precision}"] = opened.verified_paths(opened.choose(engine="litert", precision=precision))[0]
    latencies = measure({name: _step(path) for name, path in files.items()}, rounds=rounds)
    for name, latency in latencies.items():
        print(f"{name:12s} p50 {latency.p50_ms:6.2f} ms  p90 {latency.p90_ms:6.2f} ms")
    ratios = {
        f"ours_over_rival_{precision}": latencies[f"ours {precision}"].p50_ms / latencies[f"rival {precision}"].p50_ms
        for precision in ("fp32", "int8")
    }
    print(json.dumps({name: round(ratio, 3) for name, ratio in ratios.items()}))


def _step(path: Path) -> Callable[[], object]:
    interpreter = Interpreter(model_path=str(path), num_threads=os.cpu_count())
    interpreter.allocate_tensors()
    detail = interpreter.get_input_details()[0]
    interpreter.set_tensor(detail["index"], np.zeros(detail["shape"], detail["dtype"]))
    run: Callable[[], object] = interpreter.invoke
    return run


if __name__ == "__main__":
    main()
