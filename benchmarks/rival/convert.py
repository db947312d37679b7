"""The general converter as a yardstick: litert-torch and ai-edge-quantizer turn the same networks into TFLite.

    python benchmarks/rival/convert.py --checkpoint FILE.safetensors|none --calibration FRAMES.npz --out DIR
    python benchmarks/rival/convert.py --zoo NAME|all --checkpoint FOLDER --calibration FRAMES.npz --out DIR

The first writes EMT-Net as DIR/rival_fp32.tflite and DIR/rival_int8.tflite, the second networks of `benchmarks.zoo` as
DIR/NAME_fp32.tflite and DIR/NAME_int8.tflite with the weights in FOLDER/NAME.safetensors (`compare.py zoo` writes folder and
frames). Both do it the way a competent user of those tools would: channels-last input and mask, the quantizer's default
static recipe (`static_wi8_ai8`: INT8 activations, input and outputs, INT8 weights per channel), ranges from up to 100
frames spread evenly over FRAMES.npz (key "frames", (N, 224, 224) uint8; for the zoo the network's name, (N, C, H, W)).
One JSON line a network on stdout tells both files' sizes and operators; everything the tools say goes to stderr. A network
that the tools cannot convert has an "error" there with --zoo all, and only the files that were finished before it.

The packages are deliberately outside the project's own: they bring jax and transformers (a 2 GB environment), and the
project converts without them. torchvision and torchaudio are not needed. From the repository root, where pip finds a
CPU build of torch (another one brings gigabytes of CUDA):

    python3 -m venv ../rival
    ../rival/bin/pip install torch==2.13.0
    ../rival/bin/pip install torch==2.13.0 litert-torch==0.10.0 ai-edge-quantizer==0.10.0 ai-edge-litert==2.3.0
    ../rival/bin/python benchmarks/rival/convert.py …

"none" is an untrained network with `torch.manual_seed(0)`: good for a smoke test, not for timing. Without trained
batch-norm statistics its activations fade to 1e-8, and XNNPACK refuses operators between such scales, so that parts of
the INT8 graph fall back to slow kernels.
"""

import argparse
import json
import os
import subprocess
import sys
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[2]
MAX_FRAMES: Final = 100
MISSING: Final = f"error: {{}}; this script runs in an environment of its own, see the top of {__file__}"
PACKAGES: Final = ("torch", "litert-torch", "ai-edge-quantizer", "ai-edge-litert")

sys.path.insert(0, str(ROOT))  # run as a script in an environment that has no edgekit
try:
    import numpy as np
    import torch
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_litert.interpreter import Interpreter
    from numpy.typing import NDArray
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import load_file

    from benchmarks.zoo import ZOO
    from benchmarks.zoo.emtnet import LogitsEmtNet
    from emtnet.network import INPUT_SIZE
except ImportError as error:
    sys.exit(MISSING.format(error))


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """What to convert. images: channels-last network inputs, (N, 1, H, W, C). name: of the files, before the precision."""

    name: str
    network: torch.nn.Module
    images: NDArray[np.float32]
    image_outputs: list[int]  # places of those that are (1, C, H, W)


def main() -> None:
    parser = argparse.ArgumentParser(description="Convert networks with litert-torch and ai-edge-quantizer.")
    parser.add_argument("--zoo", metavar="NAME", choices=[*ZOO, "all"], help="a network of benchmarks.zoo, or all")
    parser.add_argument("--checkpoint", required=True, metavar="FILE", help="weights (their folder for --zoo), or none")
    parser.add_argument("--calibration", required=True, type=Path, metavar="NPZ", help='"frames", or by network name')
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder of the files")
    options = parser.parse_args()

    options.out.mkdir(parents=True, exist_ok=True)
    if options.zoo == "all":
        convert_all(options)
        return
    job = zoo_job(options) if options.zoo else emtnet_job(options)
    fp32, int8 = (options.out / f"{job.name}_{precision}.tflite" for precision in ("fp32", "int8"))
    with stdout_to_stderr():
        try:
            convert(job, fp32)
            quantize(fp32, job.images, int8)
            require_loadable(int8)
        except Exception as error:  # the tools raise what their parts raise
            traceback.print_exc()
            sys.exit(f"error: {type(error).__name__}: {' '.join(str(error).split())[:300]}")
    report = {
        "network": options.zoo or "emtnet",
        "checkpoint": options.checkpoint,
        "calibration_frames": len(job.images),
        "fp32": describe(fp32),
        "int8": describe(int8),
        "versions": {name: version(name) for name in PACKAGES},
    }
    print(json.dumps(report))


def convert_all(options: argparse.Namespace) -> None:
    """Each network in a process of its own: native code of the tools may end it."""
    shared = ["--checkpoint", options.checkpoint, "--calibration", str(options.calibration), "--out", str(options.out)]
    for name in ZOO:
        command = [sys.executable, __file__, "--zoo", name, *shared]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        sys.stderr.write(done.stderr)
        if done.returncode:
            lines = done.stderr.strip().splitlines() or [""]
            print(json.dumps({"network": name, "exit": done.returncode, "error": lines[-1]}), flush=True)
        else:
            print(done.stdout, end="", flush=True)


def emtnet_job(options: argparse.Namespace) -> Job:
    pixels = read_frames(options.calibration, "frames", (INPUT_SIZE, INPUT_SIZE))
    torch.manual_seed(0)
    guided = options.checkpoint == "none" or has_lesion_head(Path(options.checkpoint))
    network = LogitsEmtNet(guided=guided).eval()
    if options.checkpoint != "none":
        load_weights(network, Path(options.checkpoint))
    images = np.asarray((pixels.astype(np.float32) - 128) / 128, np.float32)
    return Job("rival", network, images[:, None, :, :, None], [0])  # the mask; malignancy is a vector


def zoo_job(options: argparse.Namespace) -> Job:
    entry = ZOO[options.zoo]
    images = entry.normalise(read_frames(options.calibration, entry.name, entry.shape[1:]))
    torch.manual_seed(0)
    network = entry.architecture().eval()
    if options.checkpoint != "none":
        load_weights(network, Path(options.checkpoint) / f"{entry.name}.safetensors")
    places = [place for place, name in enumerate(entry.outputs) if name == "mask"]
    return Job(entry.name, network, np.ascontiguousarray(images.transpose(0, 2, 3, 1))[:, None], places)


def read_frames(path: Path, key: str, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Up to `MAX_FRAMES` frames (N, *shape), spread evenly over the file."""
    if not path.is_file():
        sys.exit(f"error: {path}: no such calibration file")
    try:
        with np.load(path) as archive:
            pixels: NDArray[np.uint8] = archive[key]
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        sys.exit(f'error: {path}: not an npz with the key "{key}" ({error})')
    if pixels.dtype != np.uint8 or pixels.shape[1:] != shape or not len(pixels):
        wanted = ", ".join(map(str, ("N", *shape)))
        sys.exit(f"error: {path}: {key} are {pixels.dtype} {pixels.shape}, not uint8 ({wanted})")
    chosen = np.linspace(0, len(pixels) - 1, min(len(pixels), MAX_FRAMES)).round().astype(int)
    frames: NDArray[np.uint8] = pixels[chosen]
    return frames


def has_lesion_head(path: Path) -> bool:
    """False too for a file that `load_weights` will refuse."""
    try:
        with safe_open(path, framework="pt") as file:
            return any(name.startswith("lesion_head.") for name in file.keys())  # noqa: SIM118 (not a dict)
    except (OSError, SafetensorError):
        return False


def load_weights(network: torch.nn.Module, path: Path) -> None:
    try:
        tensors = load_file(path)
        network.load_state_dict({name: t.float() if t.is_floating_point() else t for name, t in tensors.items()})
    except (OSError, SafetensorError, RuntimeError) as error:
        sys.exit(f"error: {path}: not a checkpoint of this network ({' '.join(str(error).split())[:300]})")


def convert(job: Job, target: Path) -> None:
    try:
        import litert_torch
    except ImportError as error:
        sys.exit(MISSING.format(error))
    channels_last = litert_torch.to_channel_last_io(job.network, args=[0], outputs=job.image_outputs)
    sample = (torch.zeros(job.images.shape[1:]),)
    litert_torch.convert(channels_last.eval(), sample).export(str(target))


def quantize(source: Path, images: NDArray[np.float32], target: Path) -> None:
    try:
        from ai_edge_quantizer import quantizer, recipe
    except ImportError as error:
        sys.exit(MISSING.format(error))
    tool = quantizer.Quantizer(str(source), recipe.static_wi8_ai8())
    signature = read_model(source).signatureDefs[0]
    name, key = signature.inputs[0].name.decode(), signature.signatureKey.decode()
    ranges = tool.calibrate({key: [{name: image} for image in images]})
    tool.quantize(ranges).export_model(str(target), overwrite=True)


def require_loadable(path: Path) -> None:
    """The quantizer writes files that LiteRT refuses; such a file is removed. Raises ValueError or RuntimeError."""
    try:
        Interpreter(model_path=str(path), num_threads=1).allocate_tensors()
    except (ValueError, RuntimeError) as error:
        path.unlink()
        raise RuntimeError(f"LiteRT refuses {path.name}: {error}") from error


def describe(path: Path) -> dict[str, Any]:
    """File name, size and number of operators of each kind."""
    names = {code: name for name, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)}
    model = read_model(path)
    # Codes above 127 are in builtinCode, older ones in the deprecated field, the other one being 127 or 0.
    kinds = [names[max(code.builtinCode, code.deprecatedBuiltinCode)] for code in model.operatorCodes]
    ops = Counter(kinds[operator.opcodeIndex] for graph in model.subgraphs for operator in graph.operators)
    return {"file": path.name, "bytes": path.stat().st_size, "ops": dict(sorted(ops.items()))}


def read_model(path: Path) -> Any:
    return schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)


@contextmanager
def stdout_to_stderr() -> Iterator[None]:
    """Keep the tools' chatter, Python's and native code's, off stdout."""
    sys.stdout.flush()
    saved = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(saved, 1)
        os.close(saved)


if __name__ == "__main__":
    main()
