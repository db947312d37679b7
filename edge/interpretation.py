"""What a network's outputs mean: which one is the mask, which one the classes, and how a call follows from them.

A network of two labels and a mask gives one of three answers: the mask says whether there is a lesion, and only then the class
says which. Its class probabilities are those of a frame with a lesion.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from edge.errors import EngineError
from edge.preprocess import Resize, sigmoid, softmax
from edge.presence import LESION_LEVEL, Presence, outline_level, presence_logit

if TYPE_CHECKING:
    from edge.manifest import OutputSpec

LESION: Final = "lesion"
NO_LESION: Final = "no lesion"
"""The answer where the mask shows none; a network with a label for that answers with its label."""
_ROUNDING: Final = 0.05
"""How far beyond 0..1 an INT8 graph may round what it calls a probability."""

Outputs = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Interpretation:
    """How frames become input and outputs become probabilities and a call.

    input_size: (height, width). mask, classes: None where the network has no such output, never both. labels: one for each
    value of `classes`, or two where it has one value, which is that of the second. positive: the label whose probability is
    compared with `threshold`; both None without classes. temperature: what class logits are divided by. presence: when the mask
    shows a lesion, its threshold that of the network's precision; None: when any pixel does. features: what the guard tells
    unfamiliar pictures by, None where the network gives none. Raises ValueError when these do not fit together.
    """

    input_size: tuple[int, int]
    resize: Resize
    mask: "OutputSpec | None"
    classes: "OutputSpec | None"
    labels: tuple[str, ...]
    positive: str | None
    threshold: float | None
    temperature: float = 1.0
    presence: Presence | None = None
    features: "OutputSpec | None" = None

    def __post_init__(self) -> None:
        if self.classes is not None:
            self._check_labels(self.classes)
        elif self.mask is None:
            raise ValueError("an interpretation needs a mask or a class output")
        elif self.positive is not None or self.threshold is not None:
            raise ValueError("an operating point needs a class output")
        if self.presence is not None and self.mask is None:
            raise ValueError("presence needs a mask output")
        if self.temperature != 1.0 and (self.classes is None or self.classes.activation == "none"):
            raise ValueError(f"a temperature of {self.temperature} needs a class output of logits, sigmoid or softmax")

    def _check_labels(self, classes: "OutputSpec") -> None:
        if self.positive is None or self.threshold is None:
            raise ValueError(f"class output {classes.name!r} needs an operating point")
        wanted = max(classes.channels, 2)
        if not len(set(self.labels)) == len(self.labels) == wanted or not all(self.labels):
            raise ValueError(
                f"class output {classes.name!r} of shape {classes.shape} needs {wanted} different labels, "
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

    def lesion_presence(self, mask: NDArray[np.float32]) -> float | None:
        """Probability that there is a lesion, 0..1, from the mask's probabilities (h, w); None without a presence."""
        return None if self.presence is None else self.presence.probability(presence_logit(mask))

    def outline_level(self, mask: NDArray[np.float32]) -> int:
        """Level, of 255, from which a pixel of the mask (h, w) is outlined: 128, lower where presence may find a faint one."""
        return LESION_LEVEL if self.presence is None else outline_level(mask)

    def label_probabilities(self, outputs: Outputs) -> dict[str, float]:
        """Probability of each label, given that there is a lesion where no label says otherwise; empty without a class output.

        Raises EngineError.
        """
        if self.classes is None:
            return {}
        values = [float(value) for value in _probabilities(outputs, self.classes, self.temperature)[0]]
        if len(values) == 1:
            values = [1.0 - values[0], values[0]]
        return dict(zip(self.labels, values, strict=True))

    def feature_vector(self, outputs: Outputs) -> NDArray[np.float32] | None:
        """Features of the picture, (1, C) float32 (see `edge.ood`); None where the network gives none. Raises EngineError."""
        return None if self.features is None else named_output(outputs, self.features)

    def decide(self, probabilities: Mapping[str, float], *, presence: float | None, outlined: bool) -> str:
        """The call: the positive label at or above the threshold, else the most probable other one.

        presence: from `lesion_presence`. outlined: whether any pixel of the mask is lesion, which decides where presence is None.
        A network with a mask and two labels calls a label only where there is a lesion, and else says "no lesion", whatever
        its class; one without a class output says "lesion" or "no lesion".
        """
        if self.mask is not None and (self.classes is None or len(self.labels) == 2):
            found = outlined if self.presence is None or presence is None else presence >= self.presence.threshold
            if not found:
                return NO_LESION
        if self.positive is None or self.threshold is None:
            return LESION
        if probabilities[self.positive] >= self.threshold:
            return self.positive
        return max((label for label in self.labels if label != self.positive), key=probabilities.__getitem__)


def named_output(outputs: Outputs, spec: "OutputSpec") -> NDArray[np.float32]:
    """The output that `spec` describes. Raises EngineError when the network gives none of that name and shape."""
    output = outputs.get(spec.name)
    if output is None or output.shape != spec.shape:
        found = "is missing" if output is None else f"has shape {output.shape}, not {spec.shape}"
        raise EngineError(f"output {spec.name!r} {found}: not the network its manifest describes; export again")
    return output


def _probabilities(outputs: Outputs, spec: "OutputSpec", temperature: float = 1.0) -> NDArray[np.float32]:
    values = named_output(outputs, spec)
    if temperature != 1.0:
        values = values / np.float32(temperature)
    found: NDArray[Any] = values
    if spec.activation == "sigmoid":
        found = sigmoid(values)
    elif spec.activation == "softmax":
        found = softmax(values, axis=1)
    low, high = found.min(), found.max()
    if np.isnan(low):  # else no comparison holds and the call would be "no lesion"
        raise EngineError(f"output {spec.name!r} is not a number; export the bundle again from a sound network")
    if low < -_ROUNDING or high > 1.0 + _ROUNDING:
        raise EngineError(
            f"output {spec.name!r} holds {low:.3g} to {high:.3g}, which are no probabilities; "
            "export again and say which activation it needs"
        )
    return np.asarray(np.clip(found, 0.0, 1.0), np.float32)
