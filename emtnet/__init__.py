"""The reference network of the EMT-NET paper (arXiv 2201.04795): network, loss, augmentation, training, shipped weights."""
