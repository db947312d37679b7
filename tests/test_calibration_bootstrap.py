"""Intervals: patients are drawn, not frames; the fast way over all figures is the slow way over each."""

import time
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from calibration.bootstrap import interval, metric_intervals
from calibration.dataset import Label
from calibration.metrics import CaseResult, summarise

PROBABILITY = st.one_of(st.none(), st.integers(0, 6).map(lambda level: level / 6))  # few levels, so that scores tie
RESULTS = st.lists(
    st.builds(
        CaseResult,
        image=st.just("x.png"),
        label=st.sampled_from([*get_args(Label), None]),
        probability=PROBABILITY,
        dice=PROBABILITY,
        iou=PROBABILITY,
        lesion_share=st.sampled_from([None, 0.0, 0.1]),
        hd95=st.one_of(st.none(), st.floats(0, 100)),
        decision=st.sampled_from([None, "no lesion", "benign", "malignant"]),
    ),
    max_size=25,
)


def cases(count: int, *, seed: int = 0) -> list[CaseResult]:
    rng = np.random.default_rng(seed)
    found = []
    for index in range(count):
        label: Label = ("benign", "malignant", "normal")[index % 3]
        score = float(np.clip(rng.normal(0.6 if label == "malignant" else 0.4, 0.2), 0, 1))
        decision = "no lesion" if rng.random() < 0.1 else "malignant" if score >= 0.5 else "benign"
        found.append(CaseResult("x.png", label, score, score, score / 2, rng.random(), rng.random(), 0.5, decision))
    return found


def test_the_interval_of_a_mean_is_that_of_its_standard_error() -> None:
    values = np.random.default_rng(0).normal(10.0, 3.0, 400)
    found = interval(lambda at: float(values[at].mean()), [str(index) for index in range(400)], resamples=4000)
    expected = stats.norm.interval(0.95, values.mean(), values.std() / 20)
    assert found == pytest.approx(expected, abs=0.04)


def test_frames_of_one_patient_are_drawn_together() -> None:
    """Four equal frames a patient say no more than one."""
    once = np.random.default_rng(0).normal(size=50)
    repeated = np.repeat(once, 4)
    patients = [str(index) for index in range(50)]
    single = interval(lambda at: float(once[at].mean()), patients)
    grouped = interval(lambda at: float(repeated[at].mean()), [name for name in patients for _ in range(4)])
    alone = interval(lambda at: float(repeated[at].mean()), [""] * 200)  # no group is a group of its own
    assert single is not None
    assert alone is not None
    assert grouped == pytest.approx(single)
    assert alone[1] - alone[0] == pytest.approx((single[1] - single[0]) / 2, rel=0.1)


def test_level_and_seed() -> None:
    values = np.arange(30.0)
    groups = [str(index) for index in range(30)]

    def of(*, level: float = 0.95, seed: int = 0) -> tuple[float, float]:
        found = interval(lambda at: float(values[at].mean()), groups, level=level, seed=seed)
        assert found is not None
        return found

    assert of() == of()
    assert of() != of(seed=1)
    assert of(level=0.99)[0] < of()[0] < of(level=0.5)[0] < 14.5 < of(level=0.5)[1] < of()[1]


def test_resamples_without_a_value_are_left_out_until_they_are_the_majority() -> None:
    groups = [str(index) for index in range(10)]

    def defined_for(share: float) -> tuple[float, float] | None:
        calls = iter(range(100))
        return interval(lambda at: 1.0 if next(calls) < 100 * share else None, groups, resamples=100)

    assert defined_for(0.5) == (1.0, 1.0)
    assert defined_for(0.49) is None


def test_one_patient_has_no_interval() -> None:
    assert interval(lambda at: float(at.size), ["a", "a", "a"]) is None
    assert interval(lambda at: float(at.size), []) is None
    assert metric_intervals(cases(9), ["a"] * 9, threshold=0.5) == {}
    assert metric_intervals([], [], threshold=0.5) == {}


def assert_each_alone(
    results: list[CaseResult], groups: list[str], *, threshold: float | None, positive: str | None = "malignant"
) -> None:
    """Hold `metric_intervals` against `interval` of `summarise`, figure by figure."""
    found = metric_intervals(results, groups, threshold=threshold, positive=positive, resamples=30, seed=3)
    names = summarise([], threshold=threshold).to_json().keys() - {"n", "threshold"}
    assert found.keys() <= names
    for name in names:

        def statistic(indices: NDArray[np.intp], name: str = name) -> float | None:
            drawn = [results[index] for index in indices]
            return summarise(drawn, threshold=threshold, positive=positive).to_json()[name]

        assert found.get(name) == pytest.approx(interval(statistic, groups, resamples=30, seed=3)), name


@given(RESULTS, st.data(), st.sampled_from([None, 0.5]), st.sampled_from(["malignant", "benign", None]))
def test_all_figures_at_once_are_each_figure_alone(
    results: list[CaseResult], data: st.DataObject, threshold: float | None, positive: str | None
) -> None:
    size = len(results)
    groups = data.draw(st.lists(st.sampled_from(["", "a", "b", "c", "d"]), min_size=size, max_size=size))
    assert_each_alone(results, groups, threshold=threshold, positive=positive)


@pytest.mark.parametrize("digits", [1, 9])
def test_and_so_they_are_on_many_cases_with_and_without_ties(digits: int) -> None:
    results = [replace(case, probability=round(case.probability or 0.0, digits)) for case in cases(120)]
    assert_each_alone(results, [str(index // 3) for index in range(120)], threshold=0.5)


def test_every_figure_has_an_interval_around_it() -> None:
    results = cases(300)
    record = summarise(results, threshold=0.5).to_json()
    found = metric_intervals(results, [str(index // 2) for index in range(300)], threshold=0.5)
    assert found.keys() == record.keys() - {"n", "threshold"}
    for name, (low, high) in found.items():
        value = record[name]
        assert value is not None
        assert low <= value <= high, name


def test_a_whole_data_set_takes_seconds() -> None:
    start = time.perf_counter()
    metric_intervals(cases(1900), [str(index // 2) for index in range(1900)], threshold=0.5)
    assert time.perf_counter() - start < 30


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="a group"):
        metric_intervals(cases(3), ["a", "b"], threshold=0.5)
    with pytest.raises(ValueError, match="resamples"):
        interval(lambda _: 1.0, ["a", "b"], resamples=0)
    for level in (0.0, 1.0, 95.0):
        with pytest.raises(ValueError, match="level"):
            interval(lambda _: 1.0, ["a", "b"], level=level)
