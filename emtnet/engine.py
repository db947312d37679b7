"""A checkpoint as an engine, so that evaluation judges it through the runtime's own path."""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from edge.frame import GreyImage
from edge.predictor import Predictor
from emtnet.network import INPUT_SIZE, EmtNet, ExportedEmtNet


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
    return Predictor(TorchEngine(network), input_size=(INPUT_SIZE, INPUT_SIZE), threshold=threshold)
