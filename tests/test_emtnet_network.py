"""EMT-Net: shapes, size, names that checkpoints depend on, and the exported input."""

import hashlib

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from emtnet.network import INPUT_SIZE, MASK_STRIDE, EmtNet, ExportedEmtNet

GOLDEN_STATE = "a8dc2b0569c8802b7d807d6b6b4a24c3a9d28aaf86db70ff20bad02529d6e4b3"
GOLDEN_FIGURES = [449.3378, 42.6048, 4.1821, 26.374, 44.7557, 27.4878]


@pytest.fixture(scope="module")
def network() -> EmtNet:
    torch.manual_seed(0)
    return EmtNet().eval()


@pytest.mark.parametrize(("count", "height", "width"), [(1, 224, 224), (3, 64, 96), (2, 32, 32)])
def test_outputs_are_a_mask_at_half_resolution_and_one_logit(
    network: EmtNet, count: int, height: int, width: int
) -> None:
    with torch.inference_mode():
        mask, malignancy = network(torch.zeros(count, 1, height, width))
    assert mask.shape == (count, 1, height // MASK_STRIDE, width // MASK_STRIDE)
    assert malignancy.shape == (count, 1)
    assert mask.dtype == malignancy.dtype == torch.float32
    assert (INPUT_SIZE, MASK_STRIDE) == (224, 2)


def test_outputs_are_logits_of_each_image_by_itself(network: EmtNet) -> None:
    images = torch.randn(2, 1, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        masks, malignancies = network(images)
        mask, malignancy = network(images[1:])
    torch.testing.assert_close(masks[1:], mask, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(malignancies[1:], malignancy, rtol=1e-4, atol=1e-5)


def test_the_mask_lies_where_the_image_changed() -> None:
    """In an untrained network too: the skips carry position, half-pixel upsampling keeps it."""
    torch.manual_seed(0)
    network = EmtNet().eval()
    image = torch.zeros(2, 1, 224, 224)
    image[1, 0, 40:44, 180:184] = 1.0
    with torch.inference_mode():
        mask, _ = network(image)
    change = (mask[1, 0] - mask[0, 0]).abs()
    row, column = divmod(int(change.argmax()), change.shape[1])
    assert abs(row - 21) <= 3
    assert abs(column - 91) <= 3


def test_the_network_stays_small(network: EmtNet) -> None:
    encoder = sum(parameter.numel() for parameter in [*network.stem.parameters(), *network.blocks.parameters()])
    everything = sum(parameter.numel() for parameter in network.parameters())
    assert 3.1e6 < encoder < 3.3e6  # MobileNetV1 1.0 without its classifier: 3.2 million
    assert encoder < everything < 1.15 * encoder


def test_state_names_and_shapes_are_those_of_every_checkpoint_written_so_far(network: EmtNet) -> None:
    """Golden: a renamed layer makes all earlier checkpoints unreadable; raise `emtnet.weights.SCHEMA` with it."""
    state = network.state_dict()
    names = list(state)
    assert names[:3] == ["stem.conv.weight", "stem.norm.weight", "stem.norm.bias"]
    assert names[6] == "blocks.0.depthwise.conv.weight"
    assert names[-5:] == [
        "decoder.3.refine.pointwise.norm.num_batches_tracked",
        "mask_head.weight",
        "mask_head.bias",
        "class_head.weight",
        "class_head.bias",
    ]
    listing = "\n".join(f"{name} {tuple(tensor.shape)}" for name, tensor in state.items())
    assert len(names) == 262
    assert hashlib.sha256(listing.encode()).hexdigest() == GOLDEN_STATE


def test_the_same_weights_compute_the_same_in_every_version() -> None:
    """Golden: names alone do not notice another padding, upsampling, activation or skip of the same width."""
    rng = np.random.default_rng(0)
    network = EmtNet().eval()
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if name.endswith("conv.weight"):
                tensor.copy_(torch.from_numpy(rng.normal(0, (tensor[0].numel() / 2) ** -0.5, tensor.shape)))
            elif tensor.is_floating_point():
                tensor.copy_(torch.from_numpy(rng.uniform(0.5, 1.5, tensor.shape)))
        image = torch.from_numpy(rng.uniform(-1, 1, (1, 1, 64, 64))).float()
        mask, malignancy = network(image)
    figures = [malignancy[0, 0], mask.mean(), mask.std(), mask[0, 0, 0, 0], mask[0, 0, 10, 25], mask[0, 0, 31, 31]]
    assert [figure.item() for figure in figures] == pytest.approx(GOLDEN_FIGURES, rel=1e-3)


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

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


def test_the_exported_network_normalises_every_grey_level_exactly() -> None:
    exported = ExportedEmtNet(EmtNet())
    exported.network = _Input()  # type: ignore[assignment]
    levels = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    seen, _ = exported(levels)
    assert seen.dtype == torch.float32
    assert torch.equal(seen.flatten().double() * 128 + 128, torch.arange(256, dtype=torch.float64))
    assert seen.flatten()[128] == 0.0


def test_the_exported_network_is_the_network(network: EmtNet) -> None:
    image = torch.randint(0, 256, (1, 1, 224, 224), dtype=torch.uint8)
    with torch.inference_mode():
        exported = ExportedEmtNet(network)(image)
        direct = network((image.float() - 128) / 128)
    assert all(torch.equal(one, other) for one, other in zip(exported, direct, strict=True))
