"""Building blocks that several networks of the zoo share."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

Layer = Callable[[], nn.Module]
"""Makes an activation."""


def conv_norm(
    inputs: int,
    outputs: int,
    *,
    kernel: int = 3,
    stride: int = 1,
    groups: int = 1,
    dilation: int = 1,
    padding_mode: Literal["zeros", "reflect"] = "zeros",
    activation: Layer | None = nn.ReLU,
) -> nn.Sequential:
    """Convolution that keeps the size (over the stride, rounded up), batch norm, activation."""
    padding = dilation * (kernel // 2)
    layers: list[nn.Module] = [
        nn.Conv2d(
            inputs,
            outputs,
            kernel,
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=groups,
            bias=False,
            padding_mode=padding_mode,
        ),
        nn.BatchNorm2d(outputs),
    ]
    if activation is not None:
        layers.append(activation())
    return nn.Sequential(*layers)


def transposed_norm(
    inputs: int,
    outputs: int,
    *,
    kernel: int,
    padding: int = 0,
    output_padding: int = 0,
    activation: Layer = nn.ReLU,
) -> nn.Sequential:
    """Transposed convolution of stride 2, batch norm, activation."""
    conv = nn.ConvTranspose2d(
        inputs, outputs, kernel, stride=2, padding=padding, output_padding=output_padding, bias=False
    )
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), activation())


def separable(inputs: int, outputs: int, *, activation: Layer = nn.ReLU) -> nn.Sequential:
    """3×3 depthwise, then 1×1 pointwise convolution, each with batch norm and activation."""
    return nn.Sequential(
        conv_norm(inputs, inputs, groups=inputs, activation=activation),
        conv_norm(inputs, outputs, kernel=1, activation=activation),
    )


class SqueezeExcite(nn.Module):
    """Scales channels by a gate computed from their means (Hu et al., arXiv 1709.01507). (N, C, H, W) → the same."""

    def __init__(self, channels: int, reduced: int, *, activation: Layer, gate: Layer) -> None:
        super().__init__()
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, reduced, 1),
            activation(),
            nn.Conv2d(reduced, channels, 1),
            gate(),
        )

    def forward(self, x: Tensor) -> Tensor:
        gate: Tensor = self.gate(x)
        return x * gate


class InvertedResidual(nn.Module):
    """Expand, filter depthwise, optionally gate, project; added to its input where the shapes agree.

    MobileNetV2's unit (Sandler et al., arXiv 1801.04381), with `gate` that of MobileNetV3 and EfficientNet. gate: a module
    for a number of channels.
    """

    def __init__(
        self,
        inputs: int,
        hidden: int,
        outputs: int,
        *,
        kernel: int = 3,
        stride: int = 1,
        activation: Layer = nn.ReLU6,
        gate: Callable[[int], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        if hidden != inputs:
            layers.append(conv_norm(inputs, hidden, kernel=1, activation=activation))
        layers.append(conv_norm(hidden, hidden, kernel=kernel, stride=stride, groups=hidden, activation=activation))
        if gate is not None:
            layers.append(gate(hidden))
        layers.append(conv_norm(hidden, outputs, kernel=1, activation=None))
        self.body = nn.Sequential(*layers)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x)
        return x + y if self.residual else y


class UpConcat(nn.Module):
    """U-Net decoder step: upsample, concatenate the encoder's features of that size, refine.

    (N, inputs, H, W) and (N, skip, 2H, 2W) → (N, outputs, 2H, 2W), with the modules given.
    """

    def __init__(self, up: nn.Module, refine: nn.Module) -> None:
        super().__init__()
        self.up = up
        self.refine = refine

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        y: Tensor = self.refine(torch.cat([self.up(x), skip], dim=1))
        return y


class UNet(nn.Module):
    """An encoder, a decoder over its features, a mask head on the decoder and a class head on the encoder.

    (N, C, H, W) float32 → mask logits (N, 1, h, w) and class logits (N, labels). encoder: stages, each one the input of the
    next. decoder: the deepest `UpConcat` first; step i reads the features of the i-th stage from the end but one.
    """

    def __init__(
        self,
        encoder: list[nn.Module],
        decoder: list[UpConcat],
        mask_head: nn.Module,
        class_head: nn.Module,
    ) -> None:
        super().__init__()
        self.encoder = nn.ModuleList(encoder)
        self.decoder = nn.ModuleList(decoder)
        self.mask_head = mask_head
        self.class_head = class_head

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features: list[Tensor] = []
        for stage in self.encoder:
            x = stage(x)
            features.append(x)
        malignancy = self.class_head(features.pop())
        for step in self.decoder:
            x = step(x, features.pop())
        return self.mask_head(x), malignancy


def class_head(channels: int, labels: int = 1) -> nn.Sequential:
    """Global average pooling, dropout, linear layer. (N, C, H, W) → (N, labels)."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(channels, labels))
