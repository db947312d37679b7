"""The strided depthwise convolution: PyTorch's own in value and in both gradients."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from emtnet.depthwise import strided_depthwise

SIZES = [(3, 3), (5, 7), (9, 9), (17, 33)]


def drawn(height: int, width: int, *, channels: int = 6, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """An image batch and a kernel that want a gradient."""
    generator = torch.Generator().manual_seed(height * width)
    x = torch.randn(2, channels, height, width, generator=generator, dtype=dtype)
    weight = torch.randn(channels, 1, 3, 3, generator=generator, dtype=dtype)
    return x.requires_grad_(), weight.requires_grad_()


def plain(x: Tensor, weight: Tensor) -> Tensor:
    return F.conv2d(x, weight, stride=2, groups=x.shape[1])


def gradients(output: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
    """Of both inputs, for a gradient of the output that is not constant."""
    upstream = torch.randn(output.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return torch.autograd.grad(output, (x, weight), upstream.to(output.dtype))


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-4)])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_value_and_both_gradients_are_those_of_a_convolution(
    height: int, width: int, dtype: torch.dtype, tolerance: float, channels_last: bool
) -> None:
    x, weight = drawn(height, width, dtype=dtype)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    ours = strided_depthwise(x.contiguous(memory_format=layout), weight)
    theirs = plain(x, weight)
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)
    assert ours.shape == (2, 6, (height - 1) // 2, (width - 1) // 2)
    for one, other in zip(gradients(ours, x, weight), gradients(theirs, x, weight), strict=True):
        assert one.dtype == dtype
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def test_the_gradient_is_that_of_its_value() -> None:
    """Against finite differences, which know nothing of convolutions."""
    x, weight = drawn(5, 7, channels=2)
    assert torch.autograd.gradcheck(strided_depthwise, (x, weight))


def test_a_half_precision_region_computes_in_half_precision() -> None:
    x, weight = drawn(17, 33, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        ours = strided_depthwise(x, weight)
    assert ours.dtype == torch.bfloat16
    theirs = plain(x, weight)
    torch.testing.assert_close(ours.float(), theirs, rtol=0.03, atol=0.06)
    for one, other in zip(gradients(ours, x, weight), gradients(theirs, x, weight), strict=True):
        assert one.dtype == torch.float32
        assert (one - other).norm() < 0.02 * other.norm()


def test_a_second_derivative_is_refused() -> None:
    """It was never written: silence would be a wrong one."""
    x, weight = drawn(5, 5)
    (first,) = torch.autograd.grad(strided_depthwise(x, weight).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()  # type: ignore[no-untyped-call]
