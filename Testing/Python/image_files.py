"""Small image files of every kind, right ones and wrong ones, for the tests of what is read."""

import gzip
import struct

import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.tag import Tag
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

SHAPE = (6, 10, 12)  # K, J, I
SPACING = (1.0, 1.5, 2.0)  # of i, j, k
ORIGIN = (5.0, -6.0, 7.0)
_MET = {"u1": "MET_UCHAR", "i2": "MET_SHORT", "i4": "MET_INT", "f4": "MET_FLOAT"}
_NRRD = {"u1": "uint8", "i2": "int16", "f4": "float", "i8": "int64", "u8": "uint64", "f8": "double", "i1": "int8"}


def voxels(dtype=np.int16, shape=SHAPE):
    values = np.random.default_rng(0).integers(0, 100, shape)
    values[tuple(slice(size // 3, size - size // 3) for size in shape)] += 300
    return values.astype(dtype)


def image(array=None, spacing=SPACING, origin=ORIGIN, direction=None):
    result = sitk.GetImageFromArray(voxels() if array is None else array)
    if result.GetDimension() == 3:
        result.SetSpacing(spacing)
        result.SetOrigin(origin)
        if direction is not None:
            result.SetDirection(np.ravel(direction).tolist())
    return result


def write(path, what=None, compressed=False):
    sitk.WriteImage(image() if what is None else what, str(path), useCompression=compressed)
    return path


def cut(path, share=0.9):
    """Only the first part of a file."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def damage(path):
    """One bit changed in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) * 2 // 3] ^= 4
    path.write_bytes(data)
    return path


def nifti(path, *changes, array=None, what=None):
    """A NIfTI file with changes (offset, format, value...) in its header: 40 dim, 70 type, 76 pixdim, 108 vox_offset,
    112 scl_slope and scl_inter, 123 xyzt_units, 252 qform_code, 254 sform_code, 280 sform."""
    plain = write(path.with_name("plain.nii"), image(array) if what is None else what)
    data = bytearray(plain.read_bytes())
    plain.unlink()
    for offset, form, *values in changes:
        struct.pack_into(form, data, offset, *values)
    path.write_bytes(gzip.compress(data, 1) if path.name.endswith(".gz") else data)
    return path


def nrrd(path, array=None, data=None, **fields):
    """An NRRD file as text and raw voxels; fields replace those of a right one, None removes one."""
    array = voxels() if array is None else array
    right = {
        "type": _NRRD[array.dtype.newbyteorder("=").str[1:]],
        "dimension": array.ndim,
        "space": "left-posterior-superior" if array.ndim == 3 else None,
        "sizes": " ".join(map(str, array.shape[::-1])),
        "space directions": "(1,0,0) (0,1.5,0) (0,0,2)" if array.ndim == 3 else None,
        "endian": "big" if array.dtype.byteorder == ">" else "little",
        "encoding": "raw",
        "space origin": "(5,-6,7)" if array.ndim == 3 else None,
    }
    right.update({key.replace("_", " "): value for key, value in fields.items()})
    lines = [f"{key}: {value}" for key, value in right.items() if value is not None]
    text = "\n".join(["NRRD0004", *lines, "", ""])
    path.write_bytes(text.encode() + (array.tobytes() if data is None else data))
    return path


def named_segments(path, array, names, **fields):
    """An NRRD with Slicer's fields of a segmentation: names is {value: name}."""
    nrrd(path, array, **fields)
    pairs = ["Segmentation_MasterRepresentation:=Binary labelmap"]
    for index, (value, name) in enumerate(names.items()):
        pairs += [
            f"Segment{index}_ID:=Segment_{value}",
            f"Segment{index}_Name:={name}",
            f"Segment{index}_LabelValue:={value}",
            f"Segment{index}_Layer:=0",
        ]
    head, _, rest = path.read_bytes().partition(b"\n\n")
    path.write_bytes(head + b"\n" + "\n".join(pairs).encode() + b"\n\n" + rest)
    return path


def mha(path, array=None, data=None, **fields):
    """A MetaImage as text and raw voxels; fields replace those of a right one, None removes one."""
    array = voxels() if array is None else array
    right = {
        "ObjectType": "Image",
        "NDims": array.ndim,
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": "False",
        "CompressedData": "False",
        "TransformMatrix": "1 0 0 0 1 0 0 0 1" if array.ndim == 3 else None,
        "Offset": "5 -6 7" if array.ndim == 3 else None,
        "ElementSpacing": "1 1.5 2" if array.ndim == 3 else None,
        "DimSize": " ".join(map(str, array.shape[::-1])),
        "ElementType": _MET[array.dtype.str[1:]],
    }
    right.update({"ElementDataFile": "LOCAL"} | fields)
    lines = [f"{key} = {value}" for key, value in right.items() if value is not None and key != "ElementDataFile"]
    text = "\n".join([*lines, f"ElementDataFile = {right['ElementDataFile']}", ""])
    path.write_bytes(text.encode() + (array.tobytes() if data is None else data))
    return path


def _dicom(path, sop_class, uid, series):
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = sop_class
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = uid
    data.StudyInstanceUID, data.SeriesInstanceUID = "1.2.826.0.1.3680043.2.1125.2", series
    data.Modality, data.FrameOfReferenceUID = "MR", "1.2.826.0.1.3680043.2.1125.7"
    return data


def _pixels(data, array):
    data.Rows, data.Columns = array.shape[-2:]
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated = data.BitsStored = 16
    data.HighBit, data.PixelRepresentation = 15, 1
    data.PixelData = array.astype("<i2").tobytes()


def dicom(folder, array=None, series="1.2.826.0.1.3680043.2.1125.1", names="slice{:03d}.dcm", change=lambda k, d: None):
    """One file per slice; change(k, data) alters the data of slice k, or returns False to leave it out."""
    folder.mkdir(exist_ok=True)
    array = voxels() if array is None else array
    for k, piece in enumerate(array):
        data = _dicom(folder, "1.2.840.10008.5.1.4.1.1.4", f"{series}.{k + 1}", series)
        _pixels(data, piece)
        data.SeriesDescription, data.InstanceNumber = "T1 of a test", k + 1
        data.PixelSpacing, data.SliceThickness = [1.5, 1.0], 2.0
        data.ImageOrientationPatient, data.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [5, -6, 7 + 2 * k]
        if change(k, data) is not False:
            data.save_as(folder / names.format(len(array) - k), enforce_file_format=True)
    return folder


def multiframe(
    folder, positions, slopes=None, array=None, with_positions=True, count=None, change=lambda number, frame: None
):
    """An enhanced MR file: frames at `positions` (mm along the axis of slices), in the order of the file.

    change(number, frame) alters the functional groups of a frame.
    """
    folder.mkdir(exist_ok=True)
    array = voxels(shape=(len(positions), *SHAPE[1:])) if array is None else array
    data = _dicom(folder, "1.2.840.10008.5.1.4.1.1.4.1", generate_uid(), "1.2.826.0.1.3680043.2.1125.4")
    _pixels(data, array)
    data.NumberOfFrames = count or len(array)
    shared, orientation, measures = Dataset(), Dataset(), Dataset()
    orientation.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    measures.PixelSpacing, measures.SliceThickness = [1.5, 1.0], 2.0
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [orientation], [measures]
    data.SharedFunctionalGroupsSequence = [shared]
    data.PerFrameFunctionalGroupsSequence = frames = [Dataset() for _ in positions]
    for number, (frame, z) in enumerate(zip(frames, positions)):
        if with_positions:
            place = Dataset()
            place.ImagePositionPatient = [5, -6, z]
            frame.PlanePositionSequence = [place]
        if slopes is not None:
            values = Dataset()
            values.RescaleSlope, values.RescaleIntercept, values.RescaleType = slopes[number], 0, "US"
            frame.PixelValueTransformationSequence = [values]
        change(number, frame)
    data.save_as(folder / "frames.dcm", enforce_file_format=True)
    return folder


def state(data, name, text):
    """Set a tag to a text as it stands, even where numbers belong, which pydicom itself refuses to set."""
    value = text.encode() + b" " * (len(text) % 2)
    tag = Tag(name)
    data[tag] = RawDataElement(tag, dictionary_VR(tag), len(value), value, 0, False, True)


def no_image(path, sop_class="1.2.840.10008.5.1.4.1.1.88.11", array=None):
    """A DICOM file that is no image: by default a structured report; with an array one that has voxels all the same."""
    data = _dicom(path, sop_class, generate_uid(), "1.2.826.0.1.3680043.2.1125.6")
    if array is not None:
        _pixels(data, array)
        data.NumberOfFrames = len(array)
    data.save_as(path, enforce_file_format=True)
    return path


def without_preamble(path):
    """The same file as a bare data set, as old archives keep it."""
    data = pydicom.dcmread(path)
    data.preamble = None
    del data.file_meta
    pydicom.dcmwrite(path, data, implicit_vr=True, little_endian=True, overwrite=True)
    return path


def reencode(path, syntax):
    """The same file in another transfer syntax."""
    data = pydicom.dcmread(path)
    data.compress(syntax)
    data.save_as(path)
