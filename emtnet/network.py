"""EMT-Net: one encoder, a segmentation decoder and a classification head for breast ultrasound; and its small sibling.

Source: "EMT-NET: Efficient multitask network for computer-aided diagnosis of breast cancer", arXiv 2201.04795.
Known to us is the abstract only. From the paper: one light backbone shared by tumour segmentation and
benign/malignant classification, and a class loss whose balance trades sensitivity against specificity
(`emtnet.loss`). Our reconstruction: MobileNetV1 1.0 as the encoder (Howard et al., arXiv 1704.04861), the decoder with
added skip connections, the class head, every width, the input size and the mask's resolution.

The class head adds two linear layers: one on the pooled encoder features, one on features of the decoder's first stage
that are pooled where its gate sees a lesion. The gate learns the mask at that stage (deep supervision).

`emtnet-s` is the same network at half the resolution without the encoder's last two blocks: a stem of stride 4 stands for
"shrink by two, then the usual stem", so every weight of the encoder can start from ImageNet or from a trained `emtnet`.

The decoder reduces channels before it upsamples and adds the skips: against concatenated skips of the same widths that
made INT8 inference 1.2 times faster and gained more from INT8 (docs/design-notes.md has the figures).

Every operator was chosen so that it has an exact INT8 form in TFLite and OpenVINO: ReLU6 (the gate too), bottom/right
padding in the stride-2 convolutions (what TFLite calls SAME at even sizes), half-pixel bilinear upsampling by two.
"""

from dataclasses import dataclass
from typing import Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from emtnet.depthwise import strided_depthwise

INPUT_SIZE: Final = 224

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
_BATCH_NORM_EPS: Final = 1e-3  # as the ImageNet weights were trained
# The first depthwise layer reads edges that are faint in ultrasound. With a small eps its batch norm amplifies them up to
# 30 times, and the rounding of its INT8 input with them: that one layer made most of the drift (docs/design-notes.md).
_FIRST_DEPTHWISE_EPS: Final = 0.05


class ConvBlock(nn.Module):
    """Convolution, batch norm, ReLU6. Stride 2 pads bottom and right only, a kernel wider than a stride of 4 all around."""

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
            padding=0 if stride == 2 else (kernel - stride + 1) // 2,
            groups=groups,
            bias=False,
        )
        self.norm = nn.BatchNorm2d(outputs, eps=eps)
        self.pad = stride == 2

    def forward(self, x: Tensor) -> Tensor:
        if self.pad:
            x = F.pad(x, (0, 1, 0, 1))
        if self.pad and self.conv.groups > 1 and torch.is_grad_enabled():
            return F.relu6(self.norm(strided_depthwise(x, self.conv.weight)))
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


@dataclass(frozen=True, slots=True)
class Architecture:
    """What tells the networks of this family apart.

    stem_kernel, stem_stride: of the first convolution. blocks: how many of MobileNetV1's. skips: the blocks whose output
    the decoder adds, finest first. decoder: its channels there.
    """

    stem_kernel: int
    stem_stride: int
    blocks: int
    skips: tuple[int, ...]
    decoder: tuple[int, ...]

    @property
    def mask_stride(self) -> int:
        """Input pixels for one of the mask."""
        return self.stem_stride


ARCHITECTURES: Final = {
    "emtnet": Architecture(3, 2, 13, skips=(0, 2, 4, 10), decoder=(32, 64, 96, 128)),
    "emtnet-s": Architecture(6, 4, 11, skips=(0, 2, 4), decoder=(32, 64, 96)),
}
FEATURES_BLOCKS: Final = (0, 2, 3)
"""The blocks whose outputs, averaged over the picture, tell a picture that is unlike those of calibration (`edge.ood`).

They see texture at three scales. Chosen among the blocks with the networks that had not seen folds 1 and 2, on these folds and
the lung clips; `benchmarks/scripts/guard.py` measures them.
"""
FEATURES: Final = tuple(_BLOCKS[block][0] for block in FEATURES_BLOCKS)
"""Channels of the parts of `Outputs.features`."""
_LESION_FEATURES: Final = 256
_HALF_OPEN: Final = 3.0
"""What the gate's convolution gives where a lesion is as likely as not: the middle of ReLU6."""


class Outputs(NamedTuple):
    """Logits: mask (N, 1, H, W), malignancy (N, 1), gate (N, 1, h, w) at the decoder's first stage, for training only.

    features: (N, 448) float32, the means over the picture of what `FEATURES_BLOCKS` give; nothing is learned through them.
    """

    mask: Tensor
    malignancy: Tensor
    gate: Tensor
    features: Tensor


class LesionHead(nn.Module):
    """Features pooled where the gate sees a lesion, and a linear layer on them."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.gate = nn.Conv2d(inputs, 1, 1)
        nn.init.constant_(self.gate.bias, _HALF_OPEN)  # type: ignore[arg-type]
        self.features = SeparableBlock(inputs, _LESION_FEATURES)
        self.dropout = nn.Dropout(0.2)
        self.linear = nn.Linear(_LESION_FEATURES, 1, bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        gate = self.gate(x)
        lesion = self.features(x) * F.relu6(gate)
        return self.linear(self.dropout(lesion.mean((2, 3)))), gate - _HALF_OPEN


class EmtNet(nn.Module):
    """The multitask network.

    Input: (N, 1, 224, 224) float32, the grey pixel p as (p − 128) / 128.
    Output: `Outputs`; the mask has 1/mask_stride of the input's side. Sides other than 224 work as long as they are
    multiples of 32. guided: False leaves the lesion head out (its gate is then all zero): the ablation's network.
    """

    def __init__(self, name: str = "emtnet", *, guided: bool = True) -> None:
        super().__init__()
        self.name = name
        self.architecture = plan = ARCHITECTURES[name]
        self.stem = ConvBlock(1, 32, kernel=plan.stem_kernel, stride=plan.stem_stride)
        blocks: list[nn.Module] = []
        width = 32
        for outputs, stride in _BLOCKS[: plan.blocks]:
            eps = _BATCH_NORM_EPS if blocks else _FIRST_DEPTHWISE_EPS
            blocks.append(SeparableBlock(width, outputs, stride=stride, eps=eps))
            width = outputs
        self.blocks = nn.ModuleList(blocks)

        decoder: list[nn.Module] = []
        below = width
        for skip, outputs in zip(reversed(plan.skips), reversed(plan.decoder), strict=True):
            decoder.append(UpBlock(below, _BLOCKS[skip][0], outputs))
            below = outputs
        self.decoder = nn.ModuleList(decoder)
        self.mask_head = nn.Conv2d(below, 1, 1)

        self.dropout = nn.Dropout(0.2)
        self.class_head = nn.Linear(width, 1)
        self.lesion_head = LesionHead(plan.decoder[-1]) if guided else None

    def forward(self, x: Tensor) -> Outputs:
        x = self.stem(x)
        skips: list[Tensor] = []
        features: list[Tensor] = []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in self.architecture.skips:
                skips.append(x)
            if index in FEATURES_BLOCKS:
                features.append(x.detach().mean((2, 3)).float())
        malignancy = self.class_head(self.dropout(x.mean((2, 3))))
        gate = x.new_zeros(())
        for stage, block in enumerate(self.decoder):
            x = block(x, skips.pop())
            if stage == 0 and self.lesion_head is not None:
                lesion, gate = self.lesion_head(x)
                malignancy = malignancy + lesion
        return Outputs(self.mask_head(x), malignancy, gate, torch.cat(features, 1))


class ExportedEmtNet(nn.Module):
    """`EmtNet` as the artifacts take it: a uint8 frame in, the normalisation inside the graph.

    Input: (1, 1, 224, 224) uint8 grey pixels. Output: mask, malignancy and features of `Outputs`.
    """

    def __init__(self, network: EmtNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = (image.to(torch.float32) - 128.0) / 128.0
        outputs = self.network(x)
        return outputs.mask, outputs.malignancy, outputs.features
