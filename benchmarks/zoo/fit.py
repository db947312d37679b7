"""Brings a network to life on phantoms.

A random network fades: its activations fall to 1e-8 within ten layers and INT8 rounds them all to one number. A pass over
phantoms gives every batch norm their statistics; that takes a fraction of a second and carries every image to every layer.
Training before it gives weights and activations the spread of a real network's.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from edge.phantom import PhantomCase

DIAGNOSES: Final = ("normal", "benign", "malignant")
OUTPUTS: Final = ("mask", "malignancy", "diagnosis")
TRAINING_STEPS: Final = 80
"""Half a minute a network on one core; lesions are found roughly (Dice 0.2 to 0.6)."""
_FIRST_SEED: Final = 1_000_000  # far from the seeds that others calibrate and check on
_TRAINED_ON: Final = 64
_NORMS_FITTED_ON: Final = 12
_CROP: Final = 96
_BATCH: Final = 8
_LEARNING_RATE: Final = 5e-3

Normalise = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""Grey frames (N, H, W) to network input (N, C, H, W)."""


def grey_frames(cases: Sequence["PhantomCase"], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Phantoms as grey frames (N, H, W) of one size."""
    from edge.preprocess import preprocess

    return np.stack([preprocess(case.pixels, size) for case in cases])


@cache
def phantoms(first: int, count: int) -> tuple["PhantomCase", ...]:
    """Phantoms of the seeds from `first` on."""
    from edge.phantom import phantom_case  # needs OpenCV, which an environment that only loads the networks may lack

    return tuple(phantom_case(seed, size=(192, 240)) for seed in range(first, first + count))


def fit(
    architecture: Callable[[], nn.Module],
    outputs: Sequence[str],
    *,
    size: tuple[int, int],
    normalise: Normalise,
    steps: int,
) -> nn.Module:
    """Make a network for frames of `size` (H, W), train it for some steps, fit its batch norms; returned in eval mode."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # so that sums have one order, whatever the machine
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = architecture()
            norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
            if steps:
                _train(network, outputs, size, normalise, steps)
            else:
                for norm in norms:  # most of a channel passes its ReLU, so rounding errors do not grow by the layer
                    nn.init.ones_(norm.bias)
            images = torch.from_numpy(normalise(grey_frames(phantoms(_FIRST_SEED, _NORMS_FITTED_ON), size)))
            _fit_norms(network, norms, images)
            _point_class_head(network, images)
    finally:
        torch.set_num_threads(threads)
    return network.eval().requires_grad_(False)


def _fit_norms(network: nn.Module, norms: Sequence[nn.BatchNorm2d], images: Tensor) -> None:
    network.eval()  # no dropout
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean of what it saw
        norm.train()
    with torch.no_grad():
        network(images)
    network.eval()


def _point_class_head(network: nn.Module, images: Tensor) -> None:
    """Let the last linear layer look along the directions in which frames differ most, with logits of deviation 1.

    Pooled features of a random network are nearly the same for every frame, and half a minute teaches it no diagnosis: along
    any other direction INT8 noise drowns the differences.
    """
    heads = [module for module in network.modules() if isinstance(module, nn.Linear)]
    if not heads:
        return
    seen: list[Tensor] = []
    hook = heads[-1].register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    with torch.no_grad():
        network(images)
        hook.remove()
        (features,) = seen
        mean = features.mean(0)
        _, spread, directions = torch.linalg.svd(features - mean, full_matrices=False)
        labels = heads[-1].out_features
        weight = directions[:labels] * (len(features) ** 0.5 / spread[:labels, None])
        heads[-1].weight.copy_(weight)
        heads[-1].bias.copy_(-weight @ mean)


def _train(network: nn.Module, outputs: Sequence[str], size: tuple[int, int], normalise: Normalise, steps: int) -> None:
    cases = phantoms(_FIRST_SEED, _TRAINED_ON)
    frames = grey_frames(cases, size)
    outlines = [replace(case, pixels=case.mask.astype(np.uint8) * 255) for case in cases]
    masks = grey_frames(outlines, size) / np.float32(255)
    labels = np.array([DIAGNOSES.index(case.label) for case in cases])
    rng = np.random.default_rng(0)
    optimiser = torch.optim.AdamW(network.parameters(), lr=_LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, _LEARNING_RATE, total_steps=steps)
    network.train()
    for _ in range(steps):
        # Crops at the true scale: smaller frames would teach it a speckle that it never meets.
        chosen = rng.choice(len(cases), _BATCH, replace=False)
        corners = [[int(rng.integers(0, side - _CROP + 1)) for side in size] for _ in chosen]
        crops = [
            (index, slice(y, y + _CROP), slice(x, x + _CROP)) for index, (y, x) in zip(chosen, corners, strict=True)
        ]
        images = torch.from_numpy(normalise(np.stack([frames[crop] for crop in crops])))
        mask = torch.from_numpy(np.stack([masks[crop] for crop in crops]))[:, None]
        found = network(images)
        named = dict(zip(outputs, found if isinstance(found, tuple) else (found,), strict=True))
        label = torch.from_numpy(labels[chosen])
        loss = torch.stack([_loss(name, value, mask, label) for name, value in named.items()]).sum()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimiser.step()
        schedule.step()
    optimiser.zero_grad()


def _loss(output: str, found: Tensor, mask: Tensor, label: Tensor) -> Tensor:
    """found: (N, labels) logits; mask logits (N, 1, h, w) or class probabilities (N, 3, h, w). mask: (N, 1, H, W) in 0..1."""
    if output == "diagnosis":
        return F.cross_entropy(found, label)
    if output == "malignancy":
        return F.binary_cross_entropy_with_logits(found[:, 0], (label == DIAGNOSES.index("malignant")).float())
    target = F.interpolate(mask, size=found.shape[-2:], mode="area")
    if found.shape[1] == 1:
        probability = torch.sigmoid(found)
        overlap = 2.0 * (probability * target).sum() / (probability.sum() + target.sum() + 1.0)
        return F.binary_cross_entropy_with_logits(found, target) + 1.0 - overlap
    classes = (target[:, 0] > 0.5) * label[:, None, None]
    weights = torch.tensor([0.25, 1.0, 1.0])  # most pixels are background
    return F.nll_loss(torch.log(found.clamp_min(1e-6)), classes, weight=weights)
