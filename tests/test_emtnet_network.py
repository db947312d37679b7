"""EMT-Net and its sibling: shapes, cost, names that checkpoints depend on, and the exported input."""

import hashlib

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from emtnet.network import ARCHITECTURES, FEATURES, FEATURES_BLOCKS, INPUT_SIZE, EmtNet, ExportedEmtNet, Outputs

GOLDEN_STATE = {
    "emtnet": (277, "985863be8c4b31ad25b59ce3f87d57c0680b122cd79cb92eab4f96fc5f7b9746"),
    "emtnet-s": (229, "ee9484f45f7db88b0a1e3d8f648801f8ae7429246a91334453b3c08eade12f22"),
}
GOLDEN_FIGURES = {
    "emtnet": [1140.4473, 42.5699, 4.2469, 26.4651, 37.7301, 31.3168, 71.3458, 88.5626],
    "emtnet-s": [1119.8009, 38.0672, 6.2219, 26.8047, 31.3733, 21.5444, 56.5338, 62.0098],
}


@pytest.fixture(scope="module", params=ARCHITECTURES)
def network(request: pytest.FixtureRequest) -> EmtNet:
    """Random weights; the statistics of one batch keep its signal from fading away layer by layer."""
    torch.manual_seed(0)
    network = EmtNet(request.param)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        network(torch.randn(2, 1, 64, 64))
    return network.eval()


@pytest.mark.parametrize(("count", "height", "width"), [(1, 224, 224), (3, 64, 96), (2, 32, 32)])
def test_outputs_are_a_mask_one_logit_a_gate_and_features(network: EmtNet, count: int, height: int, width: int) -> None:
    with torch.inference_mode():
        outputs = network(torch.zeros(count, 1, height, width))
    stride = {"emtnet": 2, "emtnet-s": 4}[network.name]
    assert network.architecture.mask_stride == stride
    assert outputs.mask.shape == (count, 1, height // stride, width // stride)
    assert outputs.malignancy.shape == (count, 1)
    assert outputs.gate.shape == (count, 1, height // 16, width // 16)
    assert outputs.features.shape == (count, sum(FEATURES))
    assert {output.dtype for output in outputs} == {torch.float32}
    assert INPUT_SIZE == 224


def test_outputs_are_logits_of_each_image_by_itself(network: EmtNet) -> None:
    images = torch.randn(2, 1, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        together, alone = network(images), network(images[1:])
    for both, one in zip(together, alone, strict=True):
        torch.testing.assert_close(both[1:], one, rtol=1e-3, atol=1e-3)  # kernels differ by batch size and threads


def test_training_computes_what_inference_does(network: EmtNet) -> None:
    """With a gradient the strided layers go another way (`emtnet.depthwise`)."""
    image = torch.randn(1, 1, 96, 64, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        inferred = network(image)
    for one, other in zip(network(image), inferred, strict=True):
        torch.testing.assert_close(one.detach(), other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_mask_lies_where_the_image_changed(name: str) -> None:
    """In an untrained network too: the skips carry position, half-pixel upsampling keeps it."""
    torch.manual_seed(0)
    network = EmtNet(name).eval()
    image = torch.zeros(2, 1, 224, 224)
    image[1, 0, 40:44, 180:184] = 1.0
    with torch.inference_mode():
        mask = network(image).mask
    change = (mask[1, 0] - mask[0, 0]).abs()
    row, column = divmod(int(change.argmax()), change.shape[1])
    stride = network.architecture.mask_stride
    assert abs(row * stride - 42) <= 7
    assert abs(column * stride - 182) <= 7


def test_features_are_the_means_over_the_picture_of_their_blocks(network: EmtNet) -> None:
    seen: list[Tensor] = []
    hooks = [
        network.blocks[index].register_forward_hook(lambda block, inputs, output: seen.append(output))
        for index in FEATURES_BLOCKS
    ]
    image = torch.randn(2, 1, 64, 96, generator=torch.Generator().manual_seed(5))
    with torch.inference_mode():
        features = network(image).features
    for hook in hooks:
        hook.remove()
    assert torch.equal(features, torch.cat([output.mean((2, 3)) for output in seen], 1))
    assert [output.shape[1] for output in seen] == list(FEATURES)
    assert features.std() > 0.01


def test_nothing_is_learned_through_features_and_autocast_leaves_them_float32(network: EmtNet) -> None:
    image = torch.randn(1, 1, 64, 64, generator=torch.Generator().manual_seed(6))
    with torch.autocast("cpu", torch.bfloat16):
        outputs = network(image)
    assert outputs.mask.requires_grad
    assert not outputs.features.requires_grad
    assert outputs.features.dtype == torch.float32


def test_without_guidance_there_is_no_lesion_head_and_nothing_else_is_missing(network: EmtNet) -> None:
    plain = EmtNet(network.name, guided=False).eval()
    assert plain.lesion_head is None
    own = {name for name in network.state_dict() if not name.startswith("lesion_head.")}
    assert plain.state_dict().keys() == own
    plain.load_state_dict({name: network.state_dict()[name] for name in own})
    image = torch.randn(1, 1, 64, 64, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        with_head, without = network(image), plain(image)
    assert torch.equal(with_head.mask, without.mask)
    assert (with_head.malignancy - without.malignancy).abs() > 1e-3
    assert not without.gate.any()


def test_the_gate_opens_the_lesion_head_where_it_sees_one(network: EmtNet) -> None:
    head = network.lesion_head
    assert head is not None
    bias = head.gate.bias
    assert bias is not None
    x = torch.rand(1, network.architecture.decoder[-1], 4, 4, generator=torch.Generator().manual_seed(4))
    with torch.inference_mode():
        kept, gate = head(x)
        own = bias.clone()
        bias.fill_(-100.0)
        shut, _ = head(x)
        bias.copy_(own)
    assert gate.shape == (1, 1, 4, 4)
    assert kept.shape == (1, 1)
    assert kept.item() != 0.0
    assert shut.item() == 0.0


def multiply_accumulates(network: EmtNet) -> int:
    """Of every convolution and linear layer, counted while one image of the networks' own size goes through."""
    counted = 0

    def count(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal counted
        assert isinstance(layer.weight, Tensor)
        counted += output.numel() * layer.weight[0].numel()

    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    with torch.inference_mode():
        network(torch.zeros(1, 1, INPUT_SIZE, INPUT_SIZE))
    for hook in hooks:
        hook.remove()
    return counted


def test_the_sibling_costs_at_most_a_quarter() -> None:
    small, large = (multiply_accumulates(EmtNet(name).eval()) for name in ("emtnet-s", "emtnet"))
    assert 0.6e9 < large < 0.75e9
    assert small <= large / 4
    assert small <= 0.21e9


def test_the_network_stays_small() -> None:
    network = EmtNet()
    encoder = sum(parameter.numel() for parameter in [*network.stem.parameters(), *network.blocks.parameters()])
    everything = sum(parameter.numel() for parameter in network.parameters())
    assert 3.1e6 < encoder < 3.3e6  # MobileNetV1 1.0 without its classifier: 3.2 million
    assert encoder < everything < 1.15 * encoder
    assert sum(parameter.numel() for parameter in EmtNet("emtnet-s").parameters()) < 0.51 * everything


def test_state_names_and_shapes_are_those_of_every_checkpoint_written_so_far(network: EmtNet) -> None:
    """Golden: a renamed layer makes all earlier checkpoints unreadable; raise `emtnet.weights.SCHEMA` with it."""
    state = network.state_dict()
    names = list(state)
    assert names[:3] == ["stem.conv.weight", "stem.norm.weight", "stem.norm.bias"]
    assert names[6] == "blocks.0.depthwise.conv.weight"
    assert [name for name in names if "head." in name and "features" not in name] == [
        "mask_head.weight",
        "mask_head.bias",
        "class_head.weight",
        "class_head.bias",
        "lesion_head.gate.weight",
        "lesion_head.gate.bias",
        "lesion_head.linear.weight",
    ]
    listing = "\n".join(f"{name} {tuple(tensor.shape)}" for name, tensor in state.items())
    assert (len(names), hashlib.sha256(listing.encode()).hexdigest()) == GOLDEN_STATE[network.name]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_same_weights_compute_the_same_in_every_version(name: str) -> None:
    """Golden: names alone do not notice another padding, upsampling, activation or skip of the same width."""
    rng = np.random.default_rng(0)
    network = EmtNet(name).eval()
    with torch.no_grad():
        for key, tensor in network.state_dict().items():
            if key.endswith("conv.weight"):
                tensor.copy_(torch.from_numpy(rng.normal(0, (tensor[0].numel() / 2) ** -0.5, tensor.shape)))
            elif tensor.is_floating_point():
                tensor.copy_(torch.from_numpy(rng.uniform(0.5, 1.5, tensor.shape)))
        image = torch.from_numpy(rng.uniform(-1, 1, (1, 1, 64, 64))).float()
        mask, malignancy, gate, _ = network(image)
    figures = [malignancy[0, 0], mask.mean(), mask.std(), mask[0, 0, 0, 0], mask[0, 0, 10, 5], mask[0, 0, -1, -1]]
    figures += [gate.mean(), gate[0, 0, 1, 2]]
    assert [figure.item() for figure in figures] == pytest.approx(GOLDEN_FIGURES[name], rel=1e-3)


def test_dropout_and_batch_statistics_are_for_training_only() -> None:
    torch.manual_seed(0)
    network = EmtNet()
    image = torch.randn(2, 1, 64, 64)
    network.train()
    with torch.no_grad():
        first, second = network(image)[1], network(image)[1]
    assert not torch.equal(first, second)
    network.eval()
    with torch.no_grad():
        first, second = network(image)[1], network(image)[1]
    assert torch.equal(first, second)


class _Input(nn.Module):
    """Shows what the exported network feeds its inside."""

    def forward(self, x: Tensor) -> Outputs:
        return Outputs(x, x, x, x)


def test_the_exported_network_normalises_every_grey_level_exactly() -> None:
    exported = ExportedEmtNet(EmtNet())
    exported.network = _Input()  # type: ignore[assignment]
    levels = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    seen, _, _ = exported(levels)
    assert seen.dtype == torch.float32
    assert torch.equal(seen.flatten().double() * 128 + 128, torch.arange(256, dtype=torch.float64))
    assert seen.flatten()[128] == 0.0


def test_the_exported_network_is_the_network(network: EmtNet) -> None:
    image = torch.randint(0, 256, (1, 1, 224, 224), dtype=torch.uint8)
    with torch.inference_mode():
        exported = ExportedEmtNet(network)(image)
        direct = network((image.float() - 128) / 128)
    assert len(exported) == 3
    assert torch.equal(exported[0], direct.mask)
    assert torch.equal(exported[1], direct.malignancy)
    assert torch.equal(exported[2], direct.features)
