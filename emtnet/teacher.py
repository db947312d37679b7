"""Distillation: a trained network whose answers are mixed into the labels (Hinton et al., arXiv 1503.02531)."""

import hashlib
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from emtnet.loss import Targets
from emtnet.network import EmtNet
from emtnet.weights import CheckpointInfo, load_checkpoint


class Teacher:
    """A checkpoint that answers training images. It stays as it is.

    sha256: of its weights, which are what it answers by; its operating point may be fitted anew.
    """

    def __init__(self, network: EmtNet, info: CheckpointInfo) -> None:
        self.network = network.eval().requires_grad_(False)
        self.info = info
        digest = hashlib.sha256()
        for tensor in network.state_dict().values():
            digest.update(tensor.cpu().numpy().tobytes())
        self.sha256 = digest.hexdigest()

    @classmethod
    def open(cls, path: Path) -> "Teacher":
        """Read a checkpoint. Raises DataError."""
        network, info = load_checkpoint(path)
        return cls(network, info)

    def blend(self, image: Tensor, targets: Targets, *, share: float) -> Targets:
        """Targets of which `share` is the teacher's probability; unknown masks and classes stay unknown.

        image: (N, 1, S, S) as the network takes it. Cross-entropy is linear in its target, so that of mask and class is the
        weighted sum of those against label and teacher. Whether there is a lesion is not the teacher's to say.
        """
        with torch.no_grad():
            outputs = self.network(image)
        mask = F.interpolate(torch.sigmoid(outputs.mask.float()), size=targets.mask.shape[2:], mode="area")
        label = torch.sigmoid(outputs.malignancy.float())
        return replace(
            targets, mask=torch.lerp(targets.mask, mask, share), label=torch.lerp(targets.label, label, share)
        )
