"""`edgekit predict`."""

from pathlib import Path
from typing import Annotated

import typer

from edgekit.commands.options import BundleFolder, Engine, Network, PrecisionOption, Threads, open_bundle, wished


def predict(
    images: Annotated[list[Path], typer.Argument(help="Image files, or folders of them.")],
    bundle: BundleFolder = None,
    network: Network = None,
    engine: Engine = None,
    precision: PrecisionOption = None,
    threads: Threads = None,
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for overlays and predictions.json.")] = Path(
        "edgekit-predictions"
    ),
) -> None:
    """Segment and classify images; writes an overlay for each and predictions.json."""
    from edge.files import list_images, overlay_names, prediction_record, write_overlay
    from edge.frame import read_image
    from edge.overlay import DISCLAIMER
    from edge.predictor import Predictor
    from edgekit.console import describe, number, progress, table, write_json

    opened = open_bundle(bundle, network)
    choice = wished(engine, precision)
    artifact = opened.choose(**choice)
    how = opened.manifest.interpretation(artifact.precision)
    describe(opened)
    files = list_images(images)
    names = overlay_names(files)
    for file in files:
        read_image(file)  # one that cannot be read ends the run before anything is written
    records = []
    with Predictor.open(opened.path, threads=threads, **choice) as predictor:
        for file in progress("images")(files):
            pixels = read_image(file)
            prediction = predictor.predict(pixels)
            write_overlay(out / names[file], pixels, prediction)
            records.append(prediction_record(file, prediction) | {"overlay": names[file]})
    manifest = opened.manifest
    write_json(
        out / "predictions.json",
        {
            "disclaimer": DISCLAIMER,
            "bundle": str(opened.path),
            "network": manifest.network,
            "engine": artifact.engine,
            "precision": artifact.precision,
            "positive": how.positive,
            "threshold": how.threshold,
            "presence_threshold": None if how.presence is None else how.presence.threshold,
            "phantom_calibrated": manifest.phantom_calibrated,
            "predictions": records,
        },
    )
    table(
        f"{len(records)} images, {artifact.engine} {artifact.precision}, overlays in {out}",
        ("image", "decision", "p(lesion)", f"p({how.positive})" if how.positive else "p", "lesion px", "ms"),
        [
            (
                r["image"],
                r["decision"],
                number(r["presence"]),
                number(r["malignancy"]),
                number(r["lesion_area_px"], 0),
                number(r["timing_ms"]["total"], 1),
            )
            for r in records
        ],
    )
