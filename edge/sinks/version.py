"""The version that results are marked with."""

from importlib.metadata import PackageNotFoundError, version


def edgekit_version() -> str:
    """This edgekit's version; "unknown" where it runs from a checkout that is not installed."""
    try:
        return version("edgekit-ultrasound")
    except PackageNotFoundError:
        return "unknown"
