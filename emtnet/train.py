"""Training: seeded, resumable after every epoch, bf16 on processors that have it."""

import ctypes
import hashlib
import io
import math
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from calibration.dataset import Dataset
from calibration.evaluation import Evaluation, evaluate
from calibration.metrics import LESIONS, Metrics
from calibration.operating_point import choose_threshold
from edge.atomic import write_bytes
from edge.errors import DataError
from edge.manifest import OperatingPoint
from edge.versions import versions
from emtnet.batches import LoadedCase, batch_count, batches, load_cases
from emtnet.calls import Calls
from emtnet.duplicates import require_alike, twins
from emtnet.engine import POSITIVE, UNSET, torch_predictor
from emtnet.imagenet import load_imagenet_encoder
from emtnet.loss import Targets
from emtnet.network import EmtNet
from emtnet.recipe import Recipe
from emtnet.sibling import start_from
from emtnet.teacher import Teacher
from emtnet.weights import SCHEMA, CheckpointInfo, as_saved, save_checkpoint

STATE_NAME: Final = "training.pt"
PACKAGES: Final = ("edgekit-ultrasound", "torch", "numpy", "opencv-python-headless")
"""Whose versions a checkpoint and a report keep: they make the pixels and the gradients."""


@dataclass(frozen=True, slots=True)
class EpochReport:
    """One finished epoch. metrics: of the averaged weights on the selection cases, None without them."""

    epoch: int
    epochs: int
    loss: float
    metrics: Metrics | None
    best: bool


@dataclass(slots=True, eq=False)
class Reporter:
    """Where progress goes. `step` is called with the epoch, their number and the fraction of this one that is done."""

    step: Callable[[int, int, float], None] = lambda epoch, epochs, fraction: None
    epoch: Callable[[EpochReport], None] = lambda report: None


@dataclass(frozen=True, slots=True, eq=False)
class Start:
    """What a run starts from. encoder: ImageNet weights (see `emtnet.imagenet`); teacher: a trained network, which comes first
    and whose answers are learned from too; neither: random weights."""

    encoder: Path | None = None
    teacher: Teacher | None = None

    def identity(self) -> dict[str, str | None]:
        """Sha256 of what it is made of. Raises DataError when the encoder cannot be read."""
        try:
            encoder = hashlib.sha256(self.encoder.read_bytes()).hexdigest() if self.encoder else None
        except OSError as error:
            raise DataError(f"{self.encoder}: not the ImageNet MobileNetV1 weights ({error.strerror})") from error
        return {"encoder": encoder, "teacher": self.teacher.sha256 if self.teacher else None}


def train(
    data: Dataset,
    selection: Dataset | None,
    out: Path,
    *,
    recipe: Recipe,
    start: Start | None = None,
    calls: Calls | None = None,
    resume: bool = False,
    reporter: Reporter | None = None,
) -> Path:
    """Train a network and return the path of its checkpoint in the folder `out`.

    data: cases to learn from. selection: cases that choose the epoch (AUC plus mean Dice) and the threshold; they share no
    group and no frame with `data`; without them the last epoch is kept. calls: the operating point to store, as of out-of-fold
    answers. resume: go on from the state in `out`; without it a folder that holds a run is refused. Raises DataError, SinkError.
    """
    reporter, start = reporter or Reporter(), start or Start()
    require_trainable(data, selection)
    require_startable(out, recipe, start, resume=resume)
    path, state_path = _checkpoint(out, recipe), out / STATE_NAME
    keep_memory()
    cases = load_cases(data)
    tuned_on = selection.fingerprints() if selection else ()
    _require_separate(cases, tuned_on)
    for pair in twins((loaded.case, loaded.fingerprint) for loaded in cases):
        require_alike(*pair)
    if start.teacher is not None and start.teacher.info.used_frames().keys() & set(tuned_on):
        raise DataError(
            "the teacher has seen selection cases, which would choose the epoch by what they were learned from"
        )
    identity = {
        "recipe": asdict(recipe),
        "trained_on": [case.fingerprint for case in cases],
        "data": [loaded.case.digest(loaded.sample) for loaded in cases],
        "tuned_on": list(tuned_on),
        "start": start.identity(),
        "calls": calls.to_json() if calls else None,
    }
    run = _Run(cases, recipe, start)
    first, best_score = 0, -math.inf
    if state_path.exists():
        state = _load_state(state_path, identity)
        run.restore(state)
        first, best_score = state["epoch"], state["best_score"]
        if (selection is not None or first == recipe.epochs) and not path.exists():
            raise DataError(f"{path}: is gone, and the state of the run cannot give it back; choose another -o")

    for epoch in range(first, recipe.epochs):
        loss = run.epoch(epoch, reporter)
        averaged, evaluation = as_saved(run.averaged), None
        if selection is not None:
            evaluation = evaluate(torch_predictor(averaged, operating_point=UNSET), selection)
            score = (evaluation.metrics.auc or 0.0) + (evaluation.metrics.dice_mean or 0.0)
        else:
            score = float(epoch)
        best = score > best_score
        if best and (selection is not None or epoch + 1 == recipe.epochs):
            info = _info(recipe, identity, data, epoch + 1, evaluation, calls, start.teacher)
            save_checkpoint(path, averaged, info)
        best_score = max(score, best_score)
        _save_state(state_path, identity | run.state() | {"epoch": epoch + 1, "best_score": best_score})
        metrics = evaluation.metrics if evaluation else None
        reporter.epoch(EpochReport(epoch + 1, recipe.epochs, loss, metrics, best and selection is not None))
    return path


def require_startable(out: Path, recipe: Recipe, start: Start, *, resume: bool) -> None:
    """Refuse a folder with a run in it: without resume, of another recipe or start, or without its state. Raises DataError."""
    state, checkpoint = out / STATE_NAME, _checkpoint(out, recipe)
    if state.exists():
        if not resume:
            raise DataError(f"{out}: holds a training run; add --resume to go on with it or choose another -o")
        _load_state(state, {"recipe": asdict(recipe), "start": start.identity()})
    elif checkpoint.exists():
        raise DataError(f"{checkpoint}: would be overwritten; choose another -o")


def _checkpoint(out: Path, recipe: Recipe) -> Path:
    return out / f"{recipe.network}.safetensors"


class _Run:
    """Network, average, optimiser and schedule of one run."""

    def __init__(self, cases: Sequence[LoadedCase], recipe: Recipe, start: Start) -> None:
        self._cases, self._recipe, self._teacher = cases, recipe, start.teacher
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.manual_seed(recipe.seed)
        network = EmtNet(recipe.network, guided=recipe.guided)
        if start.encoder is not None:
            load_imagenet_encoder(network, start.encoder)
        if start.teacher is not None:
            start_from(network, start.teacher.network)
            start.teacher.network.to(self._device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        network.to(self._device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._network = network
        self._average = AveragedModel(network, avg_fn=_moving_average(recipe.ema_decay), use_buffers=True)
        self._optimiser = torch.optim.AdamW(_parameter_groups(network, recipe), lr=recipe.learning_rate)
        self._steps = batch_count(cases, recipe)
        self._schedule = torch.optim.lr_scheduler.LambdaLR(self._optimiser, _warm_cosine(self._steps * recipe.epochs))
        self._loss = recipe.loss()

    @property
    def averaged(self) -> EmtNet:
        return self._average.module  # type: ignore[return-value]

    def state(self) -> dict[str, Any]:
        return {name: part.state_dict() for name, part in self._parts().items()}

    def restore(self, state: dict[str, Any]) -> None:
        for name, part in self._parts().items():
            part.load_state_dict(state[name])

    def _parts(self) -> dict[str, Any]:
        return {
            "network": self._network,
            "average": self._average,
            "optimiser": self._optimiser,
            "schedule": self._schedule,
        }

    def epoch(self, epoch: int, reporter: Reporter) -> float:
        """Train one epoch, counted from 0; returns the mean loss. Raises DataError when it is no number."""
        torch.manual_seed(self._recipe.seed * 1000 + epoch)
        self._network.train()
        losses = []
        stride = self._network.architecture.mask_stride
        for index, (image, targets) in enumerate(batches(self._cases, self._recipe, epoch, mask_stride=stride)):
            losses.append(self._step(image, targets))
            self._schedule.step()
            self._average.update_parameters(self._network)
            reporter.step(epoch + 1, self._recipe.epochs, (index + 1) / self._steps)
        mean = float(np.mean(losses))
        if not math.isfinite(mean):
            raise DataError(f"epoch {epoch + 1}: the loss is {mean}; lower the learning rate")
        return mean

    def _step(self, image: Tensor, targets: Targets) -> float:
        """One gradient step; returns the loss."""
        image = image.to(self._device).contiguous(memory_format=torch.channels_last)
        targets = targets.to(self._device)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=_has_bf16(self._device)):
            if self._teacher is not None:
                targets = self._teacher.blend(image, targets, share=self._recipe.distillation)
            outputs = self._network(image)
        loss = self._loss(outputs, targets)
        self._optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self._network.parameters(), 5.0)
        self._optimiser.step()
        return loss.item()


def require_trainable(data: Dataset, selection: Dataset | None) -> None:
    """Refuse data that nothing sound can be learned from. Raises DataError."""
    for name, dataset in (("training", data), ("selection", selection)):
        if dataset is None:
            continue
        if not dataset.labelled:
            raise DataError(f"the {name} data have cases without a label; train on labelled data")
        missing = set(LESIONS) - {case.label for case in dataset}
        if missing:
            raise DataError(f"the {name} data have no {' and no '.join(sorted(missing))} case; both classes are needed")
    if selection is not None:
        shared = {case.subject for case in data} & {case.subject for case in selection}
        if shared:
            raise DataError(f"group {min(shared)} is in both the training and the selection folds; split by group")


def _require_separate(cases: Sequence[LoadedCase], tuned_on: Sequence[str]) -> None:
    held = set(tuned_on)
    for loaded in cases:
        if loaded.fingerprint in held:
            raise DataError(
                f"{loaded.case.image}: the same frame is among the selection cases; remove one of them, "
                "or give both one group and fold"
            )


def _info(
    recipe: Recipe,
    identity: dict[str, Any],
    data: Dataset,
    epoch: int,
    evaluation: Evaluation | None,
    calls: Calls | None,
    teacher: Teacher | None,
) -> CheckpointInfo:
    sources = sorted({case.origin for case in data})
    trained_on, tuned_on = tuple(identity["trained_on"]), tuple(identity["tuned_on"])
    if teacher is not None:  # what it has seen shows in its answers
        trained_on = tuple(dict.fromkeys(trained_on + teacher.info.trained_on))
        tuned_on = tuple(dict.fromkeys(tuned_on + teacher.info.tuned_on))
    point, presence = UNSET, None
    if calls is not None:
        point, presence = calls.operating_point, calls.presence
        tuned_on = tuple(dict.fromkeys(tuned_on + calls.fitted_on))
    elif evaluation is not None:
        threshold = choose_threshold(evaluation.results)
        chosen = f"{len(identity['tuned_on'])} selection frames of the training run, for a sensitivity of 94.1 %"
        point = OperatingPoint(threshold, POSITIVE, chosen)
    return CheckpointInfo(
        schema=SCHEMA,
        network=recipe.network,
        guided=recipe.guided,
        operating_point=point,
        presence=presence,
        trained_on=trained_on,
        tuned_on=tuned_on,
        data=tuple(TERMS.get(source, source) for source in sources),
        recipe=identity["recipe"] | {"start": identity["start"]},
        metrics={"epoch": epoch} | ({"selection": evaluation.metrics.to_json()} if evaluation else {}),
        versions=versions(PACKAGES),
    )


TERMS: Final = {
    "BUS-BRA": "BUS-BRA (Gómez-Flores et al., Medical Physics 2024; permissive licence, citation required)",
    "BUSI": "BUSI (Al-Dhabyani et al., Data in Brief 2020; mirrors state CC0 or CC BY)",
}


def _parameter_groups(network: EmtNet, recipe: Recipe) -> list[dict[str, Any]]:
    """No decay on norms, biases and depthwise kernels: it shrinks them towards collapse without regularising anything."""
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for parameter in network.parameters():
        is_pointwise = parameter.ndim == 4 and parameter.shape[1] > 1
        (decayed if is_pointwise or parameter.ndim == 2 else free).append(parameter)
    return [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": free, "weight_decay": 0.0}]


def _moving_average(decay: float) -> Callable[[Tensor, Tensor, Tensor | int], Tensor]:
    """Exponential moving average that forgets fast at first, when the weights are still random."""

    def average(averaged: Tensor, current: Tensor, count: Tensor | int) -> Tensor:
        keep = min(decay, (1.0 + int(count)) / (10.0 + int(count)))
        return averaged * keep + current * (1.0 - keep)

    return average


def _warm_cosine(total: int) -> Callable[[int], float]:
    warm = max(1, round(0.05 * total))
    return lambda step: (
        (step + 1) / warm if step < warm else 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm)))
    )


def _has_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def keep_memory() -> None:
    """Tell glibc to keep freed memory: a step is 1.4 times as fast (`benchmarks/scripts/training_step.py`)."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if platform.libc_ver()[0] == "glibc" else None
    if mallopt is not None:
        largest, mmap_max, trim_threshold = 2**31 - 1, -4, -1  # malloc.h
        mallopt(mmap_max, 0)
        mallopt(trim_threshold, largest)


def _save_state(path: Path, state: dict[str, Any]) -> None:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_bytes(path, buffer.getvalue())


def _load_state(path: Path, identity: dict[str, Any]) -> dict[str, Any]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(state, dict):
            raise TypeError("it holds no run")
    except Exception as error:  # torch.load raises what its unpickler meets
        raise DataError(f"{path}: not a training state ({error}); remove it or choose another -o") from error
    for key, what in (
        ("recipe", "another recipe"),
        ("trained_on", "other training data"),
        ("data", "other labels or masks"),
        ("tuned_on", "other selection data"),
        ("start", "another encoder or teacher"),
        ("calls", "another operating point"),
    ):
        if key in identity and (found := state.get(key)) != identity[key]:
            told = ""
            if key == "recipe" and isinstance(found, dict):
                odd = sorted(part for part in {*found, *identity[key]} if found.get(part) != identity[key].get(part))
                told = f" ({', '.join(odd)})"
            raise DataError(f"{path}: the run was started with {what}{told}; repeat its options or choose another -o")
    return state
