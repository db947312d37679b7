"""What disappears into its neighbour: activations into the layer before, the normalisation into the image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from quantize.onnx_graph import Array, Node, scalar
from quantize.tflite.graph import Quantiser

if TYPE_CHECKING:
    from quantize.tflite.plan import Plan

# CONCATENATION has the option too, and the runtime refuses every value but NONE.
_FUSES_INTO: Final = frozenset(
    {"Conv", "ConvTranspose", "Gemm", "MatMul", "Add", "Sub", "Mul", "MaxPool", "AveragePool"}
)
_SATURATES_INTO: Final = _FUSES_INTO | {"GlobalAveragePool", "ReduceMean"}
ACTIVATIONS: Final = {
    (0.0, np.inf): "RELU",
    (0.0, 6.0): "RELU6",
    (-1.0, 1.0): "RELU_N1_TO_1",
}
"""TFLite's fused activations by the interval that they clamp to."""


def read_pixels(plan: Plan) -> None:
    """A uint8 image read as (p − c) / s is a quantised tensor already: scale 1/s, zero point c."""
    readers = plan.readers()

    def only_reader(name: str, op: str) -> Node | None:
        nodes = readers.get(name, [])
        found = len(nodes) == 1 and nodes[0].op == op and nodes[0].inputs[0] == name and name not in plan.outputs
        return nodes[0] if found else None

    for name, dtype in plan.inputs.items():
        cast = only_reader(name, "Cast") if dtype == np.uint8 else None
        minus = only_reader(cast.output, "Sub") if cast else None
        over = only_reader(minus.output, "Div") if minus else None
        if cast is None or minus is None or over is None or plan.quantised.keys() & {cast.output, minus.output}:
            continue
        offset, divisor = scalar(plan.constants, minus.inputs[1]), scalar(plan.constants, over.inputs[1])
        if offset is None or divisor is None or not offset.is_integer() or not 0 <= offset <= 255 or divisor <= 0:
            continue
        if plan.shapes[over.output] != plan.shapes[name]:
            continue
        plan.pixel_input[name] = Quantiser(np.asarray(1.0 / divisor, np.float32), np.asarray(int(offset), np.int64))
        place = plan.nodes.index(cast)
        plan.nodes = [node for node in plan.nodes if node not in (cast, minus, over)]
        plan.nodes.insert(place, Node("Pixels", over.name, [name], [over.output]))


def fuse_activations(plan: Plan) -> None:
    """Append a clamp to the node before, when nothing else reads or quantises the tensor between.

    It becomes a fused activation where TFLite has one, and nothing at all where the output's quantiser saturates at the
    same bounds or inside them.
    """
    producers = {name: node for node in plan.nodes for name in node.outputs}
    readers = plan.readers()
    kept = []
    for node in plan.nodes:
        bounds = clamp_of(node, plan.constants)
        between = node.inputs[0] if node.inputs else ""
        before = producers.get(between)
        if (
            bounds is None
            or before is None
            or before.activation is not None
            or len(before.outputs) > 1
            or len(readers[between]) > 1
            or between in plan.quantised
            or between in plan.outputs
        ):
            kept.append(node)
            continue
        grid = plan.quantised.get(node.output)
        name = ACTIVATIONS.get(bounds)
        if before.op in _FUSES_INTO and name is not None:
            before.activation = name
        elif not (before.op in _SATURATES_INTO and grid is not None and saturates(grid, bounds)):
            if grid is not None and before.op in _SATURATES_INTO:  # rounded first and clamped then: the same, in INT8
                plan.quantised[between] = grid
            kept.append(node)
            continue
        before.outputs = [node.output]
        producers[node.output] = before
    plan.nodes = kept


def clamp_of(node: Node, constants: dict[str, Array]) -> tuple[float, float] | None:
    """The interval that a Relu or Clip with constant bounds clamps to; None for anything else."""
    if node.op == "Relu":
        return (0.0, np.inf)
    if node.op != "Clip":
        return None
    names = (*node.inputs[1:3], "", "")[:2]
    values = [
        scalar(constants, name) if name else default for name, default in zip(names, (-np.inf, np.inf), strict=True)
    ]
    if values[0] is None or values[1] is None:
        return None
    return (values[0], values[1])


def saturates(grid: Quantiser, bounds: tuple[float, float], *, slack: float = 0.01) -> bool:
    """True when a grid holds nothing outside an interval: writing to it is the clamp. slack: in steps of the grid."""
    low, high = ((edge - int(grid.zero_point)) * float(grid.scale) for edge in (-128, 127))
    slack *= float(grid.scale)
    return bounds[0] <= low + slack and bounds[1] >= high - slack
