"""What a network's outputs mean: which one is the mask, which one the classes, and how a call follows from them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from edge.errors import EngineError
from edge.preprocess import Resize, sigmoid, softmax

if TYPE_CHECKING:
    from edge.bundle import OutputSpec

LESION: Final = "lesion"
NORMAL: Final = "normal"
_ROUNDING: Final = 0.05
"""How far beyond 0..1 an INT8 graph may round what it calls a probability."""

Outputs = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Interpretation:
    """How frames become input and outputs become probabilities and a call.

    input_size: (height, width). mask, classes: None where the network has no such output, never both. labels: one for each
    value of `classes`, or two where it has one value, which is that of the second. positive: the label whose probability is
    compared with `threshold`; both None without classes. Raises ValueError when these do not fit together.
    """

    input_size: tuple[int, int]
    resize: Resize
    mask: "OutputSpec | None"
    classes: "OutputSpec | None"
    labels: tuple[str, ...]
    positive: str | None
    threshold: float | None

    def __post_init__(self) -> None:
        if self.classes is None:
            if self.mask is None:
                raise ValueError("an interpretation needs a mask or a class output")
            if self.positive is not None or self.threshold is not None:
                raise ValueError("an operating point needs a class output")
            return
        if self.positive is None or self.threshold is None:
            raise ValueError(f"class output {self.classes.name!r} needs an operating point")
        wanted = max(self.classes.channels, 2)
        if not len(set(self.labels)) == len(self.labels) == wanted or not all(self.labels):
            raise ValueError(
                f"class output {self.classes.name!r} of shape {self.classes.shape} needs {wanted} different labels, "
                f"not {', '.join(self.labels) or 'none'}"
            )
        if self.positive not in self.labels:
            raise ValueError(f"positive {self.positive!r} is none of the labels {', '.join(self.labels)}")

    def lesion_probability(self, outputs: Outputs) -> NDArray[np.float32] | None:
        """Probability of lesion, (h, w) float32 at the network's own resolution; None without a mask output.

        With more than one channel it is 1 − p(background). Raises EngineError.
        """
        if self.mask is None:
            return None
        channels = _probabilities(outputs, self.mask)[0]
        return channels[0] if len(channels) == 1 else np.asarray(1.0 - channels[0], np.float32)

    def label_probabilities(self, outputs: Outputs) -> dict[str, float]:
        """Probability of each label, empty without a class output. Raises EngineError."""
        if self.classes is None:
            return {}
        values = [float(value) for value in _probabilities(outputs, self.classes)[0]]
        if len(values) == 1:
            values = [1.0 - values[0], values[0]]
        return dict(zip(self.labels, values, strict=True))

    def decide(self, probabilities: Mapping[str, float], *, lesion: bool) -> str:
        """The call: the positive label at or above the threshold, else the most probable other one.

        lesion: whether the mask shows one. A network of two labels that draws none and does not call positive says "normal",
        whatever its other label; one without a class output says "lesion" or "normal".
        """
        if self.positive is None or self.threshold is None:
            return LESION if lesion else NORMAL
        if probabilities[self.positive] >= self.threshold:
            return self.positive
        if self.mask is not None and len(self.labels) == 2 and not lesion:
            return NORMAL
        return max((label for label in self.labels if label != self.positive), key=probabilities.__getitem__)


def named_output(outputs: Outputs, spec: "OutputSpec") -> NDArray[np.float32]:
    """The output that `spec` describes. Raises EngineError when the network gives none of that name and shape."""
    output = outputs.get(spec.name)
    if output is None or output.shape != spec.shape:
        found = "is missing" if output is None else f"has shape {output.shape}, not {spec.shape}"
        raise EngineError(f"output {spec.name!r} {found}: not the network its manifest describes; export again")
    return output


def _probabilities(outputs: Outputs, spec: "OutputSpec") -> NDArray[np.float32]:
    values = named_output(outputs, spec)
    found: NDArray[Any] = values
    if spec.activation == "sigmoid":
        found = sigmoid(values)
    elif spec.activation == "softmax":
        found = softmax(values, axis=1)
    low, high = found.min(), found.max()
    if np.isnan(low):  # else no comparison holds and the call would be "normal"
        raise EngineError(f"output {spec.name!r} is not a number; export the bundle again from a sound network")
    if low < -_ROUNDING or high > 1.0 + _ROUNDING:
        raise EngineError(
            f"output {spec.name!r} holds {low:.3g} to {high:.3g}, which are no probabilities; "
            "export again and say which activation it needs"
        )
    return np.asarray(np.clip(found, 0.0, 1.0), np.float32)
