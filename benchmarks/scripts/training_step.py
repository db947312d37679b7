"""What the depthwise gradient and kept memory bring: one training step of emtnet, 32 images of 224×224, bf16, interleaved.

    python benchmarks/scripts/training_step.py [--give-memory-back]

Prints the median milliseconds of a step with PyTorch's own gradient of strided depthwise convolutions and with ours. Run it
with and without --give-memory-back for the effect of `emtnet.train.keep_memory`.
"""

import argparse
import statistics
import time
from typing import Final
from unittest.mock import patch

import torch
from torch import Tensor

from emtnet.depthwise import strided_depthwise
from emtnet.loss import Targets
from emtnet.network import EmtNet
from emtnet.recipe import Recipe
from emtnet.train import keep_memory

_ROUNDS: Final = 10
_BATCH: Final = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--give-memory-back", action="store_true")
    if not parser.parse_args().give_memory_back:
        keep_memory()
    torch.manual_seed(0)
    network = EmtNet().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    image = torch.randn(_BATCH, 1, 224, 224).contiguous(memory_format=torch.channels_last)
    targets = Targets.drawn((torch.rand(_BATCH, 1, 112, 112) > 0.8).float(), (torch.rand(_BATCH, 1) > 0.5).float())
    ways = {"PyTorch's gradient": _plain, "strided_depthwise": strided_depthwise}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for index in range(_ROUNDS + 1):
        for name, spent in times.items():
            with patch("emtnet.network.strided_depthwise", ways[name]):
                started = time.perf_counter()
                _step(network, image, targets)
                if index:  # the first round warms up
                    spent.append(1e3 * (time.perf_counter() - started))
    for name, spent in times.items():
        print(f"{name}: {statistics.median(spent):.0f} ms a step")
    plain, ours = (statistics.median(spent) for spent in times.values())
    print(f"{plain / ours:.2f} times as fast")


def _step(network: EmtNet, image: Tensor, targets: Targets) -> None:
    network.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        outputs = network(image)
    Recipe().loss()(outputs, targets).backward()  # type: ignore[no-untyped-call]


def _plain(x: Tensor, weight: Tensor) -> Tensor:
    return torch.conv2d(x, weight, None, 2, 0, 1, x.shape[1])


if __name__ == "__main__":
    main()
