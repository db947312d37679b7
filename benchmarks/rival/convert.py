"""The general converter as a yardstick: litert-torch and ai-edge-quantizer turn the same `EmtNet` into TFLite.

    python benchmarks/rival/convert.py --checkpoint FILE.safetensors|none --calibration FRAMES.npz --out DIR

writes DIR/rival_fp32.tflite and DIR/rival_int8.tflite the way a competent user of those tools would: channels-last
input and mask, the quantizer's default static recipe (`static_wi8_ai8`: INT8 activations, input and outputs, INT8
weights per channel), ranges from up to 100 frames spread evenly over FRAMES.npz (key "frames", (N, 224, 224) uint8).
One JSON line on stdout tells both files' sizes and operators; everything the tools say goes to stderr.

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
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
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
    from numpy.typing import NDArray
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from emtnet.network import INPUT_SIZE, EmtNet
except ImportError as error:
    sys.exit(MISSING.format(error))


def main() -> None:
    parser = argparse.ArgumentParser(description="Convert EmtNet with litert-torch and ai-edge-quantizer.")
    parser.add_argument("--checkpoint", required=True, metavar="FILE", help="safetensors weights, or none")
    parser.add_argument("--calibration", required=True, type=Path, metavar="NPZ", help='frames under the key "frames"')
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder of both files")
    options = parser.parse_args()

    images = read_frames(options.calibration)
    network = read_network(options.checkpoint)
    options.out.mkdir(parents=True, exist_ok=True)
    fp32, int8 = options.out / "rival_fp32.tflite", options.out / "rival_int8.tflite"
    with stdout_to_stderr():
        convert(network, fp32)
        quantize(fp32, images, int8)
    report = {
        "checkpoint": options.checkpoint,
        "calibration_frames": len(images),
        "fp32": describe(fp32),
        "int8": describe(int8),
        "versions": {name: version(name) for name in PACKAGES},
    }
    print(json.dumps(report))


def read_frames(path: Path) -> NDArray[np.float32]:
    """Up to `MAX_FRAMES` network inputs, (N, 1, 224, 224, 1), spread evenly over the file."""
    if not path.is_file():
        sys.exit(f"error: {path}: no such calibration file")
    try:
        with np.load(path) as archive:
            pixels = archive["frames"]
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        sys.exit(f'error: {path}: not an npz with the key "frames" ({error})')
    if pixels.dtype != np.uint8 or pixels.shape[1:] != (INPUT_SIZE, INPUT_SIZE) or not len(pixels):
        sys.exit(f"error: {path}: frames are {pixels.dtype} {pixels.shape}, not uint8 (N, {INPUT_SIZE}, {INPUT_SIZE})")
    chosen = np.linspace(0, len(pixels) - 1, min(len(pixels), MAX_FRAMES)).round().astype(int)
    images: NDArray[np.float32] = ((pixels[chosen].astype(np.float32) - 128) / 128)[:, None, :, :, None]
    return images


def read_network(checkpoint: str) -> EmtNet:
    torch.manual_seed(0)
    network = EmtNet().eval()
    if checkpoint == "none":
        return network
    try:
        tensors = load_file(checkpoint)
        network.load_state_dict({name: t.float() if t.is_floating_point() else t for name, t in tensors.items()})
    except (OSError, SafetensorError, RuntimeError) as error:
        sys.exit(f"error: {checkpoint}: not a checkpoint of EmtNet ({' '.join(str(error).split())[:300]})")
    return network


def convert(network: EmtNet, target: Path) -> None:
    try:
        import litert_torch
    except ImportError as error:
        sys.exit(MISSING.format(error))
    channels_last = litert_torch.to_channel_last_io(network, args=[0], outputs=[0])  # the mask; malignancy is a vector
    sample = (torch.zeros(1, INPUT_SIZE, INPUT_SIZE, 1),)
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
