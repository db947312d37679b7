"""Checkpoints: what is saved comes back, and anything else is refused."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from edge.errors import DataError, SinkError
from edge.manifest import OperatingPoint
from edge.presence import Presence
from emtnet.network import ARCHITECTURES, EmtNet
from emtnet.weights import SCHEMA, SHIPPED, CheckpointInfo, as_saved, load_checkpoint, save_checkpoint

INFO = CheckpointInfo(
    schema=SCHEMA,
    network="emtnet",
    guided=True,
    operating_point=OperatingPoint(0.37, "malignant", "20 cases", 1.3, 0.4),
    presence=Presence(1.1, -0.2, 0.6, "20 cases", 0.55),
    trained_on=("a" * 64, "b" * 64),
    tuned_on=("c" * 64,),
    data=("BUSI (Al-Dhabyani et al.)",),
    recipe={"epochs": 2, "balance": 0.5},
    metrics={"epoch": 1, "selection": {"auc": 0.9, "dice_mean": None}},
    versions={"torch": "2.13.0"},
)


@pytest.fixture(scope="module")
def network() -> EmtNet:
    return any_network("emtnet")


def any_network(name: str, *, guided: bool = True) -> EmtNet:
    torch.manual_seed(0)
    network = EmtNet(name, guided=guided)
    for tensor in network.state_dict().values():
        if tensor.is_floating_point():
            tensor.add_(torch.rand_like(tensor))
        else:
            tensor.fill_(1234)
    return network


@pytest.fixture
def checkpoint(tmp_path: Path, network: EmtNet) -> Path:
    path = tmp_path / "emtnet.safetensors"
    save_checkpoint(path, network, INFO)
    return path


def alter(
    path: Path,
    *,
    tensors: Callable[[dict[str, Tensor]], object] = lambda tensors: None,
    metadata: dict[str, str] | None = None,
) -> Path:
    """Write the checkpoint again with changed tensors or metadata."""
    content = load_file(path)
    tensors(content)
    save_file(content, path, metadata={"edgekit": json.dumps(asdict(INFO))} if metadata is None else metadata)
    return path


def test_weights_come_back_in_float16_precision_and_the_rest_exactly(checkpoint: Path, network: EmtNet) -> None:
    loaded, info = load_checkpoint(checkpoint)
    assert info == INFO
    assert not loaded.training
    for name, tensor in network.state_dict().items():
        read = loaded.state_dict()[name]
        assert read.dtype == tensor.dtype
        assert torch.equal(read, tensor.half().to(tensor.dtype) if tensor.is_floating_point() else tensor), name


@pytest.mark.parametrize("presence", [INFO.presence, None])
@pytest.mark.parametrize("guided", [True, False])
def test_every_kind_of_network_and_info_comes_back(tmp_path: Path, guided: bool, presence: Presence | None) -> None:
    path = tmp_path / "small.safetensors"
    saved = any_network("emtnet-s", guided=guided)
    told = replace(INFO, network="emtnet-s", guided=guided, presence=presence)
    save_checkpoint(path, saved, told)
    loaded, info = load_checkpoint(path)
    assert info == told
    assert loaded.name == "emtnet-s"
    assert (loaded.lesion_head is not None) == guided


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_as_saved_is_what_the_file_gives(name: str, tmp_path: Path) -> None:
    original = any_network(name).train()
    before = {key: tensor.clone() for key, tensor in original.state_dict().items()}
    rounded = as_saved(original)
    save_checkpoint(tmp_path / "x.safetensors", original, replace(INFO, network=name))
    read, _ = load_checkpoint(tmp_path / "x.safetensors")
    assert not rounded.training
    assert original.training
    for key, tensor in rounded.state_dict().items():
        assert torch.equal(tensor, read.state_dict()[key]), key
        assert torch.equal(original.state_dict()[key], before[key]), key
    assert not torch.equal(rounded.mask_head.weight, original.mask_head.weight)


def test_every_frame_that_was_used_says_for_what() -> None:
    both = replace(INFO, trained_on=("a", "b"), tuned_on=("b", "c"))
    assert both.used_frames() == {"a": "trained on", "b": "trained on", "c": "tuned on"}


def test_saving_leaves_the_network_in_full_precision(checkpoint: Path, network: EmtNet) -> None:
    assert checkpoint.stat().st_size < 2.2 * sum(parameter.numel() for parameter in network.parameters())
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}


def test_saving_what_was_loaded_gives_the_same_file(checkpoint: Path, tmp_path: Path) -> None:
    loaded, info = load_checkpoint(checkpoint)
    save_checkpoint(tmp_path / "again.safetensors", loaded, info)
    assert (tmp_path / "again.safetensors").read_bytes() == checkpoint.read_bytes()


def test_an_unchanged_copy_is_accepted(checkpoint: Path) -> None:
    """The refusals below are for what they change."""
    assert load_checkpoint(alter(checkpoint))[1] == INFO


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_refused(checkpoint: Path, value: float) -> None:
    alter(checkpoint, tensors=lambda tensors: tensors["blocks.3.pointwise.conv.weight"].view(-1)[7].fill_(value))
    with pytest.raises(DataError, match=r"blocks\.3\.pointwise\.conv\.weight holds NaN or infinity"):
        load_checkpoint(checkpoint)


def test_a_missing_tensor_is_refused(checkpoint: Path) -> None:
    alter(checkpoint, tensors=lambda tensors: tensors.pop("class_head.bias"))
    with pytest.raises(DataError, match=r"1 tensors differ, first 'class_head\.bias'"):
        load_checkpoint(checkpoint)


def test_an_unknown_tensor_is_refused(checkpoint: Path) -> None:
    alter(checkpoint, tensors=lambda tensors: tensors.update(extra=torch.zeros(1)))
    with pytest.raises(DataError, match="1 tensors differ, first 'extra'"):
        load_checkpoint(checkpoint)


def test_a_tensor_of_another_shape_is_refused(checkpoint: Path) -> None:
    alter(checkpoint, tensors=lambda tensors: tensors.update({"class_head.weight": torch.zeros(2, 1024)}))
    with pytest.raises(DataError, match=r"class_head\.weight is \(2, 1024\), emtnet has \(1, 1024\)"):
        load_checkpoint(checkpoint)


def test_the_tensors_of_another_network_are_refused(tmp_path: Path, network: EmtNet) -> None:
    """Whatever the metadata say."""
    for name, guided in (("emtnet-s", True), ("emtnet", False)):
        path = tmp_path / f"{name}-{guided}.safetensors"
        save_checkpoint(path, network, replace(INFO, network=name, guided=guided))
        with pytest.raises(DataError, match="not an EMT-Net checkpoint"):
            load_checkpoint(path)


def test_a_stem_of_another_network_is_refused(checkpoint: Path) -> None:
    """Under the right names and in the right number, too."""
    alter(checkpoint, tensors=lambda tensors: tensors.update({"stem.conv.weight": torch.zeros(32, 1, 6, 6)}))
    with pytest.raises(DataError, match=r"stem\.conv\.weight is .*; it is a checkpoint of another network"):
        load_checkpoint(checkpoint)


def test_a_checkpoint_without_our_metadata_is_refused(checkpoint: Path) -> None:
    with pytest.raises(DataError, match="no edgekit metadata"):
        load_checkpoint(alter(checkpoint, metadata={"format": "pt"}))


@pytest.mark.parametrize(
    "change", [{"schema": SCHEMA + 1}, {"schema": 1}, {"surprise": 1}], ids=["newer schema", "older schema", "unknown"]
)
def test_metadata_of_another_edgekit_are_refused(checkpoint: Path, change: dict[str, object]) -> None:
    with pytest.raises(DataError, match=f"another edgekit; expected schema {SCHEMA}, train again"):
        load_checkpoint(alter(checkpoint, metadata={"edgekit": json.dumps(asdict(INFO) | change)}))


def test_a_checkpoint_of_the_first_schema_is_refused(checkpoint: Path) -> None:
    first = {
        name: value for name, value in asdict(INFO).items() if name not in ("guided", "operating_point", "presence")
    }
    first |= {"schema": 1, "threshold": 0.37}
    with pytest.raises(DataError, match=f"another edgekit; expected schema {SCHEMA}, train again"):
        load_checkpoint(alter(checkpoint, metadata={"edgekit": json.dumps(first)}))


@pytest.mark.parametrize("key", sorted(asdict(INFO)))
def test_incomplete_metadata_are_refused(checkpoint: Path, key: str) -> None:
    incomplete = asdict(INFO)
    del incomplete[key]
    with pytest.raises(DataError, match="another edgekit"):
        load_checkpoint(alter(checkpoint, metadata={"edgekit": json.dumps(incomplete)}))


NONSENSE: dict[str, dict[str, object]] = {
    "network": {"network": "unet"},
    "threshold": {"operating_point": asdict(INFO.operating_point) | {"threshold": 1.0}},
    "temperature": {"operating_point": asdict(INFO.operating_point) | {"temperature": 0.0}},
    "words": {"operating_point": asdict(INFO.operating_point) | {"threshold": "high"}},
    "another key": {"operating_point": asdict(INFO.operating_point) | {"surprise": 1}},
    "no point": {"operating_point": None},
    "presence": {"presence": {"scale": -1.0, "offset": 0.0, "threshold": 0.5, "chosen_on": ""}},
    "half a presence": {"presence": {"scale": 1.0}},
    "frames": {"trained_on": None},
}


@pytest.mark.parametrize("text", ["{", "[]", *(json.dumps(asdict(INFO) | change) for change in NONSENSE.values())])
def test_metadata_that_make_no_sense_are_refused(checkpoint: Path, text: str) -> None:
    with pytest.raises(DataError, match=r"emtnet\.safetensors: its metadata cannot be read"):
        load_checkpoint(alter(checkpoint, metadata={"edgekit": text}))


@pytest.mark.parametrize("content", [b"", b"garbage" * 20, b"\x08" + bytes(40)])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"x\.safetensors: not a safetensors checkpoint"):
        load_checkpoint(path)


def test_a_cut_off_file_is_refused(checkpoint: Path) -> None:
    checkpoint.write_bytes(checkpoint.read_bytes()[:-100])
    with pytest.raises(DataError, match="not a safetensors checkpoint"):
        load_checkpoint(checkpoint)


def test_a_missing_file_or_a_folder_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.safetensors", tmp_path):
        with pytest.raises(DataError, match="not a safetensors checkpoint"):
            load_checkpoint(path)


def test_a_place_that_cannot_be_written_is_reported(tmp_path: Path, network: EmtNet) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SinkError, match="cannot be written"):
        save_checkpoint(tmp_path / "file" / "emtnet.safetensors", network, INFO)


def test_the_shipped_checkpoints_are_of_the_networks_they_are_named_after() -> None:
    """The sibling's may still have to be trained."""
    assert SHIPPED.keys() == ARCHITECTURES.keys()
    for name, path in SHIPPED.items():
        if path.exists():
            assert load_checkpoint(path)[1].network == name
