"""Answers of two machines held against each other, within the bounds that `edgekit drift` sets engines on one QDQ graph."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration.agreement import Agreement, AgreementLimits, Answer, Comparison, OutputDifferences
from edge.bundle import BUILTIN, Bundle
from edge.phantom import phantom_case

Answers = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Verdict:
    """One network on two machines. inputs_differ: frames whose preprocessed pixels are not the same bytes. decisions_differ:
    frames that were called otherwise; only reported, for a frame at an operating point may fall on either side.
    """

    network: str
    agreement: Agreement
    inputs_differ: int
    decisions_differ: int

    @property
    def passed(self) -> bool:
        return self.inputs_differ == 0 and self.agreement.within(AgreementLimits())

    def __str__(self) -> str:
        found = self.agreement
        parts = [
            f"{self.network}: {found.frames} frames, mean |Δmask| {found.mask_mean:.6f}, worst Dice {found.mask_dice_min:.4f}",
            f"worst |Δp| {found.malignancy_max:.4f}, {self.decisions_differ} decisions differ",
        ]
        if self.inputs_differ:
            parts.append(f"{self.inputs_differ} frames were PREPROCESSED DIFFERENTLY")
        return ", ".join(parts)

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"passed": self.passed, "limits": asdict(AgreementLimits())}


def phantom_frames(count: int) -> NDArray[np.uint8]:
    """Phantoms of all labels, (count, 480, 640)."""
    labels = ("benign", "malignant", "normal")
    return np.stack([phantom_case(seed, label=labels[seed % 3], size=(480, 640)).pixels for seed in range(count)])


def compare(reference: Answers, other: Answers) -> list[Verdict]:
    """A verdict for every built-in network."""
    return [_verdict(network, reference, other) for network in BUILTIN]


def _verdict(network: str, reference: Answers, other: Answers) -> Verdict:
    outputs = Bundle.open(BUILTIN[network]).manifest.outputs
    comparison = Comparison(OutputDifferences(outputs))
    for index in range(len(reference[f"{network}/mask"])):
        one, two = (
            Answer(
                {spec.name: found[f"{network}/output/{spec.name}"][index] for spec in outputs},
                found[f"{network}/mask"][index],
                float(found[f"{network}/malignancy"][index]),
            )
            for found in (reference, other)
        )
        comparison.add(one, two)
    unlike = (reference[f"{network}/input"] != other[f"{network}/input"]).reshape(comparison.frames, -1).any(axis=1)
    calls = reference[f"{network}/decision"] != other[f"{network}/decision"]
    return Verdict(network, comparison.agreement(), int(unlike.sum()), int(calls.sum()))
