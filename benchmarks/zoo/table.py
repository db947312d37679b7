"""The networks of the zoo by name."""

from typing import Final

from benchmarks.zoo.context import AttentionUNet, Classifier, DeepLab
from benchmarks.zoo.emtnet import unguided
from benchmarks.zoo.entry import ZooEntry
from benchmarks.zoo.mobile import EfficientNetUNet, MobileNetV2UNet, MobileNetV3UNet
from benchmarks.zoo.residual import DenseNetUNet, ResNetUNet, ResNeXtUNet
from emtnet.network import INPUT_SIZE

_IMAGENET_MEAN: Final = (123.675, 116.28, 103.53)
_IMAGENET_STD: Final = (58.395, 57.12, 57.375)

_ENTRIES: Final = (
    ZooEntry("mobilenet_v2_unet", MobileNetV2UNet, (224, 224)),
    ZooEntry("mobilenet_v3_unet", MobileNetV3UNet, (192, 192), mean=(0.0,), std=(255.0,)),
    ZooEntry("resnet_unet", ResNetUNet, (256, 256), mean=(85.0,), std=(50.0,)),
    ZooEntry("deeplab", DeepLab, (225, 193)),
    ZooEntry("efficientnet_lite", EfficientNetUNet, (224, 224), mean=(128.0,), std=(128.0,)),
    ZooEntry("densenet_unet", DenseNetUNet, (160, 160), mean=(85.0,), std=(50.0,)),
    ZooEntry("rgb_320x256", ResNeXtUNet, (256, 320), mean=_IMAGENET_MEAN, std=_IMAGENET_STD),
    ZooEntry("segmenter_softmax", AttentionUNet, (208, 176), ("mask",)),
    ZooEntry("classifier_only", Classifier, (192, 160), ("diagnosis",), mean=(0.0,), std=(255.0,)),
    ZooEntry("emtnet", unguided, (INPUT_SIZE, INPUT_SIZE), mean=(128.0,), std=(128.0,)),
)
ZOO: Final = {entry.name: entry for entry in _ENTRIES}
