"""Targets, and which engines' INT8 sums saturate: asked of the engines, on processors with less than this one has."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edge.device import Device
from edge.errors import EdgekitError
from edge.targets import TARGETS, Target, find_target, saturates, target_of

ROOT: Final = Path(__file__).resolve().parents[1]
QEMU: Final = shutil.which("qemu-x86_64-static") or shutil.which("qemu-x86_64")
VNNI_HERE: Final = "avx512_vnni" in Path("/proc/cpuinfo").read_text()
SIDE: Final = 16
CHANNELS: Final = 32

PI: Final = Device(None, "aarch64", 64, "Cortex-A72", 4, ("asimd",), None, None, None, None, None, None)
NUC: Final = replace(PI, machine="x86_64", cpu="Core i5", features=("avx2", "avx_vnni"))


@pytest.mark.parametrize(
    ("device", "name"),
    [
        (PI, "pi4"),
        (replace(PI, features=("asimd", "asimddp")), "pi5"),
        (NUC, "nuc"),
        (replace(NUC, features=("avx2", "avx512_vnni")), "nuc"),
        (replace(NUC, features=("avx2", "fma")), "nuc-avx2"),
    ],
)
def test_a_computer_is_of_the_target_that_its_processor_says(device: Device, name: str) -> None:
    assert target_of(device).name == find_target("here", device).name == name


def test_a_computer_of_another_kind_and_an_unknown_target_are_refused_with_the_known_ones() -> None:
    with pytest.raises(EdgekitError, match=r"no target for a riscv64 machine; there are pi4, pi5, nuc, nuc-avx2"):
        target_of(replace(PI, machine="riscv64"))
    with pytest.raises(EdgekitError, match=r"target 'pi3' is none of pi4, pi5, nuc, nuc-avx2, here"):
        find_target("pi3")


@pytest.mark.parametrize("target", TARGETS.values(), ids=str)
def test_a_target_has_the_half_range_where_its_engine_saturates_and_nowhere_else(target: Target) -> None:
    assert (target.weight_range == "half") == saturates(target.engine, target.machine, target.features)
    assert target.why_range


@pytest.mark.parametrize("target", TARGETS.values(), ids=str)
def test_wheels_of_a_target_are_for_its_machine_and_of_debian_12_at_most(target: Target) -> None:
    assert all(tag.endswith(f"_{target.machine}") for tag in target.platforms)
    assert target.platforms[0] == f"manylinux_2_36_{target.machine}"
    assert {f"manylinux_2_17_{target.machine}", f"manylinux2014_{target.machine}"} <= set(target.platforms)
    assert len(set(target.platforms)) == len(target.platforms)


def test_a_target_with_another_range_is_refused() -> None:
    with pytest.raises(ValueError, match="neither full nor half"):
        replace(TARGETS["pi4"], weight_range="quarter")


# The engines themselves


def saturating(weight: int) -> onnx.ModelProto:
    """Three convolutions whose weights are all `weight` of 127: to 32 channels, 3×3 over these, and their sum. White pictures
    make the largest INT8 sums there can be: 32 · 288 · x · (weight / 127)³ at x = 127 / 128.
    """
    constants: list[onnx.TensorProto] = []
    nodes: list[onnx.NodeProto] = []

    def constant(name: str, value: object, dtype: type[np.generic]) -> str:
        constants.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def quantised(source: str, scale: float, name: str) -> str:
        by = [constant(f"{name}_scale", scale, np.float32), constant(f"{name}_zero", 128, np.uint8)]
        nodes.append(helper.make_node("QuantizeLinear", [source, *by], [f"{name}_q"]))
        nodes.append(helper.make_node("DequantizeLinear", [f"{name}_q", *by], [name]))
        return name

    def convolution(source: str, weights: NDArray[np.int8], name: str) -> str:
        channels, side = weights.shape[0], weights.shape[2]
        by = [
            constant(f"{name}_weights", weights, np.int8),
            constant(f"{name}_scales", np.full(channels, 1 / 127), np.float32),
            constant(f"{name}_zeros", np.zeros(channels), np.int8),
        ]
        nodes.append(helper.make_node("DequantizeLinear", by, [f"{name}_w"], axis=0))
        bias = constant(f"{name}_bias", np.zeros(channels), np.float32)
        pads = [side // 2] * 4
        nodes.append(
            helper.make_node("Conv", [source, f"{name}_w", bias], [name], kernel_shape=[side, side], pads=pads)
        )
        return name

    def full(*shape: int) -> NDArray[np.int8]:
        return np.full(shape, weight, np.int8)

    c = CHANNELS
    nodes.append(helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT))
    nodes.append(helper.make_node("Sub", ["float", constant("half", 128, np.float32)], ["centred"]))
    nodes.append(helper.make_node("Div", ["centred", "half"], ["x"]))
    first = quantised(convolution(quantised("x", 1 / 128, "input"), full(c, 1, 1, 1), "spread"), 1 / 128, "spread_kept")
    second = quantised(convolution(first, full(c, c, 3, 3), "sums"), 288 * 2 / 255, "sums_kept")
    convolution(second, full(1, c, 1, 1), "out")
    graph = helper.make_graph(
        nodes,
        "saturating",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, [1, 1, SIDE, SIDE])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, 1, SIDE, SIDE])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    return model


SCRIPT: Final = f"""
import sys
from pathlib import Path
import numpy as np
from edge.engines import open_model
engine = open_model(sys.argv[1], Path(sys.argv[2]), threads=1)
image = np.full(({SIDE}, {SIDE}), 255, np.uint8)
print(float(engine.infer(image)["out"][0, 0, {SIDE // 2}, {SIDE // 2}]))
"""


def answer(folder: Path, engine: str, weight: int, *before: str, **environment: str) -> float:
    """What an engine in a process of its own makes of a white picture, as a share of what is right."""
    from quantize.tflite.lower import to_tflite

    file = folder / f"{weight}.{'tflite' if engine == 'litert' else 'onnx'}"
    model = saturating(weight)
    file.write_bytes(to_tflite(model) if engine == "litert" else model.SerializeToString())
    done = subprocess.run(
        [*before, sys.executable, "-c", SCRIPT, engine, str(file)],
        env={**os.environ, **environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    return float(done.stdout.split()[-1]) / (CHANNELS * 288 * 127 / 128 * (weight / 127) ** 3)


@pytest.mark.skipif(not VNNI_HERE, reason="needs a processor with VNNI")
@pytest.mark.parametrize("engine", ["openvino", "litert", "onnx"])
def test_no_engine_saturates_with_vnni(tmp_path: Path, engine: str) -> None:
    assert answer(tmp_path, engine, 127) == pytest.approx(1, abs=0.01)


def test_openvino_saturates_without_vnni_and_not_with_half_the_range(tmp_path: Path) -> None:
    assert answer(tmp_path, "openvino", 127, ONEDNN_MAX_CPU_ISA="AVX2") < 0.5
    assert answer(tmp_path, "openvino", 63, ONEDNN_MAX_CPU_ISA="AVX2") == pytest.approx(1, abs=0.02)


@pytest.mark.slow
@pytest.mark.skipif(QEMU is None, reason="needs qemu-user-static, to emulate a processor without VNNI")
@pytest.mark.parametrize("engine", ["litert", "onnx"])
def test_an_emulated_haswell_saturates_in_the_engines_that_are_said_to(tmp_path: Path, engine: str) -> None:
    emulator = (str(QEMU), "-cpu", "Haswell")
    said = saturates(engine, "x86_64", ("avx2",))
    assert (answer(tmp_path, engine, 127, *emulator) < 0.5) == said
    if said:
        assert answer(tmp_path, engine, 63, *emulator) == pytest.approx(1, abs=0.02)
