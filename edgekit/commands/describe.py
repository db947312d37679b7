"""Options of `edgekit export` that describe a foreign ONNX network."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from quantize.description import Description

_PANEL = "A network of your own (ONNX)"


class ResizeName(StrEnum):
    """How a frame becomes the network's input."""

    stretch = "stretch"
    letterbox = "letterbox"


def numbers(text: str) -> tuple[float, ...]:
    """Parse 0.5 or 0.485,0.456,0.406."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is not a number, nor numbers with commas between") from error


def size(text: str) -> tuple[int, ...]:
    """Parse 256x320: height and width."""
    try:
        height, width = (int(part) for part in text.lower().split("x"))
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is not HEIGHTxWIDTH, such as 256x320") from error
    return height, width


def names(text: str) -> tuple[str, ...]:
    """Parse benign,malignant."""
    return tuple(part.strip() for part in text.split(","))


def activations(text: str) -> dict[str, str]:
    """Parse sigmoid, or mask=sigmoid,class=softmax."""
    if "=" not in text:
        return {"mask_activation": text, "class_activation": text}
    found = {}
    for part in text.split(","):
        kind, _, activation = part.partition("=")
        if kind.strip() not in ("mask", "class"):
            raise typer.BadParameter(f"{part!r} is not mask=… or class=…")
        found[f"{kind.strip()}_activation"] = activation.strip()
    return found


def _option(name: str, help_text: str, **more: Any) -> Any:
    return typer.Option(name, help=help_text, rich_help_panel=_PANEL, show_default=False, **more)


Sidecar = Annotated[
    Path | None,
    _option(
        "--describe",
        "JSON file: mean, std, pixel_range, channels, size ([H, W]), resize, mask_output, class_output, mask_activation, "
        "class_activation, labels, positive, threshold. MODEL.json is read when there is one.",
    ),
]
Mean = Annotated[
    Any, _option("--mean", "Mean of training, one or three: 0.485,0.456,0.406.", parser=numbers, metavar="M")
]
Std = Annotated[Any, _option("--std", "Standard deviation, one or three.", parser=numbers, metavar="S")]
PixelRange = Annotated[
    float | None,
    _option("--pixel-range", "Pixels in training went from 0 to this before mean and std: 1 or 255. [default: 1]"),
]
Channels = Annotated[int | None, _option("--channels", "1 or 3, where the graph does not say; grey goes to each.")]
Size = Annotated[
    Any, _option("--size", "Height and width, where the graph leaves them open.", parser=size, metavar="HxW")
]
ResizeOption = Annotated[
    ResizeName | None, _option("--resize", "Frame to input: stretch, or letterbox keeps the aspect. [default: stretch]")
]
MaskOutput = Annotated[str | None, _option("--mask-output", "Name of the mask output.")]
ClassOutput = Annotated[str | None, _option("--class-output", "Name of the class output.")]
Activation = Annotated[
    Any,
    _option(
        "--activation",
        "sigmoid, softmax or none (they are probabilities), or mask=…,class=….",
        parser=activations,
        metavar="A",
    ),
]
Labels = Annotated[
    Any, _option("--labels", "Labels of the class output, in its order: benign,malignant.", parser=names, metavar="L,L")
]
Positive = Annotated[str | None, _option("--positive", "Label that the threshold is for. [default: malignant]")]
Threshold = Annotated[float | None, _option("--threshold", "Probability at which it is called. [default: 0.5]")]


def describe_network(model: Path, sidecar: Path | None, given: dict[str, Any]) -> "Description":
    """The sidecar's description with the options in place of its own. Raises DataError, and BadParameter for options."""
    from quantize.description import Description

    beside = model.with_suffix(".json")
    path = sidecar or (beside if beside.is_file() else None)
    told = Description.read(path) if path else Description()
    options = dict(given)
    options.update(options.pop("activation") or {})
    if options.get("resize") is not None:
        options["resize"] = options["resize"].value
    try:
        return told.changed(options)
    except ValueError as error:
        raise typer.BadParameter(f"{error} (with what {path} says)" if path else str(error)) from error
