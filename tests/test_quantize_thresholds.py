"""Thresholds move with the scores when a network is quantised, without labels."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from foreign_bundles import CLASSES, FEATURES, HEIGHT, LABELS, MASK, WIDTH, network, write_bundle
from onnx import numpy_helper

from edge.engines.onnx import OnnxEngine
from edge.manifest import Manifest, OperatingPoint, OutputSpec
from edge.phantom import phantom_case
from edge.predictor import Prediction, Predictor
from edge.preprocess import preprocess
from edge.presence import Presence
from quantize.answers import answers_of
from quantize.onnx_graph import plain_session
from quantize.thresholds import with_int8_thresholds

FRAMES = [preprocess(phantom_case(seed, size=(96, 112)).pixels, (HEIGHT, WIDTH)) for seed in range(16)]
SIGMOIDS = replace(CLASSES, activation="sigmoid")
"""The class scores as logits of their own."""


def changed(model: onnx.ModelProto, **factors: float) -> onnx.ModelProto:
    """The model with some of its constants multiplied: what quantisation did to it."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    for tensor in result.graph.initializer:
        if tensor.name in factors:
            values = numpy_helper.to_array(tensor) * np.float32(factors[tensor.name])
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return result


def manifest_of(folder: Path, outputs: Sequence[OutputSpec], presence: Presence | None = None) -> Manifest:
    return write_bundle(folder / "bundle", *outputs, presence=presence).manifest


def answers(model: onnx.ModelProto, manifest: Manifest, precision: str) -> list[Prediction]:
    predictor = Predictor(OnnxEngine(plain_session(model)), manifest.interpretation(precision))
    return [predictor.predict(frame) for frame in FRAMES]


def moved_to(manifest: Manifest, fp32: onnx.ModelProto, int8: onnx.ModelProto) -> Manifest:
    how = manifest.interpretation()
    return with_int8_thresholds(manifest, *(answers_of(model, how, FRAMES) for model in (fp32, int8)))


def middle(scores: Sequence[float | None]) -> float:
    """A threshold with half of the scores on each side."""
    return float(np.median([score for score in scores if score is not None]))


def test_the_class_threshold_leaves_the_calls_where_they_were(tmp_path: Path) -> None:
    outputs = (SIGMOIDS, FEATURES)
    manifest = replace(manifest_of(tmp_path, outputs), operating_point=OperatingPoint(0.5, "malignant", "here", 1.5))
    fp32, int8 = network(outputs), changed(network(outputs, brighter=9.0), head=0.8)
    threshold = middle([answer.malignancy for answer in answers(fp32, manifest, "fp32")])
    manifest = replace(manifest, operating_point=OperatingPoint(threshold, "malignant", "here", 1.5))
    moved = moved_to(manifest, fp32, int8)
    wanted, before, after = (
        [answer.decision == "malignant" for answer in answers(model, how, precision)]
        for model, how, precision in ((fp32, manifest, "fp32"), (int8, manifest, "int8"), (int8, moved, "int8"))
    )
    assert sum(wanted) == 8
    assert before != wanted, "nothing was to be moved"
    assert after == wanted
    assert moved.operating_point is not None
    assert replace(moved, operating_point=manifest.operating_point) == manifest
    assert replace(moved.operating_point, int8_threshold=None) == manifest.operating_point
    assert moved.interpretation("fp32") == manifest.interpretation("fp32")


def test_the_presence_threshold_leaves_the_lesions_where_they_were(tmp_path: Path) -> None:
    presence = Presence(0.6, -0.2, 0.5, "here")
    manifest = manifest_of(tmp_path, (MASK,), presence)
    fp32, int8 = (changed(network((MASK,)), mix=factor) for factor in (0.2, 0.15))
    presence = replace(presence, threshold=middle([a.presence for a in answers(fp32, manifest, "fp32")]))
    manifest = replace(manifest, presence=presence)
    moved = moved_to(manifest, fp32, int8)
    wanted, before, after = (
        [answer.decision for answer in answers(model, how, precision)]
        for model, how, precision in ((fp32, manifest, "fp32"), (int8, manifest, "int8"), (int8, moved, "int8"))
    )
    assert wanted.count("lesion") == 8
    assert before != wanted, "nothing was to be moved"
    assert after == wanted
    assert (moved.operating_point, moved.interpretation("fp32").presence) == (None, presence)


def test_the_same_network_keeps_its_thresholds(tmp_path: Path) -> None:
    outputs = (MASK, CLASSES)
    manifest = manifest_of(tmp_path, outputs, Presence(0.6, -0.2, 0.4, "here"))
    moved = moved_to(manifest, network(outputs), network(outputs))
    assert moved.operating_point is not None
    assert moved.presence is not None
    assert moved.operating_point.int8_threshold == pytest.approx(0.5)
    assert moved.presence.int8_threshold == pytest.approx(0.4)


def test_without_a_presence_only_the_class_threshold_moves(tmp_path: Path) -> None:
    outputs = (MASK, CLASSES)
    moved = moved_to(manifest_of(tmp_path, outputs), network(outputs), network(outputs))
    assert moved.presence is None
    assert moved.operating_point is not None
    assert moved.operating_point.int8_threshold is not None
    assert moved.labels == LABELS
