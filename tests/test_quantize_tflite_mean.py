"""The mean of an INT8 image that stays float: of a large one the row means are rounded, of a small one nothing is."""

import numpy as np
import onnx
import pytest
from lowering_checks import X
from onnx import helper
from test_quantize_support import FlatFile, build, qdq, read_tflite, run_referee, run_tflite

from quantize.tflite.lower import to_tflite

STEP = X[0]


def mean_model(size: tuple[int, int, int, int], *, keep: bool = False) -> onnx.ModelProto:
    """x → Q/DQ → ReduceMean over height and width → y, which nothing quantises."""
    pair, held = qdq("x", *X)
    mean = helper.make_node("ReduceMean", ["x_dq", "axes"], ["y"], keepdims=int(keep))
    return build([*pair, mean], {"x": size}, ["y"], held | {"axes": np.array([2, 3])})


def image_of(size: tuple[int, int, int, int]) -> np.ndarray:
    """Values whose mean differs from channel to channel, as after a ReLU: most of some channels is at one end of the grid."""
    rng = np.random.default_rng(0)
    levels = np.linspace(-4, 6, size[1])[None, :, None, None]
    return rng.normal(levels, 1.0, size).astype(np.float32)


@pytest.mark.parametrize("keep", [False, True], ids=["dropped", "kept"])
@pytest.mark.parametrize("delegate", [True, False], ids=["XNNPACK", "built-in kernels"])
def test_the_mean_of_many_rows_is_right_to_a_tenth_of_a_step(keep: bool, delegate: bool) -> None:
    size = (1, 8, 32, 48)
    model, feeds = mean_model(size, keep=keep), {"x": image_of(size)}
    wanted = run_referee(model, feeds)["y"]
    got = run_tflite(to_tflite(model), feeds, delegate=delegate)["y"]
    assert got.shape == wanted.shape
    # The interpreter's own kernel rounds an INT8 mean with a bias of a quarter step.
    assert np.abs(got - wanted).max() < (0.1 if delegate else 0.4) * STEP
    assert np.ptp(wanted) > 50 * STEP


@pytest.mark.parametrize("size", [(1, 8, 15, 48), (1, 8, 7, 7)])
def test_a_small_image_is_averaged_in_float(size: tuple[int, int, int, int]) -> None:
    model, feeds = mean_model(size), {"x": image_of(size)}
    assert means(read_tflite(to_tflite(model))) == ["float32"]
    wanted = run_referee(model, feeds)["y"]
    np.testing.assert_allclose(run_tflite(to_tflite(model), feeds)["y"], wanted, rtol=0, atol=1e-4)


def test_nothing_large_is_read_in_float() -> None:
    file = read_tflite(to_tflite(mean_model((1, 8, 32, 48))))
    assert means(file) == ["int8", "float32"]
    (float_image,) = [operator for operator in file.operators if operator.code == "DEQUANTIZE"]
    assert list(file.graph.tensors[float_image.outputs[0]].shape) == [1, 32, 8]


def means(file: FlatFile) -> list[str]:
    """Types that the file's means are taken of, in order."""
    return [str(file.dtype(operator.inputs[0])) for operator in file.operators if operator.code == "MEAN"]
