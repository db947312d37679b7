"""What a user says of a network: how pixels become its input and what its outputs mean."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Final, Self, get_args

import numpy as np

from edge.errors import DataError
from edge.manifest import Activation
from edge.preprocess import Resize

_ACTIVATIONS: Final = get_args(Activation)
_RESIZES: Final = get_args(Resize)


@dataclass(frozen=True, slots=True)
class Description:
    """What is known of a foreign network; None or empty is not said.

    mean, std: one number, or one a channel: the network sees (p · pixel_range / 255 − mean) / std of a pixel p of 0..255, as
    torchvision writes it with a pixel_range of 1. channels: 1 or 3; the grey value goes to each. size: (height, width) of
    the input, for a network that leaves it open. mask_output, class_output: names. mask_activation, class_activation: what
    turns them into probabilities ("none": they are). labels: of the class output's values, or of the values 0 and 1 where it
    has one. positive: the label that `threshold` is for. Raises ValueError.
    """

    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    pixel_range: float = 1.0
    channels: int | None = None
    size: tuple[int, int] | None = None
    resize: Resize = "stretch"
    mask_output: str | None = None
    class_output: str | None = None
    mask_activation: Activation | None = None
    class_activation: Activation | None = None
    labels: tuple[str, ...] = ()
    positive: str | None = None
    threshold: float | None = None

    def __post_init__(self) -> None:
        self._check_input()
        self._check_outputs()

    def _check_input(self) -> None:
        if bool(self.mean) != bool(self.std):
            raise ValueError("mean and std belong together; give both")
        if len(self.mean) not in (0, 1, 3) or len(self.std) not in (0, 1, 3):
            raise ValueError("mean and std have one number, or one for each of three channels")
        if not all(map(math.isfinite, (*self.mean, *self.std))):
            raise ValueError(f"mean {_shown(self.mean)} and std {_shown(self.std)} must be finite")
        if any(value < np.finfo(np.float32).tiny for value in self.std):
            raise ValueError(f"std {_shown(self.std)} must be positive")
        if self.pixel_range not in (1, 255):
            raise ValueError(f"pixel_range {self.pixel_range:g} is neither 1 nor 255")
        if self.channels not in (None, 1, 3):
            raise ValueError(f"{self.channels} channels; a network of one or three can be exported")
        if self.size is not None and min(self.size) < 1:
            raise ValueError(f"size {self.size[0]}x{self.size[1]} must be positive")
        if self.resize not in _RESIZES:
            raise ValueError(f"resize {self.resize!r} is none of {', '.join(_RESIZES)}")

    def _check_outputs(self) -> None:
        if self.mask_output is not None and self.mask_output == self.class_output:
            raise ValueError(f"output {self.mask_output!r} cannot be both the mask and the class output")
        if len(set(self.labels)) < len(self.labels) or not all(self.labels):
            raise ValueError(f"labels {', '.join(map(repr, self.labels))} must differ, and none be empty")
        for name in ("mask_activation", "class_activation"):
            if getattr(self, name) not in (None, *_ACTIVATIONS):
                raise ValueError(f"{name} {getattr(self, name)!r} is none of {', '.join(_ACTIVATIONS)}")
        if self.threshold is not None and not 0.0 < self.threshold < 1.0:
            raise ValueError(f"threshold {self.threshold} lies outside 0..1")
        if self.mean and max(self.mean) > self.pixel_range:
            raise ValueError(
                f"mean {max(self.mean):g} lies beyond the pixel range {self.pixel_range:g}; "
                "for a network of pixels 0..255 give a pixel_range of 255"
            )
        if self.positive is not None and self.labels and self.positive not in self.labels:
            raise ValueError(
                f"positive {self.positive!r} is none of the labels {', '.join(self.labels) or '(none given)'}"
            )

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a JSON sidecar with the fields above as keys. Raises DataError."""
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror})") from error
        except ValueError as error:
            raise DataError(f"{path}: not valid JSON ({error})") from error
        if not isinstance(raw, dict):
            raise DataError(f"{path}: not an object; its keys are {', '.join(_KINDS)}")
        if unknown := sorted(raw.keys() - _KINDS.keys()):
            raise DataError(f"{path}: unknown keys {', '.join(unknown)}; known are {', '.join(_KINDS)}")
        values = {}
        for name, value in raw.items():
            if value is None:
                continue
            values[name] = _converted(name, value, path)
        try:
            return cls(**values)
        except ValueError as error:
            raise DataError(f"{path}: {error}") from error

    def changed(self, given: Mapping[str, Any]) -> Self:
        """The description with what was given elsewhere (not None, not empty) in place of its own. Raises ValueError."""
        return replace(self, **{name: value for name, value in given.items() if value not in (None, ())})

    def pixels(self, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Offset and scale for each of `channels`: the network sees (p − offset) / scale of a pixel p of 0..255."""
        factor = 255.0 / self.pixel_range
        mean, std = (values * channels if len(values) == 1 else values for values in (self.mean, self.std))
        return tuple(value * factor for value in mean), tuple(value * factor for value in std)


def _numbers(value: Any) -> tuple[float, ...]:
    values = value if isinstance(value, list) else [value]
    if not all(isinstance(item, int | float) and not isinstance(item, bool) for item in values):
        raise TypeError("a number, or a list of numbers")
    return tuple(map(float, values))


def _number(value: Any) -> float:
    if isinstance(value, list):
        raise TypeError("a number")
    return _numbers(value)[0]


def _whole(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError("a whole number")
    return value


def _pair(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or len(value) != 2:
        raise TypeError("[height, width]")
    return tuple(map(_whole, value))


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("text")
    return value


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise TypeError("a list of names")
    return tuple(map(_text, value))


_KINDS: Final = {
    **dict.fromkeys(("mean", "std"), _numbers),
    **dict.fromkeys(("pixel_range", "threshold"), _number),
    "channels": _whole,
    "size": _pair,
    "labels": _texts,
}
_KINDS.update({item.name: _text for item in fields(Description) if item.name not in _KINDS})


def _converted(name: str, value: Any, path: Path) -> Any:
    try:
        return _KINDS[name](value)
    except TypeError as error:
        raise DataError(f"{path}: {name} is {value!r}; give {error}") from error
    except OverflowError as error:
        raise DataError(f"{path}: {name} is too large; give a number of training's") from error


def _shown(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:g}" for value in values)
