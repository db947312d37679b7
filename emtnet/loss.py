"""The losses of the multitask network, and their sum.

The class loss is the weighted binary cross-entropy with one balance parameter, after the EMT-NET paper's abstract
("a loss that trades sensitivity against specificity"); its exact form there is not known to us. It is written with
softplus, so that it is finite and exact at any logit:

    L(z, y) = 2 · [ balance · y · softplus(−z) + (1 − balance) · (1 − y) · softplus(z) ]

balance 0.5 is the plain cross-entropy; above it a missed malignant lesion costs more (sensitivity), below it a false
alarm does (specificity). The mask loss is soft Dice (Milletari et al., arXiv 1606.04797) over the images that have a lesion
plus binary cross-entropy over all. Dice on empty masks would teach the network to answer with all or nothing, and leave
presence no scores to choose a threshold from. What presence is read from (`edge.presence`) has a cross-entropy of its own.
"""

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F

from edge.presence import TOP_SHARE
from emtnet.network import Outputs


def balanced_cross_entropy(logits: Tensor, targets: Tensor, *, balance: float) -> Tensor:
    """Mean class loss. logits, targets: the same shape; targets in 0..1. Raises ValueError unless 0 < balance < 1."""
    if not 0.0 < balance < 1.0:
        raise ValueError(f"balance must lie between 0 and 1, got {balance}")
    missed = balance * targets * F.softplus(-logits)
    alarmed = (1.0 - balance) * (1.0 - targets) * F.softplus(logits)
    return 2.0 * (missed + alarmed).mean()


def soft_dice(logits: Tensor, targets: Tensor, present: Tensor, *, smooth: float = 1.0) -> Tensor:
    """1 − soft Dice, averaged over the images that have a lesion; 0 where none has.

    logits, targets: (N, 1, H, W). present: (N,) bool, which images have one. smooth: pixels added to both sides of the fraction.
    """
    probability = torch.sigmoid(logits)
    overlap = (probability * targets).sum((1, 2, 3))
    area = probability.sum((1, 2, 3)) + targets.sum((1, 2, 3))
    missed = 1.0 - (2.0 * overlap + smooth) / (area + smooth)
    return (missed * present).sum() / present.sum().clamp(min=1)


def presence_cross_entropy(logits: Tensor, present: Tensor) -> Tensor:
    """Cross-entropy of the mean of the mask's highest logits, `edge.presence.TOP_SHARE` of them, with "there is a lesion".

    logits: (N, 1, H, W). present: (N,) bool.
    """
    flat = logits.flatten(1)
    top = flat.topk(max(1, round(TOP_SHARE * flat.shape[1])), dim=1).values.mean(1)
    return F.binary_cross_entropy_with_logits(top, present.to(top.dtype))


@dataclass(frozen=True, slots=True)
class Targets:
    """What a batch should be answered with.

    mask: (N, 1, H, W) in 0..1, all NaN for an image whose lesion nobody drew. label: (N, 1), 1 malignant, 0 benign, NaN
    where there is no lesion; both may be shares of a teacher. present: (N,) bool, whether the drawn mask shows a lesion, whatever
    a teacher says; False where nobody drew one.
    """

    mask: Tensor
    label: Tensor
    present: Tensor

    @classmethod
    def drawn(cls, mask: Tensor, label: Tensor) -> Self:
        """Targets as the data have them: there is a lesion where its mask reaches one half."""
        return cls(mask, label, mask.amax((1, 2, 3)) >= 0.5)

    def to(self, device: torch.device) -> Self:
        """The same on a device."""
        return replace(self, mask=self.mask.to(device), label=self.label.to(device), present=self.present.to(device))


@dataclass(frozen=True, slots=True)
class MultitaskLoss:
    """Weighted sum of mask, presence, class and gate losses.

    Images without a lesion teach the mask, presence and the gate only, images without a drawn mask the class only.
    gate_weight: of the cross-entropy between the lesion head's gate and the mask shrunk to its size (deep supervision).
    label_smoothing: class targets move this share of the way to 0.5, which keeps the logits from growing without bound.
    """

    balance: float = 0.5
    class_weight: float = 1.0
    mask_weight: float = 1.0
    presence_weight: float = 0.0
    gate_weight: float = 0.0
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 < self.balance < 1.0 or not 0.0 <= self.label_smoothing < 1.0:
            raise ValueError("balance lies between 0 and 1, label_smoothing from 0 to below 1")
        if min(self.class_weight, self.mask_weight, self.presence_weight, self.gate_weight) < 0.0:
            raise ValueError("the weights of a loss are not negative")

    def __call__(self, outputs: Outputs, targets: Targets) -> Tensor:
        """The loss of a batch, a float32 scalar; 0 where the batch teaches nothing."""
        loss = outputs.malignancy.float().sum() * 0.0
        drawn = ~torch.isnan(targets.mask[:, 0, 0, 0])
        if drawn.any():
            mask, target, present = outputs.mask[drawn].float(), targets.mask[drawn], targets.present[drawn]
            if self.mask_weight:
                mask_loss = soft_dice(mask, target, present) + F.binary_cross_entropy_with_logits(mask, target)
                loss = loss + self.mask_weight * mask_loss
            if self.presence_weight:
                loss = loss + self.presence_weight * presence_cross_entropy(mask, present)
            if self.gate_weight:
                gate = outputs.gate[drawn].float()
                shrunk = F.interpolate(target, size=gate.shape[2:], mode="area")
                loss = loss + self.gate_weight * F.binary_cross_entropy_with_logits(gate, shrunk)
        known = ~torch.isnan(targets.label)
        if self.class_weight and known.any():
            label = targets.label[known] * (1.0 - self.label_smoothing) + 0.5 * self.label_smoothing
            class_loss = balanced_cross_entropy(outputs.malignancy[known].float(), label, balance=self.balance)
            loss = loss + self.class_weight * class_loss
        return loss
