"""Shared fixtures: real data where it stands beside the checkout, synthetic data everywhere."""

from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from edgekit_command import Edgekit, in_this_process
from hypothesis import settings

from edge.frame import GreyImage
from edge.phantom import phantom_case

# An example that waits for a busy core has not failed.
settings.register_profile("shared machines", deadline=None)
settings.register_profile("emulated", deadline=None, max_examples=10)  # for the arm64 gate, which is slow enough
settings.load_profile("shared machines")

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What is kept between starts stays out of the user's own cache, in subprocesses too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEKIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and weights; skips where it does not exist."""
    if not (SHARED / "data").is_dir():
        pytest.skip("needs the real data sets in ../shared, which are not part of the repository")
    return SHARED


@pytest.fixture(scope="session")
def phantoms() -> list[GreyImage]:
    """Twelve phantom frames."""
    return [phantom_case(seed, size=(128, 160)).pixels for seed in range(12)]


@pytest.fixture
def write_png() -> Callable[[Path, np.ndarray], Path]:
    """Write an array as PNG, making its folder."""

    def write(path: Path, pixels: np.ndarray) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(path), pixels)
        return path

    return write


@pytest.fixture
def edgekit(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Edgekit:
    """Run the app in this process; exit code, stdout, stderr."""
    return in_this_process(capfd, monkeypatch)


@pytest.fixture
def small_dataset(tmp_path: Path, write_png: Callable[[Path, np.ndarray], Path]) -> Path:
    """A cases.csv data set of 20 phantoms: five folds, both classes and one normal in each."""
    folder = tmp_path / "data"
    lines = ["image,mask,label,group,fold,source,device,birads"]
    for index in range(20):
        label = ("benign", "malignant", "normal", "benign")[index % 4]
        case = phantom_case(index, label=label, size=(96, 112))
        write_png(folder / f"images/{index}.png", case.pixels)
        write_png(folder / f"masks/{index}.png", case.mask.astype(np.uint8) * 255)
        lines.append(f"images/{index}.png,masks/{index}.png,{label},g{index},{index // 4 + 1},Phantom,p{index % 2},")
    (folder / "cases.csv").write_text("\n".join(lines) + "\n")
    return folder
