"""The encoder's start: ImageNet MobileNetV1 weights under TensorFlow names, made grey.

The source network takes RGB as p / 127.5 − 1. A grey pixel enters all three channels alike, so their weights add up to
one; with our input u = (p − 128) / 128 the source sees a·u + b, a = 128 / 127.5 and b = a − 1. The factor goes into
the weights and the offset into the batch norm's mean. Exact but for the frame's last row and column, where padding is
0 in both scales, and for the first depthwise layer, whose batch norm has a larger eps here.
"""

from pathlib import Path
from zipfile import BadZipFile, is_zipfile

import numpy as np
import torch
from torch import Tensor

from edge.errors import DataError
from emtnet.network import ConvBlock, EmtNet, SeparableBlock
from emtnet.sibling import spread_kernel

_GAIN = 128.0 / 127.5


def load_imagenet_encoder(network: EmtNet, path: Path) -> None:
    """Fill the encoder of `network` from the .npz at `path`. Raises DataError when it is not that file."""
    try:
        if path.is_file() and not is_zipfile(path):
            raise BadZipFile("no .npz archive")  # numpy would advise to load it unsafely
        with np.load(path) as arrays:
            weights = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
        with torch.no_grad():
            _fill(network.stem, weights, "MobilenetV1/Conv2d_0", "weights")
            stem = network.stem.conv.weight
            offset = (_GAIN - 1.0) * weights["MobilenetV1/Conv2d_0/weights"].sum((0, 1, 2))
            stem.mul_(_GAIN)
            _running_mean(network.stem).sub_(offset)
            for index, block in enumerate(network.blocks, start=1):
                assert isinstance(block, SeparableBlock)
                _fill(block.depthwise, weights, f"MobilenetV1/Conv2d_{index}_depthwise", "depthwise_weights")
                _fill(block.pointwise, weights, f"MobilenetV1/Conv2d_{index}_pointwise", "weights")
    except (OSError, EOFError, BadZipFile, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise DataError(f"{path}: not the ImageNet MobileNetV1 weights ({error})") from error


def _fill(block: ConvBlock, weights: dict[str, Tensor], scope: str, kind: str) -> None:
    kernel = weights[f"{scope}/{kind}"]
    # TensorFlow keeps (height, width, in, out), depthwise (height, width, channel, multiplier).
    kernel = kernel.permute(2, 3, 0, 1) if kind == "depthwise_weights" else kernel.permute(3, 2, 0, 1)
    if block.conv.weight.shape[1] == 1 and kernel.shape[1] == 3:
        kernel = kernel.sum(1, keepdim=True)
    if block.conv.weight.shape[2] == 2 * kernel.shape[2]:
        kernel = spread_kernel(kernel)
    block.conv.weight.copy_(kernel)
    block.norm.weight.copy_(weights[f"{scope}/BatchNorm/gamma"])
    block.norm.bias.copy_(weights[f"{scope}/BatchNorm/beta"])
    _running_mean(block).copy_(weights[f"{scope}/BatchNorm/moving_mean"])
    variance = block.norm.running_var
    assert variance is not None
    variance.copy_(weights[f"{scope}/BatchNorm/moving_variance"])


def _running_mean(block: ConvBlock) -> Tensor:
    mean = block.norm.running_mean
    assert mean is not None
    return mean
