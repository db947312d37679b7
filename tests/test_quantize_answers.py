"""What a finished graph says of the calibration frames."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from foreign_bundles import CLASSES, FEATURES, HEIGHT, MASK, WIDTH, network, write_bundle

from edge.engines.onnx import OnnxEngine
from edge.frame import GreyImage
from edge.manifest import OutputSpec
from edge.phantom import phantom_case
from edge.predictor import Predictor
from edge.preprocess import preprocess
from edge.presence import Presence
from quantize import answers
from quantize.answers import answers_of, features_of
from quantize.onnx_graph import plain_session

FRAMES = [preprocess(phantom_case(seed, size=(96, 112)).pixels, (HEIGHT, WIDTH)) for seed in range(8)]
PRESENCE = Presence(0.6, -0.2, 0.4, "here")
EMBEDDING = OutputSpec("flat", "features", "none", (1, 3))
"""The mean of each colour channel, which the network's classes are read from."""


def test_the_answers_are_those_of_the_runtime(tmp_path: Path) -> None:
    outputs = (MASK, CLASSES, EMBEDDING)
    how = write_bundle(tmp_path / "bundle", *outputs, presence=PRESENCE).manifest.interpretation()
    found = answers_of(network(outputs), how, FRAMES)
    predictor = Predictor(OnnxEngine(plain_session(network(outputs))), how)
    wanted = [predictor.predict(frame) for frame in FRAMES]
    assert found.positive.tolist() == [answer.malignancy for answer in wanted]
    assert found.presence.tolist() == [answer.presence for answer in wanted]
    features = features_of(network(outputs), EMBEDDING.name, FRAMES)
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, [answer.outputs["flat"][0] for answer in wanted], rtol=1e-4, atol=1e-5)
    assert np.ptp(features[:, 0]) > 0.01


def test_what_a_network_does_not_say_is_empty(tmp_path: Path) -> None:
    how = write_bundle(tmp_path / "bundle", MASK).manifest.interpretation()
    found = answers_of(network((MASK,)), how, FRAMES)
    assert (found.positive.size, found.presence.size) == (0, 0)


def test_a_model_runs_once_on_each_image_and_gives_only_what_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[tuple[list[str], bytes]] = []

    class Counted:
        def __init__(self, session: Any) -> None:
            self.session = session

        def get_inputs(self) -> Any:
            return self.session.get_inputs()

        def run(self, names: list[str], feeds: dict[str, GreyImage]) -> Any:
            runs.extend((names, image.tobytes()) for image in feeds.values())
            return self.session.run(names, feeds)

    monkeypatch.setattr(answers, "plain_session", lambda model: Counted(plain_session(model)))
    outputs = (FEATURES, CLASSES, MASK, EMBEDDING)
    how = write_bundle(tmp_path / "bundle", *outputs, presence=PRESENCE).manifest.interpretation()
    answers_of(network(outputs), how, FRAMES)
    assert [image for _, image in runs] == [frame.tobytes() for frame in FRAMES]
    assert all(names == [MASK.name, CLASSES.name] for names, _ in runs)
