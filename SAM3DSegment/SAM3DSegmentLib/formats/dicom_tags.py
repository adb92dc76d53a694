"""Tags of a DICOM header: a value that is missing, or that is not what it should be, is no value, never an error.

Headers hold "2,0", "ANONYMIZED" or two numbers where one belongs; pydicom then raises whatever its parts raise.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import Tag
from pydicom.uid import UID

from ..base.errors import InputError
from ..base.files import last_line


def _value(data: Dataset, name: str) -> Any:
    """The value of a tag as pydicom converts it, or None."""
    try:
        return data.get(name)
    except Exception:
        return None


def tag_text(data: Dataset, name: str) -> str:
    value = _value(data, name)
    return "" if value is None else str(value).strip()


def tag_numbers(data: Dataset, name: str) -> np.ndarray | None:
    """All numbers of a tag; None if it is missing, or any is not a finite number."""
    value = _value(data, name)
    try:
        numbers = np.atleast_1d(np.asarray(value, dtype=np.float64))
    except (TypeError, ValueError, OverflowError):
        return None
    return numbers if numbers.size and numbers.ndim == 1 and np.isfinite(numbers).all() else None


def tag_decimals(data: Dataset, name: str) -> np.ndarray | None:
    """As `tag_numbers`, of a long text of numbers, of each of which pydicom would make an object."""
    try:
        numbers = np.array(data.get_item(name).value.split(b"\\"), np.float64)
    except Exception:
        return tag_numbers(data, name)
    return numbers if np.isfinite(numbers).all() else None


def tag_number(data: Dataset, name: str) -> float | None:
    """The only number of a tag."""
    numbers = tag_numbers(data, name)
    return float(numbers[0]) if numbers is not None and len(numbers) == 1 else None


def tag_items(data: Dataset, name: str) -> list[Dataset]:
    """The data sets of a sequence."""
    value = _value(data, name)
    return list(value) if isinstance(value, Sequence) else []


def read_dataset(path: Path, **options: Any) -> Dataset:
    """A DICOM file, with pydicom's options of `dcmread`. Raises InputError, whatever is wrong with the file."""
    try:
        return pydicom.dcmread(path, **options)
    except OSError as error:
        raise InputError(f"{str(path)!r} cannot be read ({last_line(error)}); check the file.") from error
    except Exception as error:  # pydicom raises what its parts raise
        raise InputError(
            f"{str(path)!r} is not a complete DICOM file ({last_line(error)}); export it again."
        ) from error


def class_of(path: Path) -> str:
    """The class of the object that a file holds; "" for what cannot be read."""
    try:
        with open(path, "rb") as file:
            data = pydicom.filereader.read_partial(file, lambda tag, *_: tag > Tag("SOPClassUID"), force=True)
    except Exception:  # pydicom raises what its parts raise
        return ""
    return tag_text(data, "SOPClassUID") or tag_text(data.file_meta, "MediaStorageSOPClassUID")


def manufacturer(path: Path) -> str:
    return tag_text(read_dataset(path, stop_before_pixels=True, specific_tags=["Manufacturer"]), "Manufacturer")


def kinds_of_object(data: Dataset) -> list[str]:
    """What a file holds, by its own tag and by that of the file's beginning, which old files lack.

    A class that DICOM does not know is named by its number.
    """
    beginning = getattr(data, "file_meta", Dataset())
    stated = (tag_text(data, "SOPClassUID"), tag_text(beginning, "MediaStorageSOPClassUID"))
    return [UID(uid).name for uid in stated if uid]


def may_be_image(kind: str) -> bool:
    """By the name of its class; unknown and private ones may be."""
    return "Image Storage" in kind or kind == "Enhanced US Volume Storage" or not kind.endswith("Storage")


def tag_as_stated(data: Dataset, name: str) -> str:
    """What the file says, whether or not it is a value; "" if nothing."""
    try:
        value = data.get_item(name).value
    except Exception:
        return ""
    text = value.decode("ascii", "replace") if isinstance(value, bytes) else str("" if value is None else value)
    return text.strip(" \0")


def quoted(data: Dataset, name: str) -> str:
    """A tag for messages: "DICOM tag 0018,0050, SliceThickness: '2,0'"."""
    stated = tag_as_stated(data, name)
    return f"DICOM tag {str(Tag(name)).strip('()')}, {name}" + (f": {stated[:64]!r}" if stated else "")
