"""Peak memory: of a process of its own, whatever the process that asks is."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from benchmarks.memory import peak_rss_bytes
from edge.errors import EngineError

MIB = 2**20
HEIGHT, WIDTH = 192, 256


def write_model(path: Path, *, scratch_mib: int = 0) -> Path:
    """A network that casts its uint8 image to float and holds `scratch_mib` of memory while it runs."""
    shape = helper.make_tensor("shape", TensorProto.INT64, [1], [max(1, scratch_mib * MIB // 4)])
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["image"], ["mask"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMax", ["mask"], ["peak"], keepdims=0),
            helper.make_node("Expand", ["peak", "shape"], ["scratch"]),
            helper.make_node("ReduceSum", ["scratch"], ["malignancy"], keepdims=0),
        ],
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, [1, 1, HEIGHT, WIDTH])],
        [
            helper.make_tensor_value_info("mask", TensorProto.FLOAT, [1, 1, HEIGHT, WIDTH]),
            helper.make_tensor_value_info("malignancy", TensorProto.FLOAT, []),
        ],
        [shape],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def measured(path: Path) -> int:
    return peak_rss_bytes("onnx", path, height=HEIGHT, width=WIDTH, precision="fp32", threads=1, device="cpu")


def resident_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    pytest.skip("needs /proc to know its own memory")


def test_a_large_parent_does_not_count_and_the_network_does(tmp_path: Path) -> None:
    ballast = np.ones(300 * MIB, np.uint8)
    assert resident_bytes() > 300 * MIB
    small = measured(write_model(tmp_path / "small.onnx"))
    large = measured(write_model(tmp_path / "large.onnx", scratch_mib=200))
    del ballast
    assert 10 * MIB < small < 300 * MIB
    assert 180 * MIB < large - small < 450 * MIB


def test_memory_given_back_before_the_end_still_counts() -> None:
    """The engines keep theirs, so a network cannot show it."""
    script = (
        "import numpy as np; from benchmarks import memory; np.ones(2**28, np.uint8); print(memory._high_water_bytes())"
    )
    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert int(printed) > 256 * MIB


def test_a_file_that_is_no_model_is_an_engine_error_of_one_line(tmp_path: Path) -> None:
    path = tmp_path / "garbage.onnx"
    path.write_bytes(b"garbage")
    with pytest.raises(EngineError, match=r"^onnx fp32: onnx: .*garbage\.onnx") as caught:
        measured(path)
    assert "\n" not in str(caught.value)


def test_an_unknown_engine_is_an_engine_error(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="none of openvino, litert, onnx"):
        peak_rss_bytes("tensorrt", tmp_path, height=HEIGHT, width=WIDTH, precision="int8", threads=1, device="cpu")
