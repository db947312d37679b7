"""A checkpoint as an engine, so that evaluation judges it through the runtime's own path."""

from collections.abc import Mapping
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from edge.frame import GreyImage
from edge.interpretation import Interpretation
from edge.manifest import OperatingPoint, OutputSpec
from edge.predictor import Predictor
from edge.presence import Presence
from emtnet.network import ARCHITECTURES, FEATURES, INPUT_SIZE, EmtNet, ExportedEmtNet

LABELS: Final = ("benign", "malignant")
POSITIVE: Final = "malignant"
MALIGNANCY: Final = OutputSpec("malignancy", "class", "sigmoid", (1, 1))
FEATURE_VECTOR: Final = OutputSpec("features", "features", "none", (1, sum(FEATURES)))
_NAMES: Final = ("mask", MALIGNANCY.name, FEATURE_VECTOR.name)
UNSET: Final = OperatingPoint(0.5, POSITIVE, "nothing: 0.5 by convention")
"""Of a network that nothing was fitted to."""


class TorchEngine:
    """`edge.predictor.Engine` over an EmtNet, float32 on the network's device. Leaves the network in evaluation mode."""

    def __init__(self, network: EmtNet) -> None:
        self._network = ExportedEmtNet(network).eval()
        self._device = next(network.parameters()).device

    def infer(self, image: GreyImage) -> Mapping[str, NDArray[np.float32]]:
        with torch.inference_mode():
            outputs = self._network(torch.from_numpy(image)[None, None].to(self._device))
        return {name: output.cpu().numpy() for name, output in zip(_NAMES, outputs, strict=True)}

    def close(self) -> None:
        """Nothing to release."""


def mask_output(network_name: str) -> OutputSpec:
    """The mask of a network of `emtnet.network.ARCHITECTURES`: lesion logits, (1, 1, h, w). Raises KeyError for another name."""
    side = INPUT_SIZE // ARCHITECTURES[network_name].mask_stride
    return OutputSpec("mask", "mask", "sigmoid", (1, 1, side, side))


def torch_predictor(network: EmtNet, *, operating_point: OperatingPoint, presence: Presence | None = None) -> Predictor:
    """A `Predictor` over the PyTorch network itself."""
    return Predictor(TorchEngine(network), emtnet_interpretation(network.name, operating_point, presence))


def emtnet_interpretation(
    network_name: str, operating_point: OperatingPoint, presence: Presence | None = None
) -> Interpretation:
    """How the network's outputs are read in FP32. Raises KeyError for a name that is not in `emtnet.network.ARCHITECTURES`."""
    return Interpretation(
        input_size=(INPUT_SIZE, INPUT_SIZE),
        resize="stretch",
        mask=mask_output(network_name),
        classes=MALIGNANCY,
        labels=LABELS,
        positive=operating_point.positive,
        threshold=operating_point.at("fp32").threshold,
        temperature=operating_point.temperature,
        presence=None if presence is None else presence.at("fp32"),
        features=FEATURE_VECTOR,
    )
