"""Networks that look around: DeepLab, an attention U-Net, and a plain classifier."""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.zoo.layers import class_head, conv_norm
from benchmarks.zoo.residual import ResidualBlock

_RATES = (2, 4, 6)


def _resized(x: Tensor, like: Tensor) -> Tensor:
    """Bilinear with half-pixel centres to the height and width of `like`."""
    return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)


class SpatialPyramid(nn.Module):
    """Atrous spatial pyramid pooling (Chen et al., arXiv 1706.05587). (N, inputs, H, W) → (N, outputs, H, W)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            [
                conv_norm(inputs, outputs, kernel=1),
                *(conv_norm(inputs, outputs, dilation=rate) for rate in _RATES),
            ]
        )
        # Without a norm: one pixel an image has no spread to fit it to.
        self.pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(inputs, outputs, 1), nn.ReLU())
        self.project = nn.Sequential(
            conv_norm((len(self.branches) + 1) * outputs, outputs, kernel=1),
            nn.Dropout(0.1),
        )

    def forward(self, x: Tensor) -> Tensor:
        seen = [branch(x) for branch in self.branches]
        y: Tensor = self.project(torch.cat([*seen, _resized(self.pooled(x), x)], dim=1))
        return y


class DeepLab(nn.Module):
    """DeepLabV3+ (Chen et al., arXiv 1802.02611): dilated encoder of stride 8, ASPP, one skip, resized to any size.

    (N, 1, H, W) → mask (N, 1, H, W), malignancy (N, 1); the sides may be odd.
    """

    def __init__(self) -> None:
        super().__init__()
        self.shallow = nn.Sequential(conv_norm(1, 16, stride=2), ResidualBlock(16, 24, stride=2))
        self.deep = nn.Sequential(
            ResidualBlock(24, 48, stride=2),
            ResidualBlock(48, 64),
            conv_norm(64, 96, dilation=2),
            conv_norm(96, 96, dilation=2),
        )
        self.pyramid = SpatialPyramid(96, 40)
        self.skip = conv_norm(24, 16, kernel=1)
        self.refine = nn.Sequential(conv_norm(40 + 16, 40), nn.Conv2d(40, 1, 1))
        self.class_head = class_head(96)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        shallow = self.shallow(x)
        deep = self.deep(shallow)
        joined = torch.cat([_resized(self.pyramid(deep), shallow), self.skip(shallow)], dim=1)
        return _resized(self.refine(joined), x), self.class_head(deep)


class AttentionGate(nn.Module):
    """Lets a skip through where the decoder looks (Oktay et al., arXiv 1804.03999). skip, gating: (N, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = channels // 2
        self.from_skip = conv_norm(channels, hidden, kernel=1, activation=None)
        self.from_gating = conv_norm(channels, hidden, kernel=1, activation=None)
        self.weigh = nn.Sequential(nn.ReLU(), conv_norm(hidden, 1, kernel=1, activation=nn.Sigmoid))

    def forward(self, skip: Tensor, gating: Tensor) -> Tensor:
        weight: Tensor = self.weigh(self.from_skip(skip) + self.from_gating(gating))
        return skip * weight


class ChannelGate(nn.Module):
    """Channel attention from means and maxima through one perceptron (Woo et al., arXiv 1807.06521)."""

    def __init__(self, channels: int, reduced: int) -> None:
        super().__init__()
        self.shared = nn.Sequential(nn.Conv2d(channels, reduced, 1), nn.ReLU(), nn.Conv2d(reduced, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        means = self.shared(F.adaptive_avg_pool2d(x, 1))
        maxima = self.shared(F.max_pool2d(x, x.shape[-2:]))
        return x * torch.sigmoid(means + maxima)


class AttentionStep(nn.Module):
    """Upsample, gate the skip, concatenate, refine. (N, inputs, H, W), (N, skip, 2H, 2W) → (N, skip, 2H, 2W)."""

    def __init__(self, inputs: int, skip: int) -> None:
        super().__init__()
        self.up = nn.Sequential(
            nn.Upsample(scale_factor=2.0, mode="bilinear", align_corners=False), conv_norm(inputs, skip)
        )
        self.gate = AttentionGate(skip)
        self.refine = conv_norm(2 * skip, skip)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        raised = self.up(x)
        y: Tensor = self.refine(torch.cat([self.gate(skip, raised), raised], dim=1))
        return y


class AttentionUNet(nn.Module):
    """U-Net with attention gates; the softmax over background, benign and malignant is part of the network.

    (N, 1, H, W), sides multiples of 16 → mask (N, 3, H, W), probabilities that sum to 1 over the channels.
    """

    def __init__(self) -> None:
        super().__init__()
        widths = (8, 16, 32, 48, 64)
        self.encoder = nn.ModuleList(
            nn.Sequential(conv_norm(inputs, width), conv_norm(width, width)) for inputs, width in pairwise((1, *widths))
        )
        self.channel_gate = ChannelGate(widths[-1], 16)
        deepest_first = widths[::-1]
        self.decoder = nn.ModuleList(AttentionStep(inputs, skip) for inputs, skip in pairwise(deepest_first))
        self.head = nn.Conv2d(widths[0], 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        features: list[Tensor] = []
        for index, stage in enumerate(self.encoder):
            x = stage(F.max_pool2d(x, 2) if index else x)
            features.append(x)
        x = self.channel_gate(features.pop())
        for step in self.decoder:
            x = step(x, features.pop())
        return F.softmax(self.head(x), dim=1)


class Classifier(nn.Module):
    """Plain convolutions; the global maxima and means of the last features, joined, go through two linear layers.

    (N, 1, H, W) → diagnosis (N, 3): logits of normal, benign and malignant.
    """

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            conv_norm(1, 16, kernel=5, stride=2),
            nn.MaxPool2d(2),
            conv_norm(16, 32),
            conv_norm(32, 32),
            nn.MaxPool2d(2),
            conv_norm(32, 64),
            conv_norm(64, 64),
            nn.MaxPool2d(2),
            conv_norm(64, 96),
        )
        self.head = nn.Sequential(nn.Dropout(0.3), nn.Linear(2 * 96, 64), nn.ReLU(), nn.Dropout(0.3), nn.Linear(64, 3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        pooled = torch.cat([F.adaptive_max_pool2d(x, 1), F.adaptive_avg_pool2d(x, 1)], dim=1)
        y: Tensor = self.head(torch.flatten(pooled, 1))
        return y
