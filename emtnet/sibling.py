"""Start a network from another one's weights: `emtnet-s` from an `emtnet`, or either from its own kind."""

from torch import Tensor

from emtnet.network import EmtNet


def spread_kernel(kernel: Tensor) -> Tensor:
    """The kernel (O, I, 2k, 2k) that does on an image what `kernel`, (O, I, k, k), does on that image shrunk by two."""
    return kernel.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3) / 4.0


def start_from(network: EmtNet, trained: EmtNet) -> list[str]:
    """Copy every weight of `trained` that has a place in `network`; return the names of those that found none.

    Stages of the decoder answer to each other by their resolution, counted from the finest. A stem of stride 2 becomes one of
    stride 4 that shrinks the image by two first.
    """
    surplus = len(trained.decoder) - len(network.decoder)
    source = {_renamed(name, -surplus): tensor for name, tensor in trained.state_dict().items()}
    target = network.state_dict()
    stem = "stem.conv.weight"
    if source[stem].shape[2] * 2 == target[stem].shape[2]:
        source[stem] = spread_kernel(source[stem])
    fitting = {
        name: source[name] for name, tensor in target.items() if name in source and source[name].shape == tensor.shape
    }
    network.load_state_dict(target | fitting)
    return sorted(target.keys() - fitting.keys())


def _renamed(name: str, shift: int) -> str:
    parts = name.split(".")
    if parts[0] == "decoder":
        parts[1] = str(int(parts[1]) + shift)
    return ".".join(parts)
