"""A strided convolution of a grey image whose columns become channels: the same products, on the same integers."""

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lowering_checks import X, Y, check_int8, weights
from onnx import helper
from test_quantize_support import build, qdq, weight_dq
from torch.nn import functional as F

from quantize.tflite.ops.columns import columns_as_channels
from quantize.tflite.ops.padding import same_total


def convolution(
    channels: int, size: tuple[int, int], kernel: tuple[int, int], strides: tuple[int, int], pads: list[int]
) -> onnx.ModelProto:
    """x → Q/DQ → Conv of INT8 weights → Q/DQ."""
    before, held = qdq("x", *X)
    read, stored = weight_dq("w", weights(5, channels, *kernel))
    after, more = qdq("y", *Y)
    conv = helper.make_node("Conv", ["x_dq", "w_dq"], ["y"], strides=list(strides), pads=pads)
    nodes = [*before, read, conv, *after]
    return build(nodes, {"x": (1, channels, *size)}, ["y_dq"], held | stored | more)


GROUPED = ["RESHAPE", "CONV_2D"]


@pytest.mark.parametrize(
    ("size", "kernel", "strides", "pads", "expected"),
    [
        ((12, 16), (3, 3), (2, 2), [0, 0, 1, 1], GROUPED),  # emtnet's stem
        ((16, 16), (6, 6), (4, 4), [1, 1, 1, 1], GROUPED),  # emtnet-s': the kernel moves by three columns
        ((16, 15), (3, 3), (2, 2), [0, 0, 0, 0], ["CONV_2D"]),  # an odd row
        ((12, 16), (3, 3), (2, 2), [1, 1, 1, 1], ["PAD", "CONV_2D"]),  # rows that TFLite has no name for
        ((9, 16), (3, 2), (1, 2), [1, 0, 1, 0], GROUPED),  # only columns are strided
        ((16, 16), (2, 2), (2, 2), [0, 0, 0, 0], GROUPED),  # patches, VALID
        ((12, 15), (3, 3), (3, 3), [0, 0, 0, 0], GROUPED),
        ((12, 16), (1, 1), (2, 2), [0, 0, 0, 0], GROUPED),
        ((12, 16), (3, 3), (1, 1), [1, 1, 1, 1], ["CONV_2D"]),
    ],
)
def test_the_answers_stay(
    size: tuple[int, int], kernel: tuple[int, int], strides: tuple[int, int], pads: list[int], expected: list[str]
) -> None:
    check_int8(convolution(1, size, kernel, strides, pads), *expected)


def test_two_channels_are_grouped_by_two_and_three_are_not() -> None:
    """Four channels at a time cost no more than one: from there on there is nothing to gain."""
    check_int8(convolution(2, (12, 16), (3, 3), (2, 2), [0, 0, 1, 1]), *GROUPED)
    check_int8(convolution(2, (12, 15), (3, 3), (3, 3), [0, 0, 0, 0]), "CONV_2D")
    check_int8(convolution(3, (12, 16), (3, 3), (2, 2), [0, 0, 1, 1]), "CONV_2D")


@given(st.data())
def test_a_kernel_on_columns_gives_what_the_kernel_gave(data: st.DataObject) -> None:
    """Whatever size, kernel, stride and pads: where columns are grouped, torch computes the very same numbers."""
    draw = data.draw
    channels, stride = draw(st.integers(1, 2)), draw(st.integers(1, 4))
    size = draw(st.tuples(st.integers(4, 9), st.integers(1, 4).map(lambda n: n * stride)))
    kernel = draw(st.tuples(st.integers(1, 3), st.integers(1, 6)))
    total = same_total(size[0], kernel[0], 1, 1)
    pads = [total // 2, draw(st.integers(0, 5)), total - total // 2, draw(st.integers(0, 5))]
    if size[1] + pads[1] + pads[3] < kernel[1] or size[0] + total < kernel[0]:
        return
    columns = columns_as_channels(size, channels, kernel, (1, stride), pads)
    if columns is None:
        return
    rng = np.random.default_rng(draw(st.integers(0, 10)))
    image, weight = rng.integers(-9, 9, (1, channels, *size)), rng.integers(-9, 9, (3, channels, *kernel))
    padded = F.pad(torch.from_numpy(image).double(), (pads[1], pads[3], pads[0], pads[2]))
    wanted = F.conv2d(padded, torch.from_numpy(weight).double(), stride=(1, stride))
    places = size[1] // columns.count
    grouped = image.transpose(0, 2, 3, 1).reshape(1, size[0], places, -1).transpose(0, 3, 1, 2)
    across = same_total(places, columns.width, 1, 1) if any(pads) or columns.padding == 0 else 0
    sides = (across // 2, across - across // 2, pads[0], pads[2])
    moved = F.pad(
        torch.from_numpy(np.ascontiguousarray(grouped)).double(), sides if columns.padding == 0 else (0, 0, 0, 0)
    )
    found = F.conv2d(moved, torch.from_numpy(columns.arrange(weight)).double())
    assert torch.equal(found, wanted)
