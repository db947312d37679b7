"""Our TFLite files against those of litert-torch and ai-edge-quantizer, in one interleaved run.

    python benchmarks/rival/compare.py frames --data DIR --folds 1,2,3 --out frames.npz
    ../rival/bin/python benchmarks/rival/convert.py --checkpoint emtnet/data/emtnet.safetensors \\
        --calibration frames.npz --out rival
    python benchmarks/rival/compare.py time BUNDLE rival

    python benchmarks/rival/compare.py zoo --out zoo
    ../rival/bin/python benchmarks/rival/convert.py --zoo all --checkpoint zoo --calibration zoo/frames.npz --out rival
    python benchmarks/rival/compare.py time-zoo OURS rival

`frames` writes the calibration frames that `edgekit export` would use. `zoo` trains the networks of `benchmarks.zoo` (half a
minute each) and writes NAME.onnx, NAME.safetensors and frames.npz with calibration frames by name. `time` and `time-zoo`
(OURS/NAME_int8.tflite against rival/NAME_int8.tflite, networks with both) print a table and a JSON line of median latencies
and ratios (ours over theirs, below 1 is faster). See `convert.py` for its environment.
"""

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from benchmarks.latency import measure
from calibration.dataset import Dataset, parse_folds
from calibration.subset import calibration_frames
from edge.bundle import Bundle
from edge.preprocess import preprocess

_CALIBRATION_SEED: Final = 1000
"""Phantoms from here on calibrate; those from 0 on check."""


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
    zoo = commands.add_parser("zoo")
    zoo.add_argument("--out", type=Path, required=True)
    zoo.add_argument("--count", type=int, default=32, help="calibration frames")
    zoo.add_argument("--steps", type=int, help="of training; 0 only fits the batch norms")
    timing_zoo = commands.add_parser("time-zoo")
    timing_zoo.add_argument("ours", type=Path)
    timing_zoo.add_argument("rival", type=Path)
    timing_zoo.add_argument("--rounds", type=int, default=100)
    options = parser.parse_args()
    if options.command == "frames":
        chosen = calibration_frames(Dataset.open(options.data, folds=parse_folds(options.folds)))
        np.savez(options.out, frames=np.stack([preprocess(frame, (224, 224)) for frame in chosen.frames]))
    elif options.command == "zoo":
        write_zoo(options.out, count=options.count, steps=options.steps)
    elif options.command == "time-zoo":
        compare_zoo(options.ours, options.rival, options.rounds)
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


def write_zoo(folder: Path, *, count: int, steps: int | None) -> None:
    """Write every network of the zoo as ONNX and as weights, and the frames to calibrate it on."""
    from safetensors.torch import save_file

    from benchmarks.zoo import TRAINING_STEPS, ZOO, export_onnx

    steps = TRAINING_STEPS if steps is None else steps
    folder.mkdir(parents=True, exist_ok=True)
    for name, entry in ZOO.items():
        (folder / f"{name}.onnx").write_bytes(export_onnx(entry, steps=steps).SerializeToString())
        save_file(entry.build(steps=steps).state_dict(), folder / f"{name}.safetensors")
        print(name, flush=True)
    frames = {name: entry.frames(count, first=_CALIBRATION_SEED) for name, entry in ZOO.items()}
    np.savez_compressed(folder / "frames.npz", **frames)  # type: ignore[arg-type]


def compare_zoo(ours: Path, rival: Path, rounds: int) -> None:
    """Time both INT8 files of every network in one interleaved run and print the ratios."""
    ending = "_int8.tflite"
    mine, theirs = ({path.name.removesuffix(ending) for path in folder.glob(f"*{ending}")} for folder in (ours, rival))
    if not mine & theirs:
        raise SystemExit(f"error: no NAME{ending} is in both {ours} and {rival}")
    sides = {"ours": ours, "rival": rival}
    names = sorted(mine & theirs)
    steps = {(name, side): _step(folder / (name + ending)) for name in names for side, folder in sides.items()}
    latencies = measure(steps, rounds=rounds)
    ratios = {}
    print(f"{'network':20s} {'ours p50 ms':>12s} {'rival p50 ms':>12s} {'ratio':>6s}")
    for name in names:
        median = {side: latencies[name, side].p50_ms for side in sides}
        ratios[name] = median["ours"] / median["rival"]
        print(f"{name:20s} {median['ours']:12.2f} {median['rival']:12.2f} {ratios[name]:6.2f}")
    for name in sorted(mine ^ theirs):
        print(f"{name:20s} only {'ours' if name in mine else 'rival'}")
    print(json.dumps({f"ours_over_rival_int8_{name}": round(ratio, 3) for name, ratio in ratios.items()}))


def _step(path: Path) -> Callable[[], object]:
    interpreter = Interpreter(model_path=str(path), num_threads=os.cpu_count())
    interpreter.allocate_tensors()
    detail = interpreter.get_input_details()[0]
    interpreter.set_tensor(detail["index"], np.zeros(detail["shape"], detail["dtype"]))
    run: Callable[[], object] = interpreter.invoke
    return run


if __name__ == "__main__":
    main()
