"""What the tests of quantize share: a small living network, hand-written graphs, and readers of TFLite files.

A random EMT-Net fades: its activations fall to 1e-8 within ten layers and INT8 rounds them all to one number. `network` is
random too, but its batch norms are fitted to phantoms and shifted up, so that every layer carries its image on.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import onnx
import torch
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper, shape_inference

from edge.frame import GreyImage
from edge.phantom import phantom_case
from edge.preprocess import preprocess
from emtnet.network import INPUT_SIZE, EmtNet, ExportedEmtNet
from quantize.head_bias import match_score_means
from quantize.onnx_graph import OPSET, export_torch, plain_session
from quantize.ptq import quantise
from quantize.qdq import complete
from quantize.tflite.lower import to_tflite

Array = NDArray[Any]
Attributes = dict[str, Any]
Constants = dict[str, Any]  # arrays and numpy scalars by name

SIZE = (INPUT_SIZE, INPUT_SIZE)
CALIBRATED_ON = 12
NCHW_TO_NHWC = (0, 2, 3, 1)
NHWC_TO_NCHW = (0, 3, 1, 2)
_CODES = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}


@cache
def frames() -> tuple[GreyImage, ...]:
    """24 phantoms as network input; the first twelve calibrate."""
    return tuple(preprocess(phantom_case(seed, size=(128, 160)).pixels, SIZE) for seed in range(24))


@cache
def network() -> EmtNet:
    """EMT-Net with seeded weights and batch norms fitted to phantoms. Nobody may change it."""
    torch.manual_seed(0)
    emtnet = EmtNet().train()
    norms = [module for module in emtnet.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None  # the plain mean of what it saw
        torch.nn.init.ones_(
            norm.bias
        )  # most of a channel passes the ReLU6, so rounding errors do not grow by the layer
    with torch.no_grad():
        images = (torch.from_numpy(np.stack(frames()))[:, None].float() - 128.0) / 128.0
        gate = emtnet(images).gate
        head = emtnet.lesion_head
        assert head is not None and head.gate.bias is not None
        head.gate.weight.div_(gate.std())  # half open on average, as a trained one
        head.gate.bias.copy_(3.0 - gate.mean() / gate.std())
    return emtnet.eval()


@cache
def fp32_model() -> onnx.ModelProto:
    return export_torch(ExportedEmtNet(network()), SIZE, frames()[:3])


@cache
def nncf_model() -> onnx.ModelProto:
    """As NNCF leaves it."""
    return quantise(fp32_model(), frames()[:CALIBRATED_ON])


@cache
def int8_model() -> onnx.ModelProto:
    """As the bundle gets it."""
    return match_score_means(complete(nncf_model()), fp32_model(), frames()[:CALIBRATED_ON])


@cache
def fp32_file() -> bytes:
    return to_tflite(fp32_model())


@cache
def int8_file() -> bytes:
    return to_tflite(int8_model())


# Hand-written graphs.


def copy_of(model: onnx.ModelProto) -> onnx.ModelProto:
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    return copied


def build(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Sequence[int]],
    outputs: Sequence[str],
    constants: Constants | None = None,
    *,
    dtype: int = TensorProto.FLOAT,
    opset: int = OPSET,
) -> onnx.ModelProto:
    """A checked model; shapes of outputs are inferred."""
    graph = helper.make_graph(
        list(nodes),
        "graph",
        [helper.make_tensor_value_info(name, dtype, list(shape)) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    model = shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    onnx.checker.check_model(model, full_check=True)
    return model


def qdq(name: str, scale: float, zero_point: int = 0) -> tuple[list[onnx.NodeProto], Constants]:
    """A quantiser pair behind tensor `name`; its readable side is `name`_dq."""
    parameters = [f"{name}_scale", f"{name}_zero"]
    nodes = [
        helper.make_node("QuantizeLinear", [name, *parameters], [f"{name}_q"], name=f"{name}_quantise"),
        helper.make_node("DequantizeLinear", [f"{name}_q", *parameters], [f"{name}_dq"], name=f"{name}_dequantise"),
    ]
    return nodes, {parameters[0]: np.float32(scale), parameters[1]: np.int8(zero_point)}


def weight_dq(name: str, values: Array, *, axis: int | None = 0) -> tuple[onnx.NodeProto, Constants]:
    """INT8 weights, symmetric, one scale a channel along `axis`, one in all for None; the readable side is `name`_dq."""
    others = tuple(index for index in range(values.ndim) if index != axis)
    scale = np.asarray(np.abs(values).max(axis=others) / 127, np.float32)
    shape = [-1 if index == axis else 1 for index in range(values.ndim)]
    integers = np.clip(np.rint(values / scale.reshape(shape)), -127, 127).astype(np.int8)
    parameters = [f"{name}_scale", f"{name}_zero"]
    node = helper.make_node(
        "DequantizeLinear", [name, *parameters], [f"{name}_dq"], name=f"{name}_dequantise", axis=axis
    )
    return node, {name: integers, parameters[0]: scale, parameters[1]: np.zeros(scale.shape, np.int8)}


def run_referee(model: onnx.ModelProto, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """ONNX Runtime with graph optimisations off, outputs by name."""
    names = [value.name for value in model.graph.output]
    return dict(zip(names, plain_session(model).run(names, dict(feeds)), strict=True))


def intermediate(model: onnx.ModelProto, names: Sequence[str], feeds: Mapping[str, Array]) -> list[Array]:
    """Values of inner tensors in the referee."""
    probed = copy_of(model)
    del probed.graph.output[:]
    probed.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    return list(run_referee(probed, feeds).values())


def initializers(model: onnx.ModelProto) -> dict[str, Array]:
    return {tensor.name: np.asarray(numpy_helper.to_array(tensor)) for tensor in model.graph.initializer}


def nodes_of(model: onnx.ModelProto, op: str) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.op_type == op]


def producers(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    return {name: node for node in model.graph.node for name in node.output}


def readers(model: onnx.ModelProto, name: str) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if name in node.input]


# TFLite files.


@dataclass(frozen=True)
class FlatOperator:
    code: str
    inputs: list[int]
    outputs: list[int]
    options: Any


@dataclass(frozen=True)
class FlatFile:
    """A TFLite file as its flatbuffer says."""

    model: Any

    @property
    def graph(self) -> Any:
        return self.model.subgraphs[0]

    @property
    def operators(self) -> list[FlatOperator]:
        codes = [_CODES[code.builtinCode] for code in self.model.operatorCodes]
        return [
            FlatOperator(codes[op.opcodeIndex], list(op.inputs), list(op.outputs), op.builtinOptions)
            for op in self.graph.operators
        ]

    @property
    def counts(self) -> Counter[str]:
        return Counter(operator.code for operator in self.operators)

    def name(self, index: int) -> str:
        return str(self.graph.tensors[index].name.decode())

    def dtype(self, index: int) -> np.dtype[Any]:
        kinds = {
            schema.TensorType.FLOAT32: "float32",
            schema.TensorType.INT8: "int8",
            schema.TensorType.UINT8: "uint8",
            schema.TensorType.INT32: "int32",
        }
        return np.dtype(kinds[self.graph.tensors[index].type])

    def data(self, index: int) -> Array:
        """A constant's values."""
        tensor = self.graph.tensors[index]
        raw = self.model.buffers[tensor.buffer].data
        return np.frombuffer(raw.tobytes(), self.dtype(index)).reshape(tensor.shape)

    def scale(self, index: int) -> Array:
        return np.asarray(self.graph.tensors[index].quantization.scale)

    def zero_point(self, index: int) -> Array:
        return np.asarray(self.graph.tensors[index].quantization.zeroPoint)

    def is_quantised(self, index: int) -> bool:
        return self.graph.tensors[index].quantization is not None


def read_tflite(content: bytes) -> FlatFile:
    return FlatFile(schema.ModelT.InitFromObj(schema.Model.GetRootAs(content)))


def interpreter(content: bytes, *, delegate: bool = True, keep: bool = False) -> Any:
    """A LiteRT interpreter, with XNNPACK or with the built-in kernels. keep: inner tensors stay readable."""
    kind = OpResolverType.AUTO if delegate else OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    made = Interpreter(
        model_content=content,
        num_threads=1,
        experimental_op_resolver_type=kind,
        experimental_preserve_all_tensors=keep,
    )
    made.allocate_tensors()
    return made


def feed(made: Any, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """Run an interpreter on ONNX inputs (NCHW); outputs by name, NCHW."""
    for detail in made.get_input_details():
        value = feeds[detail["name"]]
        made.set_tensor(detail["index"], value.transpose(NCHW_TO_NHWC) if value.ndim == 4 else value)
    made.invoke()
    found = {detail["name"]: made.get_tensor(detail["index"]) for detail in made.get_output_details()}
    return {name: value.transpose(NHWC_TO_NCHW) if value.ndim == 4 else value for name, value in found.items()}


def run_tflite(content: bytes, feeds: Mapping[str, Array], *, delegate: bool = True) -> dict[str, Array]:
    return feed(interpreter(content, delegate=delegate), feeds)


# The helpers themselves.


def test_no_layer_of_the_network_fades() -> None:
    made = [node.output[0] for node in fp32_model().graph.node if node.op_type in ("Clip", "Add")]
    names = [name for name in made if name != "malignancy"]  # the sum of the class layers is a single number
    image = frames()[0][None, None]
    deviations = [value.std() for value in intermediate(fp32_model(), names, {"image": image})]
    assert len(names) == 50
    assert min(deviations) > 0.2


def test_the_network_tells_frames_apart() -> None:
    answers = [run_referee(fp32_model(), {"image": frame[None, None]}) for frame in frames()[:6]]
    lesions = [float((answer["mask"] > 0).mean()) for answer in answers]
    assert 0.05 < min(lesions) < max(lesions) < 0.95
    assert np.std([answer["malignancy"].item() for answer in answers]) > 0.02
