"""What the zoo knows about a network, and how its frames are made."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from torch import nn

from benchmarks.zoo.fit import OUTPUTS, fit, grey_frames, phantoms


@dataclass(frozen=True, slots=True)
class ZooEntry:
    """A network and its interface.

    architecture: makes the untrained module, which takes (N, channels, H, W) float32, (p − mean) / std of the pixels p in
    0..255, and returns a tensor for each of `outputs`. size: (H, W). mean, std: one value a channel, in pixels.
    """

    name: str
    architecture: Callable[[], nn.Module]
    size: tuple[int, int]
    outputs: tuple[str, ...] = ("mask", "malignancy")
    mean: tuple[float, ...] = (127.5,)
    std: tuple[float, ...] = (127.5,)

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std) or min(self.std) <= 0:
            raise ValueError(f"{self.name}: mean and std give one value a channel, std a positive one")
        if unknown := set(self.outputs) - set(OUTPUTS):
            raise ValueError(f"{self.name}: unknown outputs {sorted(unknown)}")

    @property
    def channels(self) -> int:
        return len(self.mean)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of one input, (1, C, H, W)."""
        return (1, self.channels, *self.size)

    def build(self, *, steps: int = 0) -> nn.Module:
        """The network in eval mode, fitted to phantoms: always the same weights, every time a module of its own.

        steps: of training (`TRAINING_STEPS` for figures); with 0 only the batch norms are fitted, which tests can wait for.
        """
        return copy.deepcopy(_fitted(self, steps))

    def frames(self, count: int, *, first: int = 0) -> NDArray[np.uint8]:
        """Pixels of `count` phantoms that the network was not fitted to, (N, C, H, W). first: seed of the first one."""
        return self._spread(grey_frames(phantoms(first, count), self.size))

    def normalise(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Pixels to network input, (N, C, H, W)."""
        mean, std = (np.array(values, np.float32)[:, None, None] for values in (self.mean, self.std))
        return (frames.astype(np.float32) - mean) / std

    def normalise_grey(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Grey frames (N, H, W) to network input (N, C, H, W)."""
        return self.normalise(self._spread(frames))

    def _spread(self, frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The grey value in every channel, as scanners store RGB."""
        return np.repeat(frames[:, None], self.channels, axis=1)


@cache
def _fitted(entry: ZooEntry, steps: int) -> nn.Module:
    return fit(entry.architecture, entry.outputs, size=entry.size, normalise=entry.normalise_grey, steps=steps)
