"""Drift: the FP32 ONNX against every artifact, paired on the same frames, and the engines against each other."""

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from typing import Any

from calibration.agreement import Agreement, AgreementLimits, Answer, Comparison, OutputDifferences
from calibration.dataset import Case, Dataset, Sample
from calibration.evaluation import Progress, case_json, score
from calibration.metrics import MALIGNANT, CaseResult, Metrics, summarise
from edge.bundle import Bundle
from edge.engines import open_artifact
from edge.engines.onnx import open_referee
from edge.errors import BundleError, DataError
from edge.manifest import Artifact, Manifest
from edge.predictor import Engine, Predictor
from edge.preprocess import preprocess
from edge.probe import works


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
class ArtifactDrift:
    """One artifact against the reference. metrics, delta and flips are None without labels.

    Each network answers at the operating point of its own precision. flips: None too when the network's positive label is not
    "malignant". engine_agreement: INT8 artifacts against the referee on the same QDQ graph.
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

    labelled: the frames have labels and the network a mask or class output to hold against them. skipped: artifacts whose
    engine is not installed or does not work here; nothing is said of them.
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
class _Network:
    """One network and its results so far. predictor, and so results: none without a mask or class output."""

    engine: Engine
    manifest: Manifest
    predictor: Predictor | None
    results: list[CaseResult] = field(default_factory=list)

    def answer(self, case: Case, sample: Sample) -> Answer:
        if self.predictor is None:
            given = self.manifest.input
            return Answer(self.engine.infer(preprocess(sample.pixels, given.size, resize=given.resize)))
        prediction = self.predictor.predict(sample.pixels)
        self.results.append(score(case, sample, prediction))
        return Answer(prediction.outputs, prediction.mask_probability, prediction.malignancy)

    def metrics(self) -> Metrics:
        """Figures at the operating point of its own precision. Needs a predictor."""
        assert self.predictor is not None
        how = self.predictor.interpretation
        return summarise(self.results, threshold=how.threshold, positive=how.positive)


@dataclass(slots=True, eq=False)
class _Target:
    """An artifact under check."""

    artifact: Artifact
    network: _Network
    against_reference: Comparison
    against_referee: Comparison | None

    def add(self, case: Case, sample: Sample, reference: Answer, referee: Answer | None) -> None:
        answer = self.network.answer(case, sample)
        self.against_reference.add(reference, answer)
        if self.against_referee is not None and referee is not None:
            self.against_referee.add(referee, answer)


def check_drift(
    bundle: Bundle,
    dataset: Dataset,
    *,
    limits: Limits | None = None,
    threads: int | None = None,
    progress: Progress = iter,
) -> DriftReport:
    """Run every artifact of `bundle` and its FP32 ONNX on the frames of `dataset`, one frame at a time.

    Artifacts whose engine is not installed or does not work here are skipped and named. Raises BundleError when the bundle has
    no FP32 ONNX or nothing is left to compare, DataError, EngineError.
    """
    limits = limits or Limits()
    manifest = bundle.manifest
    first = _reference_artifact(bundle)
    with ExitStack() as opened:

        def network(engine: Engine, precision: str) -> _Network:
            opened.callback(engine.close)
            predictor = Predictor(engine, manifest.interpretation(precision)) if manifest.predicts else None
            return _Network(engine, manifest, predictor)

        def comparison() -> Comparison:
            return Comparison(OutputDifferences(manifest.outputs))

        reference = network(open_artifact(bundle, first, threads=threads), first.precision)
        wanted = [artifact for artifact in bundle.runs() if artifact != first and works(artifact.engine)]
        if not wanted:
            raise BundleError(
                f"{bundle.path}: nothing to compare with the FP32 ONNX; export other artifacts, or install their engines"
            )
        qdq = [artifact for artifact in wanted if (artifact.engine, artifact.precision) == ("onnx", "int8")]
        referee = network(open_referee(bundle.verified_paths(qdq[0])[0], threads=threads), "int8") if qdq else None
        targets = [
            _Target(
                artifact,
                network(open_artifact(bundle, artifact, threads=threads), artifact.precision),
                comparison(),
                comparison() if referee and artifact.precision == "int8" else None,
            )
            for artifact in wanted
        ]
        for case in progress(dataset):
            sample = case.read()
            expected = reference.answer(case, sample)
            judged = referee.answer(case, sample) if referee else None
            for target in targets:
                target.add(case, sample, expected, judged)
    labelled = dataset.labelled and manifest.predicts
    artifacts = tuple(_compare(target, reference, labelled=labelled, limits=limits) for target in targets)
    figures = reference.metrics() if labelled else None
    sources = sorted({f"{case.origin} fold {case.fold}" for case in dataset})
    skipped = tuple(f"{a.engine} {a.precision}" for a in bundle.runs() if not works(a.engine))
    return DriftReport(len(dataset), tuple(sources), labelled, limits, figures, artifacts, skipped)


def _reference_artifact(bundle: Bundle) -> Artifact:
    for artifact in bundle.manifest.artifacts:
        if (artifact.engine, artifact.precision) == ("onnx", "fp32"):
            return artifact
    raise BundleError(
        f"{bundle.path}: no FP32 ONNX to compare with; keep it at export (a network that came with quantisers has none)"
    )


def _compare(target: _Target, reference: _Network, *, labelled: bool, limits: Limits) -> ArtifactDrift:
    results = target.network.results
    engine_agreement = target.against_referee.agreement() if target.against_referee else None
    reasons = []
    metrics = delta = flips = None
    if labelled:
        metrics = target.network.metrics()
        delta = _delta(metrics, reference.metrics())
        point = reference.manifest.operating_point
        if point is not None and point.positive == MALIGNANT:
            flips = count_flips(reference.results, results)
        malignant = sum(result.label == MALIGNANT for result in results)
        reasons += exceeded(delta, flips or {}, malignant=malignant, limits=limits)
    if engine_agreement is not None and not engine_agreement.within(AgreementLimits()):
        reasons.append("differs from the other engines on the same INT8 graph by more than rounding")
    return ArtifactDrift(
        target.artifact.engine,
        target.artifact.precision,
        metrics,
        delta,
        flips,
        target.against_reference.agreement(),
        engine_agreement,
        not reasons,
        tuple(reasons),
        tuple(results),
    )


def count_flips(reference: Sequence[CaseResult], target: Sequence[CaseResult]) -> dict[str, int]:
    """Cases whose true class the reference called and the target no longer calls, by true class.

    What is compared are decisions, each network's at its own operating point. A malignant case that was called malignant and is
    called benign or "no lesion" counts as turned benign, a benign one that is now called malignant as turned malignant.
    """
    flips = {"malignant_to_benign": 0, "benign_to_malignant": 0}
    for before, after in zip(reference, target, strict=True):
        was, now = before.decision == MALIGNANT, after.decision == MALIGNANT
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
    lost = flips.get("malignant_to_benign", 0)
    if malignant and lost > limits.malignant_to_benign * malignant + 1e-12:
        reasons.append(
            f"{lost} of {malignant} malignant cases turned benign "
            f"({lost / malignant:.1%}, more than {limits.malignant_to_benign:.1%})"
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
    used, story = used_before(dataset, forbidden)
    if used and not allow:
        raise DataError(f"{story}; choose other --folds, or --allow-overlap for figures that must not be quoted")
    return used


def used_before(dataset: Dataset, forbidden: Mapping[str, str]) -> tuple[int, str]:
    """How many frames of `dataset` are among `forbidden` (sha256 → use), and the same in words."""
    used = Counter(forbidden[sha256] for sha256 in dataset.fingerprints() if sha256 in forbidden)
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(used.items()))
    return used.total(), f"{used.total()} of {len(dataset)} frames were used before ({kinds})"
