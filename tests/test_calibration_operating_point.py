"""The operating point: reaches its sensitivity, looks at lesions only, stays inside 0..1."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibration.dataset import Label
from calibration.metrics import CaseResult, summarise
from calibration.operating_point import choose_threshold


def results(*pairs: tuple[Label, float]) -> list[CaseResult]:
    return [CaseResult("x.png", label, probability, None, None, 0.0) for label, probability in pairs]


@given(
    st.lists(
        st.tuples(st.sampled_from(["malignant", "benign", "normal"]), st.floats(0.001, 0.999)), min_size=1, max_size=40
    ),
    st.sampled_from([0.5, 0.9, 0.941, 1.0]),
)
def test_the_sensitivity_is_reached_on_the_cases_it_was_chosen_on(
    pairs: list[tuple[Label, float]], sensitivity: float
) -> None:
    cases = results(("malignant", 0.5), *pairs)
    reached = summarise(cases, threshold=choose_threshold(cases, sensitivity=sensitivity)).sensitivity
    assert reached is not None
    assert reached >= sensitivity - 1e-12


def test_it_is_the_highest_such_threshold_and_normals_have_no_say() -> None:
    malignant = [("malignant", level / 100) for level in range(1, 101)]
    cases = results(*malignant, ("benign", 0.99), ("normal", 0.01))  # type: ignore[arg-type]
    assert choose_threshold(cases) == 0.06  # 95 of 100 are at or above; 94 would miss the paper's 94.1 %
    assert choose_threshold(cases, sensitivity=0.94) == 0.07


@pytest.mark.parametrize(("probability", "threshold"), [(1.0, 0.999), (0.0, 0.001), (0.3, 0.3)])
def test_it_stays_inside_its_margin(probability: float, threshold: float) -> None:
    assert choose_threshold(results(("malignant", probability), ("benign", 0.5))) == threshold


def test_without_a_malignant_case_there_is_none() -> None:
    with pytest.raises(ValueError, match="malignant"):
        choose_threshold(results(("benign", 0.5), ("normal", 0.9)))
    with pytest.raises(ValueError, match="malignant"):
        choose_threshold([CaseResult("x.png", "malignant", None, 0.8, 0.7, 0.1)])  # a network without a class output
