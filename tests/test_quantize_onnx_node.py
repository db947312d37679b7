"""ONNX's own backend node tests for every operator that is lowered: the expected values, or a refusal with a listed reason.

`python tests/test_quantize_onnx_node.py` prints the count an operator as a table.
"""

import re
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Final

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper
from onnx.backend.test.case.node import collect_testcases
from test_quantize_support import Array, copy_of, run_tflite

from edge.errors import ConversionError
from quantize.tflite.lower import to_tflite

_CLAIMED: Final = """
    Abs Add AveragePool BatchNormalization Cast Ceil Clip Concat Constant Conv ConvTranspose Cos DepthToSpace DequantizeLinear
    Div Dropout Elu Exp Flatten Floor Gemm GlobalAveragePool GlobalMaxPool HardSigmoid HardSwish Identity LeakyRelu Log MatMul
    Max MaxPool Min Mul Neg PRelu Pad Pow QuantizeLinear ReduceMax ReduceMean ReduceMin ReduceSum Relu Reshape Resize Sigmoid
    Sin Slice Softmax SpaceToDepth Split Sqrt Squeeze Sub Swish Tanh Transpose Unsqueeze Upsample
"""
CLAIMED: Final = tuple(_CLAIMED.split())

# Inputs that a network stores rather than computes, by position. They are frozen to the values of the test.
PARAMETERS: Final[dict[str, tuple[int, ...]]] = {
    "BatchNormalization": (1, 2, 3, 4),
    "Clip": (1, 2),
    "Conv": (1, 2),
    "ConvTranspose": (1, 2),
    "DequantizeLinear": (1, 2),
    "Dropout": (1, 2),
    "Gemm": (1, 2),
    "MatMul": (1,),
    "PRelu": (1,),
    "Pad": (1, 2, 3),
    "QuantizeLinear": (1, 2),
    "ReduceMax": (1,),
    "ReduceMean": (1,),
    "ReduceMin": (1,),
    "ReduceSum": (1,),
    "Reshape": (1,),
    "Resize": (1, 2, 3),
    "Slice": (1, 2, 3, 4),
    "Split": (1,),
    "Squeeze": (1,),
    "Unsqueeze": (1,),
    "Upsample": (1,),
}
# Operators of several activations are tested a second time, with a constant for every input but the first.
OF_SEVERAL: Final = frozenset({"Add", "Concat", "Div", "Max", "Min", "Mul", "Pow", "Sub"})
COMPUTED: Final = "-computed"
CONSTANT: Final = "-constant"


@dataclass(frozen=True, eq=False)
class Case:
    """A node test with its parameters frozen. operators: the ones it counts for."""

    name: str
    operators: tuple[str, ...]
    model: onnx.ModelProto
    feeds: dict[str, Any]
    expected: dict[str, Any]
    rtol: float
    atol: float

    def __repr__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Outcome:
    """kind: passed, refused, wrong or error."""

    kind: str
    detail: str = ""


def frozen(test: Any, suffix: str, keep: Callable[[int, set[tuple[str, int]]], bool]) -> Case:
    """`test` with the graph inputs constant for which `keep` (index, the operators and positions that read it) is false."""
    model = copy_of(test.model)
    graph = model.graph
    readers: dict[str, set[tuple[str, int]]] = {}
    for node in graph.node:
        for position, name in enumerate(node.input):
            readers.setdefault(name, set()).add((node.op_type, position))
    inputs, outputs = test.data_sets[0]
    feeds: dict[str, Any] = {}
    values = list(graph.input)
    del graph.input[:]
    for index, (value, given) in enumerate(zip(values, inputs, strict=True)):
        if keep(index, readers.get(value.name, set())):
            graph.input.append(value)
            feeds[value.name] = given
        elif isinstance(given, TensorProto):
            graph.initializer.append(given)
            graph.initializer[-1].name = value.name
        else:
            graph.initializer.append(numpy_helper.from_array(np.asarray(given), value.name))
    expected = {value.name: array for value, array in zip(graph.output, outputs, strict=True)}
    operators = tuple(sorted({node.op_type for node in graph.node}))
    return Case(test.name + suffix, operators, model, feeds, expected, test.rtol, test.atol)


def is_parameter(readers: set[tuple[str, int]]) -> bool:
    return any(position in PARAMETERS.get(op, ()) for op, position in readers)


@cache
def cases() -> tuple[Case, ...]:
    """Every node test whose operators are all claimed, and its variants."""
    state = np.random.get_state()  # noqa: NPY002 (ONNX seeds the global generator)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tests = [(test, test.model.graph) for test in collect_testcases() if test.model is not None]
    np.random.set_state(state)  # noqa: NPY002
    found = []
    for test, graph in tests:
        operators = {node.op_type for node in graph.node}
        if not operators or not operators <= set(CLAIMED):
            continue
        case = frozen(test, "", lambda _, readers: not is_parameter(readers))
        found.append(case)
        if len(case.feeds) < len(graph.input):
            found.append(frozen(test, COMPUTED, lambda _, __: True))
        if operators & OF_SEVERAL and len(case.feeds) > 1:
            found.append(frozen(test, CONSTANT, lambda index, _: index == 0))
    return tuple(found)


def names_of(operator: str) -> list[str]:
    return [case.name for case in cases() if operator in case.operators]


# Why a test cannot pass. Each of these cases must be refused with a ConversionError; `test_is_refused` sees to it.


def types(case: Case) -> set[int]:
    values = (*case.model.graph.input, *case.model.graph.output)
    return {value.type.tensor_type.elem_type for value in values}


def is_computed(case: Case) -> bool:
    return case.name.endswith(COMPUTED) and "Dropout" not in case.operators  # its ratio does not matter


def is_of_other_types(case: Case) -> bool:
    return not types(case) <= {TensorProto.FLOAT, TensorProto.INT8, TensorProto.UINT8}


def is_integer_arithmetic(case: Case) -> bool:
    return types(case) != {TensorProto.FLOAT} and not {"Cast", "DequantizeLinear"} & set(case.operators)


def is_empty(case: Case) -> bool:
    return any(not np.asarray(array).size for array in (*case.feeds.values(), *case.expected.values()))


_NO_RULE = "Resize to places that no coordinate rule of TFLite reads"
SKIPS: Final[dict[str | Callable[[Case], bool], str]] = {
    is_computed: "a parameter that the graph computes",
    is_of_other_types: "types other than float32, int8 and uint8",
    is_empty: "empty tensors",
    r"test_(de)?quantizelinear_blocked.*": "quantisers in blocks",
    r"test_(de)?quantizelinear_axis": "activations with a scale a channel",
    r"test_quantizelinear": "an output of integers",
    is_integer_arithmetic: "arithmetic of integers without quantisers",
    r"test_(average|max)pool_(1d|3d)_.*": "1-D and 3-D pooling",
    r"test_(average|max)pool_2d_dilations": "dilated pooling",
    r"test_convtranspose_(1d|3d)": "1-D and 3-D convolution",
    r"test_batchnorm_.*_training_mode": "training mode",
    r"test_training_dropout.*": "training mode",
    r"test_elu(_example)?": "ELU with another alpha than 1",
    r"test_gemm_default_matrix_bias": "a bias of more than one value a channel",
    r"test_matmul_(3d|4d|bcast|1d_3d|4d_1d|1d_1d)": "weights or activations that are no matrix",
    r"test_resize_.*_cubic.*": "cubic interpolation",
    r"test_resize_.*_antialias": "antialiasing",
    r"test_resize_tf_crop_and_resize.*": "tf_crop_and_resize",
    r"test_resize_.*_half_pixel_symmetric": "half_pixel_symmetric",
    r"test_resize_downsample_scales_linear_align_corners": "align_corners by a scale that gives no whole size",
    r"test_resize_downsample_(sizes_nearest|sizes_nearest_not_smaller|scales_linear)": _NO_RULE,
    r"test_resize_downsample_sizes_linear_pytorch_half_pixel": _NO_RULE,
    r"test_resize_upsample_sizes_nearest_(floor_align_corners|round_prefer_ceil_asymmetric|ceil_half_pixel)": _NO_RULE,
}


def skip_reason(case: Case) -> str | None:
    for rule, reason in SKIPS.items():
        if re.fullmatch(rule, case.name) if isinstance(rule, str) else rule(case):
            return reason
    return None


def outcome(case: Case) -> Outcome:
    """What becomes of a case, on XNNPACK and on the built-in kernels."""
    try:
        content = to_tflite(case.model)
    except ConversionError as error:
        return Outcome("refused", str(error))
    except Exception as error:
        return Outcome("error", f"to_tflite: {type(error).__name__}: {error}")
    for delegate in (True, False):
        kernels = "XNNPACK" if delegate else "built-in kernels"
        try:
            got = run_tflite(content, case.feeds, delegate=delegate)
        except Exception as error:
            return Outcome("error", f"{kernels}: {type(error).__name__}: {error}")
        if problem := difference(case, got):
            return Outcome("wrong", f"{kernels}: {problem}")
    return Outcome("passed")


def difference(case: Case, got: dict[str, Array]) -> str:
    """How `got` differs from what the case expects; empty when it does not."""
    if got.keys() != case.expected.keys():
        return f"outputs {sorted(got)} for {sorted(case.expected)}"
    for name, wanted in case.expected.items():
        found = got[name]
        if (found.shape, found.dtype) != (wanted.shape, wanted.dtype):
            return f"{name}: {found.dtype}{found.shape} for {wanted.dtype}{wanted.shape}"
        if not np.allclose(found, wanted, case.rtol, case.atol, equal_nan=True):
            return f"{name}: {found.reshape(-1)[:6]} for {wanted.reshape(-1)[:6]}"
    return ""


def wanted_cases() -> list[Case]:
    return [case for case in cases() if skip_reason(case) is None]


def skipped_cases() -> list[Case]:
    return [case for case in cases() if skip_reason(case) is not None]


@pytest.mark.parametrize("case", wanted_cases(), ids=repr)
def test_gives_the_expected_values(case: Case) -> None:
    assert outcome(case) == Outcome("passed")


@pytest.mark.parametrize("case", skipped_cases(), ids=repr)
def test_is_refused(case: Case) -> None:
    """The list of reasons hides neither a wrong result nor something that works."""
    assert outcome(case).kind == "refused", f"{skip_reason(case)}: {outcome(case)}"


WITHOUT_CASE: Final = {
    "Cast": "ONNX casts between other types than uint8 and float32; test_quantize_tflite_int8 has the image's Cast",
    "QuantizeLinear": "ONNX has it alone, with integers as output; test_quantize_properties has it in pairs",
}


@pytest.mark.parametrize("operator", CLAIMED)
def test_every_operator_passes_something(operator: str) -> None:
    shown = any(operator in case.operators for case in wanted_cases())
    assert shown != (operator in WITHOUT_CASE), "nothing shows that it works" if not shown else "WITHOUT_CASE is wrong"


def test_every_lowering_is_claimed() -> None:
    from quantize.tflite.ops import LOWERINGS

    known = {schema.name for schema in onnx.defs.get_all_schemas() if not schema.domain}
    assert {op for op in LOWERINGS if op in known} <= set(CLAIMED)


@pytest.mark.parametrize("rule, reason", SKIPS.items(), ids=SKIPS.values())
def test_every_reason_is_needed(rule: str | Callable[[Case], bool], reason: str) -> None:
    assert any(skip_reason(case) == reason for case in cases())


def test_a_wrong_value_and_a_crash_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    (case,) = (case for case in cases() if case.name == "test_relu")
    assert outcome(case).kind == "passed"
    assert outcome(replace(case, expected={"y": case.expected["y"] + 0.01})).kind == "wrong"
    assert outcome(replace(case, expected={"y": case.expected["y"].astype(np.float64)})).kind == "wrong"
    monkeypatch.setattr("test_quantize_onnx_node.to_tflite", lambda model: b"")
    assert outcome(case).kind == "error"


def main() -> None:
    """Print the table of the documentation: node tests that pass and that are refused, an operator a row."""
    passed: Counter[str] = Counter()
    refused: dict[str, Counter[str]] = {operator: Counter() for operator in CLAIMED}
    for case in cases():
        kind = outcome(case).kind
        for operator in case.operators:
            if kind == "passed":
                passed[operator] += 1
            else:
                refused[operator][skip_reason(case) or kind.upper()] += 1
    print("| operator | pass | refused | because |\n| --- | ---: | ---: | --- |")
    for operator in CLAIMED:
        because = "; ".join(f"{reason} ({count})" for reason, count in refused[operator].most_common())
        print(f"| {operator} | {passed[operator]} | {refused[operator].total()} | {because} |")


if __name__ == "__main__":
    main()
