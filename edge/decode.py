"""JSON values as records, strictly: every key known, none missing, every type right."""

from dataclasses import fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin

from edge.errors import BundleError


def decode(kind: Any, raw: Any, where: Path, what: str) -> Any:
    """A JSON value as a value of type `kind`, records and tuples made of their parts.

    where, what: the file and its part, as errors name them. Raises BundleError.
    """
    origin, options = get_origin(kind), get_args(kind)
    if origin is UnionType:  # something or null
        return None if raw is None else decode(options[0], raw, where, what)
    if is_dataclass(kind):
        return _record(kind, raw, where, what)
    if not _fits(raw, kind):
        raise BundleError(f"{where}: {what} has the wrong type ({type(raw).__name__})")
    if origin is tuple:
        kinds = options[:1] * len(raw) if options[-1] is Ellipsis else options
        return tuple(decode(part, item, where, f"an item of {what}") for part, item in zip(kinds, raw, strict=True))
    return raw


def _fits(value: Any, kind: Any) -> bool:
    """Whether a JSON value can be one of type `kind`; the items of a tuple are looked at when they are decoded."""
    origin, options = get_origin(kind), get_args(kind)
    if origin is tuple:
        return isinstance(value, list) and (options[-1] is Ellipsis or len(value) == len(options))
    if origin is dict:
        return isinstance(value, dict) and all(_fits(item, options[1]) for item in value.values())
    if origin is Literal:
        return isinstance(value, str)  # the record knows which ones there are
    if kind in (str, int, float):
        return isinstance(value, (int, float) if kind is float else kind) and not isinstance(value, bool)
    return True


def _record(kind: Any, raw: Any, where: Path, what: str) -> Any:
    if not isinstance(raw, dict):
        raise BundleError(f"{where}: {what} is not an object")
    types = {item.name: item.type for item in fields(kind)}
    if unknown := raw.keys() - types:
        raise BundleError(f"{where}: unknown keys {sorted(unknown)} in {what}; written by a newer edgekit?")
    if absent := types.keys() - raw:
        raise BundleError(f"{where}: keys {sorted(absent)} are missing in {what}")
    values = {name: decode(part, raw[name], where, f"{name} of {what}") for name, part in types.items()}
    try:
        return kind(**values)
    except ValueError as error:
        raise BundleError(f"{where}: {error}") from error
