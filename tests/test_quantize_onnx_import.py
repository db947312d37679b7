"""A foreign network's image and its layout in the house's form: the same answers as the original's, in ONNX Runtime."""

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from foreign_networks import SIDE, Dims, body, images, model_of, small_network, weights
from import_checks import HALF, IMAGENET, NONE, PIXELS, refused, same
from onnx import TensorProto, helper
from test_quantize_support import initializers, nodes_of, read_tflite, run_tflite

from edge.manifest import InputSpec
from quantize.description import Description
from quantize.network import Network
from quantize.onnx_graph import plain_session
from quantize.tflite.lower import to_tflite

NCHW, NHWC = [0, 3, 1, 2], [0, 2, 3, 1]


# The image.


@pytest.mark.parametrize("said", [HALF, PIXELS, Description(mean=(0.2,), std=(0.3,))], ids=["half", "pixels", "odd"])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_float_image_of_one_mean_is_normalised_once_and_then_spread(channels: int, said: Description) -> None:
    network = same(small_network(channels), said)
    (offset,), (scale,) = said.pixels(1)
    assert network.input == InputSpec(
        "image", SIDE, SIDE, channels, (offset,) * channels, (scale,) * channels, "stretch"
    )
    (divide,) = nodes_of(network.model, "Div")
    held = initializers(network.model)
    assert held[divide.input[1]] == pytest.approx(scale)
    assert len(nodes_of(network.model, "Concat")) == (channels == 3)
    (value,) = network.model.graph.input
    assert value.type.tensor_type.elem_type == TensorProto.UINT8
    assert [dim.dim_value for dim in value.type.tensor_type.shape.dim] == [1, 1, SIDE, SIDE]


@pytest.mark.parametrize("said", [IMAGENET, replace(IMAGENET, std=(0.25,)), replace(IMAGENET, mean=(0.5,))], ids=str)
def test_three_means_or_deviations_are_one_for_each_channel(said: Description) -> None:
    network = same(small_network(3), said)
    offset, scale = said.pixels(3)
    assert (network.input.offset, network.input.scale) == (offset, scale)
    assert not nodes_of(network.model, "Concat")


@pytest.mark.parametrize("said", [IMAGENET, replace(IMAGENET, mean=(0.5,)), replace(IMAGENET, std=(0.5,))], ids=str)
def test_three_numbers_for_one_channel_are_refused(said: Description) -> None:
    assert "one channel; give one of each" in refused(small_network(1), said)


def test_a_float_image_without_mean_is_refused_with_examples() -> None:
    message = refused(small_network(), NONE)
    assert "'image' is float32" in message
    assert "--mean 0 --std 1" in message


def casting(channels: int, *, channels_last: bool = False, readers: int = 1) -> onnx.ModelProto:
    """A network that takes uint8 and normalises it itself, in each of its branches."""
    nodes, constants = body(channels, source="normal")
    before = []
    for place in range(readers):
        before.append(helper.make_node("Cast", ["image"], [f"f{place}"], to=TensorProto.FLOAT))
    last = "f0"
    if channels_last:
        before.append(helper.make_node("Transpose", ["f0"], ["t"], perm=NCHW))
        last = "t"
    before += [helper.make_node("Sub", [last, "c"], ["m"]), helper.make_node("Div", ["m", "s"], ["normal"])]
    outputs: dict[str, Dims | None] = {"mask": None, "scores": None}
    if readers > 1:
        before.append(helper.make_node("Div", ["f1", "s"], ["again"]))
        outputs["again"] = None
    dims = (1, SIDE, SIDE, channels) if channels_last else (1, channels, SIDE, SIDE)
    constants = constants | {"c": np.float32(127.5), "s": np.float32(127.5)}
    return model_of(before + nodes, {"image": dims}, outputs, constants, dtype=TensorProto.UINT8)


@pytest.mark.parametrize("readers", [1, 2])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_uint8_image_that_the_network_casts_is_the_frame(channels: int, channels_last: bool, readers: int) -> None:
    model = casting(channels, channels_last=channels_last, readers=readers)
    network = same(model, NONE, turned=("again",) if channels_last else ())
    assert (network.input.offset, network.input.scale) == ((0.0,) * channels, (1.0,) * channels)
    assert len(nodes_of(network.model, "Cast")) == 1


def test_a_mean_for_pixels_that_the_network_normalises_is_refused() -> None:
    assert "normalises them itself; leave --mean out" in refused(casting(3))


def test_colour_pixels_that_are_not_cast_are_refused() -> None:
    nodes = [helper.make_node("MaxPool", ["image"], ["mask"], kernel_shape=[2, 2])]
    model = model_of(nodes, {"image": (1, 3, 8, 8)}, {"mask": None}, dtype=2, output_dtype=2, opset=18)
    assert "is uint8 and not cast to float first; export it with one channel" in refused(model, NONE)


def test_a_network_that_uses_the_names_of_the_normalisation_keeps_them() -> None:
    nodes, constants = body(source="image_normalised")
    nodes = [
        helper.make_node("Mul", ["image", "image_scale"], ["image_float"]),
        helper.make_node("Sub", ["image_float", "image_offset"], ["image_normalised"]),
        *nodes,
    ]
    constants = constants | {"image_scale": np.float32(2), "image_offset": np.float32(0.25)}
    same(model_of(nodes, {"image": (1, 1, SIDE, SIDE)}, {"mask": None, "scores": None}, constants))


# NHWC.


def keras(channels: int = 1, size: Dims = (1, 24, 36), **named: Any) -> onnx.ModelProto:
    """As tf2onnx writes Keras: a Transpose at every border, Flatten in NHWC, a matrix and an Add for Dense."""
    nodes, constants = body(channels, source="nchw")
    turned = [helper.make_node("Transpose", ["image"], ["nchw"], name="border", perm=NCHW)]
    for node in nodes[:5]:
        if node.op_type == "Relu":  # between two layers
            name = node.output[0]
            node.output[0] = f"{name}_nchw"
            turned += [
                node,
                helper.make_node("Transpose", [f"{name}_nchw"], [f"{name}_nhwc"], perm=NHWC),
                helper.make_node("Transpose", [f"{name}_nhwc"], [name], perm=NCHW),
            ]
        else:
            turned.append(node)
    turned[-1].output[0] = "mask_nchw"
    turned += [
        helper.make_node("Transpose", ["mask_nchw"], ["mask"], perm=NHWC),
        helper.make_node("AveragePool", ["r2"], ["small"], kernel_shape=[12, 12], strides=[12, 12]),
        helper.make_node("Transpose", ["small"], ["small_nhwc"], perm=NHWC),
        helper.make_node("Reshape", ["small_nhwc", "flat_shape"], ["flat"]),
        helper.make_node("MatMul", ["flat", "dense"], ["product"]),
        helper.make_node("Add", ["product", "b4"], ["scores"]),
    ]
    constants = {key: value for key, value in constants.items() if key != "w4"}
    constants |= {"flat_shape": np.asarray([-1, 2 * 3 * 8]), "dense": weights(48, 2)}
    return model_of(turned, {"image": (*size, channels)}, {"mask": None, "scores": None}, constants, opset=15, **named)


@pytest.mark.parametrize(("channels", "said"), [(1, HALF), (1, PIXELS), (3, HALF), (3, IMAGENET)])
def test_an_nhwc_network_becomes_nchw_and_its_tflite_file_moves_no_data(channels: int, said: Description) -> None:
    network = same(keras(channels), said, turned=("mask",))
    assert [(output.name, output.kind, output.shape) for output in network.outputs] == [
        ("mask", "mask", (1, 1, 24, 36)),
        ("scores", "class", (1, 2)),
    ]
    assert len(nodes_of(network.model, "Transpose")) == 1, "Flatten's, of which TFLite has no need"
    assert [node.op_type for node in network.model.graph.node][:3] == ["Cast", "Sub", "Div"], "what the INT8 graph pins"
    content = to_tflite(network.model)
    file = read_tflite(content)
    assert not file.counts["TRANSPOSE"]
    assert file.counts["FULLY_CONNECTED"] == 1
    feeds = {"image": images(1, (24, 36))[0][None, None]}
    wanted = plain_session(network.model).run(["mask", "scores"], feeds)
    for value, name in zip(wanted, ("mask", "scores"), strict=True):
        np.testing.assert_allclose(run_tflite(content, feeds)[name], value, rtol=1e-5, atol=1e-4)


def test_an_open_nhwc_network_takes_a_size() -> None:
    network = same(keras(size=("n", "h", None)), replace(HALF, size=(24, 36)), turned=("mask",))
    assert network.input.size == (24, 36)


def test_images_that_an_nhwc_network_gives_as_nchw_stay() -> None:
    """A PyTorch network behind a permute."""
    nodes, constants = body(source="nchw")
    nodes = [helper.make_node("Transpose", ["image"], ["nchw"], perm=NCHW), *nodes]
    model = model_of(nodes, {"image": (1, 24, 36, 1)}, {"mask": None, "scores": None}, constants)
    assert [output.shape for output in same(model).outputs] == [(1, 1, 24, 36), (1, 2)]


# Shapes.


def opened(*dims: int | str | None, said: Description = HALF) -> Network:
    nodes, constants = body()
    return same(model_of(nodes, {"image": dims}, {"mask": None, "scores": None}, constants), said)


@pytest.mark.parametrize("batch", ["N", None])
@pytest.mark.parametrize("channels", [1, "C"])
def test_an_open_batch_is_one(batch: str | None, channels: int | str) -> None:
    assert opened(batch, channels, SIDE, SIDE).outputs[0].shape == (1, 1, SIDE, SIDE)


def test_open_height_and_width_take_a_size() -> None:
    network = opened("N", 1, "H", "W", said=replace(HALF, size=(20, 28)))
    assert network.input.size == (20, 28)
    assert network.outputs[0].shape == (1, 1, 20, 28)


@pytest.mark.parametrize(
    ("dims", "said", "message"),
    [
        ((1, 1, "H", "W"), HALF, "leaves height and width open; fix them with --size HEIGHTxWIDTH"),
        ((1, 1, 32, None), HALF, "fix them with --size HEIGHTxWIDTH"),
        (
            (1, 1, 32, 32),
            replace(HALF, size=(32, 48)),
            "is for 32×32 pixels, not 32×48; change --size, or leave it out",
        ),
        ((1, 1, 32, "W"), replace(HALF, size=(48, 32)), "is for 32×any pixels, not 48×32; change --size"),
        ((4, 1, 32, 32), HALF, "takes 4 images at once; export the network for a batch of 1"),
        ((1, 32, 32), HALF, "has rank 3; an image has (N, C, H, W) or (N, H, W, C)"),
        ((1, 1, 8, 32, 32), HALF, "has rank 5"),
        ((1, 4, 32, 32), HALF, "has shape 1×4×32×32, in which no axis has 1 or 3 channels"),
        ((1, 1, 32, 32), replace(HALF, channels=3), "in which no axis has 3 channels"),
    ],
    ids=str,
)
def test_shapes_of_no_one_image_are_refused(dims: Dims, said: Description, message: str) -> None:
    nodes = [helper.make_node("Relu", ["image"], ["mask"])]
    assert message in refused(model_of(nodes, {"image": dims}, {"mask": None}), said)


@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.INT8, TensorProto.INT64])
def test_images_of_other_types_are_refused(kind: int) -> None:
    nodes = [helper.make_node("Relu", ["image"], ["mask"])]
    model = model_of(nodes, {"image": (1, 1, 8, 8)}, {"mask": None}, dtype=kind, output_dtype=kind)
    assert "'image' is no float32 or uint8 image; export the network in float32" in refused(model)


def test_two_inputs_and_none_are_refused_by_name() -> None:
    dims = (1, 1, 8, 8)
    both = model_of(
        [helper.make_node("Add", ["image", "prior"], ["mask"])], {"image": dims, "prior": dims}, {"mask": dims}
    )
    assert "2 inputs (image, prior); one image is supported, freeze the others" in refused(both)
    none = model_of([helper.make_node("Constant", [], ["mask"], value_float=1.0)], {}, {"mask": ()})
    assert "0 inputs (none)" in refused(none)
