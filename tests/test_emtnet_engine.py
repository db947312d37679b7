"""A checkpoint judged through the runtime's own path."""

import numpy as np
import pytest
import torch

from edge.frame import GreyImage
from edge.preprocess import preprocess, sigmoid
from emtnet.engine import TorchEngine, torch_predictor
from emtnet.network import EmtNet


@pytest.fixture(scope="module")
def network() -> EmtNet:
    torch.manual_seed(3)
    return EmtNet()


def test_the_engine_gives_the_networks_own_outputs(network: EmtNet, phantoms: list[GreyImage]) -> None:
    image = preprocess(phantoms[0], (224, 224))
    outputs = TorchEngine(network).infer(image)
    assert not network.training
    with torch.inference_mode():
        mask, malignancy = network((torch.from_numpy(image)[None, None].float() - 128) / 128)
    assert outputs.keys() == {"mask", "malignancy"}
    assert outputs["mask"].shape == (1, 1, 112, 112)
    np.testing.assert_array_equal(outputs["mask"], mask.numpy())
    np.testing.assert_array_equal(outputs["malignancy"], malignancy.numpy())


def test_the_predictor_takes_frames_of_any_size(network: EmtNet, phantoms: list[GreyImage]) -> None:
    with torch_predictor(network, threshold=0.3) as predictor:
        prediction = predictor.predict(phantoms[1])
    assert prediction.mask is not None
    assert prediction.mask.shape == phantoms[1].shape
    assert prediction.decision in ("benign", "malignant", "normal")
    assert predictor.interpretation.threshold == 0.3
    outputs = TorchEngine(network).infer(preprocess(phantoms[1], (224, 224)))
    assert prediction.malignancy == pytest.approx(float(sigmoid(outputs["malignancy"])[0, 0]))
