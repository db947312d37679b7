"""One message for every node of a network that cannot be lowered."""

from edge.errors import ConversionError
from quantize.onnx_graph import Node


class Refusals:
    """Nodes that were refused, gathered over the whole graph so that the user sees all of them at once."""

    def __init__(self, nodes: int) -> None:
        self._nodes = nodes
        self._offenders: dict[tuple[str, str], list[str]] = {}

    def add(self, node: Node, error: ConversionError) -> None:
        """Remember a node; those with one operator and one reason share a line."""
        self._offenders.setdefault((node.op, str(error)), []).append(node.name)

    def raise_any(self, also: str = "") -> None:
        """Raise ConversionError when a node was refused. also: what else is wrong."""
        if not self._offenders:
            return
        parts = []
        for (op, reason), names in self._offenders.items():
            parts.append(f"{op} {', '.join(map(repr, names))}: {reason}")
        parts += [also] if also else []
        count = sum(map(len, self._offenders.values()))
        raise ConversionError(f"TFLite cannot express {count} of {self._nodes} nodes. " + "; ".join(parts))
