"""A foreign ONNX network in the house's form: one grey uint8 image in, NCHW out, fixed shapes, and what it all means."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from onnx import TensorProto, helper

from edge.errors import ConversionError, DataError
from edge.frame import GreyImage
from edge.manifest import InputSpec
from quantize.description import Description
from quantize.meaning import describe_outputs
from quantize.network import Network
from quantize.onnx_edit import GraphEditor, copy_of
from quantize.onnx_graph import OPSET, QUANTISERS, TORCH_TOLERANCE, checked, first_line, plain_session
from quantize.simplify import cancel_transposes, simplify

QUANTISED_TOLERANCE: Final = 1e-2
"""Mean share of an output by which quantised networks may differ: one rounding tie moves a whole step."""
_IR_WITHOUT_LISTING: Final = 8
"""From IR version 4 on initializers need not be listed as inputs; 8 is that of opset 18."""


def load_onnx(path: Path) -> onnx.ModelProto:
    """Read an ONNX file, with external data where it has some. Raises DataError."""
    try:
        model = onnx.load(path, load_external_data=False)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    except Exception as error:  # protobuf's own class
        raise DataError(f"{path}: not an ONNX file, or a damaged one ({first_line(error)})") from error
    if not model.graph.node:
        raise DataError(f"{path}: not an ONNX file, or an empty one; export the network again")
    try:
        onnx.load_external_data_for_model(model, str(path.parent))
    except Exception as error:  # onnx raises several
        raise DataError(
            f"{path}: its weights are in a file beside it, which cannot be read; copy that too ({first_line(error)})"
        ) from error
    return model


def import_onnx(model: onnx.ModelProto, description: Description, *, name: str, source_sha256: str = "") -> Network:
    """Bring `model` into the house's form. Raises ConversionError, saying what to do.

    A network whose only input is one float32 image (N, C, H, W) or (N, H, W, C), or a uint8 one that it casts itself, with
    C of 1 or 3; a batch left open becomes 1. Opset 11 and later. With quantisers in it, it is left as it is.
    """
    guesses: list[str] = []
    result = copy_of(model)
    image = _image_of(result, description)
    _fix_input(result, image)
    result = simplify(checked(result, at_least=OPSET))
    _recall_shapes(result, model)
    quantised = any(node.op_type in QUANTISERS for node in result.graph.node)
    offset, scale = _normalise(result, image, description)
    turned: list[str] = []
    if image.channels_last:
        turned = _turn_outputs(result, (image.height, image.width))
        guesses += [f"output {name!r} is an image in (N, H, W, C), turned to (N, C, H, W)" for name in turned]
        result = cancel_transposes(result)
    result = checked(result, at_least=OPSET)
    outputs, labels, point = describe_outputs(result, description, guesses)
    spec = InputSpec(
        image.name, image.height, image.width, image.channels, offset=offset, scale=scale, resize=description.resize
    )
    return Network(
        name=name,
        source_sha256=source_sha256,
        model=result,
        quantised=quantised,
        input=spec,
        outputs=outputs,
        labels=labels,
        operating_point=point,
        guesses=tuple(guesses),
        channels_last=image.channels_last,
        turned=tuple(turned),
    )


def check_import(original: onnx.ModelProto, network: Network, images: Sequence[GreyImage]) -> None:
    """Compare the network with what it was made from, in ONNX Runtime on `images`. Raises ConversionError beyond 1e-4.

    images: network inputs, (height, width) uint8.
    """
    try:
        ours, theirs = plain_session(network.model), plain_session(original)
    except Exception as error:  # onnxruntime's own classes
        raise ConversionError(f"ONNX Runtime does not take the network: {first_line(error)}") from error
    taken = theirs.get_inputs()[0]
    offset, scale = (
        np.asarray(part, np.float32)[:, None, None] for part in (network.input.offset, network.input.scale)
    )
    shapes = {output.name: output.shape for output in network.outputs}
    names = list(shapes)
    tolerance = QUANTISED_TOLERANCE if network.quantised else TORCH_TOLERANCE
    for image in images:
        pixels = np.repeat(image[None], network.input.channels, axis=0)
        fed = pixels if "uint8" in taken.type else (pixels - offset) / scale
        fed = (fed.transpose(1, 2, 0) if network.channels_last else fed)[None]
        try:
            wanted = theirs.run(names, {taken.name: fed})
            got = ours.run(names, {network.input.name: image[None, None]})
        except Exception as error:
            raise ConversionError(f"ONNX Runtime cannot run the network: {first_line(error)}") from error
        for name, expected, found in zip(names, wanted, got, strict=True):
            if not np.isfinite(expected).all():
                raise ConversionError(
                    f"output {name!r} is not finite on a phantom; the network itself is at fault, train or export it again"
                )
            if found.shape != shapes[name]:
                raise ConversionError(f"output {name!r} has shape {found.shape}, and the network says {shapes[name]}")
            turned = expected.transpose(0, 3, 1, 2) if name in network.turned else expected
            difference = float(np.abs(found.astype(np.float64) - turned).mean()) / max(1.0, float(np.abs(turned).max()))
            if not difference <= tolerance:
                raise ConversionError(
                    f"output {name!r} changed by {difference:.1e} while the network was prepared; please report the network"
                )


@dataclass(frozen=True, slots=True)
class _Image:
    """The network's own input."""

    name: str
    channels: int
    height: int
    width: int
    channels_last: bool
    is_float: bool


def _image_of(model: onnx.ModelProto, description: Description) -> _Image:
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    if len(inputs) != 1:
        names = ", ".join(value.name for value in inputs) or "none"
        raise ConversionError(
            f"the network has {len(inputs)} inputs ({names}); one image is supported, freeze the others"
        )
    value = inputs[0]
    kind = value.type.tensor_type
    dims = [dim.dim_value if dim.HasField("dim_value") else 0 for dim in kind.shape.dim]
    if kind.elem_type not in (TensorProto.FLOAT, TensorProto.UINT8):
        raise ConversionError(f"input {value.name!r} is no float32 or uint8 image; export the network in float32")
    if len(dims) != 4:
        raise ConversionError(f"input {value.name!r} has rank {len(dims)}; an image has (N, C, H, W) or (N, H, W, C)")
    batch, first, last = dims[0], dims[1], dims[3]
    if batch > 1:
        raise ConversionError(f"input {value.name!r} takes {batch} images at once; export the network for a batch of 1")
    wanted = (description.channels,) if description.channels else (1, 3)
    channels_last = first not in wanted and last in wanted
    channels = (last if channels_last else first) or description.channels or max(len(description.mean), 0)
    if channels not in wanted:
        shape = "×".join(str(dim) if dim else "?" for dim in dims)
        raise ConversionError(
            f"input {value.name!r} has shape {shape}, in which no axis has {' or '.join(map(str, wanted))} channels; "
            + (
                "leave --channels out"
                if description.channels
                else "give --channels 1 or 3, or export a network of one image"
            )
        )
    height, width = dims[1:3] if channels_last else dims[2:4]
    if description.size is not None:
        for side, asked in zip((height, width), description.size, strict=True):
            if side not in (0, asked):
                own = "×".join(str(each or "any") for each in (height, width))
                raise ConversionError(
                    f"the network is for {own} pixels, not {description.size[0]}×{description.size[1]}; change --size, "
                    "or leave it out"
                )
        height, width = description.size
    if not (height and width):
        raise ConversionError(f"input {value.name!r} leaves height and width open; fix them with --size HEIGHTxWIDTH")
    return _Image(value.name, channels, height, width, channels_last, kind.elem_type == TensorProto.FLOAT)


def _fix_input(model: onnx.ModelProto, image: _Image) -> None:
    """Write the fixed shape into the graph; everything inferred before is forgotten."""
    constants = {tensor.name for tensor in model.graph.initializer}
    value = next(value for value in model.graph.input if value.name not in constants)
    places = (image.channels, image.height, image.width)
    if image.channels_last:
        places = (image.height, image.width, image.channels)
    for dim, size in zip(value.type.tensor_type.shape.dim, (1, *places), strict=True):
        dim.dim_value = size
    kept = [other for other in model.graph.input if other.name not in constants]
    del model.graph.input[:]  # initializers listed as inputs, as IR version 3 has them
    model.graph.input.extend(kept)
    model.ir_version = max(model.ir_version, _IR_WITHOUT_LISTING)
    model.graph.ClearField("value_info")
    for output in model.graph.output:
        _forget_shape(output)


def _normalise(
    model: onnx.ModelProto, image: _Image, description: Description
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Put the normalisation in front of the network, which then takes one grey uint8 image; return offset and scale."""
    editor = GraphEditor(model.graph)
    inner, readers = image.name, editor.consumers().get(image.name, [])
    if image.is_float and not description.mean:
        raise ConversionError(
            f"input {image.name!r} is float32 and nothing says how pixels become numbers; give --mean and --std as in training "
            "(--mean 0 --std 1 for pixels / 255, --mean 0.5 --std 0.5 for −1..1), or a JSON sidecar"
        )
    if max(len(description.mean), len(description.std)) == 3 and image.channels != 3:
        raise ConversionError("three numbers of mean or std for a network of one channel; give one of each")
    if not image.is_float:
        if description.mean:
            raise ConversionError(
                f"input {image.name!r} takes uint8 pixels and normalises them itself; leave --mean out"
            )
        if image.channels == 1 and not image.channels_last:
            return (0.0,), (1.0,)
        if {reader.op_type for reader in readers} != {"Cast"}:
            raise ConversionError(
                f"input {image.name!r} is uint8 and not cast to float first; export it with one channel"
            )
    none = (0.0,) * image.channels, (1.0,) * image.channels
    offset, scale = description.pixels(image.channels) if image.is_float else none
    nodes, last = _pixels(editor, image, offset, scale)
    if image.is_float:
        editor.redirect(inner, last, readers)
    for cast in [] if image.is_float else readers:
        editor.redirect(cast.output[0], last, editor.consumers().get(cast.output[0], []))
        del editor.graph.node[editor.place_of(cast)]
    editor.insert(0, nodes)
    value = model.graph.input[0]
    value.CopyFrom(helper.make_tensor_value_info(inner, TensorProto.UINT8, [1, 1, image.height, image.width]))
    return offset, scale


def _pixels(
    editor: GraphEditor, image: _Image, offset: tuple[float, ...], scale: tuple[float, ...]
) -> tuple[list[onnx.NodeProto], str]:
    """Nodes from the grey uint8 image to the network's own input, and the tensor they end in.

    One channel, or three alike, are (p − c) / s, which the INT8 graph makes exact (quantize/qdq.py).
    """
    stem, alike = image.name, len(set(zip(offset, scale, strict=True))) == 1
    shape = (1, 1, 1, 1) if alike else (1, image.channels, 1, 1)
    values = [np.asarray(part[:1] if alike else part, np.float32) for part in (offset, scale)]
    names = [
        editor.add_constant(f"{stem}_{what}", value.reshape(() if alike else shape))
        for what, value in zip(("offset", "scale"), values, strict=True)
    ]
    nodes: list[onnx.NodeProto] = []

    def then(op: str, inputs: Sequence[str], what: str, **attributes: Any) -> str:
        output = editor.unused(f"{stem}_{what}")
        nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    last = then("Cast", [stem], "float", to=TensorProto.FLOAT)
    last = then("Sub", [last, names[0]], "centred")
    last = then("Div", [last, names[1]], "normalised")
    if alike and image.channels == 3:
        last = then("Concat", [last] * 3, "rgb", axis=1)
    if image.channels_last:
        last = then("Transpose", [last], "nhwc", perm=[0, 2, 3, 1])
    return nodes, last


def _is_channels_last(shape: Sequence[int], size: tuple[int, int]) -> bool:
    """Whether an output of a network of NHWC input is an NHWC image; not one whose last two axes alone have its aspect."""
    if len(shape) != 4:
        return False
    height, width = size
    return shape[1] * width == shape[2] * height or shape[2] * width != shape[3] * height


def _turn_outputs(model: onnx.ModelProto, size: tuple[int, int]) -> list[str]:
    """Images that an NHWC network gives as NHWC become NCHW, as everywhere in the house; return their names.

    size: (height, width) of the network's input.
    """
    turned = []
    with_shapes = checked(model, at_least=OPSET).graph.output
    shapes = {value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in with_shapes}
    editor = GraphEditor(model.graph)
    for value in model.graph.output:
        if not _is_channels_last(shapes[value.name], size):
            continue
        inner = editor.unused(f"{value.name}_nhwc")
        producer = editor.producers()[value.name]
        producer.output[list(producer.output).index(value.name)] = inner
        editor.redirect(value.name, inner, editor.consumers().get(value.name, []))
        model.graph.node.append(
            helper.make_node("Transpose", [inner], [value.name], name=f"{value.name}_nchw", perm=[0, 3, 1, 2])
        )
        _forget_shape(value)
        turned.append(value.name)
    return turned


def _recall_shapes(model: onnx.ModelProto, original: onnx.ModelProto) -> None:
    """Output shapes that inference could not tell, behind operators of other domains, are those the network declares."""
    declared = {value.name: value.type.tensor_type.shape.dim for value in original.graph.output}
    for value in model.graph.output:
        own = value.type.tensor_type.shape.dim
        if len(own) != len(declared[value.name]) or all(dim.dim_value for dim in own):
            continue
        for dim, known in zip(own, declared[value.name], strict=True):
            dim.dim_value = dim.dim_value or known.dim_value


def _forget_shape(value: onnx.ValueInfoProto) -> None:
    """Leave the rank; the rest is inferred again."""
    for dim in value.type.tensor_type.shape.dim:
        dim.Clear()
