"""What decides a training run besides the data."""

from dataclasses import dataclass, replace
from typing import Any, Final, Literal, get_args

from emtnet.loss import MultitaskLoss
from emtnet.network import ARCHITECTURES, INPUT_SIZE

Tasks = Literal["both", "class", "mask"]
TASKS: Final[tuple[Tasks, ...]] = get_args(Tasks)


@dataclass(frozen=True, slots=True)
class Recipe:
    """A training run. The learning rate warms up for 5 % of the steps, then falls as a cosine.

    network: "emtnet" or "emtnet-s". guided: with the lesion head. tasks: what is learned. balance: see `emtnet.loss`.
    small_size, small_share: input side, and share of the epochs, of the cheap first part of the run. clear_share: how often a
    window without a lesion is cut from a case with one. normal_repeats: how often a normal case is shown in an epoch.
    distillation: weight of the teacher's answers against the labels, where there is a teacher.
    """

    network: str = "emtnet"
    guided: bool = True
    tasks: Tasks = "both"
    epochs: int = 20
    batch_size: int = 32
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.02
    balance: float = 0.5
    class_weight: float = 1.0
    presence_weight: float = 0.3
    gate_weight: float = 0.3
    ema_decay: float = 0.99
    label_smoothing: float = 0.1
    small_size: int = 160
    small_share: float = 0.6
    clear_share: float = 0.08
    normal_repeats: int = 3
    distillation: float = 0.7
    seed: int = 0

    def __post_init__(self) -> None:
        if self.network not in ARCHITECTURES or self.tasks not in TASKS:
            raise ValueError(f"network is one of {', '.join(ARCHITECTURES)}, tasks one of {', '.join(TASKS)}")
        if self.epochs < 1 or self.batch_size < 2 or self.normal_repeats < 1:
            raise ValueError("a recipe has at least one epoch, two images a batch and one turn for a normal case")
        if self.small_size % 32 or not 32 <= self.small_size <= INPUT_SIZE or not 0.0 <= self.small_share <= 1.0:
            raise ValueError(f"small_size is a multiple of 32 up to {INPUT_SIZE}, small_share a share")
        if not 0.0 <= self.clear_share <= 1.0 or not 0.0 <= self.distillation <= 1.0:
            raise ValueError("clear_share and distillation are shares")
        self.loss()

    def loss(self) -> MultitaskLoss:
        """The loss of this recipe. Raises ValueError when its weights do not fit."""
        return MultitaskLoss(
            balance=self.balance,
            class_weight=0.0 if self.tasks == "mask" else self.class_weight,
            mask_weight=0.0 if self.tasks == "class" else 1.0,
            presence_weight=0.0 if self.tasks == "class" else self.presence_weight,
            gate_weight=self.gate_weight if self.guided and self.tasks != "class" else 0.0,
            label_smoothing=self.label_smoothing,
        )

    def size(self, epoch: int) -> int:
        """Input side of an epoch, counted from 0."""
        return self.small_size if epoch < round(self.small_share * self.epochs) else INPUT_SIZE


def default_recipe(network: str) -> Recipe:
    """The frozen recipe of a network, by which the shipped checkpoints were made."""
    return replace(Recipe(), network=network, **_OWN[network])


_OWN: Final[dict[str, dict[str, Any]]] = {"emtnet": {}, "emtnet-s": {"small_share": 0.0}}
