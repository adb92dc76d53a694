"""A mask as a DICOM Segmentation (PS3.3, A.51), binary, for the series that it was made of; encoded by `highdicom`.

Of patient and study, the standard demands what the series says of them; it is copied, and nothing is added.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from pydicom.valuerep import DA, TM, DSfloat

from .. import __version__
from ..base.errors import DependencyError, InputError
from ..base.files import last_line
from ..card import Label, Terminology
from ..geometry import spacing_and_directions
from .dicom_tags import quoted, read_dataset, tag_items, tag_number, tag_text
from .segments import PROGRAM, Provenance
from .volumes import Volume

_NEEDED = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID", "FrameOfReferenceUID")
# What the standard lets be empty, but not be absent (type 2).
_MAY_BE_EMPTY = ("PatientID", "PatientName", "AccessionNumber", "StudyID", "ReferringPhysicianName")
_CHECKED_BY = {"PatientBirthDate": DA, "StudyDate": DA, "StudyTime": TM}
_MOST_CHARACTERS = 64  # of a name, and of the meaning of a code
_SERIES_NUMBER = 1000  # added to that of the images, so that the mask is listed behind them
_INSTEAD = "or give an output that ends in .seg.nrrd."


def check_highdicom() -> None:
    """Raises DependencyError, in one line, if the package that writes DICOM segmentations is missing."""
    try:
        import highdicom  # noqa: F401
    except ImportError as error:
        raise DependencyError(
            f'a DICOM segmentation is written by the Python package highdicom; run `pip install "highdicom>=0.28"`, '
            f"{_INSTEAD}"
        ) from error


def check_series(source: Volume, labels: Sequence[Label], provenance: Provenance) -> None:
    """Raises InputError if no segmentation can refer to the series; called before the work starts."""
    headers, frames = _headers(source), np.zeros(source.array_kji.shape, np.uint8)
    count = tag_number(headers[0], "NumberOfFrames") or 1
    if len(headers) == 1 and len(source.slices) != count:
        raise InputError(
            f"{str(source.path)!r} has all its frames over time in one file, of which a DICOM segmentation of some "
            f"cannot be made; give a folder of single slices, {_INSTEAD}"
        )
    _encode(headers[:1], frames if len(headers) == 1 else frames[:1], source, labels, provenance)


def encode(labels_kji: np.ndarray, source: Volume, labels: Sequence[Label], provenance: Provenance) -> Dataset:
    """The DICOM object of a label map (K, J, I) on the grid of the series `source`.

    Labels without a voxel are left out; if none has one all stay, with empty frames, because there has to be one.
    Raises InputError if the series lacks what a segmentation must say.
    """
    headers = _headers(source)
    present = [label for label in labels if np.any(labels_kji == label.value)] or list(labels)
    number_of = np.zeros(256, np.uint8)
    number_of[[label.value for label in present]] = np.arange(1, len(present) + 1)
    frames = number_of[labels_kji]
    if len(headers) == 1:  # in the order of its own file
        frames = frames[np.argsort([number for _, number in source.slices])]
    return _encode(headers, frames, source, present, provenance)


def _encode(
    headers: list[Dataset], frames: np.ndarray, source: Volume, labels: Sequence[Label], provenance: Provenance
) -> Dataset:
    """frames: numbers of `labels` from 1, of the slices that the headers describe."""
    import highdicom

    first = headers[0]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about tags of the series, which are copied as they are
            result = highdicom.seg.Segmentation(
                source_images=headers,
                pixel_array=frames,
                segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
                segment_descriptions=[_describe(n + 1, label, provenance) for n, label in enumerate(labels)],
                series_instance_uid=generate_uid(),
                series_number=_SERIES_NUMBER + int(min(max(tag_number(first, "SeriesNumber") or 0, 0), 2**30)),
                sop_instance_uid=generate_uid(),
                instance_number=1,
                manufacturer=PROGRAM,
                manufacturer_model_name=_text(provenance.model),
                software_versions=__version__,
                device_serial_number=_text(provenance.sha256),
                content_label="SEGMENTATION",
                content_description=_text(f"by the model {provenance.model}"),
                series_description=_text(f"{PROGRAM}: {provenance.model}"),
                specific_character_set="ISO_IR 192",  # UTF-8: a label may have any name
            )
    except Exception as error:  # highdicom raises what its parts raise, about a header that is odd
        raise InputError(
            f"{str(source.path)!r} has DICOM tags of which no segmentation can be made ({last_line(error)}); export "
            f"the series again, {_INSTEAD}"
        ) from error
    return result


def _describe(number: int, label: Label, provenance: Provenance) -> Any:
    import highdicom
    from pydicom.sr.codedict import codes

    algorithm = highdicom.AlgorithmIdentificationSequence(
        name=PROGRAM,
        family=codes.DCM.ArtificialIntelligence,
        version=__version__,
        parameters={"model": _text(provenance.model), "model_sha256": provenance.sha256},
    )
    described = highdicom.seg.SegmentDescription(
        segment_number=number,
        segment_label=_text(label.name),
        segmented_property_category=_concept(label.category),
        segmented_property_type=_concept(label.type),
        algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=algorithm,
        display_color=highdicom.color.CIELabColor.from_rgb(*label.color),
    )
    if label.modifier is not None:
        kind = described.SegmentedPropertyTypeCodeSequence[0]
        kind.SegmentedPropertyTypeModifierCodeSequence = [_concept(label.modifier)]
    return described


def _concept(concept: Terminology) -> Any:
    import highdicom

    return highdicom.sr.CodedConcept(concept.code, _text(concept.scheme, 16), _text(concept.meaning))


def _text(text: str, most: int = _MOST_CHARACTERS) -> str:
    """In one line, without the separator of values, and not too long."""
    return re.sub(r"[\\\x00-\x1f\x7f]", " ", text).strip()[:most]


def _headers(source: Volume) -> list[Dataset]:
    """Those of the series' files, in their slices' order, made complete. Raises InputError for a tag that is needed."""
    headers = [
        read_dataset(path, stop_before_pixels=True, force=True)
        for path in dict.fromkeys(path for path, _ in source.slices)
    ]
    for name in _NEEDED:
        if any(not tag_text(header, name) for header in headers):
            raise InputError(
                f"{str(source.path)!r} has slices without {quoted(Dataset(), name)}, which a DICOM segmentation refers "
                f"to; export the series again, {_INSTEAD}"
            )
    if len(frames := {tag_text(header, "FrameOfReferenceUID") for header in headers}) > 1:
        raise InputError(
            f"{str(source.path)!r} has slices of {len(frames)} frames of reference, and a DICOM segmentation has one; "
            f"export the series again, {_INSTEAD}"
        )
    between_slices = DSfloat(float(spacing_and_directions(source.ijk_to_ras)[0][2]), auto_format=True)
    for header in headers:
        _complete(header, headers[0], between_slices)
    return headers


def _complete(header: Dataset, first: Dataset, between_slices: DSfloat) -> None:
    """What `highdicom` asks of each image: empty where the standard allows it, the same where slices agree nearly."""
    for name in _MAY_BE_EMPTY:
        if name not in header:
            setattr(header, name, "")
    if tag_text(header, "PatientSex") not in ("M", "F", "O"):
        header.PatientSex = ""
    for name, convert in _CHECKED_BY.items():
        try:
            convert(tag_text(header, name))
        except ValueError:
            setattr(header, name, "")
        if name not in header:
            setattr(header, name, "")
    if per_frame := tag_items(header, "PerFrameFunctionalGroupsSequence"):
        shared = (tag_items(header, "SharedFunctionalGroupsSequence") or [Dataset()])[0]
        for name in ("PlaneOrientationSequence", "PixelMeasuresSequence"):
            if not tag_items(shared, name):
                setattr(shared, name, tag_items(per_frame[0], name))
        measures = shared.PixelMeasuresSequence[0]
        header.SharedFunctionalGroupsSequence = [shared]
    else:
        header.ImageOrientationPatient = first.ImageOrientationPatient
        measures = header
    if not tag_number(measures, "SliceThickness"):
        measures.SliceThickness = between_slices
    measures.SpacingBetweenSlices = between_slices  # by the positions: what the header says may be wrong
