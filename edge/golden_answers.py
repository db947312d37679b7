"""Golden frames and what the referee answers to them: records of the manifest, by which a device tests itself (`edge.golden`)."""

from dataclasses import dataclass

from edge.bundle_file import BundleFile


@dataclass(frozen=True, slots=True)
class GoldenBounds:
    """How far an engine may be from the referee on the golden frames and still only round otherwise.

    mask_mean: mean |Δ| of the mask's probabilities over all frames. mask_dice_min: smallest Dice of a frame where a mask
    covers 1 % of it. probability_max: largest |Δp| of a label. The defaults are those of `edgekit drift`; a bundle has wider
    ones where the engines of the machine that exported it were that far apart already. Raises ValueError.
    """

    mask_mean: float = 0.005
    mask_dice_min: float = 0.9
    probability_max: float = 0.1

    def __post_init__(self) -> None:
        if not all(0.0 <= bound <= 1.0 for bound in (self.mask_mean, self.mask_dice_min, self.probability_max)):
            raise ValueError(f"golden bounds lie in 0..1, these do not: {self}")


@dataclass(frozen=True, slots=True)
class GoldenAnswer:
    """What the referee says of one frame in one precision.

    probabilities: one for each label, in their order, empty without a class output. presence: None where the bundle has none.
    mask: PNG of the mask's probabilities at the network's own resolution in steps of 1/255; None without a mask output.
    """

    precision: str
    decision: str
    probabilities: tuple[float, ...]
    presence: float | None
    mask: BundleFile | None

    def __post_init__(self) -> None:
        given = (*self.probabilities, *(() if self.presence is None else (self.presence,)))
        if not all(0.0 <= value <= 1.0 for value in given):  # NaN would agree with nothing
            raise ValueError(f"golden answer: {given} are no probabilities")


@dataclass(frozen=True, slots=True)
class GoldenFrame:
    """A grey phantom frame as PNG, and its answers by precision."""

    file: BundleFile
    answers: tuple[GoldenAnswer, ...]

    def answer(self, precision: str) -> GoldenAnswer | None:
        """The answer of a precision, None where it has none."""
        return next((answer for answer in self.answers if answer.precision == precision), None)


@dataclass(frozen=True, slots=True)
class Golden:
    """Golden frames with answers, and how far an engine may be from them. Raises ValueError where nothing could fail."""

    frames: tuple[GoldenFrame, ...]
    bounds: GoldenBounds = GoldenBounds()

    def __post_init__(self) -> None:
        if not self.frames:
            raise ValueError("golden frames: there is none")

    def check(self, precisions: set[str], labels: int, *, mask: bool) -> None:
        """Raise ValueError where the answers are not those of a network with such precisions, labels and mask."""
        for frame in self.frames:
            said = [answer.precision for answer in frame.answers]
            if sorted(said) != sorted(precisions):
                raise ValueError(f"golden frame {frame.file.path}: one answer for each of {', '.join(precisions)}")
            for answer in frame.answers:
                if len(answer.probabilities) != labels or (answer.mask is not None) != mask:
                    raise ValueError(f"golden frame {frame.file.path}: its answer is not one of this network")

    def files(self) -> tuple[BundleFile, ...]:
        """Every file the golden frames and masks are in."""
        masks = (answer.mask for frame in self.frames for answer in frame.answers)
        return (*(frame.file for frame in self.frames), *(mask for mask in masks if mask is not None))
