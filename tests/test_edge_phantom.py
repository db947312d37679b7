"""The phantom: reproducible, anatomically consistent, and as bright as the real images it stands in for."""

from collections import Counter
from functools import cache
from itertools import pairwise

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge.phantom import PhantomCase, phantom_case, phantom_cine

SEEDS = range(16)
SMALL = (160, 200)

# 2nd and 98th percentile over 200 images each of BUS-BRA and BUSI, the wider of the two.
REAL_MEAN = (39.0, 135.0)
REAL_STD = (22.0, 68.0)


@cache
def cases(label: str, size: tuple[int, int] = (384, 480)) -> tuple[PhantomCase, ...]:
    return tuple(phantom_case(seed, label=label, size=size) for seed in SEEDS)


@cache
def sweep() -> tuple[PhantomCase, ...]:
    return tuple(phantom_cine(5, frames=40, size=(192, 240)))


def contrast_at_same_depth(case: PhantomCase) -> float:
    """Return mean grey on the lesion over mean grey beside it, in the rows the lesion spans."""
    rows = case.mask.any(axis=1)
    return float(case.pixels[case.mask].mean() / case.pixels[rows][~case.mask[rows]].mean())


def behind_over_beside(case: PhantomCase) -> float:
    """Return mean grey below the middle half of the lesion over that at its left and right, in the next 40 rows."""
    rows, columns = (np.flatnonzero(case.mask.any(axis=axis)) for axis in (1, 0))
    quarter = len(columns) // 4
    below = case.pixels[rows[-1] + 8 : rows[-1] + 48].astype(float)
    behind = below[:, columns[0] + quarter : columns[-1] - quarter]
    beside = np.hstack([below[:, : columns[0] - 12], below[:, columns[-1] + 12 :]])
    return float(behind.mean() / beside.mean())


def tall_over_wide(case: PhantomCase) -> float:
    return float(case.mask.any(axis=1).sum() / case.mask.any(axis=0).sum())


def solidity(mask: NDArray[np.bool_]) -> float:
    """Return the area of a mask over that of its convex hull: near 1 for a smooth ellipse."""
    points = np.argwhere(mask).astype(np.int32)
    hull = np.zeros(mask.shape, np.uint8)
    cv2.fillConvexPoly(hull, cv2.convexHull(points[:, ::-1]), [1])
    return float(mask.sum() / hull.sum())


def difference(one: PhantomCase, other: PhantomCase) -> float:
    return float(np.abs(one.pixels.astype(float) - other.pixels.astype(float)).mean())


def centroid_column(mask: NDArray[np.bool_]) -> float:
    return float(np.nonzero(mask)[1].mean())


def test_same_seed_gives_same_bytes_and_another_seed_another_image() -> None:
    first, again, other = (phantom_case(seed, size=SMALL) for seed in (11, 11, 12))
    assert first.pixels.tobytes() == again.pixels.tobytes()
    assert first.mask.tobytes() == again.mask.tobytes()
    assert (first.label, first.seed) == (again.label, 11)
    assert difference(first, other) > 10


def test_naming_the_label_the_seed_draws_changes_nothing() -> None:
    drawn = phantom_case(3, size=SMALL)
    named = phantom_case(3, label=drawn.label, size=SMALL)
    assert np.array_equal(drawn.pixels, named.pixels)


def test_labels_are_drawn_in_the_stated_proportions() -> None:
    counts = Counter(phantom_case(seed, size=(64, 64)).label for seed in range(1200))
    # 3.5 standard errors of 1200 draws
    assert counts["benign"] / 1200 == pytest.approx(0.45, abs=0.05)
    assert counts["malignant"] / 1200 == pytest.approx(0.35, abs=0.05)
    assert counts["normal"] / 1200 == pytest.approx(0.20, abs=0.04)


@settings(max_examples=25)
@given(
    seed=st.integers(0, 2**32),
    label=st.sampled_from(["benign", "malignant", "normal"]),
    size=st.tuples(st.integers(64, 200), st.integers(64, 200)),
)
def test_every_size_gives_an_image_and_a_mask_that_agrees_with_the_label(
    seed: int, label: str, size: tuple[int, int]
) -> None:
    case = phantom_case(seed, label=label, size=size)
    assert case.pixels.shape == case.mask.shape == size
    assert case.pixels.dtype == np.uint8
    assert case.mask.dtype == np.bool_
    assert case.label == label
    assert case.mask.any() == (label != "normal")
    assert case.mask.mean() < 0.4


@pytest.mark.parametrize("label", ["benign", "malignant"])
def test_lesions_are_darker_than_tissue_at_the_same_depth_by_a_realistic_ratio(label: str) -> None:
    ratios = [contrast_at_same_depth(case) for case in cases(label)]
    assert max(ratios) < 0.95
    assert 0.28 < np.median(ratios) < 0.75  # BUSI and BUS-BRA: median 0.6, middle four fifths 0.28 to 0.9


def test_malignant_lesions_stand_taller_and_have_rougher_margins() -> None:
    benign, malignant = cases("benign"), cases("malignant")
    assert np.mean([tall_over_wide(case) for case in benign]) < 0.9
    assert np.mean([tall_over_wide(case) for case in malignant]) > 1.05
    assert np.mean([solidity(case.mask) for case in benign]) > 0.97
    assert np.mean([solidity(case.mask) for case in malignant]) < 0.90


def test_benign_lesions_enhance_and_malignant_lesions_shadow_what_lies_behind() -> None:
    assert np.mean([behind_over_beside(case) for case in cases("benign")]) > 1.1
    assert np.mean([behind_over_beside(case) for case in cases("malignant")]) < 0.9


def test_brightness_lies_within_the_range_of_real_images() -> None:
    images = [case.pixels for label in ("benign", "malignant", "normal") for case in cases(label)]
    means, deviations = np.array([i.mean() for i in images]), np.array([i.std() for i in images])
    assert 60 < np.median(means) < 100
    assert 30 < np.median(deviations) < 52
    assert np.mean((means > REAL_MEAN[0]) & (means < REAL_MEAN[1])) > 0.9
    assert np.mean((deviations > REAL_STD[0]) & (deviations < REAL_STD[1])) > 0.9
    assert means.std() > 8  # scanners differ


def test_speckle_grain_is_longer_across_the_beam_than_along_it() -> None:
    for case in cases("normal")[:6]:
        fine = np.diff(np.diff(case.pixels.astype(float), axis=0), axis=1)
        across = (fine[:, 1:] * fine[:, :-1]).mean() / fine.var()
        along = (fine[1:] * fine[:-1]).mean() / fine.var()
        assert across > along


def test_cine_moves_smoothly() -> None:
    frames = sweep()
    assert len(frames) == 40
    steps = [difference(one, other) for one, other in pairwise(frames)]
    assert max(steps) < 0.6 * difference(frames[0], frames[20])
    assert max(steps) < 0.6 * difference(frames[0], frames[-1])
    assert min(steps) > 0.5


def test_cine_lesion_drifts_one_way_and_changes_size() -> None:
    columns = [centroid_column(frame.mask) for frame in sweep()]
    assert all(-3.0 < after - before < 0.0 for before, after in pairwise(columns))
    assert columns[0] - columns[-1] > 20
    areas = [int(frame.mask.sum()) for frame in sweep()]
    assert max(areas) > 1.2 * min(areas)
    assert all(frame.label == "malignant" and frame.seed == 5 for frame in sweep())


def test_cine_speckle_moves_with_the_tissue() -> None:
    """Six frames on, the image resembles itself displaced by the drift more than it resembles itself in place."""
    first, later = sweep()[20], sweep()[26]
    drift = round(centroid_column(first.mask) - centroid_column(later.mask))
    still = np.corrcoef(first.pixels[:, drift:].ravel(), later.pixels[:, drift:].ravel())[0, 1]
    moved = np.corrcoef(first.pixels[:, drift:].ravel(), later.pixels[:, :-drift].ravel())[0, 1]
    assert drift >= 4
    assert moved > 0.95
    assert 1 - still > 5 * (1 - moved)


def test_cine_is_reproducible_and_normal_cine_has_no_lesion() -> None:
    one, other = (list(phantom_cine(8, frames=3, size=SMALL, label="normal")) for _ in range(2))
    assert [a.pixels.tobytes() for a in one] == [b.pixels.tobytes() for b in other]
    assert not any(frame.mask.any() for frame in one)
    assert len(list(phantom_cine(8, frames=1, size=SMALL))) == 1


def test_bad_arguments_raise_at_the_call() -> None:
    with pytest.raises(ValueError, match="size"):
        phantom_case(0, size=(63, 480))
    with pytest.raises(ValueError, match="size"):
        phantom_cine(0, size=(384, 63))
    with pytest.raises(ValueError, match="label"):
        phantom_case(0, label="cyst")
    with pytest.raises(ValueError, match="label"):
        phantom_cine(0, label="")
    with pytest.raises(ValueError, match="frames"):
        phantom_cine(0, frames=0)
