"""A checkpoint as an engine, so that evaluation judges it through the runtime's own path."""

from collections.abc import Mapping
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from edge.bundle import OutputSpec
from edge.frame import GreyImage
from edge.interpretation import Interpretation
from edge.predictor import Predictor
from emtnet.network import INPUT_SIZE, MASK_STRIDE, EmtNet, ExportedEmtNet

LABELS: Final = ("benign", "malignant")
POSITIVE: Final = "malignant"
_SIDE: Final = INPUT_SIZE // MASK_STRIDE
MASK: Final = OutputSpec("mask", "mask", "sigmoid", (1, 1, _SIDE, _SIDE))
MALIGNANCY: Final = OutputSpec("malignancy", "class", "sigmoid", (1, 1))


class TorchEngine:
    """`edge.predictor.Engine` over an EmtNet, float32 on the network's device. Leaves the network in evaluation mode."""

    def __init__(self, network: EmtNet) -> None:
        self._network = ExportedEmtNet(network).eval()
        self._device = next(network.parameters()).device

    def infer(self, image: GreyImage) -> Mapping[str, NDArray[np.float32]]:
        with torch.inference_mode():
            mask, malignancy = self._network(torch.from_numpy(image)[None, None].to(self._device))
        return {"mask": mask.cpu().numpy(), "malignancy": malignancy.cpu().numpy()}

    def close(self) -> None:
        """Nothing to release."""


def torch_predictor(network: EmtNet, *, threshold: float) -> Predictor:
    """A `Predictor` over the PyTorch network itself."""
    return Predictor(TorchEngine(network), emtnet_interpretation(threshold))


def emtnet_interpretation(threshold: float) -> Interpretation:
    """How EMT-Net's outputs are read at an operating point on the probability of malignancy."""
    return Interpretation((INPUT_SIZE, INPUT_SIZE), "stretch", MASK, MALIGNANCY, LABELS, POSITIVE, threshold)
