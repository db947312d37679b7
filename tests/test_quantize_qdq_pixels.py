"""The image of an INT8 network is the pixels as they are, whatever mean they were trained with."""

from functools import cache

import numpy as np
import onnx
import pytest
from foreign_networks import SIDE, Constants, array, every_engine, images, small_network, weights
from onnx import TensorProto, helper
from test_quantize_qdq_rules import SIZE, behind, frames, parameters
from test_quantize_support import build, initializers, intermediate, nodes_of, qdq, read_tflite, run_referee, weight_dq

from quantize.description import Description
from quantize.onnx_import import import_onnx
from quantize.ptq import quantise
from quantize.qdq import complete
from quantize.tflite.lower import to_tflite

ALL_PIXELS = np.resize(np.arange(256, dtype=np.uint8), (SIDE, SIDE))
MEANS = [(1, 0.5), (3, 0.5), (1, 0.0), (3, 0.0), (1, 0.217), (3, 0.217)]


@cache
def imported(channels: int, mean: float) -> onnx.ModelProto:
    said = Description(mean=(mean,), std=(0.5,))
    return import_onnx(small_network(channels), said, name="net").model


@cache
def completed(channels: int, mean: float) -> onnx.ModelProto:
    return complete(quantise(imported(channels, mean), frames()), frames())


@pytest.mark.parametrize(("channels", "mean"), MEANS)
def test_pixels_pass_the_first_quantiser_unrounded_for_any_mean(channels: int, mean: float) -> None:
    model = completed(channels, mean)
    (divide,) = nodes_of(model, "Div")
    quantiser = behind(model, divide.output[0])
    centre = int(np.rint(mean * 255))
    scale, zero_point, dtype = parameters(model, quantiser)
    assert np.float32(scale) == np.float32(1 / 127.5)
    assert (zero_point, dtype) in [(centre - 128, "int8"), (centre, "uint8")]
    (integers,) = intermediate(model, [quantiser.output[0]], {"image": ALL_PIXELS[None, None]})
    assert np.array_equal(integers.astype(int) - integers.min(), ALL_PIXELS[None, None])


@pytest.mark.parametrize(("channels", "mean"), MEANS)
def test_the_tflite_file_reads_the_pixels_as_they_are(channels: int, mean: float) -> None:
    codes = [operator.code for operator in read_tflite(to_tflite(completed(channels, mean))).operators]
    spread = ["CONCATENATION"] if channels == 3 else []
    assert codes[: 3 + len(spread)] == ["DEQUANTIZE", "QUANTIZE", *spread, "CONV_2D"]


@pytest.mark.parametrize("mean", [127.5, 55.3, 200.8])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_bias_makes_up_exactly_for_a_mean_between_two_pixels(channels: int, mean: float) -> None:
    """But at the border, where padding is no pixel, and by less than half a grey level there."""
    pair, held = qdq("n", 0.0081, 3)
    spread, parts = qdq("rgb", 0.0079, -1)
    kernel, more = weight_dq("w", weights(4, channels, 3, 3))
    nodes = [
        helper.make_node("Cast", ["image"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["f", "mean"], ["m"]),
        helper.make_node("Div", ["m", "deviation"], ["n"]),
        *pair,
        kernel,
    ]
    if channels == 3:
        nodes += [helper.make_node("Concat", ["n_dq"] * 3, ["rgb"], axis=1), *spread]
        held = held | parts
    source = "rgb_dq" if channels == 3 else "n_dq"
    nodes.append(helper.make_node("Conv", [source, "w_dq", "b"], ["y"], pads=[1, 1, 1, 1]))
    constants = {"mean": np.float32(mean), "deviation": np.float32(50), "b": array([0.1, -0.2, 0.3, 0.0])}
    model = complete(build(nodes, {"image": (1, 1, *SIZE)}, ["y"], held | more | constants, dtype=TensorProto.UINT8))
    image = np.resize(np.arange(256, dtype=np.uint8), SIZE)
    exact = build(
        [kernel, helper.make_node("Conv", ["x", "w_dq", "b"], ["y"], pads=[1, 1, 1, 1])],
        {"x": (1, channels, *SIZE)},
        ["y"],
        more | {"b": constants["b"]},
    )
    fed = np.repeat((image[None, None].astype(np.float32) - np.float32(mean)) / 50, channels, axis=1)
    wanted = run_referee(exact, {"x": fed})["y"]
    got = run_referee(model, {"image": image[None, None]})["y"]
    np.testing.assert_allclose(got[..., 1:-1, 1:-1], wanted[..., 1:-1, 1:-1], atol=2e-5)
    shift = abs(np.rint(mean) - mean) / 50
    assert shift > 0.001
    assert 0 < np.abs(got - wanted).max() <= shift * np.abs(weights(4, channels, 3, 3)).sum(axis=(1, 2, 3)).max()


@pytest.mark.parametrize(("mode", "pinned"), [("reflect", True), ("constant", True), ("filled", False)])
def test_an_image_that_is_padded_first_is_pinned_too(mode: str, pinned: bool) -> None:
    """As TensorFlow pads before a stride; not with a number that the shift would change."""
    pair, held = qdq("n", 0.0081, 3)
    behind_pad, parts = qdq("p", 0.0081, 3)
    kernel, more = weight_dq("w", weights(4, 1, 3, 3))
    pad_inputs = ["n_dq", "pads", "fill"] if mode == "filled" else ["n_dq", "pads"]
    nodes = [
        helper.make_node("Cast", ["image"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["f", "mean"], ["m"]),
        helper.make_node("Div", ["m", "mean"], ["n"]),
        *pair,
        helper.make_node("Pad", pad_inputs, ["p"], mode="reflect" if mode == "reflect" else "constant"),
        *behind_pad,
        kernel,
        helper.make_node("Conv", ["p_dq", "w_dq"], ["y"], strides=[2, 2]),
    ]
    constants: Constants = {"mean": np.float32(127.5), "pads": np.asarray([0, 0, 1, 1, 0, 0, 1, 1])}
    if mode == "filled":
        constants["fill"] = np.float32(-1)
    made = build(nodes, {"image": (1, 1, *SIZE)}, ["y"], held | parts | more | constants, dtype=TensorProto.UINT8)
    model = complete(made)
    assert (initializers(model)[nodes_of(model, "Sub")[0].input[1]] == 128) == pinned
    feeds = {"image": np.resize(np.arange(256, dtype=np.uint8), SIZE)[None, None]}
    (image,) = intermediate(made, ["n"], feeds)
    layer = helper.make_node("Conv", ["p", "w_dq"], ["y"], strides=[2, 2])
    exact = build([kernel, made.graph.node[5], layer], {"n_dq": image.shape}, ["y"], more | constants)
    wanted, got = run_referee(exact, {"n_dq": image})["y"], run_referee(model, feeds)["y"]
    inner = (slice(None), slice(None), slice(1, None), slice(1, None))
    if mode != "filled":
        np.testing.assert_allclose(got[inner], wanted[inner], atol=2e-5)
    if mode == "reflect":
        np.testing.assert_allclose(got, wanted, atol=2e-5)


@pytest.mark.parametrize(("channels", "mean"), MEANS)
def test_the_int8_network_says_what_the_fp32_one_says(channels: int, mean: float) -> None:
    for image in images(4):
        feeds = {"image": image[None, None]}
        wanted, got = (run_referee(each, feeds) for each in (imported(channels, mean), completed(channels, mean)))
        for name, value in wanted.items():
            assert np.abs(got[name] - value).mean() < 0.03 * max(np.ptp(value), 0.5), name


def test_a_mean_between_pixels_stays_where_something_else_reads_the_image() -> None:
    """No convolution, no bias that could make up for it."""
    pair, held = qdq("n", 0.0081, 3)
    nodes = [
        helper.make_node("Cast", ["image"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["f", "mean"], ["m"]),
        helper.make_node("Div", ["m", "deviation"], ["n"]),
        *pair,
        helper.make_node("MaxPool", ["n_dq"], ["y"], kernel_shape=[2, 2]),
    ]
    constants = held | {"mean": np.float32(127.5), "deviation": np.float32(127.5)}
    model = complete(build(nodes, {"image": (1, 1, *SIZE)}, ["y"], constants, dtype=TensorProto.UINT8))
    assert initializers(model)[nodes_of(model, "Sub")[0].input[1]] == 127.5
    assert parameters(model, behind(model, "n"))[0] == np.float32(0.0081)


@pytest.mark.parametrize(("channels", "mean"), [(1, 0.5), (3, 0.217)])
def test_all_engines_read_the_image_alike(channels: int, mean: float) -> None:
    run = every_engine(completed(channels, mean))
    for image in [*images(3), ALL_PIXELS]:
        answers = run(image)
        for engine in ("litert", "openvino"):
            for name, wanted in answers["referee"].items():
                assert np.abs(answers[engine][name] - wanted).mean() < 0.003 * max(np.ptp(wanted), 1.0), (engine, name)
