"""Whether there is a lesion: the highest probabilities of the mask, and what becomes of them."""

import math
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge.presence import LESION_LEVEL, Presence, outline_level, presence_logit

PRESENCE = Presence(1.5, -0.5, 0.3, "nothing", 0.35)


def with_top(count: int, *, value: float = 0.9, side: int = 112) -> NDArray[np.float32]:
    """A mask of 0.01 with `count` pixels of `value` scattered over it."""
    mask = np.full(side * side, 0.01, np.float32)
    mask[np.random.default_rng(3).permutation(side * side)[:count]] = value
    return mask.reshape(side, side)


def logit(probability: float) -> float:
    return math.log(probability / (1 - probability))


@pytest.mark.parametrize(("side", "count"), [(112, 63), (56, 16), (40, 8), (14, 1), (2, 1)])
def test_the_highest_half_per_cent_counts_and_nothing_below(side: int, count: int) -> None:
    full = presence_logit(with_top(count, side=side))
    assert full == pytest.approx(logit(0.9), abs=1e-5)
    assert presence_logit(with_top(count + 1, side=side)) == full
    fewer = (0.9 * (count - 1) + 0.01) / count
    assert presence_logit(with_top(count - 1, side=side)) == pytest.approx(logit(fewer), abs=1e-5)


def test_a_lone_speck_is_no_lesion_and_a_spot_of_half_a_per_cent_is() -> None:
    speck, spot = (presence_logit(with_top(count, value=1.0)) for count in (3, 70))
    assert speck < logit(0.1)
    assert spot > logit(0.99)


def test_masks_of_both_sizes_say_the_same_of_the_same_lesion() -> None:
    large = np.zeros((112, 112), np.float32)
    large[20:40, 30:60] = 0.8
    assert presence_logit(large) == presence_logit(np.ascontiguousarray(large[::2, ::2]))


@pytest.mark.parametrize(("value", "expected"), [(0.0, logit(1e-4)), (1.0, -logit(1e-4)), (0.5, 0.0)])
def test_certain_masks_have_a_finite_logit(value: float, expected: float) -> None:
    assert presence_logit(np.full((112, 112), value, np.float32)) == pytest.approx(expected)


def test_the_mask_stays_as_it_is() -> None:
    mask = with_top(500)
    before = mask.copy()
    assert isinstance(presence_logit(mask), float)
    np.testing.assert_array_equal(mask, before)


def test_it_is_cheap() -> None:
    """0.1 ms; a sort of the whole mask would take eight times as long."""
    mask = np.random.default_rng(0).random((112, 112), np.float32)
    taken = []
    for _ in range(50):
        started = time.perf_counter()
        presence_logit(mask)
        taken.append(time.perf_counter() - started)
    assert min(taken) < 3e-4


@given(st.floats(-9.3, 9.3))
def test_the_probability_is_logistic(value: float) -> None:
    assert PRESENCE.probability(value) == pytest.approx(1 / (1 + math.exp(-(1.5 * value - 0.5))), abs=1e-12)


def test_an_extreme_scale_does_not_overflow() -> None:
    steep = replace(PRESENCE, scale=1e300)
    assert [steep.probability(value) for value in (-9.0, 9.0)] == [0.0, 1.0]


def test_each_precision_has_its_threshold() -> None:
    assert PRESENCE.at("fp32") == Presence(1.5, -0.5, 0.3, "nothing")
    assert PRESENCE.at("int8") == Presence(1.5, -0.5, 0.35, "nothing")
    assert replace(PRESENCE, int8_threshold=None).at("int8").threshold == 0.3


@pytest.mark.parametrize(
    "change",
    [
        *({"scale": value} for value in (0.0, -1.0, math.inf, math.nan)),
        *({"offset": value} for value in (math.inf, -math.inf, math.nan)),
        *({name: value} for name in ("threshold", "int8_threshold") for value in (0.0, 1.0, -0.1, math.nan)),
    ],
)
def test_what_is_no_presence_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"scale above 0|lies outside 0..1"):
        replace(PRESENCE, **change)


@given(st.floats(0.0, 1.0), st.integers(2, 40))
def test_the_outline_runs_at_half_the_height_of_the_mask(top: float, side: int) -> None:
    mask = np.zeros((side, side), np.float32)
    mask[: side // 2] = top
    level = outline_level(mask)
    assert level == max(
        1, min(LESION_LEVEL, math.floor(LESION_LEVEL * min(max(float(np.float32(top)), 1e-4), 1 - 1e-4) + 0.5))
    )
    assert (np.rint(255 * mask) >= level).any() == (np.rint(255 * np.float32(top)) >= 1)


def test_a_sure_lesion_is_outlined_at_one_half() -> None:
    assert outline_level(np.full((112, 112), 0.9999, np.float32)) == LESION_LEVEL
