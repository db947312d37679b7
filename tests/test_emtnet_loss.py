"""The losses: exact against float64, finite anywhere, and moved by their parameters the way they should."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from emtnet.loss import MultitaskLoss, balanced_cross_entropy, soft_dice

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
    plain = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets)
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


@given(st.integers(0, 2**32 - 1), st.floats(0, 1), st.floats(0.1, 30))
def test_soft_dice_lies_between_0_and_1(seed: int, share: float, spread: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = spread * torch.randn(2, 1, 6, 5, generator=generator)
    targets = (torch.rand(2, 1, 6, 5, generator=generator) < share).float()
    assert 0.0 <= soft_dice(logits, targets).item() <= 1.0


def test_soft_dice_of_known_predictions() -> None:
    targets = torch.zeros(1, 1, 10, 10)
    targets[..., :5] = 1.0
    perfect = 100.0 * (targets - 0.5)
    assert soft_dice(perfect, targets).item() == pytest.approx(0.0, abs=1e-6)
    assert soft_dice(-perfect, targets).item() == pytest.approx(1.0, abs=0.011)  # 1 − 1 / 101: `smooth` is one pixel
    everything = torch.full_like(targets, 100.0)
    assert soft_dice(everything, targets).item() == pytest.approx(1 - 101 / 151)


def test_soft_dice_of_an_empty_target_falls_with_the_predicted_area() -> None:
    empty = torch.zeros(1, 1, 10, 10)
    losses = [soft_dice(torch.full_like(empty, logit), empty).item() for logit in (-50.0, -5.0, 0.0, 5.0)]
    assert losses[0] == pytest.approx(0.0, abs=1e-6)
    assert losses == sorted(losses)
    assert losses[-1] > 0.98


def test_soft_dice_weighs_images_alike_whatever_their_lesions_size() -> None:
    targets = torch.zeros(2, 1, 20, 20)
    targets[0, ..., :10] = 1.0
    targets[1, 0, 0, 0] = 1.0
    logits = 100.0 * (targets - 0.5)
    logits[1] = -100.0  # the small one is missed
    assert soft_dice(logits, targets).item() == pytest.approx((0.0 + 0.5) / 2, abs=1e-6)


def loss_of(loss: MultitaskLoss, malignancy: list[float], classes: list[float]) -> float:
    """Total loss where the mask is right, so that the class loss is left."""
    mask = torch.zeros(len(classes), 1, 8, 8)
    mask[:, :, 2:5] = 1.0
    return loss(100.0 * (mask - 0.5), torch.tensor(malignancy)[:, None], mask, torch.tensor(classes)[:, None]).item()


def test_cases_without_a_lesion_have_no_class_loss() -> None:
    loss = MultitaskLoss()
    assert loss_of(loss, [2.0, -7.0], [1.0, math.nan]) == pytest.approx(loss_of(loss, [2.0], [1.0]), abs=1e-6)
    assert loss_of(loss, [2.0, 50.0], [1.0, math.nan]) == pytest.approx(math.log1p(math.exp(-2)), abs=1e-5)


def test_a_batch_of_normals_teaches_the_mask_only() -> None:
    mask_logits = torch.zeros(2, 1, 8, 8, requires_grad=True)
    malignancy = torch.tensor([[3.0], [-3.0]], requires_grad=True)
    loss = MultitaskLoss()(mask_logits, malignancy, torch.zeros(2, 1, 8, 8), torch.full((2, 1), math.nan))
    loss.backward()  # type: ignore[no-untyped-call]
    assert math.isfinite(loss.item())
    assert mask_logits.grad is not None
    assert (mask_logits.grad > 0).all()
    assert malignancy.grad is None or not malignancy.grad.any()


def test_unknown_classes_leave_no_nan_in_the_gradient() -> None:
    malignancy = torch.tensor([[3.0], [-3.0]], requires_grad=True)
    mask = torch.zeros(2, 1, 8, 8)
    loss = MultitaskLoss()(mask, malignancy, mask, torch.tensor([[0.0], [math.nan]]))
    loss.backward()  # type: ignore[no-untyped-call]
    assert malignancy.grad is not None
    assert malignancy.grad[0, 0] > 0
    assert malignancy.grad[1, 0] == 0


def test_class_weight_scales_the_class_loss() -> None:
    single, triple = (loss_of(MultitaskLoss(class_weight=weight), [-1.0], [1.0]) for weight in (1.0, 3.0))
    assert triple == pytest.approx(3 * single, rel=1e-4)


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
    mask, malignancy = (torch.randn(*shape, generator=generator).bfloat16() for shape in ((2, 1, 64, 64), (2, 1)))
    truth, classes = (torch.rand(2, 1, 64, 64, generator=generator) < 0.3).float(), torch.tensor([[1.0], [0.0]])
    loss = MultitaskLoss(label_smoothing=0.1)
    exact = loss(mask.double().float(), malignancy.double().float(), truth, classes)
    assert loss(mask, malignancy, truth, classes).item() == exact.item()


def test_extreme_logits_and_half_precision_stay_finite() -> None:
    mask = torch.full((1, 1, 8, 8), 1e4, dtype=torch.bfloat16, requires_grad=True)
    malignancy = torch.tensor([[-1e4]], dtype=torch.bfloat16, requires_grad=True)
    loss = MultitaskLoss()(mask, malignancy, torch.zeros(1, 1, 8, 8), torch.ones(1, 1))
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.dtype == torch.float32
    assert math.isfinite(loss.item())
    for tensor in (mask, malignancy):
        assert tensor.grad is not None
        assert torch.isfinite(tensor.grad).all()
