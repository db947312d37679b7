"""One graph lowered and held against ONNX Runtime without optimisations, on XNNPACK and on the built-in kernels.

FP32 graphs agree to float precision, quantised ones to one step of the output's grid; `kernels` says what runs in INT8.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from test_quantize_support import (
    Array,
    Constants,
    FlatFile,
    FlatOperator,
    build,
    copy_of,
    initializers,
    qdq,
    read_tflite,
    run_referee,
    run_tflite,
    weight_dq,
)

from edge.errors import ConversionError
from quantize.tflite.lower import to_tflite

Grid = tuple[float, int]  # scale, int8 zero point
Shape = tuple[int, ...]

X: Final[Grid] = (0.0413, -28)
Y: Final[Grid] = (0.0522, 13)
UNIT: Final[Grid] = (1 / 255, -128)
KERNELS: Final = {"XNNPACK": True, "built-in kernels": False}
_INTEGERS: Final = {TensorProto.UINT8: np.uint8, TensorProto.INT8: np.int8}


def values(*shape: int, low: float = -2.0, high: float = 8.0, seed: int = 0) -> Array:
    """Uniform values, on both sides of 0 and of 6 unless told otherwise."""
    return np.random.default_rng((seed, *shape)).uniform(low, high, shape).astype(np.float32)


def weights(*shape: int, seed: int = 0) -> Array:
    """Normal values that keep the size of what they multiply."""
    fan = np.sqrt(np.prod(shape[1:]))
    return np.random.default_rng((seed, *shape)).normal(0.0, 1.0 / fan, shape).astype(np.float32)


def feeds_of(model: onnx.ModelProto, *, low: float = -2.0, high: float = 8.0) -> dict[str, Array]:
    """Random values for every input; all there are of an integer type."""
    feeds = {}
    for place, value in enumerate(model.graph.input, 1):
        kind = value.type.tensor_type
        shape = tuple(dim.dim_value for dim in kind.shape.dim)
        if kind.elem_type in _INTEGERS:
            limits = np.iinfo(_INTEGERS[kind.elem_type])
            rng = np.random.default_rng(place)
            feeds[value.name] = rng.integers(limits.min, limits.max + 1, shape).astype(limits.dtype)
        else:
            feeds[value.name] = values(*shape, low=low, high=high, seed=place)
    return feeds


def one_op(op: str, shape: Shape, constants: Constants | None = None, **attributes: Any) -> onnx.ModelProto:
    """x → op(x, *constants) → y; a constant called "" is an input left out."""
    constants = constants or {}
    node = helper.make_node(op, ["x", *constants], ["y"], name="it", **attributes)
    return build([node], {"x": shape}, ["y"], {name: value for name, value in constants.items() if name})


def check(
    model: onnx.ModelProto,
    *codes: str,
    atol: float = 1e-5,
    low: float = -2.0,
    high: float = 8.0,
    flat: bool = False,
    referee: onnx.ModelProto | None = None,
) -> FlatFile:
    """Lower, run and compare; return the file.

    codes: the operators expected, in order; left out, any will do. flat: outputs may be one number throughout. referee: a
    model that says the same in operators that ONNX Runtime has.
    """
    feeds = feeds_of(model, low=low, high=high)
    content = to_tflite(model)
    wanted = run_referee(referee or model, feeds)
    for kernel, delegate in KERNELS.items():
        got = run_tflite(content, feeds, delegate=delegate)
        assert got.keys() == wanted.keys(), f"outputs {sorted(got)} for {sorted(wanted)}"
        for name, array in wanted.items():
            assert got[name].shape == array.shape, f"{name}: {got[name].shape} for {array.shape}"
            assert flat or np.ptp(array) > 0 or array.size == 1, "nothing to compare"
            np.testing.assert_allclose(got[name], array, rtol=1e-5, atol=atol, err_msg=f"{name} on {kernel}")
    file = read_tflite(content)
    found = [operator.code for operator in file.operators]
    assert not codes or found == list(codes), found
    return file


def refusal(model: onnx.ModelProto) -> str:
    """The message with which a model is refused."""
    with pytest.raises(ConversionError) as caught:
        to_tflite(model)
    return str(caught.value)


# INT8.


def quantised(
    op: str,
    inputs: Mapping[str, Shape],
    constants: Constants | None = None,
    *,
    stored: Mapping[str, int | None] | None = None,
    grids: Sequence[Grid] = (X, X, X),
    after: Grid = Y,
    between: Sequence[onnx.NodeProto] = (),
    more: Constants | None = None,
    **attributes: Any,
) -> onnx.ModelProto:
    """inputs → Q/DQ each → op(*inputs, *constants) → `between` → Q/DQ → out_dq.

    stored: constants kept as INT8, with the axis that has a scale a channel (None: one scale); left out, w along its first.
    `between` reads "raw" and writes "out", with the constants of `more`. A constant called "" is an input left out.
    """
    constants, stored = constants or {}, {"w": 0} if stored is None else stored
    nodes: list[onnx.NodeProto] = []
    held: Constants = dict(more or {})
    for name, grid in zip(inputs, grids, strict=False):
        pair, parameters = qdq(name, *grid)
        nodes += pair
        held |= parameters
    names = [f"{name}_dq" for name in inputs]
    for name, array in constants.items():
        if name in stored:
            node, parameters = weight_dq(name, array, axis=stored[name])
            nodes.append(node)
            held |= parameters
        elif name:
            held[name] = array
        names.append(f"{name}_dq" if name in stored else name)
    nodes.append(helper.make_node(op, names, ["raw" if between else "out"], name="it", **attributes))
    pair, parameters = qdq("out", *after)
    return build([*nodes, *between, *pair], inputs, ["out_dq"], held | parameters)


def replaced(model: onnx.ModelProto, **constants: Array) -> onnx.ModelProto:
    """The model with other constants, types included."""
    model = copy_of(model)
    for tensor in model.graph.initializer:
        if tensor.name in constants:
            tensor.CopyFrom(numpy_helper.from_array(np.asarray(constants[tensor.name]), tensor.name))
    model.graph.ClearField("value_info")
    return model


def shifted(integers: Array) -> Array:
    """The uint8 numbers on the grid of int8 ones."""
    return np.asarray(np.asarray(integers, np.int16) + 128, np.uint8)


def check_int8(
    model: onnx.ModelProto,
    *expected: str,
    floats: Collection[str] | None = (),
    equal: float = 0.95,
    built_in: float = 0.7,
    low: float = -4.5,
    high: float = 6.5,
) -> FlatFile:
    """Compare with the referee: one step of the output's grid apart at most, and mostly none.

    expected: what `kernels` finds in the file; left out, everything runs in INT8, all but the operators of `floats`, which
    run in float (None: any may). equal, built_in: the share of values that is exact on XNNPACK and on the
    built-in kernels, which round in fixed point, MEAN with a bias of a quarter step. Outputs are called NAME_dq.
    """
    feeds = feeds_of(model, low=low, high=high)
    content = to_tflite(model)
    wanted, held = run_referee(model, feeds), initializers(model)
    for kernel, delegate in KERNELS.items():
        got = run_tflite(content, feeds, delegate=delegate)
        assert got.keys() == wanted.keys(), f"outputs {sorted(got)} for {sorted(wanted)}"
        for name, array in wanted.items():
            step = float(held[f"{name.removesuffix('_dq')}_scale"])
            assert got[name].shape == array.shape, f"{name}: {got[name].shape} for {array.shape}"
            assert np.ptp(array) > 20 * step, "nothing to compare"
            away = np.abs(np.rint((got[name] - array) / step))
            assert away.max() <= 1, f"{name} on {kernel}: {away.max():.0f} steps away"
            share = float((away == 0).mean())
            assert share >= (equal if delegate else built_in), f"{name} on {kernel}: {share:.3f} are exact"
    file = read_tflite(content)
    found = kernels(file)
    assert not expected or found == list(expected), found
    if not expected and floats is not None:
        assert {code.removesuffix(" float") for code in found if code.endswith(" float")} == set(floats), found
        assert floats or "DEQUANTIZE" not in found, found
    return file


def kernels(file: FlatFile) -> list[str]:
    """Operators in order: "ADD" runs in INT8 throughout, "ADD float" in float32. QUANTIZE and DEQUANTIZE are themselves.

    Left out are the QUANTIZE behind an input, with the DEQUANTIZE in between that an image of pixels has, and the DEQUANTIZE in
    front of an output.
    """
    pixels = [op for op in file.operators if op.code == "DEQUANTIZE" and op.inputs[0] in file.graph.inputs]
    entries = {*file.graph.inputs, *(index for op in pixels for index in op.outputs)}
    begun = [op for op in file.operators if op.code == "QUANTIZE" and op.inputs[0] in entries]
    begun += [op for op in pixels if any(op.outputs[0] == other.inputs[0] for other in begun)]
    found = []
    for operator in file.operators:
        last = operator.code == "DEQUANTIZE" and operator.outputs[0] in file.graph.outputs
        if operator not in begun and not last:
            found.append(
                operator.code + ("" if operator.code in ("QUANTIZE", "DEQUANTIZE") else _precision(file, operator))
            )
    return found


def _precision(file: FlatFile, operator: FlatOperator) -> str:
    """ "" when every tensor but biases, axes and sizes is INT8, " float" when it is float32."""
    kinds = {str(file.dtype(index)) for index in (*operator.inputs, *operator.outputs)} - {"int32"}
    assert kinds in ({"int8"}, {"float32"}), f"{operator.code} mixes {sorted(kinds)}"
    return "" if kinds == {"int8"} else " float"
