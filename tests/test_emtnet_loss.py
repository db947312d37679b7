"""The losses: exact against float64, finite anywhere, and moved by their parameters the way they should."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from emtnet.loss import MultitaskLoss, Targets, balanced_cross_entropy, presence_cross_entropy, soft_dice
from emtnet.network import Outputs

LOGITS = st.floats(-1e4, 1e4, width=32)
BALANCE = st.floats(0.01, 0.99)
BATCH = st.lists(st.tuples(LOGITS, st.sampled_from([0.0, 0.05, 0.5, 1.0])), min_size=1, max_size=12)


def reference(logits: NDArray[np.float64], targets: NDArray[np.float64], balance: float) -> float:
    """The class loss as its formula stands, in float64."""
    missed = balance * targets * np.logaddexp(0, -logits)
    alarmed = (1 - balance) * (1 - targets) * np.logaddexp(0, logits)
    return float(2 * (missed + alarmed).mean())


@given(BATCH, BALANCE)
def test_class_loss_is_its_formula_and_its_gradient_is_finite(batch: list[tuple[float, float]], balance: float) -> None:
    values, wanted = (np.array(column) for column in zip(*batch, strict=True))
    logits = torch.tensor(values, dtype=torch.float32, requires_grad=True)
    loss = balanced_cross_entropy(logits, torch.tensor(wanted, dtype=torch.float32), balance=balance)
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == pytest.approx(reference(values, wanted, balance), rel=1e-5, abs=1e-7)
    gradient = logits.grad
    assert gradient is not None
    assert torch.isfinite(gradient).all()
    assert gradient.abs().max() <= 2.0 / len(batch) + 1e-6


def test_class_loss_by_hand() -> None:
    zero = torch.zeros(2, 1)
    targets = torch.tensor([[1.0], [0.0]])
    assert balanced_cross_entropy(zero, targets, balance=0.5).item() == pytest.approx(math.log(2))
    far = torch.tensor([[-1e4], [1e4]])
    assert balanced_cross_entropy(far, targets, balance=0.75).item() == pytest.approx(1e4)
    assert balanced_cross_entropy(far[:1], targets[:1], balance=0.75).item() == pytest.approx(1.5e4)
    assert balanced_cross_entropy(-far, targets, balance=0.75).item() == 0.0


def test_half_is_the_plain_cross_entropy() -> None:
    logits, targets = torch.linspace(-4, 4, 9), (torch.arange(9) % 2).float()
    plain = F.binary_cross_entropy_with_logits(logits, targets)
    torch.testing.assert_close(balanced_cross_entropy(logits, targets, balance=0.5), plain)


@given(st.floats(0.05, 0.95), st.integers(1, 9))
def test_the_optimum_of_a_mixed_batch_moves_with_the_balance(balance: float, malignant: int) -> None:
    """Where one logit must serve a batch of mixed classes, the best probability is b·k / (b·k + (1 − b)·(n − k))."""
    targets = torch.tensor([1.0] * malignant + [0.0] * (10 - malignant))
    best = balance * malignant / (balance * malignant + (1 - balance) * (10 - malignant))
    logit = torch.tensor(math.log(best / (1 - best)), dtype=torch.float64, requires_grad=True)
    loss = balanced_cross_entropy(logit.expand(10), targets, balance=balance)
    loss.backward()  # type: ignore[no-untyped-call]
    assert logit.grad is not None
    assert logit.grad.item() == pytest.approx(0.0, abs=1e-7)


def test_a_higher_balance_calls_more_malignant() -> None:
    targets = torch.tensor([1.0, 0.0, 0.0])
    grid = torch.linspace(-5, 5, 1001)
    best = []
    for balance in (0.2, 0.5, 0.8):
        losses = [balanced_cross_entropy(logit.expand(3), targets, balance=balance).item() for logit in grid]
        best.append(torch.sigmoid(grid[int(np.argmin(losses))]).item())
    assert best == pytest.approx([1 / 9, 1 / 3, 2 / 3], abs=0.01)


@pytest.mark.parametrize("balance", [0.0, 1.0, -0.1, 1.5, math.nan])
def test_a_balance_outside_its_range_is_refused(balance: float) -> None:
    with pytest.raises(ValueError, match="balance"):
        balanced_cross_entropy(torch.zeros(1), torch.zeros(1), balance=balance)
    with pytest.raises(ValueError, match="balance"):
        MultitaskLoss(balance=balance)


@pytest.mark.parametrize("smoothing", [-0.1, 1.0, math.nan])
def test_a_label_smoothing_outside_its_range_is_refused(smoothing: float) -> None:
    with pytest.raises(ValueError, match="label_smoothing"):
        MultitaskLoss(label_smoothing=smoothing)


def shown(targets: Tensor) -> Tensor:
    """Whether there is a lesion in each drawn mask."""
    return targets.amax((1, 2, 3)) > 0.0


@given(st.integers(0, 2**32 - 1), st.floats(0, 1), st.floats(0.1, 30))
def test_soft_dice_lies_between_0_and_1(seed: int, share: float, spread: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = spread * torch.randn(2, 1, 6, 5, generator=generator)
    targets = (torch.rand(2, 1, 6, 5, generator=generator) < share).float()
    assert 0.0 <= soft_dice(logits, targets, shown(targets)).item() <= 1.0


def test_soft_dice_of_known_predictions() -> None:
    targets = torch.zeros(1, 1, 10, 10)
    targets[..., :5] = 1.0
    perfect = 100.0 * (targets - 0.5)
    assert soft_dice(perfect, targets, shown(targets)).item() == pytest.approx(0.0, abs=1e-6)
    assert soft_dice(-perfect, targets, shown(targets)).item() == pytest.approx(
        1.0, abs=0.011
    )  # 1 − 1 / 101: `smooth` is one pixel
    everything = torch.full_like(targets, 100.0)
    assert soft_dice(everything, targets, shown(targets)).item() == pytest.approx(1 - 101 / 151)


def test_soft_dice_says_nothing_of_images_without_a_lesion() -> None:
    targets = torch.zeros(3, 1, 10, 10)
    assert soft_dice(torch.full_like(targets, 5.0), targets, shown(targets)).item() == 0.0
    targets[1, ..., :5] = 1.0
    targets[2] = 0.9  # what only a teacher sees
    present = torch.tensor([False, True, False])
    logits = torch.full_like(targets, 100.0, requires_grad=True)
    loss = soft_dice(logits, targets, present)
    assert loss.item() == pytest.approx(1 - 101 / 151)
    (gradient,) = torch.autograd.grad(soft_dice(0.01 * logits, targets, present), logits)
    assert gradient[1].any()
    assert not gradient[0].any()
    assert not gradient[2].any()


def test_soft_dice_weighs_images_alike_whatever_their_lesions_size() -> None:
    targets = torch.zeros(2, 1, 20, 20)
    targets[0, ..., :10] = 1.0
    targets[1, 0, 0, 0] = 1.0
    logits = 100.0 * (targets - 0.5)
    logits[1] = -100.0  # the small one is missed
    assert soft_dice(logits, targets, shown(targets)).item() == pytest.approx((0.0 + 0.5) / 2, abs=1e-6)


NO_GATE = torch.zeros(())
FEATURES = torch.full((1, 256), torch.nan)  # the loss does not look at them


def test_presence_is_read_from_the_highest_logits_of_each_image() -> None:
    logits = torch.full((2, 1, 20, 20), -9.0)
    logits[0, 0, 3, 4], logits[0, 0, 15, 2] = 1.0, 2.0  # 0.5 % of 400 pixels
    found, clear = math.log1p(math.exp(-1.5)), math.log1p(math.exp(-9.0))
    first, none = torch.tensor([True, False]), torch.tensor([False, False])
    assert presence_cross_entropy(logits, first).item() == pytest.approx((found + clear) / 2, rel=1e-5)
    assert presence_cross_entropy(logits, none).item() == pytest.approx((1.5 + found + clear) / 2, rel=1e-5)


def test_presence_has_its_weight_in_the_sum_and_needs_a_drawn_mask() -> None:
    generator = torch.Generator().manual_seed(7)
    drawn = torch.zeros(2, 1, 8, 8)
    drawn[0, 0, 2:5] = 1.0
    targets = Targets.drawn(drawn, torch.tensor([[1.0], [math.nan]]))
    outputs = Outputs(
        torch.randn(2, 1, 8, 8, generator=generator), torch.randn(2, 1, generator=generator), NO_GATE, FEATURES
    )
    without = MultitaskLoss()(outputs, targets)
    presence = presence_cross_entropy(outputs.mask, targets.present)
    assert MultitaskLoss(presence_weight=0.3)(outputs, targets).item() == pytest.approx(
        (without + 0.3 * presence).item()
    )
    undrawn = Targets.drawn(torch.full_like(targets.mask, math.nan), targets.label)
    assert MultitaskLoss(presence_weight=0.3)(outputs, undrawn).item() == MultitaskLoss()(outputs, undrawn).item()


@pytest.mark.parametrize("name", ["class_weight", "mask_weight", "presence_weight", "gate_weight"])
def test_a_negative_weight_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="not negative"):
        MultitaskLoss(**{name: -0.1})


def loss_of(loss: MultitaskLoss, malignancy: list[float], classes: list[float]) -> float:
    """Total loss where the mask is right, so that the class loss is left."""
    mask = torch.zeros(len(classes), 1, 8, 8)
    mask[:, :, 2:5] = 1.0
    outputs = Outputs(100.0 * (mask - 0.5), torch.tensor(malignancy)[:, None], NO_GATE, FEATURES)
    return loss(outputs, Targets.drawn(mask, torch.tensor(classes)[:, None])).item()


def leaf(*shape: int, value: float = 0.0) -> Tensor:
    return torch.full(shape, value, requires_grad=True)


def gradient(tensor: Tensor) -> Tensor:
    return torch.zeros_like(tensor) if tensor.grad is None else tensor.grad


def test_cases_without_a_lesion_have_no_class_loss() -> None:
    loss = MultitaskLoss()
    assert loss_of(loss, [2.0, -7.0], [1.0, math.nan]) == pytest.approx(loss_of(loss, [2.0], [1.0]), abs=1e-6)
    assert loss_of(loss, [2.0, 50.0], [1.0, math.nan]) == pytest.approx(math.log1p(math.exp(-2)), abs=1e-5)


def test_a_batch_of_normals_teaches_the_mask_only() -> None:
    mask, malignancy = leaf(2, 1, 8, 8), leaf(2, 1, value=3.0)
    targets = Targets.drawn(torch.zeros(2, 1, 8, 8), torch.full((2, 1), math.nan))
    loss = MultitaskLoss()(Outputs(mask, malignancy, NO_GATE, FEATURES), targets)
    loss.backward()  # type: ignore[no-untyped-call]
    assert math.isfinite(loss.item())
    assert (gradient(mask) > 0).all()
    assert not gradient(malignancy).any()


def test_an_image_without_a_drawn_mask_teaches_the_class_only() -> None:
    mask, malignancy, gate = leaf(2, 1, 8, 8), leaf(2, 1), leaf(2, 1, 2, 2)
    drawn = torch.ones(2, 1, 8, 8)
    drawn[0] = math.nan
    targets = Targets.drawn(drawn, torch.tensor([[1.0], [1.0]]))
    loss = MultitaskLoss(gate_weight=1.0)(Outputs(mask, malignancy, gate, FEATURES), targets)
    loss.backward()  # type: ignore[no-untyped-call]
    assert math.isfinite(loss.item())
    for tensor in (mask, gate):
        assert not gradient(tensor)[0].any()
        assert (gradient(tensor)[1] < 0).all()
    assert (gradient(malignancy) < 0).all()


def test_images_without_a_drawn_mask_do_not_thin_the_mask_loss() -> None:
    drawn = torch.ones(3, 1, 8, 8)
    drawn[1:] = math.nan
    unknown = torch.full((3, 1), math.nan)
    outputs = Outputs(torch.full((3, 1, 8, 8), 0.7), torch.zeros(3, 1), torch.full((3, 1, 2, 2), 0.3), FEATURES)
    loss = MultitaskLoss(gate_weight=0.5)
    alone = loss(Outputs(*(output[:1] for output in outputs)), Targets.drawn(drawn[:1], unknown[:1]))
    assert loss(outputs, Targets.drawn(drawn, unknown)).item() == alone.item()


@pytest.mark.parametrize("gate_weight", [0.0, 1.0])
def test_a_batch_that_teaches_nothing_is_no_loss(gate_weight: float) -> None:
    mask, malignancy, gate = leaf(2, 1, 8, 8), leaf(2, 1), leaf(2, 1, 2, 2)
    targets = Targets.drawn(torch.full((2, 1, 8, 8), math.nan), torch.full((2, 1), math.nan))
    loss = MultitaskLoss(gate_weight=gate_weight)(Outputs(mask, malignancy, gate, FEATURES), targets)
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == 0.0
    assert not gradient(malignancy).any()


@pytest.mark.parametrize(
    ("loss", "taught"),
    [
        (MultitaskLoss(class_weight=0.0), {"mask"}),
        (MultitaskLoss(mask_weight=0.0), {"malignancy"}),
        (MultitaskLoss(class_weight=0.0, mask_weight=0.0), set()),
        (MultitaskLoss(class_weight=0.0, mask_weight=0.0, gate_weight=1.0), {"gate"}),
        (MultitaskLoss(gate_weight=0.3), {"mask", "malignancy", "gate"}),
    ],
)
def test_what_weighs_nothing_is_not_taught(loss: MultitaskLoss, taught: set[str]) -> None:
    outputs = Outputs(leaf(1, 1, 8, 8), leaf(1, 1), leaf(1, 1, 2, 2), FEATURES)
    total = loss(outputs, Targets.drawn(torch.ones(1, 1, 8, 8), torch.ones(1, 1)))
    total.backward()  # type: ignore[no-untyped-call]
    assert {name for name, tensor in outputs._asdict().items() if gradient(tensor).any()} == taught
    assert (total.item() > 0.0) == bool(taught)


def test_the_gate_learns_the_share_of_lesion_in_its_place() -> None:
    target = torch.zeros(1, 1, 8, 8)
    target[..., :4, :2] = 1.0  # half of the upper left quarter
    gate = torch.tensor([[[[0.4, -3.0], [-2.0, 1.0]]]])
    loss = MultitaskLoss(class_weight=0.0, mask_weight=0.0, gate_weight=0.3)
    found = loss(Outputs(target, torch.zeros(1, 1), gate, FEATURES), Targets.drawn(target, torch.zeros(1, 1))).item()
    shrunk = torch.tensor([[[[0.5, 0.0], [0.0, 0.0]]]])
    assert found == pytest.approx(0.3 * F.binary_cross_entropy_with_logits(gate, shrunk).item())


def test_unknown_classes_leave_no_nan_in_the_gradient() -> None:
    malignancy = leaf(2, 1)
    mask = torch.zeros(2, 1, 8, 8)
    targets = Targets.drawn(mask, torch.tensor([[0.0], [math.nan]]))
    loss = MultitaskLoss()(Outputs(mask, malignancy, NO_GATE, FEATURES), targets)
    loss.backward()  # type: ignore[no-untyped-call]
    assert gradient(malignancy)[0, 0] > 0
    assert gradient(malignancy)[1, 0] == 0


def test_class_weight_scales_the_class_loss() -> None:
    single, triple = (loss_of(MultitaskLoss(class_weight=weight), [-1.0], [1.0]) for weight in (1.0, 3.0))
    assert triple == pytest.approx(3 * single, rel=1e-4)


def test_the_balance_weighs_missed_against_alarmed() -> None:
    missed, alarmed = ([-2.0], [1.0]), ([2.0], [0.0])
    even = loss_of(MultitaskLoss(), *missed)
    assert loss_of(MultitaskLoss(balance=0.75), *missed) == pytest.approx(1.5 * even, rel=1e-4)
    assert loss_of(MultitaskLoss(balance=0.75), *alarmed) == pytest.approx(0.5 * even, rel=1e-4)


def test_label_smoothing_punishes_certainty_and_nothing_else() -> None:
    smooth = MultitaskLoss(label_smoothing=0.2)
    assert loss_of(smooth, [0.0], [1.0]) == pytest.approx(math.log(2), abs=1e-5)
    levels = np.linspace(0, 8, 801)
    losses = [loss_of(smooth, [level], [1.0]) for level in levels]
    assert levels[int(np.argmin(losses))] == pytest.approx(math.log(0.9 / 0.1), abs=0.02)
    mirrored = [loss_of(smooth, [-level], [0.0]) for level in levels[::100]]
    assert mirrored == pytest.approx(losses[::100], abs=1e-6)


def test_half_precision_logits_lose_nothing_more_in_the_loss() -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, 1, 64, 64), (2, 1), (2, 1, 8, 8), (2, 256))
    outputs = Outputs(*(torch.randn(*shape, generator=generator).bfloat16() for shape in shapes))
    truth, classes = (torch.rand(2, 1, 64, 64, generator=generator) < 0.3).float(), torch.tensor([[1.0], [0.0]])
    loss = MultitaskLoss(gate_weight=0.3, label_smoothing=0.1)
    exact = loss(Outputs(*(output.double().float() for output in outputs)), Targets.drawn(truth, classes))
    assert loss(outputs, Targets.drawn(truth, classes)).item() == exact.item()


def test_extreme_logits_and_half_precision_stay_finite() -> None:
    mask = torch.full((1, 1, 8, 8), 1e4, dtype=torch.bfloat16, requires_grad=True)
    malignancy = torch.tensor([[-1e4]], dtype=torch.bfloat16, requires_grad=True)
    gate = torch.full((1, 1, 2, 2), 1e4, dtype=torch.bfloat16, requires_grad=True)
    targets = Targets.drawn(torch.zeros(1, 1, 8, 8), torch.ones(1, 1))
    loss = MultitaskLoss(gate_weight=0.3)(Outputs(mask, malignancy, gate, FEATURES), targets)
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.dtype == torch.float32
    assert math.isfinite(loss.item())
    for tensor in (mask, malignancy, gate):
        assert tensor.grad is not None
        assert torch.isfinite(tensor.grad).all()
