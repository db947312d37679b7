"""Drift: the FP32 ONNX against every artifact, paired on the same frames, and the engines against each other."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from calibration.dataset import Case, Dataset, Sample
from calibration.evaluation import Progress, case_json, score
from calibration.metrics import CaseResult, Metrics, overlap, summarise
from edge.bundle import Artifact, Bundle
from edge.engines import is_installed, open_artifact
from edge.engines.onnx import open_referee
from edge.errors import BundleError, DataError
from edge.predictor import Engine, Predictor
from edge.preprocess import sigmoid

SMALLEST_COMPARED_SHARE: Final = 0.01
"""Masks below this share of the frame are left out of mask Dice: there one edge pixel is several per cent."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Largest losses against the reference, as fractions; flips as a share of malignant cases."""

    dice: float = 0.005
    sensitivity: float = 0.01
    auc: float = 0.005
    malignant_to_benign: float = 0.01

    def __post_init__(self) -> None:
        if not all(limit >= 0 for limit in asdict(self).values()):  # NaN would let every loss pass
            raise ValueError("drift limits are magnitudes; give numbers from 0")


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


@dataclass(frozen=True, slots=True)
class Agreement:
    """Two networks on the same frames. mask_*: probabilities at the network's own resolution, Dice where a
    mask covers 1 % of it; malignancy_*: |Δp|.
    """

    frames: int
    mask_mean: float
    mask_max: float
    mask_dice_min: float
    mask_dice_p01: float
    mask_dice_median: float
    malignancy_mean: float
    malignancy_p99: float
    malignancy_max: float

    def within(self, limits: AgreementLimits) -> bool:
        """True when every figure keeps its limit."""
        return (
            self.mask_mean <= limits.mask_mean
            and self.mask_dice_min >= limits.mask_dice_min
            and self.mask_dice_p01 >= limits.mask_dice_p01
            and self.mask_dice_median >= limits.mask_dice_median
            and self.malignancy_p99 <= limits.malignancy_p99
            and self.malignancy_max <= limits.malignancy_max
        )


@dataclass(frozen=True, slots=True)
class ArtifactDrift:
    """One artifact against the reference. metrics, delta and flips are None without labels.

    engine_agreement: INT8 artifacts against the referee on the same QDQ graph.
    """

    engine: str
    precision: str
    metrics: Metrics | None
    delta: dict[str, float] | None
    flips: dict[str, int] | None
    agreement: Agreement
    engine_agreement: Agreement | None
    passed: bool
    reasons: tuple[str, ...]
    results: tuple[CaseResult, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "engine": self.engine,
            "precision": self.precision,
            "metrics": self.metrics.to_json() if self.metrics else None,
            "delta": self.delta,
            "flips": self.flips,
            "agreement": asdict(self.agreement),
            "engine_agreement": asdict(self.engine_agreement) if self.engine_agreement else None,
            "passed": self.passed,
            "reasons": list(self.reasons),
            "cases": [case_json(result) for result in self.results],
        }


@dataclass(frozen=True, slots=True)
class DriftReport:
    """The reference's figures and every artifact's drift. data: names of the data sets and folds it was measured on.

    skipped: artifacts whose engine is not installed; nothing is said of them.
    """

    frames: int
    data: tuple[str, ...]
    labelled: bool
    limits: Limits
    reference: Metrics | None
    artifacts: tuple[ArtifactDrift, ...]
    skipped: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        return all(artifact.passed for artifact in self.artifacts)

    def to_json(self) -> dict[str, Any]:
        """The report with every case."""
        return {
            "frames": self.frames,
            "data": list(self.data),
            "labelled": self.labelled,
            "limits": asdict(self.limits),
            "agreement_limits": asdict(AgreementLimits()),
            "passed": self.passed,
            "reference": self.reference.to_json() if self.reference else None,
            "skipped": list(self.skipped),
            "artifacts": [artifact.to_json() for artifact in self.artifacts],
        }

    def summary(self) -> dict[str, Any]:
        """The report without cases, as a manifest keeps it."""
        record = self.to_json()
        for artifact in record["artifacts"]:
            del artifact["cases"]
        return record


@dataclass(slots=True, eq=False)
class _Answers:
    """What one network said of every frame."""

    predictor: Predictor
    results: list[CaseResult] = field(default_factory=list)
    masks: list[NDArray[np.float32]] = field(default_factory=list)

    def add(self, case: Case, sample: Sample) -> None:
        prediction = self.predictor.predict(sample.pixels)
        self.results.append(score(case, sample, prediction))
        self.masks.append(sigmoid(prediction.mask_logits))

    def metrics(self) -> Metrics:
        return summarise(self.results, threshold=self.predictor.threshold)


def check_drift(
    bundle: Bundle,
    dataset: Dataset,
    *,
    limits: Limits | None = None,
    threads: int | None = None,
    progress: Progress = iter,
) -> DriftReport:
    """Run every artifact of `bundle` and its FP32 ONNX on the frames of `dataset`, one frame at a time.

    Artifacts whose engine is not installed are skipped and named. Raises BundleError when the bundle has no FP32 ONNX or
    nothing is left to compare, DataError, EngineError.
    """
    limits = limits or Limits()
    with ExitStack() as opened:

        def answers(engine: Engine) -> _Answers:
            manifest = bundle.manifest
            predictor = Predictor(
                engine,
                input_size=(manifest.input.height, manifest.input.width),
                threshold=manifest.operating_point.threshold,
            )
            return _Answers(opened.enter_context(predictor))

        reference = answers(open_artifact(bundle, _reference_artifact(bundle), threads=threads))
        targets = [
            (artifact, answers(open_artifact(bundle, artifact, threads=threads)))
            for artifact in bundle.manifest.artifacts
            if artifact != _reference_artifact(bundle) and is_installed(artifact.engine)
        ]
        if not targets:
            raise BundleError(
                f"{bundle.path}: nothing to compare with the FP32 ONNX; no artifact's engine is installed"
            )
        qdq = [artifact for artifact, _ in targets if (artifact.engine, artifact.precision) == ("onnx", "int8")]
        referee = answers(open_referee(bundle.verified_paths(qdq[0])[0], threads=threads)) if qdq else None
        everyone = [reference, *(target for _, target in targets), *([referee] if referee else [])]
        for case in progress(dataset):
            sample = case.read()
            for network in everyone:
                network.add(case, sample)
    artifacts = tuple(
        _compare(artifact, target, reference, referee, labelled=dataset.labelled, limits=limits)
        for artifact, target in targets
    )
    figures = reference.metrics() if dataset.labelled else None
    sources = sorted({f"{case.source or case.image.parent.name} fold {case.fold}" for case in dataset})
    skipped = tuple(f"{a.engine} {a.precision}" for a in bundle.manifest.artifacts if not is_installed(a.engine))
    return DriftReport(len(dataset), tuple(sources), dataset.labelled, limits, figures, artifacts, skipped)


def _reference_artifact(bundle: Bundle) -> Artifact:
    for artifact in bundle.manifest.artifacts:
        if (artifact.engine, artifact.precision) == ("onnx", "fp32"):
            return artifact
    raise BundleError(
        f"{bundle.path}: no FP32 ONNX to compare with; export the bundle again with edgekit export --int8"
    )


def _compare(
    artifact: Artifact,
    target: _Answers,
    reference: _Answers,
    referee: _Answers | None,
    *,
    labelled: bool,
    limits: Limits,
) -> ArtifactDrift:
    agreement = agree(reference.masks, target.masks, reference.results, target.results)
    engine_agreement = None
    if referee is not None and artifact.precision == "int8":
        engine_agreement = agree(referee.masks, target.masks, referee.results, target.results)
    reasons = []
    metrics = delta = flips = None
    if labelled:
        metrics = target.metrics()
        delta = _delta(metrics, reference.metrics())
        flips = count_flips(reference.results, target.results, threshold=reference.predictor.threshold)
        malignant = sum(result.label == "malignant" for result in reference.results)
        reasons += exceeded(delta, flips, malignant=malignant, limits=limits)
    if engine_agreement is not None and not engine_agreement.within(AgreementLimits()):
        reasons.append("differs from the other engines on the same INT8 graph by more than rounding")
    return ArtifactDrift(
        artifact.engine,
        artifact.precision,
        metrics,
        delta,
        flips,
        agreement,
        engine_agreement,
        not reasons,
        tuple(reasons),
        tuple(target.results),
    )


def agree(
    masks: Sequence[NDArray[np.float32]],
    other_masks: Sequence[NDArray[np.float32]],
    results: Sequence[CaseResult],
    other_results: Sequence[CaseResult],
) -> Agreement:
    """Compare two networks' mask and malignancy probabilities, frame by frame."""
    differences = [np.abs(one - other) for one, other in zip(masks, other_masks, strict=True)]
    pairs = [(one >= 0.5, other >= 0.5) for one, other in zip(masks, other_masks, strict=True)]
    dice = [
        overlap(one, other)[0] for one, other in pairs if max(one.mean(), other.mean()) >= SMALLEST_COMPARED_SHARE
    ] or [1.0]
    malignancy = [abs(a.probability - b.probability) for a, b in zip(results, other_results, strict=True)]
    return Agreement(
        frames=len(masks),
        mask_mean=float(np.mean([difference.mean() for difference in differences])),
        mask_max=float(max(difference.max() for difference in differences)),
        mask_dice_min=min(dice),
        mask_dice_p01=float(np.quantile(dice, 0.01, method="higher")),
        mask_dice_median=float(np.median(dice)),
        malignancy_mean=float(np.mean(malignancy)),
        malignancy_p99=float(np.quantile(malignancy, 0.99, method="lower")),
        malignancy_max=max(malignancy),
    )


def count_flips(reference: Sequence[CaseResult], target: Sequence[CaseResult], *, threshold: float) -> dict[str, int]:
    """Cases whose true class the reference called and the target calls the other one, by true class."""
    flips = {"malignant_to_benign": 0, "benign_to_malignant": 0}
    for before, after in zip(reference, target, strict=True):
        was, now = before.probability >= threshold, after.probability >= threshold
        if before.label == "malignant" and was and not now:
            flips["malignant_to_benign"] += 1
        elif before.label == "benign" and not was and now:
            flips["benign_to_malignant"] += 1
    return flips


def exceeded(delta: Mapping[str, float], flips: Mapping[str, int], *, malignant: int, limits: Limits) -> list[str]:
    """Name every limit that a drift leaves. A loss right at its limit passes."""
    reasons = [
        f"{name} {delta[key]:+.4f} is beyond −{limit:g}"
        for name, key, limit in (
            ("Dice", "dice_mean", limits.dice),
            ("sensitivity", "sensitivity", limits.sensitivity),
            ("AUC", "auc", limits.auc),
        )
        if key in delta and delta[key] < -limit - 1e-12
    ]
    if malignant and flips["malignant_to_benign"] > limits.malignant_to_benign * malignant + 1e-12:
        share = flips["malignant_to_benign"] / malignant
        count = f"{flips['malignant_to_benign']} of {malignant}"
        reasons.append(
            f"{count} malignant cases turned benign ({share:.1%}, more than {limits.malignant_to_benign:.1%})"
        )
    return reasons


def _delta(metrics: Metrics, reference: Metrics) -> dict[str, float]:
    after, before = metrics.to_json(), reference.to_json()
    return {
        key: float(after[key]) - float(before[key])  # type: ignore[arg-type]
        for key in before
        if key not in ("n", "threshold") and before[key] is not None and after[key] is not None
    }


def require_unused(dataset: Dataset, forbidden: Mapping[str, str], *, allow: bool) -> int:
    """Count the frames of `dataset` that are among `forbidden` (sha256 → use). Raises DataError unless `allow`."""
    used = [forbidden[sha] for sha in dataset.fingerprints() if sha in forbidden]
    if used and not allow:
        kinds = ", ".join(f"{used.count(kind)} {kind}" for kind in sorted(set(used)))
        raise DataError(
            f"{len(used)} of {len(dataset)} frames were used before ({kinds}); choose other --folds, "
            "or --allow-overlap for figures that must not be quoted"
        )
    return len(used)
