"""One float graph simplified and held against itself in ONNX Runtime, on random values."""

from collections import Counter
from typing import Any, Final

import numpy as np
import onnx
from foreign_networks import Array, Constants, model_of
from onnx import helper
from test_quantize_support import run_referee

from quantize.onnx_graph import checked
from quantize.simplify import simplify

SHAPE: Final = (1, 4, 6, 7)


def node(op: str, inputs: str, output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(), [output], name=output, **attributes)


def network(
    *nodes: onnx.NodeProto, constants: Constants | None = None, outputs: str = "y", shape: Any = SHAPE
) -> onnx.ModelProto:
    return model_of(nodes, {"x": shape}, dict.fromkeys(outputs.split()), constants)


def values(shape: tuple[int, ...] = SHAPE) -> Array:
    """On both sides of −3, 0, 3 and 6."""
    return np.random.default_rng(3).normal(1.0, 3.5, shape).astype(np.float32)


def simplified(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model after `simplify`, when it says what it said before."""
    before = model.SerializeToString()
    result = simplify(checked(model, at_least=18))
    assert model.SerializeToString() == before
    onnx.checker.check_model(result, full_check=True)
    shape = tuple(dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim)
    feeds = {"x": values(shape)}
    wanted, got = run_referee(model, feeds), run_referee(result, feeds)
    assert got.keys() == wanted.keys()
    for name, value in wanted.items():
        assert np.ptp(value) > 0, "nothing to compare"
        assert got[name].shape == value.shape
        np.testing.assert_allclose(got[name], value, rtol=1e-5, atol=1e-5, err_msg=name)
    return result


def ops(model: onnx.ModelProto) -> Counter[str]:
    return Counter(each.op_type for each in model.graph.node)
