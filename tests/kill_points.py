"""Kill a step of a program at every point where it touches the disk: a wrapper process for tests of what is never half."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

DISK = (
    "open",
    "os.mkdir",
    "os.rename",
    "os.remove",
    "os.rmdir",
    "os.symlink",
    "os.chmod",
    "os.truncate",
    "shutil.rmtree",
)


def killed_at_every_point(
    step: Callable[[], object],
    under: Path,
    *,
    prepare: Callable[[], object],
    check: Callable[[int], object],
    stride: int = 1,
) -> int:
    """Run `step` in forked processes, each killed with SIGKILL before another event on the disk below `under`.

    prepare, check: called in this process before and after each; check gets the number of the event. Returns how many events
    there are; each stride-th is killed. Raises AssertionError where a process ends in another way.
    """
    point = 1
    while True:
        prepare()
        child = os.fork()
        if child == 0:
            _run_killed(step, under, point)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0, f"the step failed by itself at point {point}"
            return point - 1
        assert os.WTERMSIG(status) == signal.SIGKILL
        check(point)
        point += stride


def _run_killed(step: Callable[[], object], under: Path, point: int) -> None:
    """In the child: run, and die at the point-th event. Never returns."""
    seen = 0

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal seen
        if event in DISK and any(
            isinstance(a, str | os.PathLike) and os.fspath(a).startswith(str(under)) for a in arguments
        ):
            seen += 1
            if seen == point:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    code = 1
    try:
        step()
        code = 0
    finally:
        os._exit(code)
