"""Resize and Upsample: expressed when TFLite reads the very same places of the image."""

from typing import Any, Final

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from quantize.onnx_graph import Node
from quantize.tflite.lower import NHWC, Lowerer
from quantize.tflite.ops.table import lowers

Places = NDArray[np.float64]

_RULES: Final = {"half_pixel": (True, False), "align_corners": (False, True), "asymmetric": (False, False)}
"""TFLite's (halfPixelCenters, alignCorners)."""
_ROUNDINGS: Final = frozenset({"floor", "ceil", "round_prefer_floor", "round_prefer_ceil"})


@lowers("Resize", "Upsample")
def resize(node: Node, lowerer: Lowerer) -> None:
    """RESIZE_BILINEAR or RESIZE_NEAREST_NEIGHBOR, on the input's grid.

    The coordinate rules of both sides are worked out for the sizes at hand: what counts is which pixels are read.
    """
    before, after = lowerer.shape(node.inputs[0]), lowerer.shape(node.output)
    if len(before) != 4 or before[:2] != after[:2]:
        raise lowerer.refuse(node, f"from {before} to {after}; only height and width of an image can be resized")
    mode = node.attributes.get("mode", "nearest")
    if node.attributes.get("antialias", 0):
        raise lowerer.refuse(node, "antialias; TFLite has none, use an average pool")
    image = lowerer.image(node, lowerer.own_grid(node) if mode == "linear" else lowerer.quantiser(node.inputs[0]))
    if before == after:
        lowerer.bind(node.output, image, NHWC)
        return
    rule = _matching_rule(node, lowerer, mode)
    factors = _repeats(node, lowerer) if mode == "nearest" else None
    if factors is not None and lowerer.quantiser(node.inputs[0]) is not None:
        _repeat(node, lowerer, image, factors)
        return
    half_pixel, align_corners = _RULES[rule]
    options: Any = schema.ResizeBilinearOptionsT() if mode == "linear" else schema.ResizeNearestNeighborOptionsT()
    options.halfPixelCenters, options.alignCorners = half_pixel, align_corners
    code = "RESIZE_BILINEAR" if mode == "linear" else "RESIZE_NEAREST_NEIGHBOR"
    inputs = [image, lowerer.integers(f"{node.name}_size", after[2:])]
    shape = tuple(after[axis] for axis in NHWC)
    lowerer.bind(node.output, lowerer.emit_like(code, inputs, shape, node.output, options), NHWC)


def _repeats(node: Node, lowerer: Lowerer) -> tuple[int, int] | None:
    """How often each row and column is repeated, when that is all a nearest-neighbour Resize does; else None."""
    before, after = lowerer.shape(node.inputs[0])[2:], lowerer.shape(node.output)[2:]
    if any(new % old for old, new in zip(before, after, strict=True)) or lowerer.shape(node.output)[0] != 1:
        return None
    rows, columns = after[0] // before[0], after[1] // before[1]
    rule = _matching_rule(node, lowerer, "nearest")
    for old, new, factor in zip(before, after, (rows, columns), strict=True):
        if not np.array_equal(_tflite_places(rule, old, new, nearest=True), np.arange(new) // factor):
            return None
    return rows, columns


def _repeat(node: Node, lowerer: Lowerer, image: int, factors: tuple[int, int]) -> None:
    """Repeat columns and rows by copying: XNNPACK takes CONCATENATION, and INT8 RESIZE_NEAREST_NEIGHBOR not."""
    _, height, width, channels = lowerer.graph.tensors[image].shape
    rows, columns = factors
    for name, factor, shape in (
        ("columns", columns, (1, height, width, channels)),
        ("rows", rows, (1, 1, height, width * columns * channels)),
    ):
        if factor == 1:
            continue
        options = schema.ConcatenationOptionsT()
        options.axis = 3
        if lowerer.graph.tensors[image].shape != shape:
            image = lowerer.reshaped(image, shape)
        repeated = (*shape[:3], shape[3] * factor)
        image = lowerer.emit_like("CONCATENATION", [image] * factor, repeated, f"{node.output}_{name}", options)
    lowerer.bind(node.output, lowerer.reshaped(image, (1, height * rows, width * columns, channels)), NHWC)


def _matching_rule(node: Node, lowerer: Lowerer, mode: str) -> str:
    given = node.attributes.get("coordinate_transformation_mode", "half_pixel" if node.op == "Resize" else "asymmetric")
    rounding = node.attributes.get("nearest_mode", "round_prefer_floor") if node.op == "Resize" else "floor"
    what = f"{mode} {rounding if mode == 'nearest' else ''} interpolation with {given} coordinates".replace("  ", " ")
    if mode not in ("linear", "nearest"):
        raise lowerer.refuse(node, f"{what}; TFLite has linear and nearest, use one of them")
    before, after, scales = lowerer.shape(node.inputs[0]), lowerer.shape(node.output), _scales(node, lowerer)
    if given == "align_corners" and any(abs(scales[axis] * before[axis] - after[axis]) > 1e-3 for axis in (2, 3)):
        # The standard spans the size before rounding, ONNX Runtime the one after it.
        raise lowerer.refuse(node, f"{what} by a scale that gives no whole size, read in two ways; give sizes instead")
    wanted = [_onnx_places(given, before[axis], after[axis], scales[axis]) for axis in (2, 3)]
    if any(places is None for places in wanted) or rounding not in _ROUNDINGS:
        raise lowerer.refuse(node, f"{what}; no such rule in TFLite, use half_pixel, align_corners or asymmetric")
    for rule in _RULES:
        if all(
            _same(places, before[axis], mode, rounding, rule)
            and (mode == "linear" or _settled(places, before[axis], given, rounding, scales[axis]))
            for axis, places in zip((2, 3), wanted, strict=True)
            if places is not None
        ):
            return rule
    raise lowerer.refuse(
        node,
        f"{what} from {before[2:]} to {after[2:]} reads other pixels than any rule of TFLite; resize by a whole factor, "
        "or linearly with half_pixel coordinates and sizes in place of scales",
    )


def _scales(node: Node, lowerer: Lowerer) -> list[float]:
    """Output over input by axis, as ONNX samples by them."""
    before, after = lowerer.shape(node.inputs[0]), lowerer.shape(node.output)
    scales = [new / old for new, old in zip(after, before, strict=True)]
    place = 1 if node.op == "Upsample" else 2
    given = lowerer.optional(node, place)
    if given is not None and given.size:
        for axis, scale in zip(node.attributes.get("axes", range(4)), given.tolist(), strict=True):
            scales[axis % 4] = scale
    elif node.attributes.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        axes = [axis % 4 for axis in node.attributes.get("axes", range(4))]
        sizes = lowerer.constant(node, 3).tolist()
        ratios = [size / before[axis] for axis, size in zip(axes, sizes, strict=True)]
        chosen = min(ratios) if node.attributes["keep_aspect_ratio_policy"] == "not_larger" else max(ratios)
        for axis in axes:
            scales[axis] = chosen
    return scales


def _onnx_places(rule: str, before: int, after: int, scale: float) -> Places | None:
    """Where each output pixel reads the input, in input pixels; None for a rule that needs more than sizes."""
    out = np.arange(after, dtype=np.float64)
    if rule == "half_pixel" or (rule == "pytorch_half_pixel" and after > 1):
        return (out + 0.5) / scale - 0.5
    if rule == "half_pixel_symmetric":
        adjustment = after / (scale * before)
        return before / 2 * (1 - adjustment) + (out + 0.5) / scale - 0.5
    if rule == "align_corners":
        return out * (before - 1) / (after - 1) if after > 1 else np.zeros(after)
    if rule == "pytorch_half_pixel":
        return np.zeros(1)
    if rule == "asymmetric":
        return np.asarray(out.astype(np.float32) / np.float32(scale), np.float64)
    return None


def _same(places: Places, size: int, mode: str, rounding: str, rule: str) -> bool:
    """Whether TFLite reads the pixels of an input of this size that ONNX reads."""
    theirs = np.clip(_tflite_places(rule, size, len(places), nearest=mode == "nearest"), 0, size - 1)
    if mode == "linear":
        return bool(np.abs(np.clip(places, 0, size - 1) - theirs).max() < 1e-4)
    return np.array_equal(_rounded(places, rounding, size), theirs)


def _settled(places: Places, size: int, given: str, rounding: str, scale: float) -> bool:
    """Whether float32, in which engines compute places, cannot but round them as here.

    A place on the edge between two pixels goes either way, unless float32 hits the edge too: nothing on its way may be rounded.
    """
    if given == "asymmetric" and rounding in ("floor", "ceil"):
        return True  # one division, done here in float32 too
    exact = float(np.float32(scale)) == scale
    if given == "half_pixel_symmetric":
        exact = exact and scale * size == len(places)
    hit = (exact or given == "align_corners") & (np.rint(2 * places) == 2 * places)
    reach = size * 2.0**-20
    on_edge = _rounded(places - reach, rounding, size) != _rounded(places + reach, rounding, size)
    return bool(np.all(~on_edge | hit))


def _rounded(places: Places, rounding: str, size: int) -> Places:
    rounded = {
        "floor": np.floor(places),
        "ceil": np.ceil(places),
        "round_prefer_floor": np.ceil(places - 0.5),
        "round_prefer_ceil": np.floor(places + 0.5),
    }[rounding]
    return np.clip(rounded, 0, size - 1)


def _tflite_places(rule: str, before: int, after: int, *, nearest: bool) -> Places:
    """Where TFLite's kernels read (resize_bilinear.h and resize_nearest_neighbor.h), in float32 as they do."""
    half_pixel, align_corners = _RULES[rule]
    scale = np.float32(before) / np.float32(after)
    if align_corners and after > 1:
        scale = np.float32(before - 1) / np.float32(after - 1)
    out = np.arange(after, dtype=np.float32)
    if not nearest:
        return np.asarray((out + np.float32(0.5)) * scale - np.float32(0.5) if half_pixel else out * scale, np.float64)
    places = (out + np.float32(0.5 if half_pixel else 0.0)) * scale
    return np.asarray(np.floor(places + np.float32(0.5)) if align_corners else np.floor(places), np.float64)
