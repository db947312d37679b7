"""A network from another one's weights: what has a place is copied, and the stem sees the same picture."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from emtnet.network import ARCHITECTURES, EmtNet
from emtnet.sibling import spread_kernel, start_from

WITHOUT_A_PLACE = {
    "class_head.weight",
    "decoder.0.reduce.conv.weight",
    "lesion_head.features.depthwise.conv.weight",
    "lesion_head.features.depthwise.norm.bias",
    "lesion_head.features.depthwise.norm.running_mean",
    "lesion_head.features.depthwise.norm.running_var",
    "lesion_head.features.depthwise.norm.weight",
    "lesion_head.features.pointwise.conv.weight",
    "lesion_head.gate.weight",
}


def trained(name: str = "emtnet", *, guided: bool = True) -> EmtNet:
    """Every number in it is its own."""
    generator = torch.Generator().manual_seed(7)
    network = EmtNet(name, guided=guided)
    for tensor in network.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=generator))
        else:
            tensor.fill_(77)
    return network


def source_name(name: str) -> str:
    """Where the sibling's tensor comes from: its decoder is the finer part of the other's."""
    parts = name.split(".")
    if parts[0] == "decoder":
        parts[1] = str(int(parts[1]) + 1)
    return ".".join(parts)


def test_the_sibling_gets_all_that_has_a_place_in_it() -> None:
    torch.manual_seed(0)
    network, source = EmtNet("emtnet-s"), trained()
    fresh = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    assert start_from(network, source) == sorted(WITHOUT_A_PLACE)
    given = source.state_dict()
    for name, tensor in network.state_dict().items():
        if name in WITHOUT_A_PLACE:
            assert torch.equal(tensor, fresh[name]), name
        elif name == "stem.conv.weight":
            assert torch.equal(tensor, spread_kernel(given[name]))
        else:
            assert torch.equal(tensor, given[source_name(name)]), name


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("guided", [True, False])
def test_a_network_of_the_same_kind_is_copied_whole(name: str, guided: bool) -> None:
    network, source = EmtNet(name, guided=guided), trained(name, guided=guided)
    assert start_from(network, source) == []
    given = source.state_dict()
    assert all(torch.equal(tensor, given[key]) for key, tensor in network.state_dict().items())


def test_a_lesion_head_that_the_other_lacks_keeps_its_own_start() -> None:
    network = EmtNet("emtnet-s")
    missing = start_from(network, trained("emtnet-s", guided=False))
    assert missing == sorted(name for name in network.state_dict() if name.startswith("lesion_head."))


def test_the_source_is_left_alone() -> None:
    source, untouched = trained(), trained()
    start_from(EmtNet("emtnet-s"), source)
    start_from(EmtNet(), source)
    for name, tensor in source.state_dict().items():
        assert torch.equal(tensor, untouched.state_dict()[name]), name


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("side", [1, 3])
def test_a_spread_kernel_sees_the_image_shrunk_by_two(side: int, stride: int) -> None:
    generator = torch.Generator().manual_seed(side)
    image = torch.randn(2, 3, 20, 24, generator=generator, dtype=torch.float64)
    kernel = torch.randn(4, 3, side, side, generator=generator, dtype=torch.float64)
    shrunk = F.conv2d(F.avg_pool2d(image, 2), kernel, stride=stride)
    direct = F.conv2d(image, spread_kernel(kernel), stride=2 * stride)
    torch.testing.assert_close(direct, shrunk, rtol=0, atol=1e-12)


def test_the_siblings_stem_sees_what_the_other_does_on_the_shrunk_image() -> None:
    """Inside: it begins one pixel earlier, as its padding is on all sides."""
    network, source = EmtNet("emtnet-s").eval(), trained().eval()
    start_from(network, source)
    image = torch.randn(1, 1, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        ours = network.stem(image)
        theirs: Tensor = source.stem(F.avg_pool2d(image[..., 3:63, 3:63], 2))
    torch.testing.assert_close(ours[..., 1:15, 1:15], theirs[..., :-1, :-1], rtol=1e-5, atol=1e-5)
