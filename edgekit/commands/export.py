"""`edgekit export`."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgekit.commands import describe as network
from edgekit.commands.options import Engines, Folds, NetworkName, Precision, TargetName

if TYPE_CHECKING:
    from edge.manifest import Manifest
    from quantize.onnx_graph import WeightRange


class WeightRangeName(StrEnum):
    """How much of INT8 the weights use."""

    full = "full"
    half = "half"


def export(
    model: Annotated[
        Path | None,
        typer.Argument(
            help="Checkpoint (.safetensors) of edgekit train, or any convolutional network as .onnx.",
            show_default="a shipped checkpoint",
        ),
    ] = None,
    shipped: Annotated[
        NetworkName | None,
        typer.Option("--network", help="Which shipped checkpoint, without MODEL.", show_default="emtnet"),
    ] = None,
    int8: Annotated[bool, typer.Option("--int8", help="Make INT8 artifacts beside the FP32 ones.")] = False,
    calibration: Annotated[
        list[Path] | None,
        typer.Option("--calibration", help="Data set folder to calibrate on; repeatable.", show_default="phantoms"),
    ] = None,
    folds: Folds = None,
    frames: Annotated[int, typer.Option("--frames", min=8, help="Calibration frames of the INT8 ranges.")] = 300,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the choice of frames.")] = 0,
    engine: Engines = None,
    precision: Annotated[
        Precision | None, typer.Option("--precision", help="Keep only this one in the bundle.", show_default="both")
    ] = None,
    target: Annotated[
        TargetName | None,
        typer.Option("--target", help="The computer it is for; chooses the weight range.", show_default=False),
    ] = None,
    weight_range: Annotated[
        WeightRangeName | None,
        typer.Option(
            "--weight-range",
            help="half keeps INT8 from saturating on x86 without VNNI.",
            show_default="that of --target, else full",
        ),
    ] = None,
    out: Annotated[Path, typer.Option("-o", "--out", help="Bundle folder to write.")] = Path("edgekit-bundle"),
    sidecar: network.Sidecar = None,
    mean: network.Mean = None,
    std: network.Std = None,
    pixel_range: network.PixelRange = None,
    channels: network.Channels = None,
    size: network.Size = None,
    resize: network.ResizeOption = None,
    mask_output: network.MaskOutput = None,
    class_output: network.ClassOutput = None,
    activation: network.Activation = None,
    labels: network.Labels = None,
    positive: network.Positive = None,
    threshold: network.Threshold = None,
) -> None:
    """Convert a checkpoint or an ONNX network to ONNX, OpenVINO and TFLite artifacts in one bundle."""
    from edge.errors import require
    from edge.manifest import ARTIFACTS_OF
    from edgekit.console import describe, err, interruptible, notice, progress, table

    for module in ("torch", "safetensors", "onnx", "nncf", "onnxruntime"):
        require(module, extra="export")
    from calibration.dataset import Dataset, parse_folds
    from calibration.subset import calibration_frames, every_frame, phantom_frames
    from emtnet.weights import SHIPPED
    from quantize.pipeline import export_network, read_network

    told = {
        "mean": mean,
        "std": std,
        "pixel_range": pixel_range,
        "channels": channels,
        "size": size,
        "resize": resize,
        "mask_output": mask_output,
        "class_output": class_output,
        "activation": activation,
        "labels": labels,
        "positive": positive,
        "threshold": threshold,
    }
    if model is not None and shipped is not None:
        raise typer.BadParameter("--network names a shipped checkpoint; leave it out with a MODEL of your own")
    source, description = model or SHIPPED[(shipped or NetworkName.emtnet).value], None
    if source.suffix != ".safetensors":
        description = network.describe_network(source, sidecar, told)
    elif sidecar or any(value is not None for value in told.values()):
        raise typer.BadParameter("a checkpoint describes itself; --mean, --labels and their like are for ONNX networks")
    if int8 and precision is Precision.fp32:
        raise typer.BadParameter("--int8 and --precision fp32 contradict each other; leave one out")
    int8 = int8 or precision is Precision.int8
    chosen_range = _weight_range(target, weight_range, int8=int8)
    with interruptible(f"{out} is as it was"):
        converted = read_network(source, description)
        kept = any(output.kind == "features" for output in converted.outputs)
        familiar = None
        if calibration:
            dataset = Dataset.open(calibration, folds=parse_folds(folds))
            chosen = calibration_frames(dataset, count=frames, seed=seed, progress=progress("calibration frames"))
            familiar = every_frame(dataset, progress=progress("frames of the feature reference")) if kept else None
        else:
            chosen = phantom_frames(
                count=frames if int8 and not converted.quantised else 16, seed=seed, progress=progress("phantoms")
            )
        if calibration and not int8 and not converted.quantised:
            notice(
                f"without --int8 the calibration frames only {'give the feature reference' if kept else 'check the ONNX'}"
            )
        if converted.quantised:
            notice(f"{source.name} has quantisers already; they stay as they are")
        elif int8 and len(chosen.frames) < frames:
            notice(f"only {len(chosen.frames)} calibration frames")
        bundle = export_network(
            converted,
            out,
            calibration=chosen,
            familiar=familiar,
            int8=int8,
            engines=[ARTIFACTS_OF[name.value] for name in engine or ()],
            precisions=[precision.value] if precision else ("fp32", "int8"),
            weight_range=chosen_range,
            stage=lambda text: err.print(f"  {text}", style="dim", markup=False),
        )
    table(
        f"{out}: {bundle.manifest.network}",
        ("engine", "precision", "MB", "INT8 layers", "from referee", "files"),
        [
            (
                a.engine,
                a.precision,
                f"{a.size_bytes / 1e6:.2f}",
                "–" if a.int8_convolutions is None else "{} of {}".format(*a.int8_convolutions),
                "–" if a.referee_delta is None else f"{a.referee_delta:.3%}",
                ", ".join(file.path for file in a.files),
            )
            for a in bundle.manifest.artifacts
        ],
    )
    describe(bundle, guesses=True)
    _describe_guard(bundle.manifest, phantoms=not calibration)


def _weight_range(target: TargetName | None, wished: WeightRangeName | None, *, int8: bool) -> "WeightRange":
    """The weight range of a target unless another is wished for; says which it is and why. Raises EdgekitError."""
    from edge.device import read_device
    from edge.targets import find_target
    from edgekit.console import notice, out

    if target is None:
        return "half" if wished is WeightRangeName.half else "full"
    found = find_target(target.value, read_device() if target is TargetName.here else None)
    name = found.name if target is not TargetName.here else f"this machine as {found.name}"
    half = wished is WeightRangeName.half if wished else found.weight_range == "half"
    chosen: WeightRange = "half" if half else "full"
    if not int8:
        notice(f"--target {target.value} has no say without --int8")
    elif chosen == found.weight_range:
        out.print(f"{name} ({found.title}): weight range {chosen}, as {found.why_range}", markup=False)
    elif chosen == "full":
        notice(f"--weight-range full on {name}: INT8 will saturate there, as {found.why_range}")
    else:
        notice(f"--weight-range half on {name}: not needed there, and it costs a bit of precision")
    return chosen


def _describe_guard(manifest: "Manifest", *, phantoms: bool) -> None:
    """Whether `edgekit run` will tell pictures that are unlike those of calibration."""
    from edgekit.console import notice, out

    if manifest.features is not None:
        out.print(f"feature reference of {manifest.features.chosen_on}: the guard knows unfamiliar pictures")
    elif manifest.features_output is None:
        notice("the network has no features output, so the guard does not know unfamiliar pictures")
    elif phantoms:
        notice("no feature reference without --calibration DIR, so the guard does not know unfamiliar pictures")
    else:
        notice("no feature reference, for the reason above, so the guard does not know unfamiliar pictures")
