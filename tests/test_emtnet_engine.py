"""A checkpoint judged through the runtime's own path."""

import numpy as np
import pytest
import torch

from edge.frame import GreyImage
from edge.manifest import OperatingPoint
from edge.preprocess import preprocess, sigmoid
from edge.presence import Presence
from emtnet.engine import FEATURE_VECTOR, TorchEngine, emtnet_interpretation, mask_output, torch_predictor
from emtnet.network import ARCHITECTURES, EmtNet

POINT = OperatingPoint(0.3, "malignant", "nothing", 2.0, 0.6)
PRESENCE = Presence(1.2, 0.1, 0.4, "nothing", 0.7)


@pytest.fixture(scope="module", params=ARCHITECTURES)
def network(request: pytest.FixtureRequest) -> EmtNet:
    torch.manual_seed(3)
    return EmtNet(request.param)


@pytest.mark.parametrize(("name", "side"), [("emtnet", 112), ("emtnet-s", 56)])
def test_each_network_has_its_mask(name: str, side: int) -> None:
    assert mask_output(name).shape == (1, 1, side, side)
    assert emtnet_interpretation(name, POINT).mask == mask_output(name)
    with pytest.raises(KeyError):
        mask_output("emtnet-xl")


def test_the_engine_gives_the_networks_own_outputs(network: EmtNet, phantoms: list[GreyImage]) -> None:
    image = preprocess(phantoms[0], (224, 224))
    outputs = TorchEngine(network).infer(image)
    assert not network.training
    with torch.inference_mode():
        mask, malignancy, _, features = network((torch.from_numpy(image)[None, None].float() - 128) / 128)
    assert outputs.keys() == {"mask", "malignancy", "features"}
    assert outputs["mask"].shape == mask_output(network.name).shape
    np.testing.assert_array_equal(outputs["mask"], mask.numpy())
    np.testing.assert_array_equal(outputs["malignancy"], malignancy.numpy())
    np.testing.assert_array_equal(outputs["features"], features.numpy())
    assert outputs["features"].shape == FEATURE_VECTOR.shape


def test_the_predictor_takes_frames_of_any_size(network: EmtNet, phantoms: list[GreyImage]) -> None:
    with torch_predictor(network, operating_point=POINT, presence=PRESENCE) as predictor:
        prediction = predictor.predict(phantoms[1])
    assert prediction.mask is not None
    assert prediction.mask.shape == phantoms[1].shape
    assert prediction.decision in ("benign", "malignant", "no lesion")
    assert predictor.interpretation.threshold == 0.3
    assert predictor.interpretation.presence == PRESENCE.at("fp32")
    assert prediction.presence is not None
    outputs = TorchEngine(network).infer(preprocess(phantoms[1], (224, 224)))
    assert prediction.malignancy == pytest.approx(float(sigmoid(outputs["malignancy"] / np.float32(2))[0, 0]))
