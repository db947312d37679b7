"""Training: seeded, resumable after every epoch, bf16 on processors that have it."""

import io
import math
import platform
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from calibration.dataset import Case, Dataset, Sample
from calibration.evaluation import Evaluation, evaluate
from calibration.metrics import Metrics
from calibration.operating_point import choose_threshold
from edge.atomic import write_bytes
from edge.errors import DataError
from edge.frame import fingerprint
from edge.preprocess import preprocess
from emtnet.augment import augment
from emtnet.engine import torch_predictor
from emtnet.imagenet import load_imagenet_encoder
from emtnet.loss import MultitaskLoss
from emtnet.network import INPUT_SIZE, MASK_STRIDE, EmtNet
from emtnet.weights import NETWORK, SCHEMA, CheckpointInfo, save_checkpoint

STATE_NAME: Final = "training.pt"
CHECKPOINT_NAME: Final = "emtnet.safetensors"


@dataclass(frozen=True, slots=True)
class Recipe:
    """What decides a training run besides the data. The learning rate warms up for 5 % of the steps, then falls as a cosine."""

    epochs: int = 20
    batch_size: int = 32
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.02
    balance: float = 0.5
    class_weight: float = 1.0
    ema_decay: float = 0.99
    label_smoothing: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 2:
            raise ValueError("a recipe has at least one epoch and two images a batch")
        MultitaskLoss(self.balance, self.class_weight, self.label_smoothing)


@dataclass(frozen=True, slots=True)
class EpochReport:
    """One finished epoch; metrics are of the averaged weights on the selection cases."""

    epoch: int
    epochs: int
    loss: float
    metrics: Metrics
    best: bool


@dataclass(slots=True, eq=False)
class Reporter:
    """Where progress goes. `step` is called with the fraction of the epoch done."""

    step: Callable[[int, float], None] = lambda epoch, fraction: None
    epoch: Callable[[EpochReport], None] = lambda report: None


@dataclass(frozen=True, slots=True, eq=False)
class _LoadedCase:
    case: Case
    sample: Sample
    fingerprint: str


def train(
    data: Dataset,
    selection: Dataset,
    out: Path,
    *,
    recipe: Recipe,
    encoder: Path | None = None,
    resume: bool = False,
    reporter: Reporter | None = None,
) -> Path:
    """Train an EMT-Net and return the path of its checkpoint in the folder `out`.

    data: cases to learn from. selection: cases that choose the epoch (AUC plus mean Dice) and the operating point; they
    share no group with `data`. encoder: ImageNet weights (see `emtnet.imagenet`), else random. resume: go on from the state in
    `out`; without it a folder that holds a run is refused. Raises DataError, SinkError.
    """
    reporter = reporter or Reporter()
    _require_separate(data, selection)
    state_path = out / STATE_NAME
    if state_path.exists() and not resume:
        raise DataError(f"{out}: holds a training run; add --resume to go on with it or choose another -o")

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(recipe.seed)
    cases = [_load(case) for case in data]
    tuned_on = selection.fingerprints()
    network = EmtNet()
    if encoder is not None:
        load_imagenet_encoder(network, encoder)
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = AveragedModel(network, avg_fn=_moving_average(recipe.ema_decay), use_buffers=True)
    optimiser = torch.optim.AdamW(_parameter_groups(network, recipe), lr=recipe.learning_rate)
    steps = math.ceil(len(cases) / recipe.batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, _warm_cosine(steps * recipe.epochs))
    loss_function = MultitaskLoss(recipe.balance, recipe.class_weight, recipe.label_smoothing)

    identity = {
        "recipe": asdict(recipe),
        "trained_on": [case.fingerprint for case in cases],
        "tuned_on": list(tuned_on),
    }
    parts: dict[str, Any] = {"network": network, "average": average, "optimiser": optimiser, "schedule": schedule}
    first, best_score = 0, -math.inf
    if state_path.exists():
        state = _load_state(state_path, identity)
        for name, part in parts.items():
            part.load_state_dict(state[name])
        first, best_score = state["epoch"], state["best_score"]

    for epoch in range(first, recipe.epochs):
        torch.manual_seed(recipe.seed * 1000 + epoch)
        network.train()
        losses = []
        for index, batch in enumerate(_batches(cases, recipe, epoch)):
            losses.append(_step(network, optimiser, loss_function, batch))
            schedule.step()
            average.update_parameters(network)
            reporter.step(epoch + 1, (index + 1) / steps)
        if not math.isfinite(losses[-1]):
            raise DataError(f"epoch {epoch + 1}: the loss is {losses[-1]}; lower the learning rate")
        averaged: EmtNet = average.module  # type: ignore[assignment]
        evaluation = evaluate(torch_predictor(averaged, threshold=0.5), selection)
        score = (evaluation.metrics.auc or 0.0) + (evaluation.metrics.dice_mean or 0.0)
        best = score > best_score
        if best:
            best_score = score
            save_checkpoint(out / CHECKPOINT_NAME, averaged, _info(evaluation, identity, data, epoch + 1))
        state = {name: part.state_dict() for name, part in parts.items()}
        _save_state(state_path, identity | state | {"epoch": epoch + 1, "best_score": best_score})
        reporter.epoch(EpochReport(epoch + 1, recipe.epochs, float(np.mean(losses)), evaluation.metrics, best))
    return out / CHECKPOINT_NAME


def _step(
    network: EmtNet,
    optimiser: torch.optim.Optimizer,
    loss_function: MultitaskLoss,
    batch: tuple[Tensor, Tensor, Tensor],
) -> float:
    """One gradient step; returns the loss."""
    device = next(network.parameters()).device
    image, mask, label = (tensor.to(device) for tensor in batch)
    with torch.autocast(device.type, torch.bfloat16, enabled=_has_bf16(device)):
        mask_logits, malignancy = network(image.contiguous(memory_format=torch.channels_last))
    loss = loss_function(mask_logits, malignancy, mask, label)
    optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(network.parameters(), 5.0)
    optimiser.step()
    return loss.item()


def _require_separate(data: Dataset, selection: Dataset) -> None:
    shared = {(case.source, case.group) for case in data} & {(case.source, case.group) for case in selection}
    if shared:
        raise DataError(f"group {sorted(shared)[0][1]} is in both the training and the selection folds; split by group")
    for name, dataset in (("training", data), ("selection", selection)):
        if not dataset.labelled:
            raise DataError(f"the {name} data have cases without a label; train on labelled data")
        missing = {"benign", "malignant"} - {case.label for case in dataset}
        if missing:
            raise DataError(f"the {name} data have no {' and no '.join(sorted(missing))} case; both classes are needed")


def _load(case: Case) -> _LoadedCase:
    sample = case.read()
    return _LoadedCase(case, sample, fingerprint(sample.pixels))


def _batches(cases: list[_LoadedCase], recipe: Recipe, epoch: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Shuffled, augmented batches: image (N, 1, S, S), mask (N, 1, S/2, S/2) in 0..1, class (N, 1) or NaN for normal."""
    rng = np.random.default_rng((recipe.seed, epoch))
    order = rng.permutation(len(cases))
    batches = np.array_split(order, math.ceil(len(cases) / recipe.batch_size))
    for indices in batches:
        images, masks, labels = zip(*(_example(cases[index], rng) for index in indices), strict=True)
        yield (
            torch.from_numpy(np.stack(images)[:, None]),
            torch.from_numpy(np.stack(masks)[:, None]),
            torch.tensor(labels, dtype=torch.float32)[:, None],
        )


def _example(loaded: _LoadedCase, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, float]:
    sample = augment(loaded.sample, rng)
    image = preprocess(sample.pixels, (INPUT_SIZE, INPUT_SIZE))
    side = INPUT_SIZE // MASK_STRIDE
    if sample.mask is None:
        raise DataError(f"{loaded.case.image}: no mask; training needs one for every lesion")
    mask = preprocess(sample.mask.astype(np.uint8) * 255, (side, side))
    label = {"malignant": 1.0, "benign": 0.0}.get(loaded.case.label or "", math.nan)
    return (image.astype(np.float32) - 128.0) / 128.0, mask.astype(np.float32) / 255.0, label


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


def _info(evaluation: Evaluation, identity: dict[str, Any], data: Dataset, epoch: int) -> CheckpointInfo:
    sources = sorted({f"{case.source or case.image.parent.name}" for case in data})
    return CheckpointInfo(
        schema=SCHEMA,
        network=NETWORK,
        threshold=choose_threshold(evaluation.results),
        trained_on=tuple(identity["trained_on"]),
        tuned_on=tuple(identity["tuned_on"]),
        data=tuple(TERMS.get(source, source) for source in sources),
        recipe=identity["recipe"],
        metrics={"epoch": epoch, "selection": evaluation.metrics.to_json()},
        versions={"torch": torch.__version__, "numpy": np.__version__, "python": platform.python_version()},
    )


TERMS: Final = {
    "BUS-BRA": "BUS-BRA (Gómez-Flores et al., Medical Physics 2024; permissive licence, citation required)",
    "BUSI": "BUSI (Al-Dhabyani et al., Data in Brief 2020; mirrors state CC0 or CC BY)",
}


def _save_state(path: Path, state: dict[str, Any]) -> None:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_bytes(path, buffer.getvalue())


def _load_state(path: Path, identity: dict[str, Any]) -> dict[str, Any]:
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises what its unpickler meets
        raise DataError(f"{path}: not a training state ({error}); remove it or choose another -o") from error
    for key, name in (("recipe", "recipe"), ("trained_on", "training data"), ("tuned_on", "selection data")):
        if state.get(key) != identity[key]:
            raise DataError(f"{path}: the run was started with another {name}; repeat its options or choose another -o")
    return state
