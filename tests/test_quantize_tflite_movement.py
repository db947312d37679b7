"""FP32 operators that move values and change none, against ONNX Runtime."""

from typing import Any

import numpy as np
import onnx
import pytest
from lowering_checks import Shape, check, one_op, refusal, weights
from onnx import TensorProto, helper
from test_quantize_support import Attributes, Constants, build

IMAGE = (1, 3, 4, 5)


def integers(*values: int) -> Any:
    return np.array(values, np.int64)


# Concat and Split.


@pytest.mark.parametrize("axis", [1, -3, 2, 3])
def test_concat(axis: int) -> None:
    shapes = [list(IMAGE), list(IMAGE), list(IMAGE)]
    shapes[1][axis] = 2
    inputs = dict(zip("abc", map(tuple, shapes), strict=True))
    check(build([helper.make_node("Concat", list(inputs), ["y"], axis=axis)], inputs, ["y"]), "CONCATENATION")


@pytest.mark.parametrize("one, other, axis", [((1, 3), (1, 2), 1), ((3,), (4,), 0), ((2, 3, 4), (2, 1, 4), -2)])
def test_concat_of_other_ranks(one: Shape, other: Shape, axis: int) -> None:
    node = helper.make_node("Concat", ["a", "b"], ["y"], axis=axis)
    check(build([node], {"a": one, "b": other}, ["y"]), "CONCATENATION")


@pytest.mark.parametrize("first", [False, True])
def test_concat_with_a_constant(first: bool) -> None:
    """Coordinates beside the features."""
    node = helper.make_node("Concat", ["c", "x"] if first else ["x", "c"], ["y"], axis=1)
    assert check(build([node], {"x": IMAGE}, ["y"], {"c": weights(1, 2, 4, 5)})).counts["CONCATENATION"] == 1


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_split(axis: int) -> None:
    shape = [2, 4, 4, 4]
    node = helper.make_node("Split", ["x"], ["a", "b"], axis=axis, num_outputs=2)
    check(build([node], {"x": shape}, ["a", "b"]), "SLICE", "SLICE")


def test_split_into_parts_of_given_and_of_uneven_lengths() -> None:
    given = helper.make_node("Split", ["x", "lengths"], ["a", "b", "c"], axis=1)
    check(build([given], {"x": (1, 7, 4, 5)}, ["a", "b", "c"], {"lengths": integers(1, 4, 2)}))
    uneven = helper.make_node("Split", ["x"], ["a", "b", "c"], axis=1, num_outputs=3)
    check(build([uneven], {"x": (2, 7)}, ["a", "b", "c"]))


def test_split_into_one_part_costs_nothing() -> None:
    nodes = [helper.make_node("Split", ["x"], ["a"], axis=1, num_outputs=1), helper.make_node("Relu", ["a"], ["y"])]
    check(build(nodes, {"x": IMAGE}, ["y"]), "RELU")


# Slice.

SLICES: list[tuple[list[int], list[int], list[int] | None, list[int] | None, str]] = [
    # starts, ends, axes, steps, operator
    ([1], [3], [2], None, "SLICE"),
    ([0, 1, 0, 2], [1, 3, 4, 9], None, None, "SLICE"),
    ([-2], [2**31 - 1], [-1], None, "SLICE"),
    ([-100], [-1], [3], None, "SLICE"),
    ([1, 0], [3, -1], [1, 2], [1, 1], "SLICE"),
    ([0], [2**63 - 1], [3], [2], "STRIDED_SLICE"),
    ([1, 4], [4, 0], [2, 3], [2, -1], "STRIDED_SLICE"),
    ([-1], [-(2**63)], [3], [-1], "STRIDED_SLICE"),
    ([100], [-100], [2], [-3], "STRIDED_SLICE"),
    ([-1], [-4], [3], [-2], "STRIDED_SLICE"),
    ([2], [-100], [1], [-1], "STRIDED_SLICE"),
]


@pytest.mark.parametrize("starts, ends, axes, steps, code", SLICES, ids=str)
def test_slice(starts: list[int], ends: list[int], axes: list[int] | None, steps: list[int] | None, code: str) -> None:
    constants: Constants = {"starts": integers(*starts), "ends": integers(*ends)}
    constants |= {} if axes is None else {"axes": integers(*axes)}
    constants |= {} if steps is None else {"steps": integers(*steps)}
    check(one_op("Slice", IMAGE, constants), code)


def test_a_slice_of_everything_costs_nothing() -> None:
    model = one_op("Slice", IMAGE, {"starts": integers(0), "ends": integers(99), "axes": integers(2)})
    check(model, "RESHAPE")  # an input that is an output


def test_a_slice_at_a_computed_place_is_refused() -> None:
    node = helper.make_node("Slice", ["x", "starts", "ends"], ["y"], name="it")
    typed = [("x", TensorProto.FLOAT, IMAGE), ("starts", TensorProto.INT64, (4,)), ("ends", TensorProto.INT64, (4,))]
    graph = helper.make_graph(
        [node],
        "graph",
        [helper.make_tensor_value_info(*value) for value in typed],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2, 2, 2])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    assert "Slice 'it': " in refusal(model)


# Pad.

PADS: list[tuple[Attributes, list[int], float | None, list[str]]] = [
    # attributes, rows before and after, value, operators
    ({}, [0, 0, 1, 2, 0, 0, 3, 0], None, ["PAD"]),
    ({}, [0, 1, 1, 2, 0, 0, 3, 1], 0.0, ["PAD"]),
    ({}, [1, 0, 0, 0, 1, 0, 0, 0], 2.5, ["PADV2"]),
    ({}, [0, 0, 1, 1, 0, 0, 1, 1], -np.inf, ["PADV2", "MAX_POOL_2D"]),
    ({}, [0, 0, -1, 2, 0, 0, 1, -3], 1.5, ["SLICE", "PADV2"]),
    ({}, [0, -1, -1, -2, 0, 0, -1, 0], None, ["SLICE"]),
    ({"mode": "reflect"}, [0, 0, 3, 1, 0, 0, 0, 4], None, []),
    ({"mode": "reflect"}, [0, 1, -1, 1, 0, 2, 1, 1], None, []),
    ({"mode": "edge"}, [0, 0, 1, 1, 0, 0, 1, 0], None, ["MIRROR_PAD"]),
    ({"mode": "edge"}, [0, 1, 3, 0, 0, 0, 0, 2], None, ["MIRROR_PAD"] * 3),
    ({"mode": "edge"}, [0, 0, -2, 2, 0, 0, 1, -1], None, ["SLICE", "MIRROR_PAD", "MIRROR_PAD"]),
    ({}, [0] * 8, None, ["RESHAPE"]),
]


@pytest.mark.parametrize("attributes, pads, value, codes", PADS, ids=str)
def test_pad(attributes: Attributes, pads: list[int], value: float | None, codes: list[str]) -> None:
    constants: Constants = {"pads": integers(*pads)} | ({} if value is None else {"value": np.float32(value)})
    model = one_op("Pad", IMAGE, constants, **attributes)
    if "MAX_POOL_2D" in codes:  # what a value of -inf is there for
        node = helper.make_node("MaxPool", ["padded"], ["y"], kernel_shape=[3, 3])
        pad = helper.make_node("Pad", ["x", *constants], ["padded"])
        model = build([pad, node], {"x": IMAGE}, ["y"], constants)
    check(model, *codes)


def test_pad_of_named_axes_and_of_other_ranks() -> None:
    named: Constants = {"pads": integers(1, 2, 0, 3), "": None, "axes": integers(-1, 1)}
    check(one_op("Pad", IMAGE, named), "PAD")
    check(one_op("Pad", (3,), {"pads": integers(2, 1)}), "PAD")
    check(
        one_op("Pad", (2, 3, 2, 3, 2), {"pads": integers(1, 0, 2, 0, 1, 0, 3, 0, 1, 0), "value": np.float32(7)}),
        "PADV2",
    )


REFUSED_PADS: list[tuple[Attributes, Shape, list[int], str]] = [
    ({"mode": "wrap"}, IMAGE, [0, 0, 1, 1, 0, 0, 1, 1], "mode wrap; TFLite has constant, reflect and edge"),
    ({"mode": "reflect"}, IMAGE, [0, 0, 4, 0, 0, 0, 0, 0], "reflects more rows than there are; pad less"),
    ({"mode": "edge"}, IMAGE, [0, 0, 9, 0, 0, 0, 0, 0], "repeats more than 8 edge rows; pad less or reflect"),
    ({}, (1, 1, 1, 2, 2, 3), [0] * 5 + [1] + [0] * 6, "rank 6; the runtime pads up to 5, reshape before"),
]


@pytest.mark.parametrize("attributes, shape, pads, reason", REFUSED_PADS, ids=str)
def test_other_pads_are_refused(attributes: Attributes, shape: Shape, pads: list[int], reason: str) -> None:
    model = one_op("Pad", shape, {"pads": integers(*pads)}, **attributes)
    if attributes.get("mode") == "wrap":
        model.opset_import[0].version = 19
    assert f"Pad 'it': {reason}" in refusal(model)


def test_a_pad_to_more_values_than_the_runtime_counts_is_refused() -> None:
    model = one_op("Pad", (1, 3), {"pads": integers(0, 0, 0, 2**33)})
    assert "Pad 'it': an output of shape (1, 8589934595); the runtime counts to 2147483647" in refusal(model)


# Depth and space.


@pytest.mark.parametrize("shape", [(1, 8, 3, 4), (2, 12, 2, 3)], ids=str)
@pytest.mark.parametrize("mode, codes", [("DCR", ["DEPTH_TO_SPACE"]), ("CRD", ["RESHAPE", "TRANSPOSE", "RESHAPE"])])
def test_depth_to_space(shape: Shape, mode: str, codes: list[str]) -> None:
    check(one_op("DepthToSpace", shape, blocksize=2, mode=mode), *codes)


@pytest.mark.parametrize("shape", [(1, 3, 6, 4), (2, 1, 4, 8)], ids=str)
def test_space_to_depth(shape: Shape) -> None:
    check(one_op("SpaceToDepth", shape, blocksize=2), "SPACE_TO_DEPTH")


# Reshapes; their cost is the subject of test_quantize_tflite_layout.py.


@pytest.mark.parametrize(
    "shape, target",
    [
        (IMAGE, (1, -1)),
        (IMAGE, (1, 6, 2, 5)),
        (IMAGE, (1, 5, 4, 3)),
        (IMAGE, (3, 4, 5)),
        (IMAGE, (0, 0, 20)),
        (IMAGE, (2, 3, 1, 5, 2)),
        ((1, 60), (1, 3, 4, 5)),
        ((60,), (1, 3, 4, 5)),
        ((2, 3, 4), (2, 2, 3, 2)),
        ((1, 2, 3, 2, 2), (1, 6, 2, 2)),
        (IMAGE, (1, 3, 2, 2, 5, 1)),
    ],
    ids=str,
)
def test_reshape(shape: Shape, target: Shape) -> None:
    check(one_op("Reshape", shape, {"shape": integers(*target)}))


@pytest.mark.parametrize("axis", [0, 1, 2, 3, 4, -1])
def test_flatten(axis: int) -> None:
    check(one_op("Flatten", IMAGE, axis=axis))


def test_squeeze_and_unsqueeze() -> None:
    check(one_op("Squeeze", (1, 3, 1, 1), {"axes": integers(2, 3)}))
    check(one_op("Squeeze", (1, 3, 1, 5)))
    check(one_op("Unsqueeze", (1, 3), {"axes": integers(2, 3)}))
    check(one_op("Unsqueeze", (3, 5), {"axes": integers(0, -1)}))


def test_more_than_six_axes_are_refused() -> None:
    message = refusal(one_op("Reshape", (1, 64), {"shape": integers(2, 2, 2, 2, 2, 2, 1)}))
    assert "Reshape 'it': rank 7; the runtime has at most 6, reshape before" in message


@pytest.mark.parametrize("op", ["Relu", "ReduceMean", "Softmax"])
def test_no_operator_takes_more_than_six_axes(op: str) -> None:
    """XNNPACK fails on some of them when the file is opened."""
    assert f"{op} 'it': rank 7" in refusal(one_op(op, (1, 2, 1, 2, 2, 2, 2)))


# Nothing at all.


@pytest.mark.parametrize("op", ["Identity", "Dropout"])
def test_what_does_nothing_is_nothing(op: str) -> None:
    nodes = [helper.make_node(op, ["x"], ["same"]), helper.make_node("Relu", ["same"], ["y"])]
    check(build(nodes, {"x": IMAGE}, ["y"]), "RELU")


def test_dropout_that_drops_is_refused() -> None:
    node = helper.make_node("Dropout", ["x", "ratio", "training"], ["y"], name="it")
    constants: Constants = {"ratio": np.float32(0.5), "training": np.bool_(True)}
    message = refusal(build([node], {"x": IMAGE}, ["y"], constants))
    assert "Dropout 'it': in training mode; export the network after .eval()" in message
    check(build([node], {"x": IMAGE}, ["y"], {**constants, "training": np.bool_(False)}))


def test_the_mask_of_a_dropout_is_refused() -> None:
    node = helper.make_node("Dropout", ["x"], ["y", "mask"], name="it")
    assert "Dropout 'it': gives its mask too" in refusal(build([node], {"x": IMAGE}, ["y"]))


def test_cast() -> None:
    nodes = [helper.make_node("Cast", ["x"], ["f"], to=TensorProto.FLOAT), helper.make_node("Relu", ["f"], ["y"])]
    check(build(nodes, {"x": IMAGE}, ["y"]), "RELU")
    for dtype in (TensorProto.UINT8, TensorProto.INT8):
        check(build(nodes, {"x": (1, 1, 16, 16)}, ["y"], dtype=dtype))


@pytest.mark.parametrize("to", [TensorProto.INT32, TensorProto.FLOAT16])
def test_casts_to_other_types_are_refused(to: int) -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["c"], name="it", to=to),
        helper.make_node("Cast", ["c"], ["y"], name="back", to=TensorProto.FLOAT),
    ]
    message = refusal(build(nodes, {"x": IMAGE}, ["y"]))
    assert f"Cast 'it': from float32 to {helper.tensor_dtype_to_np_dtype(to)}; only uint8 images and float32" in message


# A graph as a whole.


def test_constants_in_constant_nodes_and_identities_are_read_through() -> None:
    nodes = [
        helper.make_node("Constant", [], ["w"], value=onnx.numpy_helper.from_array(weights(4, 3, 3, 3), "w")),
        helper.make_node("Identity", ["x"], ["same"]),
        helper.make_node("Conv", ["same", "w"], ["y"]),
    ]
    check(build(nodes, {"x": (1, 3, 6, 6)}, ["y"]), "CONV_2D")


def test_two_outputs_keep_their_names_and_order() -> None:
    nodes = [helper.make_node("Relu", ["x"], ["second"]), helper.make_node("Sigmoid", ["x"], ["first"])]
    file = check(build(nodes, {"x": (1, 3, 6, 6)}, ["first", "second"]))
    assert [file.name(index) for index in file.graph.outputs] == ["first", "second"]


def test_outputs_that_are_one_tensor_a_constant_or_an_input() -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["one"]),
        helper.make_node("Identity", ["one"], ["other"]),
        helper.make_node("Transpose", ["one"], ["turned"], perm=[0, 2, 3, 1]),
        helper.make_node("Constant", [], ["c"], value=onnx.numpy_helper.from_array(weights(1, 3, 2, 2), "c")),
        helper.make_node("Identity", ["x"], ["same"]),
    ]
    file = check(build(nodes, {"x": IMAGE}, ["one", "other", "turned", "c", "same"]))
    assert len(set(file.graph.outputs)) == 5
