"""The zoo: every network builds, carries its frames through every layer, and leaves PyTorch through both exporters.

Without training: the networks that figures are made of differ in their weights only.
"""

from functools import cache

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.zoo import ZOO, ZooEntry, export_onnx
from benchmarks.zoo.fit import fit

FRAMES = 3
CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)
CONTRACT = {
    "mobilenet_v2_unet": ((1, 224, 224), {"mask": (1, 224, 224), "malignancy": (1,)}),
    "mobilenet_v3_unet": ((1, 192, 192), {"mask": (1, 96, 96), "malignancy": (1,)}),
    "resnet_unet": ((1, 256, 256), {"mask": (1, 256, 256), "malignancy": (1,)}),
    "deeplab": ((1, 225, 193), {"mask": (1, 225, 193), "malignancy": (1,)}),
    "efficientnet_lite": ((1, 224, 224), {"mask": (1, 224, 224), "malignancy": (1,)}),
    "densenet_unet": ((1, 160, 160), {"mask": (1, 160, 160), "malignancy": (1,)}),
    "rgb_320x256": ((3, 256, 320), {"mask": (1, 256, 320), "malignancy": (1,)}),
    "segmenter_softmax": ((1, 208, 176), {"mask": (3, 208, 176)}),
    "classifier_only": ((1, 192, 160), {"diagnosis": (3,)}),
    "emtnet": ((1, 224, 224), {"mask": (1, 112, 112), "malignancy": (1,)}),
}
"""Input (C, H, W) and outputs of each network, which those who convert it rely on."""
OPERATORS = {
    "mobilenet_v2_unet": {"Clip", "ConvTranspose", "Concat"},
    "mobilenet_v3_unet": {"HardSwish", "HardSigmoid", "ConvTranspose"},
    "resnet_unet": {"MaxPool", "Resize", "Concat"},
    "deeplab": {"Resize", "Concat"},
    "efficientnet_lite": {"Sigmoid", "Mul", "Resize"},
    "densenet_unet": {"BatchNormalization", "AveragePool", "Concat"},
    "rgb_320x256": {"LeakyRelu", "PRelu", "DepthToSpace", "Pad"},
    "segmenter_softmax": {"Softmax", "Sigmoid", "MaxPool", "Resize"},
    "classifier_only": {"ReduceMax", "ReduceMean", "Gemm"},
    "emtnet": {"Clip", "Resize"},
}
"""What each network is in the zoo for."""

every_entry = pytest.mark.parametrize("entry", ZOO.values(), ids=ZOO)


@cache
def network(name: str) -> nn.Module:
    """Nobody may change it."""
    return ZOO[name].build()


@cache
def images(name: str) -> Tensor:
    entry = ZOO[name]
    return torch.from_numpy(entry.normalise(entry.frames(FRAMES)))


def outputs(entry: ZooEntry) -> dict[str, NDArray[np.float32]]:
    with torch.inference_mode():
        found = network(entry.name)(images(entry.name))
    named = zip(entry.outputs, found if isinstance(found, tuple) else (found,), strict=True)
    return {name: value.numpy() for name, value in named}


def test_the_zoo_is_what_its_users_rely_on() -> None:
    assert set(ZOO) == set(CONTRACT)
    for name, entry in ZOO.items():
        assert name == entry.name
        assert (entry.channels, *entry.size) == CONTRACT[name][0]


@every_entry
def test_outputs_have_their_shapes_and_differ_from_frame_to_frame(entry: ZooEntry) -> None:
    found = outputs(entry)
    assert {name: value.shape[1:] for name, value in found.items()} == CONTRACT[entry.name][1]
    for name, value in found.items():
        assert np.isfinite(value).all()
        assert value.std(axis=0).mean() > 0.02, name
        assert np.abs(value).max() < 50, name


@every_entry
def test_every_convolution_carries_the_image_on(entry: ZooEntry) -> None:
    deviations: dict[str, float] = {}
    hooks = [
        module.register_forward_hook(lambda _, __, out, name=name: deviations.update({name: float(out.std())}))
        for name, module in network(entry.name).named_modules()
        if isinstance(module, CONVOLUTIONS)
    ]
    outputs(entry)
    for hook in hooks:
        hook.remove()
    assert len(deviations) == len(hooks) >= 6
    assert min(deviations.values()) > 0.02, min(deviations, key=lambda name: deviations[name])
    assert max(deviations.values()) < 20, max(deviations, key=lambda name: deviations[name])


@every_entry
def test_sizes_are_small(entry: ZooEntry) -> None:
    parameters = sum(parameter.numel() for parameter in network(entry.name).parameters())
    assert 50_000 < parameters < (4_000_000 if entry.name == "emtnet" else 2_000_000)


@every_entry
def test_no_module_learns_or_drops(entry: ZooEntry) -> None:
    built = network(entry.name)
    assert not any(module.training for module in built.modules())
    assert not any(parameter.requires_grad for parameter in built.parameters())


@pytest.mark.parametrize(
    ("name", "steps"), [("mobilenet_v2_unet", 0), ("classifier_only", 2), ("segmenter_softmax", 1)]
)
def test_fitting_again_gives_the_same_weights(name: str, steps: int) -> None:
    entry = ZOO[name]

    def fitted() -> dict[str, Tensor]:
        torch.rand(1)  # the generator of the caller stands elsewhere each time
        made = fit(entry.architecture, entry.outputs, size=entry.size, normalise=entry.normalise_grey, steps=steps)
        return made.state_dict()

    once, again = fitted(), fitted()
    assert all(torch.equal(once[key], again[key]) for key in once)


def test_building_leaves_the_callers_generator_and_threads_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    threads = torch.get_num_threads()
    entry = ZOO["classifier_only"]
    fit(entry.architecture, entry.outputs, size=entry.size, normalise=entry.normalise_grey, steps=1)
    assert torch.equal(torch.rand(3), expected)
    assert torch.get_num_threads() == threads


def test_training_changes_the_weights() -> None:
    entry = ZOO["classifier_only"]
    untrained, trained = entry.build().state_dict(), entry.build(steps=2).state_dict()
    assert not torch.equal(untrained["features.0.0.weight"], trained["features.0.0.weight"])


def test_what_a_caller_does_to_a_network_is_his() -> None:
    entry = ZOO["classifier_only"]
    nn.init.zeros_(entry.build().get_parameter("head.4.weight"))
    assert entry.build().get_parameter("head.4.weight").abs().max() > 0


def test_frames_are_pixels_and_are_normalised_by_channel() -> None:
    entry = ZOO["rgb_320x256"]
    frames = entry.frames(2)
    assert frames.dtype == np.uint8
    assert frames.shape == (2, 3, 256, 320)
    assert not np.array_equal(frames[0], frames[1])
    assert np.array_equal(entry.frames(1, first=1)[0], frames[1])
    expected = (frames[:, 2].astype(np.float32) - 103.53) / 57.375
    assert np.allclose(entry.normalise(frames)[:, 2], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"std": (0.0,)}, "std"), ({"mean": (0.0, 0.0)}, "one value a channel"), ({"outputs": ("masks",)}, "masks")],
)
def test_an_entry_that_makes_no_sense_is_refused(changes: dict[str, tuple[object, ...]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ZooEntry("odd", nn.Identity, (64, 64), **changes)  # type: ignore[arg-type]


@every_entry
def test_both_exporters_write_it_as_pytorch_computes_it(entry: ZooEntry) -> None:
    """`export_onnx` compares the numbers."""
    for dynamo, opset in ((True, 18), (False, 11)):
        model = export_onnx(entry, opset=opset, dynamo=dynamo)
        onnx.checker.check_model(model)
        (image,) = model.graph.input
        assert image.name == "image"
        assert tuple(dim.dim_value for dim in image.type.tensor_type.shape.dim) == entry.shape
        assert tuple(value.name for value in model.graph.output) == entry.outputs
        if dynamo:
            assert OPERATORS[entry.name] <= {node.op_type for node in model.graph.node}


def test_the_check_of_an_export_would_notice(monkeypatch: pytest.MonkeyPatch) -> None:
    real = torch.onnx.export

    def wrong(module: nn.Module, *args: object, **options: object) -> object:
        with torch.no_grad():
            module.get_parameter("head.4.weight").mul_(1.01)
        program = real(module, *args, **options)  # type: ignore[arg-type]
        with torch.no_grad():
            module.get_parameter("head.4.weight").div_(1.01)
        return program

    monkeypatch.setattr(torch.onnx, "export", wrong)
    with pytest.raises(AssertionError, match="diagnosis in ONNX differs from PyTorch"):
        export_onnx(ZOO["classifier_only"], dynamo=False, opset=13)
