"""Distillation: how a teacher's answers and the labels are mixed."""

import math
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from edge.errors import DataError
from edge.manifest import OperatingPoint
from emtnet.calls import Calls, store_calls
from emtnet.loss import Targets
from emtnet.network import EmtNet
from emtnet.teacher import Teacher
from emtnet.weights import SCHEMA, CheckpointInfo, load_checkpoint, save_checkpoint

INFO = CheckpointInfo(
    schema=SCHEMA,
    network="emtnet-s",
    guided=True,
    operating_point=OperatingPoint(0.4, "malignant", "nothing", 2.5),
    presence=None,
    trained_on=("a" * 64,),
    tuned_on=(),
    data=(),
    recipe={},
    metrics={},
    versions={},
)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("teacher") / "emtnet-s.safetensors"
    torch.manual_seed(0)
    network = EmtNet("emtnet-s")
    with torch.no_grad():
        network.class_head.bias.fill_(1.0)
    save_checkpoint(path, network, INFO)
    return path


@pytest.fixture
def teacher(path: Path) -> Teacher:
    return Teacher.open(path)


def batch(side: int = 32) -> tuple[Tensor, Targets]:
    """Four images: drawn and labelled, drawn only, labelled only, neither."""
    generator = torch.Generator().manual_seed(1)
    image = torch.randn(4, 1, 64, 64, generator=generator)
    mask = (torch.rand(4, 1, side, side, generator=generator) < 0.3).float()
    mask[2:] = math.nan
    return image, Targets.drawn(mask, torch.tensor([[1.0], [math.nan], [0.0], [math.nan]]))


def answers(path: Path, image: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Probabilities of the network itself."""
    network, _ = load_checkpoint(path)
    with torch.inference_mode():
        outputs = network(image)
    mask = F.interpolate(torch.sigmoid(outputs.mask), size=(side, side), mode="area")
    return mask, torch.sigmoid(outputs.malignancy)


def test_a_teacher_is_never_trained(teacher: Teacher) -> None:
    assert teacher.info == INFO
    assert not teacher.network.training
    assert not any(parameter.requires_grad for parameter in teacher.network.parameters())


def test_a_teacher_is_its_weights(path: Path, teacher: Teacher, tmp_path: Path) -> None:
    """Another operating point makes no other teacher, another number does."""
    copy = Path(shutil.copy(path, tmp_path))
    store_calls(copy, Calls(OperatingPoint(0.7, "malignant", "others", 0.5), None, ("b" * 64,)))
    again = Teacher.open(copy)
    assert again.info != teacher.info
    assert again.sha256 == teacher.sha256
    image, targets = batch()
    assert torch.equal(
        again.blend(image, targets, share=1.0).label[0], teacher.blend(image, targets, share=1.0).label[0]
    )
    network, info = load_checkpoint(path)
    with torch.no_grad():
        network.mask_head.weight.add_(0.5)
    save_checkpoint(copy, network, info)
    assert Teacher.open(copy).sha256 != teacher.sha256


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 1.0])
@pytest.mark.parametrize("side", [16, 32])
def test_targets_are_mixed_by_the_share(path: Path, teacher: Teacher, side: int, share: float) -> None:
    """Also for a student whose mask is twice as fine."""
    image, targets = batch(side)
    blended = teacher.blend(image, targets, share=share)
    mask, label = answers(path, image, side)
    wanted = Targets.drawn(targets.mask * (1 - share) + mask * share, targets.label * (1 - share) + label * share)
    torch.testing.assert_close(blended.mask, wanted.mask, equal_nan=True)
    torch.testing.assert_close(blended.label, wanted.label, equal_nan=True)
    assert not blended.mask.requires_grad


def test_a_teacher_does_not_say_whether_there_is_a_lesion(teacher: Teacher) -> None:
    """One that sees a lesion everywhere would else teach that every normal has one, and one that sees none the contrary."""
    image, targets = batch(16)
    mask = torch.zeros_like(targets.mask)
    mask[0, 0, 3:5, 3:5] = 1.0
    for bias in (-20.0, 20.0):
        with torch.no_grad():
            teacher.network.mask_head.bias.fill_(bias)  # type: ignore[union-attr]
        blended = teacher.blend(image, Targets.drawn(mask, targets.label), share=0.9)
        assert blended.present.tolist() == [True, False, False, False]


def test_at_the_ends_they_are_the_labels_or_the_teacher_exactly(path: Path, teacher: Teacher) -> None:
    image, targets = batch(16)
    labels = teacher.blend(image, targets, share=0.0)
    assert torch.equal(labels.mask[:2], targets.mask[:2])
    assert torch.equal(labels.label[::2], targets.label[::2])
    mask, label = answers(path, image, 16)
    own = teacher.blend(image, targets, share=1.0)
    torch.testing.assert_close(own.mask[:2], mask[:2], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(own.label[::2], label[::2], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("share", [0.0, 0.7, 1.0])
def test_what_nobody_knows_the_teacher_does_not_tell(teacher: Teacher, share: float) -> None:
    image, targets = batch()
    blended = teacher.blend(image, targets, share=share)
    assert torch.equal(blended.mask.isnan(), targets.mask.isnan())
    assert torch.equal(blended.label.isnan(), targets.label.isnan())


def test_another_file_is_no_teacher(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a safetensors checkpoint"):
        Teacher.open(tmp_path / "none.safetensors")
