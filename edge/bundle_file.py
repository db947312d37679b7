"""A file of a bundle, as the manifest names it."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class BundleFile:
    """A file of the bundle, by its path relative to the manifest."""

    path: str
    sha256: str
    size_bytes: int

    def __post_init__(self) -> None:
        if Path(self.path).is_absolute() or ".." in Path(self.path).parts:
            raise ValueError(f"file {self.path!r} lies outside the bundle")
