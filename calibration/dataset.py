"""Data sets of breast-ultrasound frames: one list of cases from four layouts.

- `cases.csv`: image, mask, label, group, fold, source, device, birads; paths relative to the file.
- BUS-BRA as downloaded: `Images/`, `Masks/`, `bus_data.csv`, and `5-fold-cv.csv` for the official folds.
- BUSI as downloaded: `benign/ malignant/ normal/`, `benign (1).png`, `benign (1)_mask.png`, `benign (1)_mask_1.png` …;
  several masks of one image are merged.
- any folder of images: cases without labels or masks.

A case without a fold gets that of its group, or one from a hash of the group, so that a group never spans folds.
"""

import csv
import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from edge.errors import DataError
from edge.frame import IMAGE_SUFFIXES, GreyImage, fingerprint, read_image, read_mask

Label = Literal["benign", "malignant", "normal"]
LABELS: Final[tuple[Label, ...]] = get_args(Label)
FOLDS: Final = 5


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """The pixels of a case. pixels: (H, W) uint8. mask: (H, W) bool, True on lesion, None where none was drawn."""

    pixels: GreyImage
    mask: NDArray[np.bool_] | None


@dataclass(frozen=True, slots=True)
class Case:
    """One image of a data set. `masks` are merged; a normal case has an empty mask without a file."""

    image: Path
    name: str
    masks: tuple[Path, ...] = ()
    label: Label | None = None
    group: str = ""
    fold: int = 0
    source: str = ""
    device: str = ""

    @property
    def origin(self) -> str:
        """The data set's name, where none was said that of the image's folder."""
        return self.source or self.image.parent.name

    @property
    def subject(self) -> str:
        """What statistics count as one: the group of its data set, usually a patient, or the case itself where it has none."""
        return f"{self.source}/{self.group or self.name}"

    def digest(self, sample: Sample) -> str:
        """Sha256 of all that is learned from this case and all that it is scored by; `sample` is what `read` gave."""
        mask = b"none" if sample.mask is None else np.packbits(sample.mask).tobytes()
        told = "\n".join((fingerprint(sample.pixels), self.label or "", self.subject, self.device, ""))
        return hashlib.sha256(told.encode() + mask).hexdigest()

    def read(self) -> Sample:
        """Read image and mask. Raises DataError when a file is no image or the sizes differ."""
        pixels = read_image(self.image)
        if self.label == "normal":
            return Sample(pixels, np.zeros(pixels.shape, np.bool_))
        if not self.masks:
            return Sample(pixels, None)
        merged = np.zeros(pixels.shape, np.bool_)
        for path in self.masks:
            mask = read_mask(path)
            if mask.shape != pixels.shape:
                raise DataError(
                    f"{path}: the mask is {mask.shape[1]}×{mask.shape[0]} pixels, "
                    f"its image {pixels.shape[1]}×{pixels.shape[0]}; they must agree"
                )
            merged |= mask
        return Sample(pixels, merged)


@dataclass(frozen=True, slots=True)
class Dataset:
    """Cases of one or more folders, in a stable order."""

    cases: tuple[Case, ...]

    @classmethod
    def open(cls, folders: Iterable[Path], *, folds: Sequence[int] | None = None) -> "Dataset":
        """List the cases of `folders`, only those of `folds` when given. Raises DataError; opens no image."""
        cases: list[Case] = []
        for folder in folders:
            cases.extend(_read_folder(folder))
        if folds is not None:
            if empty := sorted(set(folds) - {case.fold for case in cases}):
                raise DataError(f"no case is in fold {' and '.join(map(str, empty))}; choose others with --folds")
            cases = [case for case in cases if case.fold in folds]
        return cls(tuple(cases))

    def __len__(self) -> int:
        return len(self.cases)

    def __iter__(self) -> Iterator[Case]:
        return iter(self.cases)

    @property
    def labelled(self) -> bool:
        """True when every case has a label."""
        return all(case.label is not None for case in self.cases)

    def fingerprints(self) -> tuple[str, ...]:
        """Sha256 of every frame's pixels, in order (reads all images)."""
        return tuple(fingerprint(read_image(case.image)) for case in self.cases)


def parse_folds(text: str | None) -> tuple[int, ...] | None:
    """Parse "5" or "1,2,3"; None stays None: all folds. Raises DataError."""
    if text is None:
        return None
    try:
        folds = tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        folds = ()
    if not folds or min(folds) < 1:
        raise DataError(f"--folds {text}: write fold numbers with commas, for example 5 or 1,2,3")
    return folds


def _read_folder(folder: Path) -> list[Case]:
    if not folder.is_dir():
        raise DataError(f"{folder}: not a folder; name the folder that holds the data set")
    if (folder / "cases.csv").is_file():
        cases = _read_cases_csv(folder)
    elif (folder / "bus_data.csv").is_file():
        cases = _read_busbra(folder)
    elif any((folder / label).is_dir() for label in LABELS):
        cases = _read_busi(folder)
    else:
        cases = [Case(path, path.name) for path in sorted(folder.iterdir()) if _is_image(path)]
    if not cases:
        raise DataError(
            f"{folder}: no images; expected cases.csv, BUS-BRA (bus_data.csv), BUSI (benign/ malignant/ normal/) "
            "or a folder of image files"
        )
    known: dict[str, int] = {}
    for case in cases:
        if case.group and case.fold and known.setdefault(case.group, case.fold) != case.fold:
            raise DataError(
                f"{folder}: group {case.group} is in folds {known[case.group]} and {case.fold}; keep it in one"
            )
    return [
        case if case.fold else replace(case, fold=known.get(case.group) or _fold_of(case.group or case.name))
        for case in cases
    ]


def _read_cases_csv(folder: Path) -> list[Case]:
    table = folder / "cases.csv"
    cases = []
    for line, row in enumerate(_rows(table, required=("image", "label")), start=2):
        label = _label(row["label"], f"{table} line {line}")
        mask = row.get("mask", "")
        case = Case(
            image=folder / row["image"],
            name=row["image"],
            masks=(folder / mask,) if mask else (),
            label=label,
            group=row.get("group", "") or row["image"],
            fold=_fold(row.get("fold", ""), f"{table} line {line}"),
            source=row.get("source", "") or folder.name,
            device=row.get("device", ""),
        )
        _require_files(case)
        cases.append(case)
    return cases


def _read_busbra(folder: Path) -> list[Case]:
    table = folder / "bus_data.csv"
    official = folder / "5-fold-cv.csv"
    folds = {row["ID"]: row["kFold"] for row in _rows(official, required=("ID", "kFold"))} if official.is_file() else {}
    cases = []
    for line, row in enumerate(_rows(table, required=("ID", "Case", "Pathology")), start=2):
        name = row["ID"].removesuffix(".png")
        case = Case(
            image=folder / "Images" / f"{name}.png",
            name=f"Images/{name}.png",
            masks=(folder / "Masks" / f"{name.replace('bus_', 'mask_', 1)}.png",),
            label=_label(row["Pathology"], f"{table} line {line}"),
            group=f"case_{row['Case']}",
            fold=_fold(folds.get(row["ID"], ""), f"{official} ({row['ID']})"),
            source="BUS-BRA",
            device=row.get("Device", ""),
        )
        _require_files(case)
        cases.append(case)
    return cases


def _read_busi(folder: Path) -> list[Case]:
    cases = []
    for label in LABELS:
        files = sorted(path for path in (folder / label).glob("*") if _is_image(path))
        masks: dict[str, list[Path]] = {}
        for path in files:
            if match := re.fullmatch(r"(.+)_mask(_\d+)?", path.stem):
                masks.setdefault(match[1], []).append(path)
        for path in files:
            if re.search(r"_mask(_\d+)?$", path.stem):
                continue
            name = f"{label}/{path.name}"
            if label != "normal" and path.stem not in masks:
                raise DataError(f"{path}: no {path.stem}_mask.png beside it; restore it or remove the image")
            cases.append(
                Case(path, name, tuple(masks.get(path.stem, ())), label=label, group=name, source="BUSI", device="")
            )
    return cases


def _rows(table: Path, *, required: Sequence[str]) -> Iterator[dict[str, str]]:
    try:
        with table.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            if absent := [name for name in required if name not in (reader.fieldnames or ())]:
                raise DataError(f"{table}: column {', '.join(absent)} is missing")
            for row in reader:
                yield {key: (value or "").strip() for key, value in row.items() if key is not None}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{table}: cannot be read as CSV ({error})") from error


def _label(text: str, where: str) -> Label:
    for label in LABELS:
        if text.lower() == label:
            return label
    raise DataError(f"{where}: label {text!r} is none of {', '.join(LABELS)}")


def _fold(text: str, where: str) -> int:
    if not text:
        return 0
    if not text.isdecimal() or int(text) < 1:
        raise DataError(f"{where}: fold {text!r} is not a number from 1")
    return int(text)


def _fold_of(group: str) -> int:
    return int.from_bytes(hashlib.sha256(group.encode()).digest()[:4]) % FOLDS + 1


def _require_files(case: Case) -> None:
    for path in (case.image, *case.masks):
        if not path.is_file():
            raise DataError(f"{path}: listed for {case.name}, but not there; restore it or remove its line")


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()
