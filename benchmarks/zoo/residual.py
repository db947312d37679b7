"""Networks of residual and dense blocks: ResNet, ResNeXt and DenseNet under U-Net decoders."""

import torch
from torch import Tensor, nn

from benchmarks.zoo.layers import Layer, UNet, UpConcat, class_head, conv_norm


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut (He et al., arXiv 1512.03385). (N, inputs, H, W) → (N, outputs, H/s, W/s)."""

    def __init__(self, inputs: int, outputs: int, *, stride: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv_norm(inputs, outputs, stride=stride), conv_norm(outputs, outputs, activation=None)
        )
        self.shortcut = (
            nn.Identity()
            if stride == 1 and inputs == outputs
            else conv_norm(inputs, outputs, kernel=1, stride=stride, activation=None)
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


class ResNetUNet(UNet):
    """ResNet with its 7×7 stem and overlapping max pooling, nearest upsampling, concatenated skips.

    (N, 1, H, W), sides multiples of 32 → mask (N, 1, H, W), malignancy (N, 1).
    """

    def __init__(self) -> None:
        block = ResidualBlock

        def up(inputs: int, skip: int, outputs: int) -> UpConcat:
            refine = nn.Sequential(conv_norm(inputs + skip, outputs), conv_norm(outputs, outputs))
            return UpConcat(nn.Upsample(scale_factor=2.0, mode="nearest"), refine)

        super().__init__(
            [
                conv_norm(1, 16, kernel=7, stride=2),
                nn.Sequential(nn.MaxPool2d(3, stride=2, padding=1), block(16, 24), block(24, 24)),
                nn.Sequential(block(24, 40, stride=2), block(40, 40)),
                nn.Sequential(block(40, 64, stride=2), block(64, 64)),
                nn.Sequential(block(64, 96, stride=2), block(96, 96)),
            ],
            [up(96, 64, 64), up(64, 40, 40), up(40, 24, 24), up(24, 16, 16)],
            nn.Sequential(nn.Upsample(scale_factor=2.0, mode="nearest"), conv_norm(16, 8), nn.Conv2d(8, 1, 1)),
            class_head(96),
        )


def _leaky() -> nn.Module:
    return nn.LeakyReLU(0.1)


class ResNeXtBlock(nn.Module):
    """Bottleneck with a grouped 3×3 convolution (Xie et al., arXiv 1611.05431), PReLU behind the sum.

    The shortcut of a stride pools before it projects. (N, inputs, H, W) → (N, outputs, H/s, W/s).
    """

    def __init__(self, inputs: int, outputs: int, *, stride: int = 1, groups: int = 4) -> None:
        super().__init__()
        width = outputs // 2
        self.body = nn.Sequential(
            conv_norm(inputs, width, kernel=1, activation=_leaky),
            conv_norm(width, width, stride=stride, groups=groups, activation=_leaky),
            conv_norm(width, outputs, kernel=1, activation=None),
        )
        layers: list[nn.Module] = [nn.AvgPool2d(stride)] if stride > 1 else []
        if inputs != outputs:
            layers.append(conv_norm(inputs, outputs, kernel=1, activation=None))
        self.shortcut = nn.Sequential(*layers)
        self.activation = nn.PReLU(outputs)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.activation(self.body(x) + self.shortcut(x))
        return y


class ResNeXtUNet(UNet):
    """Three channels, grouped convolutions, LeakyReLU and PReLU, pixel shuffle (Shi et al., arXiv 1609.05158).

    Convolutions outside the blocks mirror at the border. (N, 3, H, W), sides multiples of 32 → mask (N, 1, H, W),
    malignancy (N, 1).
    """

    def __init__(self) -> None:
        block = ResNeXtBlock

        def mirrored(inputs: int, outputs: int, *, stride: int = 1, activation: Layer = _leaky) -> nn.Sequential:
            return conv_norm(inputs, outputs, stride=stride, padding_mode="reflect", activation=activation)

        def up(inputs: int, skip: int) -> UpConcat:
            raised = nn.Sequential(conv_norm(inputs, 4 * skip, kernel=1, activation=_leaky), nn.PixelShuffle(2))
            return UpConcat(raised, mirrored(2 * skip, skip))

        super().__init__(
            [
                mirrored(3, 16, stride=2, activation=lambda: nn.PReLU(16)),
                nn.Sequential(block(16, 32, stride=2), block(32, 32)),
                nn.Sequential(block(32, 64, stride=2), block(64, 64)),
                nn.Sequential(block(64, 96, stride=2), block(96, 96)),
                nn.Sequential(block(96, 128, stride=2), block(128, 128)),
            ],
            [up(128, 96), up(96, 64), up(64, 32), up(32, 16)],
            nn.Sequential(nn.Conv2d(16, 4, 3, padding=1, padding_mode="reflect"), nn.PixelShuffle(2)),
            class_head(128),
        )


def norm_conv(inputs: int, outputs: int, *, kernel: int) -> nn.Sequential:
    """Batch norm, ReLU, convolution: no convolution stands before the norm that it could be folded into."""
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU(), conv)


class DenseBlock(nn.Module):
    """Every layer reads what all before it wrote (Huang et al., arXiv 1608.06993).

    (N, inputs, H, W) → (N, inputs + layers · growth, H, W).
    """

    def __init__(self, inputs: int, layers: int, *, growth: int = 12) -> None:
        super().__init__()
        widths = [inputs + index * growth for index in range(layers)]
        self.layers = nn.ModuleList(
            nn.Sequential(norm_conv(width, 4 * growth, kernel=1), norm_conv(4 * growth, growth, kernel=3))
            for width in widths
        )

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.cat([x, layer(x)], dim=1)
        return x


def transition(inputs: int, outputs: int) -> nn.Sequential:
    """Fewer channels at half the size."""
    return nn.Sequential(norm_conv(inputs, outputs, kernel=1), nn.AvgPool2d(2))


class DenseNetUNet(UNet):
    """Pre-activated dense blocks with average pooling between them; the decoder's convolutions are pre-activated too.

    (N, 1, H, W), sides multiples of 16 → mask (N, 1, H, W), malignancy (N, 1).
    """

    def __init__(self) -> None:
        def up(inputs: int, skip: int, outputs: int) -> UpConcat:
            raised = nn.Sequential(norm_conv(inputs, outputs, kernel=1), nn.Upsample(scale_factor=2.0, mode="nearest"))
            return UpConcat(raised, norm_conv(outputs + skip, outputs, kernel=3))

        super().__init__(
            [
                nn.Sequential(nn.Conv2d(1, 24, 3, stride=2, padding=1, bias=False), DenseBlock(24, 3)),  # 60
                nn.Sequential(transition(60, 30), DenseBlock(30, 4)),  # 78
                nn.Sequential(transition(78, 40), DenseBlock(40, 4)),  # 88
                nn.Sequential(transition(88, 44), DenseBlock(44, 5)),  # 104
            ],
            [up(104, 88, 48), up(48, 78, 40), up(40, 60, 32)],
            nn.Sequential(
                norm_conv(32, 16, kernel=3),
                nn.Upsample(scale_factor=2.0, mode="bilinear", align_corners=False),
                nn.BatchNorm2d(16),
                nn.ReLU(),
                nn.Conv2d(16, 1, 1),
            ),
            nn.Sequential(nn.BatchNorm2d(104), nn.ReLU(), class_head(104)),
        )
