"""The network that OpenVINO compiled at an earlier start: the same answers, and never those of another network."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edge.engines import open_model
from edge.engines.openvino import import_openvino

SIZE = (32, 48)


def write_ir(path: Path, *, seed: int) -> Path:
    """A convolution with random weights as IR, (1, 1, 32, 48) uint8 → float32."""
    opset = pytest.importorskip("openvino").opset13
    openvino: Any = import_openvino()
    image = opset.parameter((1, 1, *SIZE), np.uint8, name="image")
    weights = np.random.default_rng(seed).normal(size=(4, 1, 3, 3)).astype(np.float32)
    real = opset.convert(image, "f32")
    convolved = opset.convolution(real, opset.constant(weights), [1, 1], [1, 1], [1, 1], [1, 1])
    convolved.output(0).get_tensor().set_names({"mask"})
    openvino.save_model(openvino.Model([opset.result(convolved)], [image], "tiny"), path, compress_to_fp16=False)
    return path


def answer(path: Path, *, threads: int = 1) -> NDArray[np.float32]:
    image = np.random.default_rng(7).integers(0, 256, SIZE, np.uint8)
    engine = open_model("openvino", path, precision="fp32", threads=threads, cached=True)
    try:
        return engine.infer(image)["mask"]
    finally:
        engine.close()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def kept(cache: Path) -> list[Path]:
    return sorted(cache.rglob("*.cached"))


def test_the_second_start_compiles_nothing_and_answers_bit_for_bit_the_same(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_ir(tmp_path / "net.xml", seed=0)
    first = answer(path)
    (file,) = kept(cache)

    def refuse(*given: object) -> None:
        raise AssertionError("compiled again")

    monkeypatch.setattr(import_openvino().Core, "compile_model", refuse)
    assert np.array_equal(answer(path), first)
    assert kept(cache) == [file]
    with pytest.raises(AssertionError, match="compiled again"):  # other settings are another network
        answer(path, threads=2)


def test_new_weights_under_the_same_name_are_a_new_network(tmp_path: Path, cache: Path) -> None:
    """OpenVINO's own cache goes by the path and time of the .xml and would answer with the old weights."""
    old = answer(write_ir(tmp_path / "net.xml", seed=0))
    new = write_ir(tmp_path / "other.xml", seed=1)
    (tmp_path / "net.bin").write_bytes(new.with_suffix(".bin").read_bytes())
    assert not np.array_equal(answer(tmp_path / "net.xml"), old)
    assert np.array_equal(answer(tmp_path / "net.xml"), answer(new))


def test_a_damaged_file_is_compiled_anew_and_replaced(tmp_path: Path, cache: Path) -> None:
    path = write_ir(tmp_path / "net.xml", seed=0)
    first = answer(path)
    (file,) = kept(cache)
    sound = file.read_bytes()
    file.write_bytes(sound[: len(sound) // 2])
    assert np.array_equal(answer(path), first)
    assert len(file.read_bytes()) > len(sound) // 2


def test_what_openvino_does_not_take_is_compiled_anew(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_ir(tmp_path / "net.xml", seed=0)
    first = answer(path)
    monkeypatch.setattr("edge.engines.openvino.read_cached", lambda kind, key: b"sound, but of another build")
    assert np.array_equal(answer(path), first)


def test_nothing_is_kept_unless_asked_for(tmp_path: Path, cache: Path) -> None:
    open_model("openvino", write_ir(tmp_path / "net.xml", seed=0), precision="fp32", threads=1).close()
    assert not kept(cache)


def test_a_full_disk_or_no_right_to_write_does_not_stop_a_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "file"))
    assert answer(write_ir(tmp_path / "net.xml", seed=0)).shape == (1, 4, *SIZE)
