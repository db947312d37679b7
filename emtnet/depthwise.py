"""A depthwise 3×3 convolution of stride 2 whose gradient is fast on processors.

PyTorch's input gradient of a strided depthwise convolution is slow. As a stride-1 convolution of the gradient, spread out with
zeros, it makes a whole training step 1.2 times as fast on two cores (`benchmarks/scripts/training_step.py`).
"""

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable


def strided_depthwise(x: Tensor, weight: Tensor) -> Tensor:
    """Convolve each channel of x, (N, C, H, W) with odd H and W, by its 3×3 kernel of `weight`, (C, 1, 3, 3), at stride 2."""
    if torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
        x, weight = x.to(dtype), weight.to(dtype)
    return _StridedDepthwise.apply(x, weight)  # type: ignore[no-any-return, no-untyped-call]


class _StridedDepthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return torch.conv2d(x, weight, None, 2, 0, 1, x.shape[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors  # type: ignore[attr-defined]
        channels = x.shape[1]
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        of_weight = torch.ops.aten.convolution_backward(
            gradient, x, weight, None, [2, 2], [0, 0], [1, 1], False, [0, 0], channels, [False, True, False]
        )[1]
        count, _, height, width = gradient.shape
        spread = torch.empty(
            (count, channels, 2 * height + 3, 2 * width + 3),
            dtype=gradient.dtype,
            device=gradient.device,
            memory_format=torch.channels_last,
        ).zero_()
        spread[:, :, 2:-2:2, 2:-2:2] = gradient
        flipped = weight.flip(2, 3).contiguous(memory_format=torch.channels_last)
        return torch.conv2d(spread, flipped, None, 1, 0, 1, channels), of_weight
