"""Another process of this Python: for what may take its process with it, and for what must begin anew."""

import os
import sys
from pathlib import Path


def own_python(*arguments: str) -> tuple[list[str], dict[str, str]]:
    """Command and environment of a process that imports what this one would.

    And nothing that lies in the folder where it is started, as Python does by itself: root installs from folders of others.
    """
    path = os.pathsep.join(str(Path(place).absolute()) for place in sys.path)
    return [sys.executable, "-P", *arguments], {**os.environ, "PYTHONPATH": path}
