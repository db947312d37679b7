"""Versions of what made a file."""

import platform
from importlib.metadata import version

from edge.versions import versions


def test_what_is_installed_has_its_version_and_the_rest_is_said_to_be_missing() -> None:
    assert versions(("numpy", "no-such-package")) == {
        "python": platform.python_version(),
        "numpy": version("numpy"),
        "no-such-package": "not installed",
    }
