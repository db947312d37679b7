"""One network imported and held against the original in ONNX Runtime, on frames that are normalised here."""

from typing import Final

import numpy as np
import onnx
import pytest
from foreign_networks import Array, array, images

from edge.errors import ConversionError
from quantize.description import Description
from quantize.network import Network
from quantize.onnx_graph import plain_session
from quantize.onnx_import import import_onnx

HALF: Final = Description(mean=(0.5,), std=(0.5,))
IMAGENET: Final = Description(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
PIXELS: Final = Description(mean=(0.0,), std=(1.0,), pixel_range=255)
NONE: Final = Description()


def imported(model: onnx.ModelProto, said: Description = HALF) -> Network:
    """The network, after a look at the model: it must stay as it was."""
    before = model.SerializeToString()
    network = import_onnx(model, said, name="net")
    assert model.SerializeToString() == before
    onnx.checker.check_model(network.model, full_check=True)
    assert all(0 not in output.shape for output in network.outputs)
    return network


def theirs(model: onnx.ModelProto, image: Array, said: Description) -> dict[str, Array]:
    """The original's answer to a grey image, normalised here as torchvision does it; images as NCHW."""
    session = plain_session(model)
    (taken,) = session.get_inputs()
    channels_last = taken.shape[3] in (1, 3)
    channels = taken.shape[3 if channels_last else 1]
    pixels = np.repeat(image[None, None], channels if channels in (1, 3) else 1, axis=1)
    if said.mean:
        mean, std = (array(part).reshape(1, -1, 1, 1) for part in (said.mean, said.std))
        pixels = ((pixels / 255 * said.pixel_range - mean) / std).astype(np.float32)
    fed = pixels.transpose(0, 2, 3, 1) if channels_last else pixels
    names = [value.name for value in model.graph.output]
    return dict(zip(names, session.run(names, {taken.name: fed}), strict=True))


def same(model: onnx.ModelProto, said: Description = HALF, *, turned: tuple[str, ...] = ()) -> Network:
    """Import a model and compare it with the original on frames of its size. turned: outputs that were NHWC."""
    network = imported(model, said)
    session = plain_session(network.model)
    for image in images(3, network.input.size):
        wanted = theirs(model, image, said)
        got = session.run(list(wanted), {network.input.name: image[None, None]})
        for (name, value), found in zip(wanted.items(), got, strict=True):
            assert np.ptp(value) > 0, "nothing to compare"
            expected = value.transpose(0, 3, 1, 2) if name in turned else value
            assert found.shape == expected.shape
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4, err_msg=name)
    return network


def refused(model: onnx.ModelProto, said: Description = HALF) -> str:
    with pytest.raises(ConversionError) as caught:
        import_onnx(model, said, name="net")
    assert "\n" not in str(caught.value)
    return str(caught.value)
