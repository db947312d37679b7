"""Frame in, prediction out: preprocessing, one engine call, and the mask back in the frame's own coordinates."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from edge.frame import GreyImage
from edge.interpretation import NO_LESION, Interpretation
from edge.preprocess import mask_to_frame, preprocess
from edge.presence import LESION_LEVEL

if TYPE_CHECKING:
    from edge.bundle import Bundle
    from edge.manifest import Artifact

Clock = Callable[[], int]


class Engine(Protocol):
    """An inference engine with a network loaded."""

    def infer(self, image: GreyImage) -> Mapping[str, NDArray[np.float32]]:
        """Run the network on one (height, width) uint8 image of its input size.

        Outputs by name, each of the shape that the ONNX graph gives it: batch axis included, images as NCHW.
        """
        ...

    def close(self) -> None:
        """Release the network."""
        ...


@dataclass(frozen=True, slots=True)
class Timing:
    """Milliseconds spent on one frame, by stage."""

    preprocess_ms: float
    infer_ms: float
    postprocess_ms: float

    @property
    def total_ms(self) -> float:
        return self.preprocess_ms + self.infer_ms + self.postprocess_ms


@dataclass(frozen=True, slots=True, eq=False)
class Estimate:
    """What the network says of one frame, at its own resolution and before any call; None where it has no such output.

    mask_probability, probabilities, presence, outputs: as in `Prediction`. started_ns, prepared_ns, inferred_ns: by the
    predictor's clock, when preprocessing began and ended and when the engine had answered.
    """

    mask_probability: NDArray[np.float32] | None
    probabilities: dict[str, float]
    presence: float | None
    outputs: Mapping[str, NDArray[np.float32]]
    started_ns: int
    prepared_ns: int
    inferred_ns: int


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """What the network says of one frame; None where it has no such output.

    mask_level: (H, W) uint8, probability of lesion in steps of 1/255 at the frame's own size.
    mask_probability: (h, w) float32, the same at the network's resolution, before it is brought to the frame.
    probabilities: of each label, 0..1, given that there is a lesion where no label says otherwise; empty without a class output.
    positive: the label that the operating point is for, called at or above `threshold`.
    decision: the call, a label, "lesion" or "no lesion"; `edge.interpretation.Interpretation.decide` says when.
    outputs: all that the network gave, as it gave it.
    presence: calibrated probability that there is a lesion, 0..1; None where the bundle has no `edge.presence.Presence`.
    outline_level: of 255, from which a pixel is outlined.
    """

    mask_level: GreyImage | None
    mask_probability: NDArray[np.float32] | None
    probabilities: dict[str, float]
    positive: str | None
    decision: str
    timing: Timing
    outputs: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    presence: float | None = None
    threshold: float | None = None
    outline_level: int = LESION_LEVEL

    @property
    def malignancy(self) -> float | None:
        """Probability of the positive label, of EMT-Net and its like "malignant", 0..1, given that there is a lesion.

        None without a class output.
        """
        return None if self.positive is None else self.probabilities[self.positive]

    @property
    def mask(self) -> NDArray[np.bool_] | None:
        """(H, W) bool, True on lesion, nowhere where the answer is "no lesion"; None without a mask output."""
        if self.mask_level is None:
            return None
        if self.decision == NO_LESION:
            return np.zeros(self.mask_level.shape, np.bool_)
        return self.mask_level >= self.outline_level

    @property
    def classified(self) -> bool:
        """Whether the class has a say: there is such an output, and the answer is one of its labels."""
        return self.decision in self.probabilities


class Predictor:
    """An engine with the interpretation that belongs to its network. Not thread-safe."""

    def __init__(self, engine: Engine, interpretation: Interpretation, *, clock: Clock = time.perf_counter_ns) -> None:
        self.engine = engine
        self.interpretation = interpretation
        self._clock = clock

    @classmethod
    def open(
        cls,
        bundle: Path | str | None = None,
        *,
        network: str = "emtnet",
        engine: str = "auto",
        precision: str = "auto",
        threads: int | None = None,
        device: str = "cpu",
        clock: Clock = time.perf_counter_ns,
    ) -> Self:
        """Open a bundle folder, or for None the built-in bundle of `network`, emtnet or emtnet-s.

        engine: openvino, litert, onnx, or auto: the first of them that the bundle has and that is installed.
        precision: int8, fp32, or auto: INT8 where there is one. threads: None leaves the choice to the engine.
        Raises BundleError, IntegrityError, EngineError, MissingDependencyError.
        """
        from edge.bundle import Bundle

        opened = Bundle.open_or_builtin(bundle, network=network)
        artifact = opened.choose(engine=engine, precision=precision)
        return cls.of(opened, artifact, threads=threads, device=device, clock=clock)

    @classmethod
    def of(
        cls,
        bundle: "Bundle",
        artifact: "Artifact",
        *,
        threads: int | None = None,
        device: str = "cpu",
        clock: Clock = time.perf_counter_ns,
    ) -> Self:
        """Open one artifact of an open bundle; `threads` as in `open`. Raises EngineError, IntegrityError."""
        from edge.engines import open_artifact

        interpretation = bundle.manifest.interpretation(artifact.precision)
        return cls(open_artifact(bundle, artifact, threads=threads, device=device), interpretation, clock=clock)

    def estimate(self, pixels: GreyImage) -> Estimate:
        """What the network says of one grey frame, (H, W) uint8 (see `edge.frame.to_grey`). Raises EngineError."""
        how = self.interpretation
        started_ns = self._clock()
        image = preprocess(pixels, how.input_size, resize=how.resize)
        prepared_ns = self._clock()
        outputs = self.engine.infer(image)
        inferred_ns = self._clock()
        mask = how.lesion_probability(outputs)
        presence = None if mask is None else how.lesion_presence(mask)
        return Estimate(
            mask, how.label_probabilities(outputs), presence, outputs, started_ns, prepared_ns, inferred_ns
        )  # fmt: skip

    def predict(self, pixels: GreyImage) -> Prediction:
        """Segment and classify one grey frame, (H, W) uint8 (see `edge.frame.to_grey`). Raises EngineError."""
        how, said = self.interpretation, self.estimate(pixels)
        level, least = None, LESION_LEVEL
        if said.mask_probability is not None:
            least = how.outline_level(said.mask_probability)
            level = mask_to_frame(said.mask_probability, pixels.shape, input_size=how.input_size, resize=how.resize)
        outlined = level is not None and bool((level >= least).any())
        decision = how.decide(said.probabilities, presence=said.presence, outlined=outlined)
        times = (said.started_ns, said.prepared_ns, said.inferred_ns, self._clock())
        return Prediction(
            mask_level=level,
            mask_probability=said.mask_probability,
            probabilities=said.probabilities,
            positive=how.positive,
            decision=decision,
            timing=Timing(*((after - before) / 1e6 for before, after in pairwise(times))),
            outputs=said.outputs,
            presence=said.presence,
            threshold=how.threshold,
            outline_level=least,
        )

    def close(self) -> None:
        """Release the engine."""
        self.engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
