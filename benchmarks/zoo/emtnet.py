"""EMT-Net with the outputs that a deployed network has."""

from torch import Tensor

from emtnet.network import EmtNet


class LogitsEmtNet(EmtNet):
    """`EmtNet` that gives mask and malignancy only."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        outputs = super().forward(x)
        return outputs.mask, outputs.malignancy


def unguided() -> LogitsEmtNet:
    """Without the lesion head: the zoo's networks were measured before there was one."""
    return LogitsEmtNet(guided=False)
