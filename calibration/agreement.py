"""How far two networks differ on the same frames: kept frame by frame as a few numbers, so that no tensor stays."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from calibration.metrics import overlap
from edge.errors import EngineError
from edge.interpretation import Outputs, named_output
from edge.manifest import OutputSpec

SMALLEST_COMPARED_SHARE: Final = 0.01
"""Masks below this share of the frame are left out of mask Dice: there one edge pixel is several per cent."""
FEWEST_VALUES: Final = 20
"""An output of fewer values, over all frames, has no range to speak of: one score of one frame has the range 0."""


_FOR_PERCENTILES: Final = 100
"""Frames from which on 1 % of them is one at least."""


@dataclass(frozen=True, slots=True)
class AgreementLimits:
    """How far engines may differ on one QDQ graph: rounding only.

    _p01 and _p99 leave out 1 % of the frames, at least one; docs/design-notes.md has what was measured.
    """

    mask_mean: float = 0.005
    mask_dice_min: float = 0.9
    mask_dice_p01: float = 0.97
    mask_dice_median: float = 0.995
    malignancy_p99: float = 0.03
    malignancy_max: float = 0.1
    output_mean: float = 0.005


@dataclass(frozen=True, slots=True)
class Agreement:
    """Two networks on the same frames; a figure is None where they have nothing of the kind.

    mask_*: probabilities of lesion at the network's own resolution, Dice where a mask covers 1 % of it; malignancy_*: |Δp| of
    the positive label; outputs: of every output, as the network gives it, mean |Δ| as a share of its range on the reference.
    """

    frames: int
    mask_mean: float | None
    mask_max: float | None
    mask_dice_min: float | None
    mask_dice_p01: float | None
    mask_dice_median: float | None
    malignancy_mean: float | None
    malignancy_p99: float | None
    malignancy_max: float | None
    outputs: dict[str, float | None]

    @property
    def worst_output(self) -> float | None:
        """The largest figure of `outputs`."""
        return max((share for share in self.outputs.values() if share is not None), default=None)

    def within(self, limits: AgreementLimits) -> bool:
        """True when every figure there is keeps its limit; percentiles of fewer than 100 frames, one odd frame, are not asked."""
        many = self.frames >= _FOR_PERCENTILES
        at_most = [
            (self.mask_mean, limits.mask_mean),
            (self.malignancy_p99 if many else None, limits.malignancy_p99),
            (self.malignancy_max, limits.malignancy_max),
            *((share, limits.output_mean) for share in self.outputs.values()),
        ]
        at_least = [
            (self.mask_dice_min, limits.mask_dice_min),
            (self.mask_dice_p01 if many else None, limits.mask_dice_p01),
            (self.mask_dice_median, limits.mask_dice_median),
        ]
        return all(value is None or value <= limit for value, limit in at_most) and all(
            value is None or value >= limit for value, limit in at_least
        )


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """What a network said of one frame: its outputs, and read from them (h, w) lesion and positive-label probabilities."""

    outputs: Outputs
    mask: NDArray[np.float32] | None = None
    malignancy: float | None = None


@dataclass(slots=True, eq=False)
class _Spread:
    """Running figures of one output."""

    low: float = np.inf
    high: float = -np.inf
    values: int = 0
    difference: float = 0.0


class OutputDifferences:
    """Mean |Δ| of every output as a share of its range (max − min of the reference) over the frames added."""

    def __init__(self, outputs: Sequence[OutputSpec]) -> None:
        self._outputs = {spec: _Spread() for spec in outputs}

    def add(self, reference: Outputs, other: Outputs) -> None:
        """Take in one frame. Raises EngineError when an output is missing, has another shape or is not finite."""
        for spec, spread in self._outputs.items():
            wanted, found = (named_output(given, spec).astype(np.float64) for given in (reference, other))
            if not (np.isfinite(wanted).all() and np.isfinite(found).all()):
                raise EngineError(
                    f"output {spec.name!r} is infinite or not a number; export again from a sound network"
                )
            spread.low = min(spread.low, float(wanted.min()))
            spread.high = max(spread.high, float(wanted.max()))
            spread.values += wanted.size
            spread.difference += float(np.abs(wanted - found).sum())

    def shares(self) -> dict[str, float | None]:
        """By output name; None for one of fewer than 20 values in all. A constant output is measured by its magnitude."""
        return {spec.name: _share(spread) for spec, spread in self._outputs.items()}


def _share(spread: _Spread) -> float | None:
    if spread.values < FEWEST_VALUES:
        return None
    span = spread.high - spread.low or abs(spread.high) or 1.0
    return spread.difference / spread.values / span


@dataclass(slots=True, eq=False)
class Comparison:
    """A network against another one on the same frames: `add` each frame, then ask for the agreement."""

    outputs: OutputDifferences
    frames: int = 0
    mask_means: list[float] = field(default_factory=list)
    mask_maxima: list[float] = field(default_factory=list)
    mask_dice: list[float] = field(default_factory=list)
    malignancy: list[float] = field(default_factory=list)

    def add(self, reference: Answer, other: Answer) -> None:
        """Take in one frame. Raises EngineError when the outputs do not match."""
        self.frames += 1
        self.outputs.add(reference.outputs, other.outputs)
        if reference.mask is not None and other.mask is not None:
            difference = np.abs(reference.mask - other.mask)
            self.mask_means.append(float(difference.mean()))
            self.mask_maxima.append(float(difference.max()))
            one, two = reference.mask >= 0.5, other.mask >= 0.5
            if max(one.mean(), two.mean()) >= SMALLEST_COMPARED_SHARE:
                self.mask_dice.append(overlap(one, two)[0])
        if reference.malignancy is not None and other.malignancy is not None:
            self.malignancy.append(abs(reference.malignancy - other.malignancy))

    def agreement(self) -> Agreement:
        """The figures of the frames so far."""
        masks, scores = bool(self.mask_means), bool(self.malignancy)
        dice = self.mask_dice or [1.0]
        return Agreement(
            frames=self.frames,
            mask_mean=float(np.mean(self.mask_means)) if masks else None,
            mask_max=max(self.mask_maxima) if masks else None,
            mask_dice_min=min(dice) if masks else None,
            mask_dice_p01=float(np.quantile(dice, 0.01, method="higher")) if masks else None,
            mask_dice_median=float(np.median(dice)) if masks else None,
            malignancy_mean=float(np.mean(self.malignancy)) if scores else None,
            malignancy_p99=float(np.quantile(self.malignancy, 0.99, method="lower")) if scores else None,
            malignancy_max=max(self.malignancy) if scores else None,
            outputs=self.outputs.shares(),
        )
