"""Options that several commands share."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from edge.bundle import Bundle


def default_bundle() -> Path | None:
    """The bundle that an export left in this folder, or None for the built-in one."""
    return Path("edgekit-bundle") if Path("edgekit-bundle").is_dir() else None


class EngineName(StrEnum):
    """The engines."""

    openvino = "openvino"
    litert = "litert"
    onnx = "onnx"
    tflite_runtime = "tflite-runtime"


class NetworkName(StrEnum):
    """The networks that come with edgekit."""

    emtnet = "emtnet"
    emtnet_s = "emtnet-s"


class TargetName(StrEnum):
    """The computers of `edge.targets.TARGETS`, and this one."""

    pi4 = "pi4"
    pi5 = "pi5"
    nuc = "nuc"
    nuc_avx2 = "nuc-avx2"
    here = "here"


def open_bundle(bundle: Path | None, network: NetworkName | None) -> "Bundle":
    """The bundle that a command works on: the named one, that of a named network, what an export left here, the built-in one."""
    from edge.bundle import Bundle

    if bundle is not None and network is not None:
        raise typer.BadParameter("--network chooses a built-in bundle; leave it out with a bundle of your own")
    if network is not None:
        return Bundle.open_or_builtin(None, network=network.value)
    return Bundle.open_or_builtin(bundle or default_bundle())


class Precision(StrEnum):
    """The precisions."""

    int8 = "int8"
    fp32 = "fp32"


def wished(engine: EngineName | None, precision: Precision | None) -> dict[str, Any]:
    """What `Bundle.choose` and `Predictor.open` take for these options."""
    return {"engine": engine.value if engine else "auto", "precision": precision.value if precision else "auto"}


class Device(StrEnum):
    """Where to run; all but cpu are OpenVINO's."""

    cpu = "cpu"
    gpu = "gpu"
    npu = "npu"
    auto = "auto"


BundleFolder = Annotated[Path | None, typer.Option("--bundle", help="Bundle folder.", show_default="the built-in one")]
Network = Annotated[
    NetworkName | None,
    typer.Option("--network", help="The built-in bundle of this network.", show_default="emtnet"),
]
Data = Annotated[
    list[Path],
    typer.Option(
        "--data", help="Data set folder: cases.csv, BUS-BRA, BUSI or plain images. Repeatable.", show_default=False
    ),
]
Folds = Annotated[str | None, typer.Option("--folds", help="Only these folds: 5 or 1,2,3.", show_default="all")]
Json = Annotated[
    Path | None, typer.Option("--json", help="Also write the figures to this JSON file.", show_default=False)
]
Threads = Annotated[int | None, typer.Option("--threads", min=1, help="Processor threads.", show_default="all cores")]
Engine = Annotated[
    EngineName | None,
    typer.Option("--engine", envvar="EDGEKIT_ENGINE", help="Run on this engine.", show_default="the best installed"),
]
Engines = Annotated[
    list[EngineName] | None, typer.Option("--engine", help="Only this engine; repeatable.", show_default="all")
]
PrecisionOption = Annotated[
    Precision | None,
    typer.Option(
        "--precision", envvar="EDGEKIT_PRECISION", help="Run this precision.", show_default="int8 where there is one"
    ),
]
AllowOverlap = Annotated[
    bool, typer.Option("--allow-overlap", help="Report on frames that were trained, tuned or calibrated on.")
]
