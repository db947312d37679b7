"""EMT-Net: one encoder, a segmentation decoder and a classification head for breast ultrasound.

Source: "EMT-NET: Efficient multitask network for computer-aided diagnosis of breast cancer", arXiv 2201.04795.
Known to us is the abstract only. From the paper: one light backbone shared by tumour segmentation and
benign/malignant classification, and a class loss whose balance trades sensitivity against specificity
(`emtnet.loss`). Our reconstruction: MobileNetV1 1.0 as the encoder (Howard et al., arXiv 1704.04861), the decoder with
four added skip connections, the linear head on the pooled encoder features, every width, the input size and the mask
at half the input's resolution.

The decoder reduces channels before it upsamples and adds the skips: against concatenated skips of the same widths that
made INT8 inference 1.2 times faster and gained more from INT8 (docs/design-notes.md has the figures).

Every operator was chosen so that it has an exact INT8 form in TFLite and OpenVINO: ReLU6, bottom/right padding in the
stride-2 convolutions (what TFLite calls SAME at even sizes), half-pixel bilinear upsampling by two.
"""

from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

INPUT_SIZE: Final = 224
MASK_STRIDE: Final = 2

# Output channels and stride of MobileNetV1's thirteen separable blocks (Howard et al. 2017, table 1).
_BLOCKS: Final = (
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    (512, 1),
    (512, 1),
    (512, 1),
    (512, 1),
    (512, 1),
    (1024, 2),
    (1024, 1),
)
_SKIPS: Final = (0, 2, 4, 10)  # the last block at strides 2, 4, 8 and 16
_DECODER: Final = (32, 64, 96, 128)  # channels at strides 2, 4, 8 and 16
_BATCH_NORM_EPS: Final = 1e-3  # as the ImageNet weights were trained
# The first depthwise layer reads edges that are faint in ultrasound. With a small eps its batch norm amplifies them up to
# 30 times, and the rounding of its INT8 input with them: that one layer made most of the drift (docs/design-notes.md).
_FIRST_DEPTHWISE_EPS: Final = 0.05


class ConvBlock(nn.Module):
    """Convolution, batch norm, ReLU6. Stride 2 pads bottom and right only."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        kernel: int = 3,
        stride: int = 1,
        groups: int = 1,
        eps: float = _BATCH_NORM_EPS,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            inputs,
            outputs,
            kernel,
            stride=stride,
            padding=kernel // 2 if stride == 1 else 0,
            groups=groups,
            bias=False,
        )
        self.norm = nn.BatchNorm2d(outputs, eps=eps)
        self.pad = stride != 1

    def forward(self, x: Tensor) -> Tensor:
        if self.pad:
            x = F.pad(x, (0, 1, 0, 1))
        return F.relu6(self.norm(self.conv(x)))


class SeparableBlock(nn.Module):
    """3×3 depthwise then 1×1 pointwise `ConvBlock`: MobileNetV1's unit."""

    def __init__(self, inputs: int, outputs: int, *, stride: int = 1, eps: float = _BATCH_NORM_EPS) -> None:
        super().__init__()
        self.depthwise = ConvBlock(inputs, inputs, stride=stride, groups=inputs, eps=eps)
        self.pointwise = ConvBlock(inputs, outputs, kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.pointwise(self.depthwise(x))  # type: ignore[no-any-return]


class UpBlock(nn.Module):
    """Reduce, upsample by two, add the reduced skip, refine."""

    def __init__(self, inputs: int, skip: int, outputs: int) -> None:
        super().__init__()
        self.reduce = ConvBlock(inputs, outputs, kernel=1)
        self.lateral = ConvBlock(skip, outputs, kernel=1)
        self.refine = SeparableBlock(outputs, outputs)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        x = F.interpolate(self.reduce(x), scale_factor=2.0, mode="bilinear", align_corners=False)
        return self.refine(x + self.lateral(skip))  # type: ignore[no-any-return]


class EmtNet(nn.Module):
    """The multitask network.

    Input: (N, 1, 224, 224) float32, the grey pixel p as (p − 128) / 128.
    Output: `mask` (N, 1, 112, 112) and `malignancy` (N, 1), float32 logits of "this pixel is lesion" and "the lesion
    is malignant". Sides other than 224 work as long as they are multiples of 32.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvBlock(1, 32, stride=2)
        blocks: list[nn.Module] = []
        width = 32
        for outputs, stride in _BLOCKS:
            eps = _BATCH_NORM_EPS if blocks else _FIRST_DEPTHWISE_EPS
            blocks.append(SeparableBlock(width, outputs, stride=stride, eps=eps))
            width = outputs
        self.blocks = nn.ModuleList(blocks)

        decoder: list[nn.Module] = []
        below = width
        for skip, outputs in zip(reversed(_SKIPS), reversed(_DECODER), strict=True):
            decoder.append(UpBlock(below, _BLOCKS[skip][0], outputs))
            below = outputs
        self.decoder = nn.ModuleList(decoder)
        self.mask_head = nn.Conv2d(below, 1, 1)

        self.dropout = nn.Dropout(0.2)
        self.class_head = nn.Linear(width, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.stem(x)
        skips: list[Tensor] = []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in _SKIPS:
                skips.append(x)
        malignancy = self.class_head(self.dropout(x.mean((2, 3))))
        for block in self.decoder:
            x = block(x, skips.pop())
        return self.mask_head(x), malignancy


class ExportedEmtNet(nn.Module):
    """`EmtNet` as the artifacts take it: a uint8 frame in, the normalisation inside the graph.

    Input: (1, 1, 224, 224) uint8 grey pixels. Output as `EmtNet`.
    """

    def __init__(self, network: EmtNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        x = (image.to(torch.float32) - 128.0) / 128.0
        return self.network(x)  # type: ignore[no-any-return]
