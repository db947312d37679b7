"""TFLite records on the way to a file: tensors and operators of one subgraph."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class Quantiser:
    """real = scale · (integer − zero_point).

    scale: float32 scalar, or (channels,) along `axis`. zero_point: integers of the same shape, for int8 storage.
    """

    scale: NDArray[np.float32]
    zero_point: NDArray[np.int64]
    axis: int = 0

    def same_as(self, other: "Quantiser") -> bool:
        """True when both map integers to the same reals."""
        return np.array_equal(self.scale, other.scale) and np.array_equal(self.zero_point, other.zero_point)


@dataclass(frozen=True, slots=True, eq=False)
class Tensor:
    """A tensor of the subgraph; `data` for a constant."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    quantiser: Quantiser | None = None
    data: Array | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Operator:
    """One TFLite operator: its name in the schema's BuiltinOperator, tensor indices (−1: left out), options object."""

    code: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Any = None


@dataclass(slots=True, eq=False)
class TfliteGraph:
    """One subgraph under construction."""

    tensors: list[Tensor] = field(default_factory=list)
    operators: list[Operator] = field(default_factory=list)
    inputs: list[int] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)

    def add_tensor(self, tensor: Tensor) -> int:
        """Append a tensor and return its index."""
        self.tensors.append(tensor)
        return len(self.tensors) - 1
