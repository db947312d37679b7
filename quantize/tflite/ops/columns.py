"""Columns as channels: a strided convolution of a grey image reads neighbouring columns as channels of one.

XNNPACK's INT8 kernels take at least four channels at a time, so of a grey image they compute with three zeros for each pixel.
Stored as NHWC, columns that lie beside each other within the stride are channels already (a RESHAPE moves nothing): the same
products are added up, with fewer zeros between them and fewer places to read.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from quantize.onnx_graph import Array
from quantize.tflite.ops.padding import same_or_valid

_MOST_CHANNELS: Final = 4


@dataclass(frozen=True, slots=True)
class Columns:
    """`count` columns are one. shift: zero columns in front of the kernel. width: of the new kernel. padding: the schema's."""

    count: int
    shift: int
    width: int
    padding: int

    def arrange(self, kernel: Array) -> Array:
        """An OIHW kernel as (out, count · in, height, width): channel c of column n within a group is n · in + c."""
        outputs, inputs, height, width = kernel.shape
        wide = np.zeros((outputs, inputs, height, self.width * self.count), kernel.dtype)
        wide[..., self.shift : self.shift + width] = kernel
        split = wide.reshape(outputs, inputs, height, self.width, self.count)
        return split.transpose(0, 4, 1, 2, 3).reshape(outputs, self.count * inputs, height, self.width)


def columns_as_channels(
    size: Sequence[int], channels: int, kernel: Sequence[int], strides: Sequence[int], pads: Sequence[int]
) -> Columns | None:
    """How to read an image of `size` (height, width) so; None where it does not fit or gains nothing.

    pads: [top, left, bottom, right]. The convolution is one without groups and dilation.
    """
    count = strides[1]
    if count < 2 or channels * count > _MOST_CHANNELS or size[1] % count:
        return None
    places = size[1] // count
    outputs = (size[1] + pads[1] + pads[3] - kernel[1]) // count + 1
    left = -(-pads[1] // count)
    shift = left * count - pads[1]
    width = -(-(shift + kernel[1]) // count)
    right = outputs - 1 + width - places - left
    if right < 0:  # TFLite would go on to the last column
        return None
    padding = same_or_valid(
        (size[0], places), (kernel[0], width), (strides[0], 1), (1, 1), (pads[0], left, pads[2], right)
    )
    return None if padding is None else Columns(count, shift, width, padding)
