"""Every error a user can cause, and the one way to import an optional package.

The command line turns these into one line on stderr and an exit code; a `ValueError` stays a programmer's mistake.
"""

import importlib
import sys
from importlib.machinery import PathFinder
from types import ModuleType
from typing import ClassVar


class EdgekitError(Exception):
    """Something the user can mend. The message says what, where, and what to do."""

    exit_code: ClassVar[int] = 1


class BundleError(EdgekitError):
    """A bundle is missing, incomplete or from a newer edgekit."""


class IntegrityError(BundleError):
    """A file of a bundle is not the one its manifest describes."""


class EngineError(EdgekitError):
    """An inference engine refused a model or a frame."""


class MissingDependencyError(EngineError):
    """An optional package is not installed; the message names the extra that brings it."""


class ConversionError(EdgekitError):
    """A network cannot be expressed in the target format."""


class CalibrationError(EdgekitError):
    """The calibration frames do not do."""


class DataError(EdgekitError):
    """An image, mask or data set cannot be used."""


class SourceError(EdgekitError):
    """A frame source failed."""


class SinkError(EdgekitError):
    """Results could not be delivered or written."""


class DriftExceeded(EdgekitError):  # noqa: N818 (a finding, not a fault)
    """An artifact left the limits of the drift check."""

    exit_code: ClassVar[int] = 3


class RegressionFound(EdgekitError):  # noqa: N818 (a finding, not a fault)
    """An artifact is slower than it was in an earlier report, by more than noise."""

    exit_code: ClassVar[int] = 3


def told(error: Exception) -> str:
    """An error as a run tells it, never empty: ours by its message, which says it all; any other with its kind."""
    return str(error) if isinstance(error, EdgekitError) and str(error) else f"{type(error).__name__}: {error}"


def how_to_install(extra: str = "", *, again: bool = False) -> str:
    """What to do for an extra of edgekit, or for edgekit itself; an environment that came from a pack has no pip."""
    what = f"edgekit-ultrasound[{extra}]" if extra else "edgekit-ultrasound"
    if PathFinder.find_spec("pip") is None:
        return f"there is no pip here: install a pack with {what} (edgekit pack)"
    return f"pip install {'--force-reinstall ' if again else ''}'{what}'"


def require(module: str, *, extra: str) -> ModuleType:
    """Import an optional module; MissingDependencyError names the extra when its package is absent."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.partition(".")[0]:
            raise  # installed but broken: its own error is the useful one
        way = how_to_install(extra)
        if sys.maxsize < 1 << 32:
            way = "this Python is 32-bit, for which there is none: install the 64-bit system"
        raise MissingDependencyError(f"the package of {module!r} is not installed; {way}") from error
