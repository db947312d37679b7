"""Whose examination a run belongs to: patient and study, given by options or by a worklist."""

import json
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from edge.errors import DataError

ANONYMOUS_NAME: Final = "EDGEKIT^ANONYMOUS"
ANONYMOUS_ID: Final = "ANONYMOUS"

_UID: Final = re.compile(r"(0|[1-9]\d*)(\.(0|[1-9]\d*))+")
_LENGTHS: Final = {
    "patient_id": 64,
    "patient_name": 324,  # three groups of 64 and what stands between them
    "accession_number": 16,
    "study_id": 16,
    "study_description": 64,
    "referring_physician": 324,
}
_WORKLIST: Final = {
    "patient_id": "00100020",
    "patient_name": "00100010",
    "birth_date": "00100030",
    "sex": "00100040",
    "accession_number": "00080050",
    "study_instance_uid": "0020000D",
    "study_id": "00401001",  # the requested procedure's: a worklist has no Study ID of its own
    "study_description": "00321060",
    "referring_physician": "00080090",
}


def new_uid() -> str:
    """A DICOM UID nobody else has: a random UUID as PS3.5, annex B.2 writes it."""
    return f"2.25.{uuid.uuid4().int}"


def _today() -> str:
    return datetime.now().astimezone().strftime("%Y%m%d")


def _time() -> str:
    return datetime.now().astimezone().strftime("%H%M%S")


@dataclass(frozen=True, slots=True)
class Identity:
    """Patient and study, by the values that DICOM has for them; "" where one is not known.

    Without a patient it is anonymous and says so; without a study it begins a new one, now. One identity for a run: every
    object of it belongs to the one study. patient_name: as DICOM writes it, "Family^Given". birth_date, study_date: YYYYMMDD.
    study_time: HHMMSS. sex: M, F, O. Raises DataError for what DICOM does not allow.
    """

    patient_id: str = ANONYMOUS_ID
    patient_name: str = ANONYMOUS_NAME
    birth_date: str = ""
    sex: str = ""
    accession_number: str = ""
    study_instance_uid: str = field(default_factory=new_uid)
    study_id: str = ""
    study_date: str = field(default_factory=_today)
    study_time: str = field(default_factory=_time)
    study_description: str = ""
    referring_physician: str = ""

    def __post_init__(self) -> None:
        for name, longest in _LENGTHS.items():
            value = getattr(self, name)
            if len(value) > longest or "\\" in value or not value.isprintable():
                raise DataError(f"{_words(name)}: at most {longest} characters on one line, without a backslash")
        if not self.patient_id:
            raise DataError("patient id: is empty; a finding without a patient belongs to nobody")
        for name in ("birth_date", "study_date"):
            if (value := getattr(self, name)) and not _is_time(value, "%Y%m%d", 8):
                raise DataError(f"{_words(name)}: is no date as DICOM writes it, YYYYMMDD")
        if self.study_time and not _is_time(self.study_time.partition(".")[0], "%H%M%S", 6):
            raise DataError("study time: is no time as DICOM writes it, HHMMSS")
        if self.sex not in ("M", "F", "O", ""):
            raise DataError("sex: is M, F, O or empty")
        if len(self.study_instance_uid) > 64 or not _UID.fullmatch(self.study_instance_uid):
            raise DataError("study instance uid: is no UID: numbers with dots between them, at most 64 characters")


def read_worklist(path: Path | str, *, accession: str | None = None) -> Identity:
    """Read who is examined from a worklist: what a modality worklist query answers, in the DICOM JSON model (PS3.18, annex F).

    One entry or a list of them; accession: which one, by its accession number, needed where there are several. The study begins
    now. Raises DataError; its message names no patient.
    """
    path = Path(path)
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    except ValueError as error:
        raise DataError(f"{path}: is no JSON; a worklist is in the DICOM JSON model") from error
    entries = read if isinstance(read, list) else [read]
    if not entries or not all(isinstance(entry, dict) for entry in entries):
        raise DataError(f"{path}: holds no worklist entry; a worklist is an object of the DICOM JSON model, or a list")
    values = _entry([_values(path, entry) for entry in entries], path, accession)
    if missing := [_words(name) for name in ("patient_id", "patient_name") if not values.get(name)]:
        raise DataError(f"{path}: the entry has no {' and no '.join(missing)}; ask the worklist for return keys")
    known = {name: value for name, value in values.items() if value}
    if known.get("sex") not in (None, "M", "F", "O"):
        raise DataError(f"{path}: the entry's sex is none of M, F and O")
    try:
        return Identity(**known)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def _entry(entries: Sequence[Mapping[str, str]], path: Path, accession: str | None) -> Mapping[str, str]:
    if accession is not None:
        entries = [entry for entry in entries if entry["accession_number"] == accession]
        if not entries:
            raise DataError(f"{path}: no entry has the accession number {accession}")
    if len(entries) > 1:
        which = (
            "choose one by its accession number" if accession is None else "each needs an accession number of its own"
        )
        raise DataError(f"{path}: holds {len(entries)} entries; {which}")
    return entries[0]


def _values(path: Path, entry: Mapping[str, Any]) -> dict[str, str]:
    return {name: _value(path, entry, tag, name) for name, tag in _WORKLIST.items()}


def _value(path: Path, entry: Mapping[str, Any], tag: str, name: str) -> str:
    """The first value of an attribute as text, "" where it is absent or empty."""
    element = entry.get(tag, entry.get(tag.lower(), {}))
    values = element.get("Value", []) if isinstance(element, dict) else None
    if not isinstance(values, list):
        raise DataError(f"{path}: {_words(name)} ({tag}) is not as the DICOM JSON model writes it")
    value = values[0] if values else ""
    if isinstance(value, dict):  # a person's name, in up to three scripts
        value = "=".join(str(value.get(part, "")) for part in ("Alphabetic", "Ideographic", "Phonetic")).rstrip("=")
    if value is None:
        return ""
    if not isinstance(value, str | int) or isinstance(value, bool):
        raise DataError(f"{path}: {_words(name)} ({tag}) is not as the DICOM JSON model writes it")
    return str(value).strip()


def _is_time(value: str, form: str, length: int) -> bool:
    try:
        datetime.strptime(value, form)
    except ValueError:
        return False
    return len(value) == length and value.isdigit()


def _words(name: str) -> str:
    return name.replace("_", " ")
