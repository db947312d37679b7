"""FP32 pooling and reductions against ONNX Runtime."""

import numpy as np
import pytest
from lowering_checks import Shape, check, one_op, refusal
from onnx import helper
from test_quantize_support import Attributes, Constants, build

IMAGE = (1, 3, 8, 8)
CODES = {"MaxPool": "MAX_POOL_2D", "AveragePool": "AVERAGE_POOL_2D"}

# Windows that TFLite has a name for, in MaxPool and AveragePool alike.

NAMED: list[Attributes] = [
    {"kernel_shape": [2, 2], "strides": [2, 2]},
    {"kernel_shape": [3, 2]},
    {"kernel_shape": [2, 2], "strides": [3, 3]},
    {"kernel_shape": [2, 2], "auto_pad": "VALID"},
    {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]},
    {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [0, 0, 1, 1]},
    {"kernel_shape": [2, 2], "pads": [0, 0, 1, 1]},
    {"kernel_shape": [2, 2], "auto_pad": "SAME_UPPER"},
    {"kernel_shape": [3, 3], "auto_pad": "SAME_LOWER"},
    {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1},
]


@pytest.mark.parametrize("op", CODES)
@pytest.mark.parametrize("attributes", NAMED, ids=str)
def test_pool(op: str, attributes: Attributes) -> None:
    check(one_op(op, IMAGE, **attributes), CODES[op])


# Windows that it has none for.

ODD: list[Attributes] = [
    {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]},  # ResNet
    {"kernel_shape": [3, 3], "pads": [2, 0, 1, 1]},
    {"kernel_shape": [2, 2], "auto_pad": "SAME_LOWER"},
    {"kernel_shape": [2, 2], "strides": [3, 3], "pads": [1, 0, 1, 0], "ceil_mode": 0},
    {"kernel_shape": [4, 4], "strides": [3, 3], "ceil_mode": 1},
    {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 0, 0], "ceil_mode": 1},
]


@pytest.mark.parametrize("attributes", ODD, ids=str)
def test_max_pool_with_pads_of_its_own(attributes: Attributes) -> None:
    """What is put in must be below every value: here all are negative."""
    check(one_op("MaxPool", IMAGE, **attributes), "PADV2", "MAX_POOL_2D", low=-9.0, high=-1.0)


@pytest.mark.parametrize("attributes", ODD, ids=str)
def test_average_pool_does_not_count_pads(attributes: Attributes) -> None:
    check(one_op("AveragePool", IMAGE, **attributes), "PAD", "AVERAGE_POOL_2D", "MUL", low=2.0)


@pytest.mark.parametrize("attributes", [*NAMED, *ODD], ids=str)
def test_average_pool_that_counts_pads(attributes: Attributes) -> None:
    file = check(one_op("AveragePool", IMAGE, count_include_pad=1, **attributes), low=2.0)
    assert file.counts["AVERAGE_POOL_2D"] == 1
    if not attributes.get("ceil_mode"):  # which reaches beyond the pads, where nothing counts
        assert not file.counts["MUL"]


@pytest.mark.parametrize("op", CODES)
def test_a_last_window_that_starts_in_the_padding_is_refused(op: str) -> None:
    """ONNX Runtime and PyTorch leave it out, and ONNX counts it in the shape of the output."""
    attributes: Attributes = {"kernel_shape": [2, 2], "strides": [3, 3], "pads": [1, 1, 1, 1], "ceil_mode": 1}
    message = refusal(one_op(op, IMAGE, **attributes))
    assert f"{op} 'it': a last window of nothing but padding; pool without ceil_mode" in message


@pytest.mark.parametrize("op", CODES)
def test_pool_of_several_images(op: str) -> None:
    check(one_op(op, (3, 2, 5, 6), kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]))


def test_dilated_pools_are_refused() -> None:
    message = refusal(one_op("MaxPool", IMAGE, kernel_shape=[2, 2], dilations=[2, 2]))
    assert "MaxPool 'it': dilated pooling; TFLite has none, use a stride or a dilated convolution" in message


@pytest.mark.parametrize("op", CODES)
@pytest.mark.parametrize("rank", [1, 3])
def test_pools_of_other_ranks_are_refused(op: str, rank: int) -> None:
    message = refusal(one_op(op, (1, 3, *[8] * rank), kernel_shape=[2] * rank))
    assert f"{op} 'it': {rank}-D pooling; only 2-D is lowered" in message


def test_the_places_of_the_largest_values_are_refused() -> None:
    node = helper.make_node("MaxPool", ["x"], ["y", "places"], name="it", kernel_shape=[2, 2])
    assert "MaxPool 'it': gives indices too; use the values only" in refusal(build([node], {"x": IMAGE}, ["y"]))


# Whole images.


@pytest.mark.parametrize("shape", [(1, 3, 4, 5), (2, 3, 4, 5), (1, 3, 7), (1, 3, 2, 3, 4)], ids=str)
def test_global_average_pool(shape: Shape) -> None:
    check(one_op("GlobalAveragePool", shape), "MEAN")


@pytest.mark.parametrize("shape", [(1, 3, 4, 5), (2, 3, 4, 5)], ids=str)
def test_global_max_pool(shape: Shape) -> None:
    check(one_op("GlobalMaxPool", shape), "MAX_POOL_2D")


def test_global_max_pool_of_another_rank_is_refused() -> None:
    assert "GlobalMaxPool 'it': input of shape (1, 3, 7); only 2-D images" in refusal(
        one_op("GlobalMaxPool", (1, 3, 7))
    )


# Reductions.

REDUCTIONS = {"ReduceMean": "MEAN", "ReduceSum": "SUM", "ReduceMax": "REDUCE_MAX", "ReduceMin": "REDUCE_MIN"}
AXES: list[list[int] | None] = [[2, 3], [-1, -2], [0], [1], [2], [3], [1, 2, 3], [0, 1], None]


@pytest.mark.parametrize("op", REDUCTIONS)
@pytest.mark.parametrize("keep", [0, 1])
@pytest.mark.parametrize("axes", AXES, ids=str)
def test_reduction_of_an_image(op: str, keep: int, axes: list[int] | None) -> None:
    constants: Constants = {} if axes is None else {"axes": np.array(axes, np.int64)}
    file = check(one_op(op, (2, 3, 4, 5), constants, keepdims=keep))
    assert file.counts[REDUCTIONS[op]] == 1


@pytest.mark.parametrize("op", REDUCTIONS)
@pytest.mark.parametrize(
    "shape, axes", [((7,), [0]), ((4, 5), [0]), ((2, 3, 4), [-1]), ((2, 3, 2, 2, 3), [1, 3])], ids=str
)
@pytest.mark.parametrize("keep", [0, 1])
def test_reduction_of_other_ranks(op: str, shape: Shape, axes: list[int], keep: int) -> None:
    check(one_op(op, shape, {"axes": np.array(axes, np.int64)}, keepdims=keep), REDUCTIONS[op])


@pytest.mark.parametrize("noop", [0, 1])
def test_reduction_over_no_axes(noop: int) -> None:
    """Everything, or nothing where the node says so."""
    model = one_op("ReduceMean", (1, 3, 4, 5), {"axes": np.zeros(0, np.int64)}, noop_with_empty_axes=noop)
    assert ("MEAN" in check(model).counts) != bool(noop)
