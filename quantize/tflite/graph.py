"""TFLite records on the way to a file: tensors and operators of one subgraph."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
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

    def quantise(self, values: Array, dtype: np.dtype[Any]) -> Array:
        """Integers of `dtype` for real `values`, rounded half to even and saturated, as QuantizeLinear does it."""
        scale, zero_point = self._along(values.ndim)
        shift = 128 if dtype == np.uint8 else 0
        limits = np.iinfo(dtype)
        return np.asarray(np.clip(np.rint(values / scale) + zero_point + shift, limits.min, limits.max).astype(dtype))

    def real(self, integers: Array) -> NDArray[np.float32]:
        """Real values of stored integers."""
        scale, zero_point = self._along(integers.ndim)
        return ((integers.astype(np.int64) - zero_point).astype(np.float32) * scale).astype(np.float32)

    def _along(self, rank: int) -> tuple[Array, Array]:
        if not self.scale.ndim:
            return self.scale, self.zero_point
        shape = [-1 if axis == self.axis else 1 for axis in range(rank)]
        return self.scale.reshape(shape), self.zero_point.reshape(shape)


@dataclass(frozen=True, slots=True, eq=False)
class QuantisedConstant:
    """A weight as the QDQ graph stores it. integers: int8 (int32 for a bias); `quantiser.axis` is its ONNX axis."""

    integers: Array
    quantiser: Quantiser

    def real(self) -> NDArray[np.float32]:
        """Float32 values."""
        return self.quantiser.real(self.integers)

    def transposed(self, order: Sequence[int]) -> "QuantisedConstant":
        """The same weight with its axes in `order`."""
        quantiser = self.quantiser
        if quantiser.scale.ndim:
            quantiser = replace(quantiser, axis=list(order).index(quantiser.axis))
        return QuantisedConstant(self.integers.transpose(order), quantiser)


def integer_grid(integers: Array) -> Array:
    """Integers as they are stored: uint8 becomes int8 on the same grid, narrower types become int8, wider ones int32."""
    if integers.dtype == np.uint8:
        return (integers.astype(np.int16) - 128).astype(np.int8)
    return integers.astype(np.int32 if integers.dtype.itemsize > 1 else np.int8)


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
