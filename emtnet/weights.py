"""Checkpoints: safetensors weights with what made them, and the shipped one."""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from edge.atomic import write_bytes
from edge.errors import DataError
from emtnet.network import EmtNet

SHIPPED: Final = Path(__file__).parent / "data" / "emtnet.safetensors"
_KEY: Final = "edgekit"


@dataclass(frozen=True, slots=True)
class CheckpointInfo:
    """What a checkpoint says of itself.

    threshold: operating point on the probability of malignancy. trained_on, tuned_on: sha256 of every frame (see
    `edge.frame.fingerprint`) whose gradient was taken, or that chose the epoch and the threshold. data: data sets with
    their terms. recipe, metrics, versions: as written by `emtnet.train`.
    """

    schema: int
    network: str
    threshold: float
    trained_on: tuple[str, ...]
    tuned_on: tuple[str, ...]
    data: tuple[str, ...]
    recipe: dict[str, Any]
    metrics: dict[str, Any]
    versions: dict[str, str]

    def __post_init__(self) -> None:
        if not 0.0 < self.threshold < 1.0:
            raise ValueError(f"threshold must lie between 0 and 1, got {self.threshold}")


SCHEMA: Final = 1
NETWORK: Final = "emtnet"


def save_checkpoint(path: Path, network: EmtNet, info: CheckpointInfo) -> None:
    """Write float16 weights and `info` to `path`, all or nothing. Raises SinkError."""
    tensors = {
        name: tensor.detach().cpu().half().contiguous() if tensor.is_floating_point() else tensor.cpu()
        for name, tensor in network.state_dict().items()
    }
    write_bytes(path, save(tensors, metadata={_KEY: json.dumps(asdict(info))}))


def load_checkpoint(path: Path) -> tuple[EmtNet, CheckpointInfo]:
    """Read a checkpoint into a float32 network in evaluation mode.

    Raises DataError when the file is missing, damaged, not an EMT-Net of this project, or holds NaN or infinity.
    """
    info, tensors = _read(path)
    network = EmtNet()
    expected = network.state_dict()
    if expected.keys() != tensors.keys():
        odd = sorted(expected.keys() ^ tensors.keys())
        raise DataError(f"{path}: not an EMT-Net checkpoint ({len(odd)} tensors differ, first {odd[0]!r})")
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            raise DataError(
                f"{path}: {name} is {tuple(tensor.shape)}, EMT-Net has {tuple(expected[name].shape)}; "
                "it is a checkpoint of another network"
            )
        if not torch.isfinite(tensor).all():
            raise DataError(f"{path}: {name} holds NaN or infinity; the training diverged, take an earlier checkpoint")
    network.load_state_dict({name: tensor.to(expected[name].dtype) for name, tensor in tensors.items()})
    return network.eval(), info


def _read(path: Path) -> tuple[CheckpointInfo, dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path}: not a safetensors checkpoint ({error})") from error
    if _KEY not in metadata:
        raise DataError(f"{path}: no edgekit metadata; it was not written by edgekit train")
    return _info(path, metadata[_KEY]), tensors


def _info(path: Path, text: str) -> CheckpointInfo:
    names = {field.name for field in fields(CheckpointInfo)}
    try:
        raw = json.loads(text)
        if raw.keys() != names or raw["schema"] != SCHEMA or raw["network"] != NETWORK:
            raise DataError(f"{path}: metadata of another network or edgekit; expected {NETWORK} schema {SCHEMA}")
        return CheckpointInfo(**raw | {name: tuple(raw[name]) for name in ("trained_on", "tuned_on", "data")})
    except (ValueError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: its metadata cannot be read ({error}); take another checkpoint") from error
