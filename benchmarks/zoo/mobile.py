"""Networks of inverted residuals: MobileNetV2, MobileNetV3 and EfficientNet encoders under U-Net decoders."""

from functools import partial

from torch import nn

from benchmarks.zoo.layers import (
    InvertedResidual,
    SqueezeExcite,
    UNet,
    UpConcat,
    class_head,
    conv_norm,
    separable,
    transposed_norm,
)


class MobileNetV2UNet(UNet):
    """ReLU6 throughout, transposed convolutions of kernel 2 (they do not overlap). Mask at the input's size.

    (N, 1, H, W), sides multiples of 32 → mask (N, 1, H, W), malignancy (N, 1).
    """

    def __init__(self) -> None:
        block = InvertedResidual

        def up(inputs: int, skip: int) -> UpConcat:
            raised = transposed_norm(inputs, skip, kernel=2, activation=nn.ReLU6)
            return UpConcat(raised, separable(2 * skip, skip, activation=nn.ReLU6))

        super().__init__(
            [
                nn.Sequential(conv_norm(1, 16, stride=2, activation=nn.ReLU6), block(16, 16, 16)),
                nn.Sequential(block(16, 96, 24, stride=2), block(24, 144, 24)),
                nn.Sequential(block(24, 144, 32, stride=2), block(32, 192, 32)),
                nn.Sequential(block(32, 192, 64, stride=2), block(64, 384, 64), block(64, 384, 64)),
                nn.Sequential(block(64, 384, 96, stride=2), block(96, 576, 96)),
            ],
            [up(96, 64), up(64, 32), up(32, 24), up(24, 16)],
            nn.Sequential(transposed_norm(16, 8, kernel=2, activation=nn.ReLU6), nn.Conv2d(8, 1, 1)),
            class_head(96),
        )


class MobileNetV3UNet(UNet):
    """Hard-swish, squeeze-excite with hard sigmoid (Howard et al., arXiv 1905.02244); mask at half the input's size.

    The transposed convolutions overlap: three of kernel 4, the last one of kernel 3 with an output padding.
    (N, 1, H, W), sides multiples of 32 → mask (N, 1, H/2, W/2), malignancy (N, 1).
    """

    def __init__(self) -> None:
        relu, swish = nn.ReLU, nn.Hardswish

        def gate(channels: int) -> SqueezeExcite:
            return SqueezeExcite(channels, channels // 4, activation=nn.ReLU, gate=nn.Hardsigmoid)

        def up(inputs: int, skip: int, *, kernel: int = 4) -> UpConcat:
            raised = transposed_norm(
                inputs, skip, kernel=kernel, padding=1, output_padding=kernel % 2, activation=nn.Hardswish
            )
            return UpConcat(raised, separable(2 * skip, skip, activation=nn.Hardswish))

        plain = partial(InvertedResidual, activation=relu)
        swished = partial(InvertedResidual, activation=swish)
        super().__init__(
            [
                nn.Sequential(conv_norm(1, 16, stride=2, activation=swish), plain(16, 16, 16)),
                nn.Sequential(plain(16, 64, 24, stride=2), plain(24, 72, 24)),
                nn.Sequential(
                    plain(24, 72, 40, kernel=5, stride=2, gate=gate), plain(40, 120, 40, kernel=5, gate=gate)
                ),
                nn.Sequential(swished(40, 240, 56, stride=2), swished(56, 168, 56), swished(56, 224, 56, gate=gate)),
                nn.Sequential(
                    swished(56, 336, 80, kernel=5, stride=2, gate=gate), swished(80, 480, 80, kernel=5, gate=gate)
                ),
            ],
            [up(80, 56), up(56, 40), up(40, 24), up(24, 16, kernel=3)],
            nn.Conv2d(16, 1, 1),
            nn.Sequential(
                conv_norm(80, 240, kernel=1, activation=swish),
                nn.AdaptiveAvgPool2d(1),
                nn.Flatten(),
                nn.Linear(240, 96),
                nn.Hardswish(),
                nn.Dropout(0.2),
                nn.Linear(96, 1),
            ),
        )


class EfficientNetUNet(UNet):
    """MBConv with SiLU and squeeze-excite (Tan and Le, arXiv 1905.11946), bilinear decoder.

    The decoder samples at half-pixel centres; the logits are raised with aligned corners, as segmentation-models-pytorch does.
    (N, 1, H, W), sides multiples of 32 → mask (N, 1, H, W), malignancy (N, 1).
    """

    def __init__(self) -> None:
        def block(inputs: int, outputs: int, *, expansion: int = 4, kernel: int = 3, stride: int = 1) -> nn.Module:
            def gate(channels: int) -> SqueezeExcite:  # reduced by the block's inputs, as in the paper
                return SqueezeExcite(channels, max(4, inputs // 4), activation=nn.SiLU, gate=nn.Sigmoid)

            return InvertedResidual(
                inputs, expansion * inputs, outputs, kernel=kernel, stride=stride, activation=nn.SiLU, gate=gate
            )

        def up(inputs: int, skip: int) -> UpConcat:
            raised = nn.Upsample(scale_factor=2.0, mode="bilinear", align_corners=False)
            return UpConcat(raised, separable(inputs + skip, skip, activation=nn.SiLU))

        super().__init__(
            [
                nn.Sequential(conv_norm(1, 16, stride=2, activation=nn.SiLU), block(16, 16, expansion=1)),
                nn.Sequential(block(16, 24, stride=2), block(24, 24)),
                nn.Sequential(block(24, 40, kernel=5, stride=2), block(40, 40, kernel=5)),
                nn.Sequential(block(40, 64, stride=2), block(64, 64)),
                nn.Sequential(block(64, 96, kernel=5, stride=2), block(96, 96)),
            ],
            [up(96, 64), up(64, 40), up(40, 24), up(24, 16)],
            nn.Sequential(nn.Conv2d(16, 1, 3, padding=1), nn.UpsamplingBilinear2d(scale_factor=2)),
            class_head(96),
        )
