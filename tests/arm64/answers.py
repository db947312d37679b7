"""What LiteRT's INT8 says of given frames, written to a file: run on two machines, compared by `arm64.agreement`.

    python answers.py FRAMES.npz OUT.npz

FRAMES: (N, H, W) uint8 as `frames`. Needs the runtime only, so that it can be run where edgekit is installed and nothing else.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.bundle import BUILTIN, Bundle
from edge.predictor import Predictor
from edge.preprocess import preprocess


def answers(frames: NDArray[np.uint8]) -> dict[str, Any]:
    """For every built-in network its input, outputs, mask, malignancy and decision of each frame, stacked, named NETWORK/WHAT."""
    found: dict[str, Any] = {}
    for network, folder in BUILTIN.items():
        given = Bundle.open(folder).manifest.input
        kept: dict[str, list[Any]] = {}
        with Predictor.open(folder, engine="litert", precision="int8", threads=1) as predictor:
            for frame in frames:
                said = predictor.predict(frame)
                assert said.mask_probability is not None
                assert said.malignancy is not None
                parts: dict[str, Any] = {f"output/{name}": value for name, value in said.outputs.items()}
                parts |= {"input": preprocess(frame, given.size, resize=given.resize), "mask": said.mask_probability}
                parts |= {"malignancy": np.float32(said.malignancy), "decision": np.str_(said.decision)}
                for name, value in parts.items():
                    kept.setdefault(f"{network}/{name}", []).append(value)
        found |= {name: np.stack(values) for name, values in kept.items()}
    return found


if __name__ == "__main__":
    with np.load(sys.argv[1]) as given:
        images = given["frames"]
    with Path(sys.argv[2]).open("wb") as out:
        np.savez_compressed(out, **answers(images))
