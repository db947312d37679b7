"""Answers of networks that never were, as a validation keeps them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from calibration.dataset import Case, Dataset, Label
from emtnet.answers import Answer
from emtnet.protocol import Run

BLANK = Answer(
    image="x.png",
    sha256="0" * 64,
    source="S",
    group="S/p",
    fold=1,
    device="",
    label="benign",
    logit=0.0,
    presence_logit=3.0,
    dice=0.8,
    iou=0.7,
    hd95=5.0,
    lesion_share=0.1,
)


def answers(
    *, seed: int = 0, folds: int = 3, sources: Sequence[str] = ("S",), each: int = 24, normals: bool = True
) -> list[Answer]:
    """`each` cases of every source and fold, of which every sixth is normal: malignant ones score higher, normals are faint."""
    rng = np.random.default_rng(seed)
    labels: tuple[Label, ...] = ("benign", "malignant", "benign", "malignant", "benign", "normal")
    made = []
    for source in sources:
        for fold in range(1, folds + 1):
            for index in range(each):
                label = labels[index % 6]
                if label == "normal" and not normals:
                    continue
                name = f"{fold}-{index}.png"
                lesion = label != "normal"
                made.append(
                    replace(
                        BLANK,
                        image=name,
                        sha256=f"{source}/{name}",
                        source=source,
                        group=f"{source}/{fold}-{index // 2}",
                        fold=fold,
                        label=label,
                        logit=float(rng.normal(3.0 if label == "malignant" else -3.0, 4.0)),
                        presence_logit=float(rng.normal(3.0 if lesion else -2.0, 2.0)),
                        dice=float(rng.uniform(0.5, 1.0)) if lesion else None,
                        iou=float(rng.uniform(0.4, 0.9)) if lesion else None,
                        hd95=float(rng.uniform(1.0, 9.0)) if lesion else None,
                        lesion_share=float(rng.uniform(0.01, 0.3)) if lesion else 0.0,
                    )
                )
    return made


def by_fold(answers: Sequence[Answer]) -> dict[str, list[Answer]]:
    """Under the names of the runs that gave them."""
    folds = sorted({answer.fold for answer in answers})
    return {f"fold-{fold}": [answer for answer in answers if answer.fold == fold] for fold in folds}


def dataset(answers: Sequence[Answer]) -> Dataset:
    """The cases that were answered; their images do not exist."""
    return Dataset(
        tuple(
            Case(
                Path("/none") / answer.source / answer.image,
                answer.image,
                label=answer.label,
                group=answer.group,
                fold=answer.fold,
                source=answer.source,
                device=answer.device,
            )
            for answer in answers
        )
    )


def fold_runs(answers: Sequence[Answer]) -> list[Run]:
    """The runs whose answers these are."""
    return [
        Run("folds", name, name.replace("-", " "), dataset([a for a in answers if a not in held]), dataset(held))
        for name, held in by_fold(answers).items()
    ]
