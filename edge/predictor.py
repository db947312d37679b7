"""Frame in, prediction out: preprocessing, one engine call, and the mask back in the frame's own coordinates."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from edge.errors import EngineError
from edge.frame import GreyImage
from edge.preprocess import mask_to_frame, preprocess, sigmoid

Decision = Literal["benign", "malignant", "normal"]
Clock = Callable[[], int]

LESION_LEVEL: Final = 128
"""Smallest mask probability (of 255) that counts as lesion."""


class Engine(Protocol):
    """An inference engine with a network loaded."""

    def infer(self, image: GreyImage) -> Mapping[str, NDArray[np.float32]]:
        """Run the network on one (height, width) uint8 image of its input size; outputs by name, batch axis included."""
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
class Prediction:
    """What the network says of one frame.

    mask_level: (H, W) uint8, probability of lesion in steps of 1/255 at the frame's own size.
    malignancy: probability that the lesion is malignant, 0..1.
    decision: the class at the bundle's operating point; "normal" where the mask is empty and malignancy below it.
    mask_logits: (h, w) float32, the network's own mask before it is brought to the frame.
    """

    mask_level: GreyImage
    mask_logits: NDArray[np.float32]
    malignancy: float
    decision: Decision
    timing: Timing

    @property
    def mask(self) -> NDArray[np.bool_]:
        """(H, W) bool, True on lesion."""
        return self.mask_level >= LESION_LEVEL


class Predictor:
    """An engine with the preprocessing and the operating point that belong to its network. Not thread-safe."""

    def __init__(
        self,
        engine: Engine,
        *,
        input_size: tuple[int, int],
        threshold: float,
        clock: Clock = time.perf_counter_ns,
    ) -> None:
        self.engine = engine
        self.input_size = input_size
        self.threshold = threshold
        self._clock = clock

    @classmethod
    def open(
        cls,
        bundle: Path | str | None = None,
        *,
        engine: str = "auto",
        precision: str = "auto",
        threads: int | None = None,
        device: str = "cpu",
    ) -> Self:
        """Open a bundle folder, or the built-in bundle for None.

        engine: openvino, litert, onnx, or auto: the first of them that the bundle has and that is installed.
        precision: int8, fp32, or auto: INT8 where there is one. threads: None leaves the choice to the engine.
        Raises BundleError, IntegrityError, EngineError, MissingDependencyError.
        """
        from edge.bundle import Bundle
        from edge.engines import open_artifact

        opened = Bundle.open_or_builtin(bundle)
        artifact = opened.choose(engine=engine, precision=precision)
        manifest = opened.manifest
        return cls(
            open_artifact(opened, artifact, threads=threads, device=device),
            input_size=(manifest.input.height, manifest.input.width),
            threshold=manifest.operating_point.threshold,
        )

    def predict(self, pixels: GreyImage) -> Prediction:
        """Segment and classify one grey frame, (H, W) uint8 (see `edge.frame.to_grey`). Raises EngineError."""
        started = self._clock()
        image = preprocess(pixels, self.input_size)
        prepared = self._clock()
        outputs = self.engine.infer(image)
        inferred = self._clock()
        height, width = pixels.shape
        logits = np.squeeze(outputs["mask"])
        malignancy = float(sigmoid(np.ravel(outputs["malignancy"]))[0])
        if np.isnan(malignancy) or np.isnan(logits).any():  # else no comparison holds and the call would be "normal"
            raise EngineError("the network's output is not a number; export the bundle again from a sound checkpoint")
        level = mask_to_frame(logits, (height, width))
        decision: Decision = "malignant" if malignancy >= self.threshold else "benign"
        if decision == "benign" and not (level >= LESION_LEVEL).any():
            decision = "normal"
        finished = self._clock()
        timing = Timing((prepared - started) / 1e6, (inferred - prepared) / 1e6, (finished - inferred) / 1e6)
        return Prediction(level, logits, malignancy, decision, timing)

    def close(self) -> None:
        """Release the engine."""
        self.engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
