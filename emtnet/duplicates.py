"""One frame that stands for two cases: it would count twice, or be learned from under two labels."""

from collections.abc import Iterable, Iterator

from calibration.dataset import Case
from edge.errors import DataError


def twins(frames: Iterable[tuple[Case, str]]) -> Iterator[tuple[Case, Case]]:
    """Pairs of cases with the same frame, the first one and every later one. frames: cases, and sha256 of their pixels."""
    known: dict[str, Case] = {}
    for case, sha256 in frames:
        if sha256 in known:
            yield known[sha256], case
        else:
            known[sha256] = case


def require_alike(first: Case, second: Case) -> None:
    """Refuse two cases of one frame, unless they are two files of one folder with one label, which are left to its makers.

    Raises DataError.
    """
    if first.image == second.image:
        raise DataError(f"{second.image}: is among the data twice; name each folder once, and each image once in it")
    if first.image.parent != second.image.parent or first.label != second.label:
        raise DataError(
            f"{first.image} and {second.image} are the same frame; remove one, so that no case counts twice"
        )
