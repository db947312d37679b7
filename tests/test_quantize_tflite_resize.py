"""FP32 Resize and Upsample against ONNX Runtime, and the rules that TFLite cannot follow."""

from itertools import product
from typing import Any

import numpy as np
import onnx
import pytest
from lowering_checks import Shape, check, refusal
from onnx import TensorProto, helper
from test_quantize_support import Attributes, Constants, build, run_referee, run_tflite

from edge.errors import ConversionError
from quantize.tflite.lower import to_tflite

IMAGE = (1, 3, 4, 5)


def resized(
    shape: Shape, *, scales: list[float] | None = None, sizes: list[int] | None = None, **attributes: Any
) -> onnx.ModelProto:
    constants: Constants = {}
    if scales is not None:
        constants["scales"] = np.array(scales, np.float32)
    if sizes is not None:
        constants["sizes"] = np.array(sizes, np.int64)
    names = ["x", "", "scales" if scales is not None else "", "sizes" if sizes is not None else ""]
    node = helper.make_node("Resize", [*names[:3], *filter(None, names[3:])], ["y"], name="it", **attributes)
    return build([node], {"x": shape}, ["y"], constants)


# Linear.


@pytest.mark.parametrize(
    "rule", ["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric", "half_pixel_symmetric"]
)
@pytest.mark.parametrize("size", [(8, 10), (7, 13), (3, 2), (4, 10), (1, 1)], ids=str)
def test_bilinear_resize(rule: str, size: tuple[int, int]) -> None:
    model = resized(IMAGE, sizes=[1, 3, *size], mode="linear", coordinate_transformation_mode=rule)
    if size == (1, 1) and rule == "pytorch_half_pixel":  # reads the corner: only align_corners of one pixel does
        assert "RESIZE_BILINEAR" in check(model).counts
        return
    check(model, "RESIZE_BILINEAR")


@pytest.mark.parametrize("scales", [(2, 3), (1.5, 1.6), (0.5, 0.2)], ids=str)
def test_bilinear_resize_by_scales(scales: tuple[float, float]) -> None:
    check(resized(IMAGE, scales=[1, 1, *scales], mode="linear"), "RESIZE_BILINEAR")


def test_bilinear_resize_by_scales_of_named_axes() -> None:
    check(resized(IMAGE, scales=[2, 3], axes=[2, 3], mode="linear"), "RESIZE_BILINEAR")
    check(resized(IMAGE, scales=[3, 2], axes=[-1, -2], mode="linear"), "RESIZE_BILINEAR")


def test_resize_of_several_images() -> None:
    check(resized((2, 3, 4, 5), scales=[1, 1, 2, 2], mode="linear"), "RESIZE_BILINEAR")


@pytest.mark.parametrize("policy", ["not_larger", "not_smaller"])
def test_resize_that_keeps_the_aspect_ratio(policy: str) -> None:
    model = resized((1, 3, 4, 6), sizes=[8, 15], axes=[2, 3], mode="linear", keep_aspect_ratio_policy=policy)
    check(model, "RESIZE_BILINEAR")


# Nearest.

NEAREST: list[Attributes] = [
    {"coordinate_transformation_mode": rule, "nearest_mode": rounding}
    for rule in ("half_pixel", "asymmetric", "align_corners")
    for rounding in ("floor", "ceil", "round_prefer_floor", "round_prefer_ceil")
]
UNLIKE_ANY_OF_TFLITE = {
    ("half_pixel", "floor"): {2, 3},
    ("half_pixel", "ceil"): {2, 3},
    ("asymmetric", "ceil"): {2, 3},
    ("asymmetric", "round_prefer_floor"): {3},
    ("asymmetric", "round_prefer_ceil"): {2, 3},
    ("align_corners", "floor"): {2, 3},
    ("align_corners", "ceil"): {2, 3},
}


@pytest.mark.parametrize("factor", [2, 3])
@pytest.mark.parametrize("attributes", NEAREST, ids=str)
def test_nearest_resize(factor: int, attributes: Attributes) -> None:
    """Exactly the pixels that ONNX Runtime reads, or a refusal that says what to do."""
    model = resized(IMAGE, scales=[1, 1, factor, factor], mode="nearest", **attributes)
    rule, rounding = attributes.values()
    if factor not in UNLIKE_ANY_OF_TFLITE.get((rule, rounding), ()):
        check(model, "RESIZE_NEAREST_NEIGHBOR", atol=0.0)
        return
    message = refusal(model)
    assert f"Resize 'it': nearest {rounding} interpolation with {rule} coordinates" in message
    assert f"from (4, 5) to ({4 * factor}, {5 * factor}) reads other pixels than any rule of TFLite" in message
    assert "resize by a whole factor, or linearly with half_pixel coordinates and sizes" in message


@pytest.mark.parametrize("size", [(2, 5), (4, 15), (8, 5)], ids=str)
def test_nearest_resize_by_sizes_as_pytorch_writes_it(size: tuple[int, int]) -> None:
    attributes: Attributes = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    check(resized(IMAGE, sizes=[1, 3, *size], mode="nearest", **attributes), "RESIZE_NEAREST_NEIGHBOR")


def test_nearest_resize_by_a_scale_that_float32_rounds_up() -> None:
    """4 / 1.3333334 is 3 in ONNX's float32, and a little less in exact arithmetic."""
    attributes: Attributes = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    model = resized((1, 3, 6, 9), scales=[1, 1, 4 / 3, 4 / 3], mode="nearest", **attributes)
    check(model, "RESIZE_NEAREST_NEIGHBOR", atol=0.0)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_align_corners_by_a_scale_that_gives_no_whole_size_is_refused(mode: str) -> None:
    """ONNX Runtime reads pixels 0 and 4 of 5 at half the size, the standard 0 and 2.67."""
    model = resized((1, 1, 5, 4), scales=[1, 1, 0.5, 1], mode=mode, coordinate_transformation_mode="align_corners")
    assert "align_corners coordinates by a scale that gives no whole size, read in two ways; give sizes" in refusal(
        model
    )


@pytest.mark.parametrize("by", ["sizes", "scales"])
@pytest.mark.parametrize("rounding", ["floor", "ceil", "round_prefer_floor", "round_prefer_ceil"])
@pytest.mark.parametrize("rule", ["half_pixel", "half_pixel_symmetric", "asymmetric", "align_corners"])
def test_nearest_resize_reads_the_same_pixels_or_is_refused(rule: str, rounding: str, by: str) -> None:
    """Edges between two pixels are where rules part, and where float32 decides: 3 to 1 in half_pixel reads at 0.99999994."""
    lowered = 0
    for before, after in product((1, 3, 5), (1, 2, 3, 4, 6, 7, 9)):
        to = {"sizes": [1, 1, 1, after]} if by == "sizes" else {"scales": [1.0, 1.0, 1.0, (after + 0.5) / before]}
        model = resized(
            (1, 1, 1, before), mode="nearest", coordinate_transformation_mode=rule, nearest_mode=rounding, **to
        )
        try:
            content = to_tflite(model)
        except ConversionError:
            continue
        feeds = {"x": np.arange(before, dtype=np.float32).reshape(1, 1, 1, before)}
        np.testing.assert_array_equal(
            run_tflite(content, feeds)["y"], run_referee(model, feeds)["y"], f"{before} {after}"
        )
        lowered += 1
    assert lowered >= 3 or (rule, by) == ("align_corners", "scales")


def test_resize_to_the_same_size_is_nothing() -> None:
    check(resized(IMAGE, scales=[1, 1, 1, 1], mode="cubic"), "RESHAPE")  # an input that is an output


# Upsample, as it was until opset 9.


@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_upsample(mode: str) -> None:
    graph = helper.make_graph(
        [helper.make_node("Upsample", ["x", "scales"], ["y"], mode=mode)],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, IMAGE)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3, 8, 15])],
        [onnx.numpy_helper.from_array(np.array([1, 1, 2, 3], np.float32), "scales")],
    )
    check(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 9)], ir_version=8))


# Refusals.

REFUSED: list[tuple[Attributes, str]] = [
    ({"mode": "cubic"}, "cubic interpolation with half_pixel coordinates; TFLite has linear and nearest"),
    ({"mode": "linear", "antialias": 1}, "antialias; TFLite has none, use an average pool"),
]


@pytest.mark.parametrize("attributes, reason", REFUSED, ids=str)
def test_other_resizes_are_refused(attributes: Attributes, reason: str) -> None:
    assert f"Resize 'it': {reason}" in refusal(resized(IMAGE, scales=[1, 1, 2, 2], **attributes))


def test_a_cut_out_is_refused() -> None:
    node = helper.make_node(
        "Resize", ["x", "roi", "", "sizes"], ["y"], name="it", coordinate_transformation_mode="tf_crop_and_resize"
    )
    constants: Constants = {
        "roi": np.array([0, 0, 0.2, 0.2, 1, 1, 0.8, 0.8], np.float32),
        "sizes": np.array([1, 3, 8, 10], np.int64),
    }
    message = refusal(build([node], {"x": IMAGE}, ["y"], constants))
    assert "with tf_crop_and_resize coordinates; no such rule in TFLite" in message


@pytest.mark.parametrize(
    "shape, scales", [(IMAGE, [1, 2, 1, 1]), ((1, 3, 5), [1, 1, 2]), ((1, 2, 3, 4, 5), [1, 1, 2, 2, 2])]
)
def test_resize_of_anything_but_height_and_width_is_refused(shape: Shape, scales: list[float]) -> None:
    message = refusal(resized(shape, scales=scales, mode="linear"))
    assert f"from {shape} to" in message
    assert "only height and width of an image can be resized" in message


@pytest.mark.parametrize("scale", [2.3, 1.7])
def test_a_scale_that_does_not_meet_the_size_is_refused(scale: float) -> None:
    """ONNX samples by the scale it is given; TFLite by the ratio of the sizes, here 11 / 5 for a scale of 2.3."""
    message = refusal(resized((1, 3, 5, 5), scales=[1, 1, scale, scale], mode="linear"))
    assert "reads other pixels than any rule of TFLite" in message
    assert "sizes in place of scales" in message
