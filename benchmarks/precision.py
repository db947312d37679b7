"""Effective precision: which share of a network's multiply-accumulates an engine really runs in INT8, bf16, f16 or f32.

An artifact that is called INT8 may run its layers in float, where an engine has no INT8 kernel for them or its delegate gave up.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.layers import INT8, PRECISIONS, Layer, read_layers


@dataclass(frozen=True, slots=True)
class EffectivePrecision:
    """Multiply-accumulates by precision, in the order of `PRECISIONS`, those that there are.

    built_in_macs: those that the interpreter's own kernels run, since the delegate did not take the layer; they may be many
    times slower. None for engines without a delegate. float_layers: names of the layers with multiply-accumulates in float.
    """

    macs: tuple[tuple[str, int], ...]
    built_in_macs: int | None
    float_layers: tuple[str, ...]

    @property
    def total_macs(self) -> int:
        return sum(macs for _, macs in self.macs)

    @property
    def shares(self) -> dict[str, float]:
        """Share of the multiply-accumulates by precision, 0 to 1; empty for a network that has none."""
        return {precision: macs / self.total_macs for precision, macs in self.macs}

    def share(self, precision: str) -> float:
        """Share of the multiply-accumulates in one precision, 0 to 1."""
        return self.shares.get(precision, 0.0)

    @property
    def text(self) -> str:
        """The shares in words, the largest first: "99.9 % int8, 0.1 % f32"; what the delegate did not take is said."""
        shares = sorted(self.shares.items(), key=lambda item: -item[1])
        said = ", ".join(f"{_percent(share)} {precision}" for precision, share in shares) or "no layer with weights"
        if self.built_in_macs:
            said += f"; {_percent(self.built_in_macs / self.total_macs)} outside of XNNPACK"
        return said

    def to_json(self) -> dict[str, Any]:
        return {
            "shares": self.shares,
            "macs": dict(self.macs),
            "total_macs": self.total_macs,
            "built_in_macs": self.built_in_macs,
            "float_layers": list(self.float_layers),
            "text": self.text,
        }


def effective_precision(engine: str, path: Path, *, precision: str, threads: int) -> EffectivePrecision:
    """What an engine really makes of a model file on this CPU. precision: of the artifact.

    Raises EngineError, MissingDependencyError.
    """
    return summarise(read_layers(engine, path, precision=precision, threads=threads))


def summarise(layers: Iterable[Layer]) -> EffectivePrecision:
    """Multiply-accumulates of layers by their precision."""
    working = [layer for layer in layers if layer.macs]
    found = {name: sum(layer.macs for layer in working if layer.precision == name) for name in PRECISIONS}
    kernels = {layer.kernel for layer in working}
    delegating = bool(kernels) and kernels <= {"XNNPACK", "built-in"}
    return EffectivePrecision(
        macs=tuple((name, macs) for name, macs in found.items() if macs),
        built_in_macs=sum(layer.macs for layer in working if layer.kernel == "built-in") if delegating else None,
        float_layers=tuple(layer.name for layer in working if layer.precision != INT8),
    )


def _percent(share: float) -> str:
    """One decimal, and never 100 % or 0 % for what is not all or nothing."""
    rounded = f"{100 * share:.1f}"
    if rounded == "100.0" and share < 1:
        return "> 99.9 %"
    if rounded == "0.0" and share > 0:
        return "< 0.1 %"
    return f"{rounded.removesuffix('.0')} %"
