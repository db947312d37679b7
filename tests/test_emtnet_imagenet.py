"""The encoder's start: the grey network computes what the ImageNet network computes on a grey picture."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from edge.errors import DataError
from emtnet.imagenet import load_imagenet_encoder
from emtnet.network import EmtNet, SeparableBlock

Weights = dict[str, NDArray[np.float32]]
EPS = 1e-3
WIDTHS = (32, 64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)


@pytest.fixture(scope="module")
def weights() -> Weights:
    """Random arrays under the names and in the layout of TensorFlow's MobileNetV1 1.0."""
    rng = np.random.default_rng(0)
    arrays: Weights = {}

    def add(scope: str, kind: str, shape: tuple[int, ...], channels: int) -> None:
        fan_in = shape[0] * shape[1] * (shape[2] if kind == "weights" else 1)
        arrays[f"MobilenetV1/{scope}/{kind}"] = rng.normal(0, fan_in**-0.5, shape).astype(np.float32)
        norm = f"MobilenetV1/{scope}/BatchNorm"
        arrays[f"{norm}/gamma"] = rng.uniform(0.5, 1.5, channels).astype(np.float32)
        arrays[f"{norm}/beta"] = rng.normal(0.5, 0.5, channels).astype(np.float32)
        arrays[f"{norm}/moving_mean"] = rng.normal(0, 0.5, channels).astype(np.float32)
        arrays[f"{norm}/moving_variance"] = rng.uniform(0.2, 2.0, channels).astype(np.float32)

    add("Conv2d_0", "weights", (3, 3, 3, 32), 32)
    for index, (inputs, outputs) in enumerate(pairwise(WIDTHS), start=1):
        add(f"Conv2d_{index}_depthwise", "depthwise_weights", (3, 3, inputs, 1), inputs)
        add(f"Conv2d_{index}_pointwise", "weights", (1, 1, inputs, outputs), outputs)
    return arrays


@pytest.fixture(scope="module")
def loaded(weights: Weights, tmp_path_factory: pytest.TempPathFactory) -> EmtNet:
    path = tmp_path_factory.mktemp("imagenet") / "mobilenet.npz"
    np.savez(path, **weights)  # type: ignore[arg-type]
    torch.manual_seed(0)
    network = EmtNet().eval()
    load_imagenet_encoder(network, path)
    return network


@pytest.fixture(scope="module")
def loaded_sibling(weights: Weights, tmp_path_factory: pytest.TempPathFactory) -> EmtNet:
    path = tmp_path_factory.mktemp("imagenet") / "mobilenet.npz"
    np.savez(path, **weights)  # type: ignore[arg-type]
    network = EmtNet("emtnet-s").eval()
    load_imagenet_encoder(network, path)
    return network


def original_norm(x: Tensor, weights: Weights, scope: str) -> Tensor:
    gamma, beta, mean, variance = (
        torch.from_numpy(weights[f"MobilenetV1/{scope}/BatchNorm/{name}"])[:, None, None]
        for name in ("gamma", "beta", "moving_mean", "moving_variance")
    )
    return torch.clamp((x - mean) / torch.sqrt(variance + EPS) * gamma + beta, 0, 6)


def original_stem(grey: Tensor, weights: Weights) -> Tensor:
    """TensorFlow's first layer on grey pixels of 0..255: RGB, p / 127.5 − 1, SAME padding, stride 2."""
    rgb = (grey / 127.5 - 1.0).expand(-1, 3, -1, -1)
    kernel = torch.from_numpy(weights["MobilenetV1/Conv2d_0/weights"]).permute(3, 2, 0, 1)
    return original_norm(F.conv2d(F.pad(rgb, (0, 1, 0, 1)), kernel, stride=2), weights, "Conv2d_0")


def test_the_stem_sees_what_the_original_sees(loaded: EmtNet, weights: Weights) -> None:
    grey = torch.randint(0, 256, (2, 1, 64, 64), generator=torch.Generator().manual_seed(1)).float()
    with torch.inference_mode():
        ours = loaded.stem((grey - 128) / 128)
    theirs = original_stem(grey, weights)
    assert theirs.std() > 0.3
    inside = (..., slice(0, -1), slice(0, -1))  # padding is 0 in both scales: the last row and column differ
    torch.testing.assert_close(ours[inside], theirs[inside], rtol=0, atol=1e-4)


def test_the_shift_between_both_scales_is_not_lost(loaded: EmtNet, weights: Weights) -> None:
    """The test above would notice: without gain and offset the stem differs by more than its tolerance."""
    grey = torch.full((1, 1, 8, 8), 200.0)
    with torch.inference_mode():
        unscaled = loaded.stem((grey / 127.5 - 1.0)[..., :, :])
    difference = (unscaled - original_stem(grey, weights))[..., :-1, :-1].abs().max()
    assert difference > 1e-3


def test_the_siblings_stem_sees_the_original_on_the_frame_shrunk_by_two(
    loaded_sibling: EmtNet, weights: Weights
) -> None:
    grey = torch.randint(0, 256, (2, 1, 64, 64), generator=torch.Generator().manual_seed(1)).float()
    with torch.inference_mode():
        ours = loaded_sibling.stem((grey - 128) / 128)
    # Padded by one all around, its second output begins at pixel 3.
    theirs = original_stem(F.avg_pool2d(grey[..., 3:63, 3:63], 2), weights)[..., :-1, :-1]
    assert theirs.shape == (2, 32, 14, 14)
    assert theirs.std() > 0.3
    torch.testing.assert_close(ours[..., 1:15, 1:15], theirs, rtol=0, atol=1e-4)


def test_the_siblings_blocks_are_the_first_eleven(loaded: EmtNet, loaded_sibling: EmtNet) -> None:
    state = loaded.state_dict()
    own = {name: tensor for name, tensor in loaded_sibling.state_dict().items() if name.startswith("blocks.")}
    assert len({name.split(".")[1] for name in own}) == 11
    assert all(torch.equal(tensor, state[name]) for name, tensor in own.items())


@pytest.mark.parametrize("index", [2, 3, 13])
def test_blocks_compute_what_the_original_computes(loaded: EmtNet, weights: Weights, index: int) -> None:
    block = loaded.blocks[index - 1]
    assert isinstance(block, SeparableBlock)
    inputs = WIDTHS[index - 1]
    x = torch.rand(1, inputs, 6, 6, generator=torch.Generator().manual_seed(index)) * 6
    with torch.inference_mode():
        ours = block(x)
    depthwise = weights[f"MobilenetV1/Conv2d_{index}_depthwise/depthwise_weights"]
    pointwise = weights[f"MobilenetV1/Conv2d_{index}_pointwise/weights"]
    stride = 2 if index == 2 else 1
    padded = np.pad(x[0].numpy(), ((0, 0), (0, 1), (0, 1)) if stride == 2 else ((0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))[:, ::stride, ::stride]
    filtered = torch.from_numpy(np.einsum("cyxhw,hwc->cyx", windows, depthwise[..., 0]))
    middle = original_norm(filtered, weights, f"Conv2d_{index}_depthwise").numpy()
    mixed = torch.from_numpy(np.einsum("cyx,cd->dyx", middle, pointwise[0, 0]))
    theirs = original_norm(mixed, weights, f"Conv2d_{index}_pointwise")
    assert theirs.std() > 0.1
    torch.testing.assert_close(ours[0], theirs, rtol=1e-4, atol=1e-4)


def test_the_first_depthwise_layer_keeps_its_larger_eps(loaded: EmtNet) -> None:
    block = loaded.blocks[0]
    assert isinstance(block, SeparableBlock)
    assert block.depthwise.norm.eps == 0.05
    assert loaded.stem.norm.eps == block.pointwise.norm.eps == EPS


def test_decoder_and_heads_keep_their_own_start(loaded: EmtNet) -> None:
    torch.manual_seed(0)
    fresh = EmtNet().state_dict()
    for name, tensor in loaded.state_dict().items():
        if not name.startswith(("stem.", "blocks.")):
            assert torch.equal(tensor, fresh[name]), name
        elif not name.endswith("num_batches_tracked"):
            assert not torch.equal(tensor, fresh[name]), name


def write_bytes(content: bytes) -> Callable[[Path, Weights], None]:
    def write(path: Path, weights: Weights) -> None:
        path.write_bytes(content)

    return write


def write_array(path: Path, weights: Weights) -> None:
    with path.open("wb") as stream:
        np.save(stream, np.zeros(3))


def write_incomplete(path: Path, weights: Weights) -> None:
    np.savez(path, **{name: array for name, array in weights.items() if "Conv2d_13" not in name})  # type: ignore[arg-type]


def write_narrow(path: Path, weights: Weights) -> None:
    np.savez(path, **{name: array[..., : array.shape[-1] // 2] for name, array in weights.items()})  # type: ignore[arg-type]


def write_text(path: Path, weights: Weights) -> None:
    np.savez(path, **{name: np.array(["x"]) for name in weights})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "write",
    [write_bytes(b""), write_bytes(b"garbage" * 9), write_array, write_incomplete, write_narrow, write_text],
    ids=["empty", "garbage", "npy", "layers missing", "another width", "no numbers"],
)
def test_another_file_is_refused(tmp_path: Path, weights: Weights, write: Callable[[Path, Weights], None]) -> None:
    path = tmp_path / "w.npz"
    write(path, weights)
    with pytest.raises(DataError, match=r"w\.npz: not the ImageNet MobileNetV1 weights") as refused:
        load_imagenet_encoder(EmtNet(), path)
    assert "unsafely" not in str(refused.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.npz: not the ImageNet"):
        load_imagenet_encoder(EmtNet(), tmp_path / "none.npz")


def test_the_real_weights_load_and_see_edges(shared: Path) -> None:
    path = shared / "weights/mobilenet_v1_1.0_224_imagenet_float32.npz"
    with np.load(path) as arrays:
        weights = {name: arrays[name] for name in arrays.files}
    network = EmtNet().eval()
    load_imagenet_encoder(network, path)
    grey = torch.full((1, 1, 64, 64), 30.0)
    grey[..., 32:] = 220.0
    with torch.inference_mode():
        ours = network.stem((grey - 128) / 128)
    torch.testing.assert_close(ours[..., :-1, :-1], original_stem(grey, weights)[..., :-1, :-1], rtol=0, atol=1e-3)
    assert ours[0, :, 10, 14:18].std(dim=1).max() > 1.0
