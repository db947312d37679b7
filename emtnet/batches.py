"""Cases in memory, and the shuffled, augmented batches of an epoch."""

import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calibration.dataset import Case, Sample
from edge.frame import fingerprint
from edge.preprocess import preprocess
from emtnet.augment import augment
from emtnet.loss import Targets
from emtnet.recipe import Recipe

Example = tuple[NDArray[np.float32], NDArray[np.float32], float]
_AHEAD = 2  # batches that are made while one is learned from


@dataclass(frozen=True, slots=True, eq=False)
class LoadedCase:
    """A case with its pixels. fingerprint: sha256 of the frame."""

    case: Case
    sample: Sample
    fingerprint: str


def load_cases(cases: Iterable[Case]) -> list[LoadedCase]:
    """Read every case. Raises DataError."""
    return list(_in_threads(_load, list(cases)))


def batches(
    cases: Sequence[LoadedCase], recipe: Recipe, epoch: int, *, mask_stride: int
) -> Iterator[tuple[Tensor, Targets]]:
    """The batches of an epoch, the same for the same recipe: images (N, 1, S, S) as the network takes them, and targets."""
    size = recipe.size(epoch)
    order = np.random.default_rng((recipe.seed, epoch)).permutation(_turns(cases, recipe))
    chunks = np.array_split(order, batch_count(cases, recipe))

    def example(place: tuple[int, int]) -> Example:
        turn, index = place
        rng = np.random.default_rng((recipe.seed, epoch, turn))
        return make_example(cases[index], rng, size=size, mask_stride=mask_stride, clear_share=recipe.clear_share)

    places: list[list[tuple[int, int]]] = []
    for chunk in chunks:
        first = sum(map(len, places))
        places.append([(first + turn, int(index)) for turn, index in enumerate(chunk)])
    with ThreadPoolExecutor(_workers()) as pool:
        waiting: deque[list[Future[Example]]] = deque()
        try:
            for batch in places:
                waiting.append([pool.submit(example, place) for place in batch])
                if len(waiting) > _AHEAD:
                    yield _collate([future.result() for future in waiting.popleft()])
            while waiting:
                yield _collate([future.result() for future in waiting.popleft()])
        finally:
            pool.shutdown(cancel_futures=True)


def batch_count(cases: Sequence[LoadedCase], recipe: Recipe) -> int:
    """How many batches an epoch has."""
    return math.ceil(len(_turns(cases, recipe)) / recipe.batch_size)


def make_example(
    loaded: LoadedCase, rng: np.random.Generator, *, size: int, mask_stride: int, clear_share: float
) -> Example:
    """One augmented case: image (S, S), mask (S/stride, S/stride) in 0..1 or NaN, class 1, 0 or NaN without a lesion."""
    sample = augment(loaded.sample, rng, clear_share=clear_share)
    image = preprocess(sample.pixels, (size, size)).astype(np.float32)
    side = size // mask_stride
    label = {"malignant": 1.0, "benign": 0.0}.get(loaded.case.label or "", math.nan)
    if sample.mask is None:
        mask = np.full((side, side), np.nan, np.float32)
    else:
        mask = preprocess(sample.mask.astype(np.uint8) * 255, (side, side)).astype(np.float32) / 255.0
        if not mask.any():
            label = math.nan  # the window holds no lesion to classify
    return (image - 128.0) / 128.0, mask, label


def _turns(cases: Sequence[LoadedCase], recipe: Recipe) -> NDArray[np.int64]:
    repeats = [recipe.normal_repeats if loaded.case.label == "normal" else 1 for loaded in cases]
    return np.repeat(np.arange(len(cases)), repeats)


def _collate(examples: Sequence[Example]) -> tuple[Tensor, Targets]:
    images, masks, labels = zip(*examples, strict=True)
    return torch.from_numpy(np.stack(images)[:, None]), Targets.drawn(
        torch.from_numpy(np.stack(masks)[:, None]), torch.tensor(labels, dtype=torch.float32)[:, None]
    )


def _load(case: Case) -> LoadedCase:
    sample = case.read()
    return LoadedCase(case, sample, fingerprint(sample.pixels))


def _in_threads(function: Callable[[Case], LoadedCase], items: Sequence[Case]) -> Iterator[LoadedCase]:
    with ThreadPoolExecutor(_workers()) as pool:
        try:
            yield from pool.map(function, items)
        finally:
            pool.shutdown(cancel_futures=True)


def _workers() -> int:
    return min(16, os.cpu_count() or 1)
