"""Checkpoints: safetensors weights with what made them, and the shipped ones."""

import copy
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
from edge.manifest import OperatingPoint
from edge.presence import Presence
from emtnet.network import ARCHITECTURES, EmtNet

SCHEMA: Final = 2
_DATA: Final = Path(__file__).parent / "data"
SHIPPED: Final = {name: _DATA / f"{name}.safetensors" for name in ARCHITECTURES}
"""The checkpoints that come with the package, by network."""
_KEY: Final = "edgekit"


@dataclass(frozen=True, slots=True)
class CheckpointInfo:
    """What a checkpoint says of itself.

    operating_point, presence: where its answers turn, and what that was fitted on. trained_on, tuned_on: sha256 of every frame
    (see `edge.frame.fingerprint`) whose gradient was taken, or that chose the epoch or the operating point. data: data sets with
    their terms. recipe, metrics, versions: as written by `emtnet.train`.
    """

    schema: int
    network: str
    guided: bool
    operating_point: OperatingPoint
    presence: Presence | None
    trained_on: tuple[str, ...]
    tuned_on: tuple[str, ...]
    data: tuple[str, ...]
    recipe: dict[str, Any]
    metrics: dict[str, Any]
    versions: dict[str, str]

    def __post_init__(self) -> None:
        if self.network not in ARCHITECTURES:
            raise ValueError(f"network {self.network!r} is none of {', '.join(ARCHITECTURES)}")

    def used_frames(self) -> dict[str, str]:
        """Sha256 of every frame that nothing may be reported on, with what it was used for."""
        return dict.fromkeys(self.tuned_on, "tuned on") | dict.fromkeys(self.trained_on, "trained on")


def save_checkpoint(path: Path, network: EmtNet, info: CheckpointInfo) -> None:
    """Write float16 weights and `info` to `path`, all or nothing. Raises SinkError."""
    write_bytes(path, save(_half(network), metadata={_KEY: json.dumps(asdict(info))}))


def as_saved(network: EmtNet) -> EmtNet:
    """A copy in evaluation mode with the weights that `load_checkpoint` will give, so that figures are those of the file."""
    rounded = copy.deepcopy(network)
    rounded.load_state_dict({name: tensor.float() for name, tensor in _half(network).items()})
    return rounded.eval()


def load_checkpoint(path: Path) -> tuple[EmtNet, CheckpointInfo]:
    """Read a checkpoint into a float32 network in evaluation mode.

    Raises DataError when the file is missing, damaged, not an EMT-Net of this project, or holds NaN or infinity.
    """
    info, tensors = _read(path)
    network = EmtNet(info.network, guided=info.guided)
    expected = network.state_dict()
    if expected.keys() != tensors.keys():
        odd = sorted(expected.keys() ^ tensors.keys())
        raise DataError(f"{path}: not an EMT-Net checkpoint ({len(odd)} tensors differ, first {odd[0]!r})")
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            raise DataError(
                f"{path}: {name} is {tuple(tensor.shape)}, {info.network} has {tuple(expected[name].shape)}; "
                "it is a checkpoint of another network"
            )
        if not torch.isfinite(tensor).all():
            raise DataError(f"{path}: {name} holds NaN or infinity; the training diverged, take an earlier checkpoint")
    network.load_state_dict({name: tensor.to(expected[name].dtype) for name, tensor in tensors.items()})
    return network.eval(), info


def _half(network: EmtNet) -> dict[str, Tensor]:
    return {
        name: tensor.detach().cpu().half().contiguous() if tensor.is_floating_point() else tensor.cpu()
        for name, tensor in network.state_dict().items()
    }


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
        if raw.keys() != names or raw["schema"] != SCHEMA:
            raise DataError(f"{path}: metadata of another edgekit; expected schema {SCHEMA}, train again")
        read = {name: tuple(raw[name]) for name in ("trained_on", "tuned_on", "data")}
        point = OperatingPoint(**raw["operating_point"])
        presence = None if raw["presence"] is None else Presence(**raw["presence"])
        return CheckpointInfo(**raw | read | {"operating_point": point, "presence": presence})
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise DataError(f"{path}: its metadata cannot be read ({error}); take another checkpoint") from error
