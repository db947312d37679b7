"""The class head's bias takes back what INT8 shifted on average."""

import numpy as np
import onnx
import pytest
from onnx import helper
from test_quantize_support import (
    CALIBRATED_ON,
    Constants,
    build,
    copy_of,
    fp32_model,
    frames,
    initializers,
    int8_model,
    nncf_model,
    run_referee,
)

from quantize.head_bias import match_score_means
from quantize.qdq import complete

CLASS_BIAS = "network.class_head.bias"


def mean_score(model: onnx.ModelProto) -> float:
    feeds = [{"image": frame[None, None]} for frame in frames()[:CALIBRATED_ON]]
    return float(np.mean([run_referee(model, feed)["malignancy"].item() for feed in feeds]))


def shifted(model: onnx.ModelProto, by: float) -> onnx.ModelProto:
    """The model with another class bias."""
    changed = copy_of(model)
    for tensor in changed.graph.initializer:
        if tensor.name == CLASS_BIAS:
            tensor.CopyFrom(
                onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor) + np.float32(by), tensor.name)
            )
    return changed


def test_the_mean_score_over_the_frames_is_that_of_fp32() -> None:
    before, after, wanted = (mean_score(model) for model in (complete(nncf_model()), int8_model(), fp32_model()))
    assert after == pytest.approx(wanted, abs=1e-4)
    assert before != pytest.approx(wanted, abs=1e-4), "nothing was to be corrected"


def test_a_large_shift_is_taken_back_too() -> None:
    matched = match_score_means(shifted(int8_model(), 3.0), fp32_model(), frames()[:CALIBRATED_ON])
    assert mean_score(matched) == pytest.approx(mean_score(fp32_model()), abs=1e-4)


def test_nothing_but_the_class_bias_changes() -> None:
    quantised = complete(nncf_model())
    before, after = initializers(quantised), initializers(int8_model())
    assert before.keys() == after.keys()
    assert {name for name in before if not np.array_equal(before[name], after[name])} == {CLASS_BIAS}
    assert after[CLASS_BIAS].dtype == np.float32
    feeds = {"image": frames()[0][None, None]}
    assert np.array_equal(run_referee(quantised, feeds)["mask"], run_referee(int8_model(), feeds)["mask"])


def test_the_models_it_is_given_stay_as_they_are() -> None:
    quantised, reference = complete(nncf_model()), copy_of(fp32_model())
    before = quantised.SerializeToString()
    match_score_means(quantised, reference, frames()[:2])
    assert quantised.SerializeToString() == before
    assert reference.SerializeToString() == fp32_model().SerializeToString()


def small(head: str, bias: float | None) -> onnx.ModelProto:
    """A uint8 image of four pixels and a head of one value."""
    constants: Constants = {"w": np.full((1, 1, 2, 2), 0.5, np.float32)}
    last = ["x", "w"]
    nodes = [helper.make_node("Cast", ["image"], ["x"], to=onnx.TensorProto.FLOAT)]
    if head == "Gemm":
        nodes.append(helper.make_node("Flatten", ["x"], ["flat"]))
        constants["w"] = np.full((4, 1), 0.5, np.float32)
        last = ["flat", "w"]
    if bias is not None:
        last.append("b")
        constants["b"] = np.full(1, bias, np.float32)
    nodes.append(helper.make_node(head, last, ["score"]))
    return build(nodes, {"image": (1, 1, 2, 2)}, ["score"], constants, dtype=onnx.TensorProto.UINT8)


@pytest.mark.parametrize("head", ["Gemm", "Conv"])
def test_either_kind_of_head_is_matched(head: str) -> None:
    images = [np.full((2, 2), value, np.uint8) for value in (3, 9)]
    matched = match_score_means(small(head, 1.0), small(head, 2.5), images)
    assert initializers(matched)["b"] == pytest.approx(2.5)


def test_a_head_without_a_bias_stays_as_it_is() -> None:
    model = small("Gemm", None)
    matched = match_score_means(model, small("Gemm", 2.5), [np.zeros((2, 2), np.uint8)])
    assert matched.SerializeToString() == model.SerializeToString()
