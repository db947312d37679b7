"""The zoo: small networks in the field's styles, on which the conversion of foreign networks is proved and timed.

    entry = ZOO["deeplab"]
    network = entry.build()                     # batch norms fitted to phantoms, in eval mode
    images = entry.normalise(entry.frames(24))  # what it takes
    model = export_onnx(entry)

It is part of the checkout only, for tests and scripts: no room of the house imports it, and it may look into all of them.
"""

from benchmarks.zoo.entry import ZooEntry
from benchmarks.zoo.export import export_onnx
from benchmarks.zoo.fit import TRAINING_STEPS
from benchmarks.zoo.table import ZOO

__all__ = ["TRAINING_STEPS", "ZOO", "ZooEntry", "export_onnx"]
