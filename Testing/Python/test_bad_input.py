"""What people give a program by mistake, and what it says: one line, exit 1, nothing written, nothing changed.

Each case makes its files in an empty folder, `d`, and gives the arguments and the message; or the right result.
"""

import gzip
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pydicom
import pydicom.data
import pytest
import SimpleITK as sitk

import image_files as make
from conftest import MODULE, ijk_to_ras_of
from image_files import voxels
from SAM3DSegmentLib.base.errors import Cancelled
from SAM3DSegmentLib.base.watch import Watch
from SAM3DSegmentLib.commands import evaluation, inputs, sources
from SAM3DSegmentLib.commands.batch import Request, segment_files
from SAM3DSegmentLib.formats import volumes
from SAM3DSegmentLib.formats.images import read_header
from SAM3DSegmentLib.formats.volumes import read_volume
from SAM3DSegmentLib.inference import Segmenter

GRID = ijk_to_ras_of(make.image())
as_root = pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may read and write everything")


def contents(folder):
    """All files below a folder, with what is in them."""
    return {
        path: path.read_bytes() if path.is_file() and os.access(path, os.R_OK) else None
        for path in sorted(folder.rglob("*"))
    }


def check_refusal(code, err, message, lines=1):
    errors = [line for line in err.splitlines() if not line.startswith(("INFO: ", "WARNING: "))]
    assert code == 1, err
    assert "Traceback" not in err
    assert len(errors) == lines, err
    assert all(line.startswith("ERROR: ") for line in errors), err
    assert re.search(message, err), err


def case(name, make_input, message, *more, marks=()):
    return pytest.param(make_input, message, more, id=name, marks=marks)


# ---- One input of `segment`: make_input(d) writes it and returns its path.


def text(name, content):
    def write(d):
        (d / name).write_bytes(content)
        return d / name

    return write


def nifti(*changes, name="a.nii", **more):
    return lambda d: make.nifti(d / name, *changes, **more)


def nrrd(name="a.nrrd", **fields):
    return lambda d: make.nrrd(d / name, **fields)


def mha(name="a.mha", **fields):
    return lambda d: make.mha(d / name, **fields)


def written(name, what=None, compressed=False):
    return lambda d: make.write(d / name, what() if what else None, compressed)


def renamed(from_name, to_name, compressed=False):
    return lambda d: make.write(d / from_name, compressed=compressed).rename(d / to_name)


def truncated(name, compressed=False, share=0.9):
    return lambda d: make.cut(make.write(d / name, compressed=compressed), share)


def damaged(name):
    return lambda d: make.damage(make.write(d / name, make.image(voxels(shape=(20, 40, 40))), compressed=True))


def without_data(name):
    def write(d):
        make.write(d / name)
        for path in d.iterdir():
            if path.suffix in (".raw", ".zraw"):
                path.unlink()
        return d / name

    return write


def folder_named_as_a_file(d):
    (d / "a.nii.gz").mkdir()
    return d / "a.nii.gz"


def unreadable(d):
    path = make.write(d / "a.nrrd")
    path.chmod(0)
    return path


def gzipped_nrrd(d):
    (d / "a.nii.gz").write_bytes(gzip.compress(make.nrrd(d / "b.nrrd").read_bytes()))
    return d / "a.nii.gz"


def dangling(d):
    (d / "a.nrrd").symlink_to(d / "gone.nrrd")
    return d / "a.nrrd"


def one_dicom_file(d):
    return next(make.dicom(d / "s").iterdir())


def misnamed_dicom(d):
    return one_dicom_file(d).rename(d / "a.nii")


def without_the_end_of_its_gzip(d):
    return make.cut(make.nifti(d / "a.nii.gz"), 0.9)


FILES = [
    case("missing", lambda d: d / "a.nii.gz", "a.nii.gz' does not exist; check the path"),
    case("dangling link", dangling, "a.nrrd' is a link to '.*gone.nrrd', which does not exist; fetch that file"),
    *[
        case(f"{what} as {name}", text(name, content), said)
        for what, content, said in (
            (
                "LFS pointer",
                b"version https://git-lfs.github.com/spec/v1\n",
                "is a Git LFS pointer instead of the file",
            ),
            ("annex pointer", b"/annex/objects/SHA256E-s1--2.nii\n", "is a git-annex pointer instead of the file"),
            (
                "web page",
                b'<?xml version="1.0"?>\n<HTML lang="en">',
                "is a web page instead of the file; download it again",
            ),
        )
        for name in ("a.nii.gz", "a.nrrd", "a.mhd")
    ],
    case("empty nii.gz", text("a.nii.gz", b""), "a.nii.gz' is empty; copy or export it again"),
    case("empty nrrd", text("a.nrrd", b""), "a.nrrd' is empty"),
    case("empty mha", text("a.mha", b""), "a.mha' is empty"),
    case("nonsense nii", text("a.nii", b"nonsense"), "is not a NIfTI file, or it is damaged"),
    case("nonsense nii.gz", text("a.nii.gz", b"nonsense"), "is not a NIfTI file, or it is damaged"),
    case("nonsense in gzip", text("a.nii.gz", gzip.compress(b"nonsense")), "is not a NIfTI file, or it is damaged"),
    case("nonsense nrrd", text("a.nrrd", b"nonsense"), "is not a NRRD file, or it is damaged"),
    case("nonsense mha", text("a.mha", b"nonsense"), "is not a MetaImage file, or it is damaged"),
    case("zeros", text("a.nii", bytes(5000)), "is not a NIfTI file, or it is damaged"),
    case("picture as nii", text("a.nii", b"\x89PNG\r\n\x1a\n" + bytes(500)), "is not a NIfTI file"),
    case("text", text("notes.txt", b"hello"), r"is not in a known format; use \.nii, \.nii\.gz"),
    case("macOS's shadow", text("._a.nii.gz", b"\0\x05\x16\x07" + bytes(100)), "is not a NIfTI file, or it is damaged"),
    case("folder named as a file", folder_named_as_a_file, "holds no volume file and no DICOM series"),
    case("no permission", unreadable, "cannot be read .Permission denied", marks=as_root),
    case("cut nii", truncated("a.nii"), "is cut short: its header declares 1440 bytes"),
    case("cut nii.gz", without_the_end_of_its_gzip, "is cut short; copy or download it again"),
    case("cut nrrd", truncated("a.nrrd"), "is cut short: its header declares 1440 bytes"),
    case("cut nrrd gzip", truncated("a.nrrd", True), "is cut short"),
    case("cut mha", truncated("a.mha"), "is cut short"),
    case("cut mha zlib", truncated("a.mha", True), "is cut short"),
    case("cut in the header, nii", truncated("a.nii", share=0.05), "is not a NIfTI file, or it is damaged"),
    case("cut in the header, nrrd", truncated("a.nrrd", share=0.02), "has no 'dimension'|has no 'sizes'"),
    case("damaged nii.gz", damaged("a.nii.gz"), "is damaged .Error -3"),
    case("damaged nrrd", damaged("a.nrrd"), "is damaged .Error -3"),
    case("damaged mha", damaged("a.mha"), "is damaged .Error -3"),
    case(
        "mhd without raw", without_data("a.mhd"), "stores its voxels in .*a.raw', which does not exist; copy both files"
    ),
    case("nhdr without raw", without_data("a.nhdr"), "stores its voxels in .*a.raw', which does not exist"),
    case("gzip named nii", renamed("a.nii.gz", "a.nii"), "contains gzip-compressed NIfTI data, .*end in .nii.gz"),
    case("NRRD named nii", renamed("a.nrrd", "a.nii"), "contains NRRD data, but its name ends in .nii; .*end in .nrrd"),
    case("NRRD named nii.gz", renamed("a.nrrd", "a.nii.gz"), "contains NRRD data, but its name ends in .nii.gz;"),
    case("NRRD named mha", renamed("a.nrrd", "a.mha"), "contains NRRD data"),
    case(
        "NIfTI named nrrd", renamed("a.nii", "a.nrrd"), "contains NIfTI data, but its name ends in .nrrd; .*end in .nii"
    ),
    case("NIfTI gzip named mha", renamed("a.nii.gz", "a.mha"), "contains gzip-compressed NIfTI data"),
    case("MetaImage named nrrd", renamed("a.mha", "a.nrrd"), "contains MetaImage data"),
    case("MetaImage named nii.gz", renamed("a.mha", "a.nii.gz"), "contains MetaImage data"),
    case("gzipped NRRD", gzipped_nrrd, "contains gzip-compressed NRRD data; unpack it with gunzip"),
    case("DICOM named nii", misnamed_dicom, "contains DICOM data, but its name ends in .nii"),
    case("one DICOM file", one_dicom_file, "is one DICOM file; give the folder"),
    case("NIfTI-2", nifti((0, "<i8s", 540, b"n+2\0\r\n\x1a\n")), "is a NIfTI-2 file; save it as NIfTI-1"),
    case("a pair's header", nifti((344, "4s", b"ni1\0")), "is the header of a pair of files"),
]

HUGE_NIFTI = (40, "<8h", 3, 30000, 30000, 30000, 1, 1, 1, 1)
SHEARED = [[1, 0, 0], [0, 1, np.sin(np.radians(20))], [0, 0, np.cos(np.radians(20))]]


def colours(name):
    return written(name, lambda: sitk.Image((4, 5, 6), sitk.sitkVectorUInt8, 3))


def frames(name):
    return written(name, lambda: sitk.Image((4, 5, 6, 3), sitk.sitkInt16))


def flat(name):
    return written(name, lambda: sitk.Image((14, 15), sitk.sitkInt16))


VOLUMES = [
    case("1-D nrrd", nrrd(array=voxels(shape=(7,)), spacings="1"), r"has 1 dimensions, size \(7,\); give a 3-D"),
    case("1-D nii", nifti((40, "<8h", 1, 7, 1, 1, 1, 1, 1, 1)), r"has 1 dimensions, size \(7,\)"),
    case("2-D nii", flat("a.nii"), r"has 2 dimensions, size \(14, 15\)"),
    case("2-D nrrd", flat("a.nrrd"), "has 2 dimensions"),
    case("2-D mha", flat("a.mha"), "has 2 dimensions"),
    case("4-D nii", frames("a.nii.gz"), r"has 4 dimensions, size \(4, 5, 6, 3\).*one frame of a 4-D series"),
    case("4-D nrrd", frames("a.nrrd"), "has 4 dimensions"),
    case("4-D mha", frames("a.mha"), "has 4 dimensions"),
    case("colours nii", colours("a.nii"), "has 5 dimensions|colour"),
    case("colours nrrd", colours("a.nrrd"), "has 3 values per voxel"),
    case("colours mha", colours("a.mha"), "has 3 values per voxel"),
    case("RGB nii", nifti((70, "<2h", 128, 24)), "voxels of NIfTI type 128"),
    case("complex nii", nifti((70, "<2h", 32, 64)), r"NIfTI type 32 \(colour, complex"),
    case("bits nii", nifti((70, "<2h", 1, 1)), "NIfTI type 1 "),
    case("float128 nii", nifti((70, "<2h", 1536, 128)), "NIfTI type 1536"),
    case("blocks nrrd", nrrd(type="block"), "voxels of type 'block'"),
    case("unknown type mha", mha(ElementType="MET_STRING"), "voxels of type 'MET_STRING'"),
    case("no voxels nii", nifti((42, "<h", 0)), r"size \(0, 10, 6\)"),
    case("no voxels nrrd", nrrd(sizes="0 10 6"), r"size \(0, 10, 6\)"),
    case("no voxels mha", mha(DimSize="12 0 6"), r"size \(12, 0, 6\)"),
    case("negative size nii", nifti((44, "<h", -3)), r"size \(12, -3, 6\)"),
    case("0 dimensions nii", nifti((40, "<h", 0)), "has 0 dimensions"),
    case("9 dimensions nii", nifti((40, "<h", 9)), "has 9 dimensions"),
    case("huge nii", nifti(HUGE_NIFTI), "is cut short: its header declares 54000000000000 bytes of voxels, but 1440"),
    case("huge nii.gz", nifti(HUGE_NIFTI, name="a.nii.gz"), "is cut short: its header declares 54000000000000 bytes"),
    case("huge nrrd", nrrd(sizes="99999 99999 99999"), "is cut short: its header declares 1999940000"),
    case("huge nrrd gzip", nrrd(sizes="99999 99999 99999", encoding="gzip"), "is cut short: its header"),
    case("huge mha", mha(DimSize="99999 99999 99999"), "is cut short: its header declares"),
    case("sizes as words nrrd", nrrd(sizes="a b c"), "header of .* cannot be understood"),
    case("sizes as words mha", mha(DimSize="a b c"), "header of .* cannot be understood"),
    case("sizes of other dimensions nrrd", nrrd(sizes="12 60"), "has 2 sizes for 3 dimensions"),
    case("sizes of other dimensions mha", mha(DimSize="12 60"), "has 2 sizes for 3 dimensions"),
    case("no sizes nrrd", nrrd(sizes=None), "has no 'sizes'"),
    case("no byte order nrrd", nrrd(endian=None), "has no 'endian'"),
    case("unknown byte order nrrd", nrrd(endian="middle"), "byte order 'middle', not 'little' or 'big'"),
    case("text encoding nrrd", nrrd(encoding="ascii"), "encoding 'ascii'; save it as raw or gzip"),
    case("bzip2 nrrd", nrrd(encoding="bzip2"), "encoding 'bzip2'"),
    case("many data files nrrd", nrrd(data_file="s%03d.raw 1 6 1"), "stores its voxels in several files"),
    case("skipped lines nrrd", nrrd(line_skip="2"), "skips part of its data"),
    case("text mha", mha(BinaryData="False"), "stores its voxels as text"),
    case("many data files mha", mha(ElementDataFile="LIST"), "stores its voxels in several files"),
    case("channels mha", mha(ElementNumberOfChannels=3, data=bytes(4320)), "has 3 values per voxel"),
    case("offset in front nii", nifti((108, "<f", -1)), "vox_offset -1, which is not in the file"),
    case("offset behind nii", nifti((108, "<f", 1e6)), "is cut short"),
    case("offset NaN nii", nifti((108, "<f", np.nan)), "vox_offset nan"),
    case("all NaN", nrrd(array=np.full(make.SHAPE, np.nan, np.float32)), "none of the 720 voxels is a finite number"),
    case("values too large", nrrd(array=voxels(np.float64) * 1e300), r"values up to .*e\+302, outside the range"),
    case("values too small", nrrd(array=voxels(np.float64) * 1e-300), "values up to .*e-298, outside the range"),
    case("values made too large", nifti((112, "<2f", 1e38, 0)), r"scl_slope 1e\+38 and scl_inter 0; fix"),
    case("scl_inter NaN", nifti((112, "<2f", 1, np.nan)), "scl_slope 1 and scl_inter nan; fix the file's header"),
    case("no spacing nrrd", nrrd(space=None, space_directions=None, space_origin=None), "not state the size of its"),
    case("no spacing mha", mha(ElementSpacing=None), r"does not state the size of its voxels \(no ElementSpacing"),
    case("spacing 0 nii", nifti((80, "<f", 0)), "has pixdim 0 1.5 2, which is not a voxel size"),
    case("spacing NaN nii", nifti((84, "<f", np.nan)), "has pixdim 1 nan 2"),
    case("spacing negative nii", nifti((80, "<f", -1)), "has pixdim -1 1.5 2"),
    case("spacing infinite nii", nifti((80, "<f", np.inf)), "has pixdim inf"),
    case("spacing 0 nrrd", nrrd(space_directions="(1,0,0) (0,0,0) (0,0,2)"), "space directions of length 0"),
    case("spacing NaN nrrd", nrrd(space_directions="(1,0,0) (0,nan,0) (0,0,2)"), r"space directions \[0.0, nan"),
    case("spacings 0 nrrd", nrrd(space_directions=None, space=None, space_origin=None, spacings="1 0 1"),
         "has spacings 1 0 1"),
    case("spacings NaN nrrd", nrrd(space_directions=None, space=None, space_origin=None, spacings="1 nan 1"),
         "has spacings 1 nan 1"),
    case("an axis without direction nrrd", nrrd(space_directions="(1,0,0) none (0,0,2)"),
         "does not state the size of its voxels .no direction of an axis"),
    case("spacing 1e20 nii", nifti((80, "<f", 1e20)), r"has pixdim 1e\+20 1.5 2, which is not a voxel size"),
    case("spacing 1e-42 nii", nifti((80, "<f", 1e-42)), "has pixdim 1.00053e-42 1.5 2, which is not a voxel size"),
    case("two spacings nrrd", nrrd(space_directions="(1,0,0) (0,1,0)"), "has 2 spacings for 3 dimensions"),
    case("two spacings mha", mha(ElementSpacing="1 2"), "has 2 numbers in ElementSpacing instead of 3"),
    case("short matrix mha", mha(TransformMatrix="1 0 0 0 1 0"), "has 6 numbers in TransformMatrix instead of 9"),
    case("long origin mha", mha(Offset="1 " * 500), "has 500 numbers in Offset instead of 3"),
    case("spacing 0 mha", mha(ElementSpacing="1 0 2"), "has ElementSpacing 1 0 2"),
    case("spacing NaN mha", mha(ElementSpacing="1 nan 2"), "has ElementSpacing 1 nan 2"),
    case("spacing negative mha", mha(ElementSpacing="1 -1 2"), "has ElementSpacing 1 -1 2"),
    case("singular nrrd", nrrd(space_directions="(1,0,0) (1,0,0) (0,0,2)"), "do not span space|cannot be read"),
    case("singular mha", mha(TransformMatrix="1 0 0 1 0 0 0 0 1"), "do not span space|cannot be read"),
    case("nearly singular nrrd", nrrd(space_directions="(1,0,0) (1,0.0001,0) (0,0,2)"), "do not span space"),
    case("origin NaN nrrd", nrrd(space_origin="(nan,0,0)"), "space origin .nan, 0.0, 0.0., which is not a finite"),
    case("origin NaN mha", mha(Offset="nan 0 0"), "Offset .nan, 0.0, 0.0., which is not a finite position"),
    case("origin NaN nii", nifti((292, "<f", np.nan)), "has sform .*nan.* which is not a finite position"),
    case("sheared sform", nifti((252, "<2h", 0, 1), (280, "<12f", -1, 0, 0, -5, 0, -1.5, -0.7, 6, 0, 0, 1.9, 7)),
         "has sheared or rescaled axes|cannot be read"),
    case("sform of another size", nifti((252, "<2h", 0, 1), (280, "<12f", -3, 0, 0, -5, 0, -1.5, 0, 6, 0, 0, 2, 7)),
         "has sheared or rescaled axes"),
    case("unit furlong nrrd", nrrd(space_units='"furlong" "furlong" "furlong"'), "lengths in furlong; save it"),
    case("two units nrrd", nrrd(space_units='"mm" "um" "mm"'), "lengths in mm, um"),
    case("segmentation by its ending", lambda d: make.write(d / "a.seg.nrrd"), "is a segmentation; give the image"),
    case("segmentation by its header", lambda d: make.named_segments(d / "a.nrrd", voxels(np.uint8), {1: "x"}),
         "is a segmentation; give the image that it was drawn on"),
    case("label map by its header nii", nifti((68, "<h", 1002)), "is a segmentation"),
]  # fmt: skip


def slices(change=lambda k, data: None, **more):
    return lambda d: make.dicom(d / "s", change=change, **more)


def only(k, **tags):
    """A change of one slice's tags, None to remove one; of all slices for k None."""

    def change(number, data):
        for name, value in tags.items():
            if k in (number, None) and value is None:
                delattr(data, name)
            elif k in (number, None):
                setattr(data, name, value)

    return change


def two_series(d):
    make.dicom(d / "s")
    return make.dicom(d / "s", voxels()[:4], series="1.2.826.0.1.3680043.2.1125.9", names="b{:03d}.dcm")


def two_acquisitions(d):
    make.dicom(d / "s")
    return make.dicom(
        d / "s", names="b{:03d}.dcm", change=lambda k, data: setattr(data, "SOPInstanceUID", f"1.2.3.{k}")
    )


def cut_slice(share):
    def write(d):
        make.cut(sorted(make.dicom(d / "s").iterdir())[-1], share)
        return d / "s"

    return write


def nested(d):
    make.dicom(d / "s")
    make.dicom(d / "s" / "scan1")
    for path in (d / "s").glob("*.dcm"):
        path.unlink()
    return d / "s"


def with_a_volume_beside(d):
    make.nifti(make.dicom(d / "s") / "other.nii.gz")
    return d / "s"


def no_image(sop_class, array=None):
    def write(d):
        (d / "s").mkdir()
        make.no_image(d / "s" / "r.dcm", sop_class, array)
        return d / "s"

    return write


def stating(k, name, text, **more):
    """Slices of which one, or all for k None, state a text in a tag."""
    return slices(lambda number, data: make.state(data, name, text) if k in (number, None) else None, **more)


def dangle(path):
    path.unlink()
    path.symlink_to("../.git/annex/objects/slice")


def lose_its_mark(path):
    path.write_bytes(path.read_bytes().replace(b"DICM", bytes(4), 1))


SPOILT = {
    "empty": lambda path: path.write_bytes(b""),
    "cut to 100 bytes": lambda path: path.write_bytes(path.read_bytes()[:100]),
    "web page": lambda path: path.write_bytes(b"<!DOCTYPE html>\n<html><body>Please log in</body></html>"),
    "LFS pointer": lambda path: path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n"),
    "dangling link": dangle,
    "no mark": lose_its_mark,
    "meta information at its start": lambda path: path.write_bytes(path.read_bytes()[132:]),
}
SAID = {
    "empty": "is empty; copy or export it again",
    "web page": "is a web page instead of the file; download it again",
    "LFS pointer": "is a Git LFS pointer instead of the file; run git lfs pull",
    "dangling link": "is a link to '../.git/annex/objects/slice', which does not exist; fetch that file",
}


def spoilt(what, number, names="slice{:03d}.dcm"):
    """A series of which the first or the last slice is no longer one."""

    def write(d):
        make.dicom(d / "s", names=names)
        SPOILT[what](sorted((d / "s").iterdir())[number])
        return d / "s"

    return write


def all_spoilt(what):
    def write(d):
        for path in make.dicom(d / "s").iterdir():
            SPOILT[what](path)
        return d / "s"

    return write


def pictures(d):
    (d / "s").mkdir()
    shutil.copy(pydicom.data.get_testdata_file("SC_rgb_rle.dcm"), d / "s" / "a.dcm")
    return d / "s"


def more_frames(d):
    """Six frames, of which the header describes one: "6?" is a number to GDCM and none to pydicom."""
    path = next(make.multiframe(d / "s", [7 + 2 * k for k in range(6)]).iterdir())
    data = pydicom.dcmread(path)
    shared, frames = data.SharedFunctionalGroupsSequence[0], data.PerFrameFunctionalGroupsSequence
    for part in (frames[0].PlanePositionSequence, shared.PlaneOrientationSequence, shared.PixelMeasuresSequence):
        data.update(part[0])
    del data.PerFrameFunctionalGroupsSequence
    make.state(data, "NumberOfFrames", "6?")
    data.save_as(path)
    return d / "s"


DICOM = [
    case("two series", two_series,
         r"holds 2 DICOM series; choose one with --series UID: .*1125.9 \(MR, T1 of a test, 4 slices\); .*6 slices"),
    case("unknown series", two_series, "2 DICOM series and none is '1.2'; choose one", "--series", "1.2"),
    case("missing slice", slices(lambda k, data: k != 2), "slices 2.00 to 4.00 mm apart: some are missing"),
    case("two acquisitions", two_acquisitions, "slices 0.00 to 2.00 mm apart: some are missing, or several acq"),
    case("localiser within", slices(only(2, ImageOrientationPatient=[0, 1, 0, 0, 0, -1])), "several orientations"),
    case("tilted gantry", slices(lambda k, data: setattr(data, "ImagePositionPatient", [5, -6 + k, 7 + 2 * k])),
         "tilted gantry; load it in 3D Slicer"),
    case("no position", slices(only(None, ImagePositionPatient=None)),
         r"slice001.dcm' has no valid position \(DICOM tag 0020,0032, ImagePositionPatient\)"),
    case("one without position", slices(only(3, ImagePositionPatient=None)), r"slice003.dcm' has no valid position"),
    case("no orientation", slices(only(None, ImageOrientationPatient=None)), r"DICOM tag 0020,0037"),
    case("orientation of zeros", slices(only(None, ImageOrientationPatient=[0] * 6)), "which is not a rotation"),
    case("no pixel spacing", slices(only(None, PixelSpacing=None)),
         r"slice001.dcm' has no valid pixel spacing \(DICOM tag 0028,0030, PixelSpacing\)"),
    case("pixel spacing 0", slices(only(None, PixelSpacing=[0, 1])), "has PixelSpacing 0 1, which is not a voxel size"),
    case("two pixel spacings", slices(only(2, PixelSpacing=[2, 2])), "several pixel sizes"),
    case("one slice without thickness", slices(only(0, SliceThickness=None), array=voxels()[:1]),
         r"has one slice without a valid thickness \(DICOM tag 0018,0050"),
    case("slices of two sizes", slices(only(2, Rows=6, Columns=20)), r"mixes slices of the sizes \[\(6, 20\)"),
    *[case(f"slice cut to {share}", cut_slice(share), r"slice006.dcm' is (cut short|not a (complete )?DICOM file)")
      for share in (0.1, 0.144, 0.2, 0.22, 0.37, 0.38, 0.45, 0.6)],
    case("slice cut in its pixels", cut_slice(0.95), r"slice006.dcm' cannot be read .*it may be cut short"),
    case("folder of series folders", nested, r"no DICOM series; .*\(its subfolders scan1 are not searched\)"),
    case("volume beside", with_a_volume_beside, r"holds a DICOM series and volume files \(other.nii.gz\); give one"),
    *[case(f"{what} as slice {number}", spoilt(what, number, names),
           SAID.get(what, "is not a DICOM file, or it is damaged; export the series again") + ".*named like a slice")
      for what in SPOILT for number, names in ((0, "slice{:03d}.dcm"), (-1, "IM{:04d}"))],
    case("all slices are pointers", all_spoilt("LFS pointer"), "no DICOM series: slice001.dcm is a Git LFS pointer"),
    case("no slice has the mark", all_spoilt("no mark"), "no DICOM series: slice001.dcm is not a DICOM file, or it is"),
    case("report only", no_image("1.2.840.10008.5.1.4.1.1.88.11"),
         r"holds DICOM files, but no image: r.dcm \(Basic Text SR Storage\); give the folder of the images"),
    case("contours only", no_image("1.2.840.10008.5.1.4.1.1.481.3"), "segmentations only; give the"),
    case("presentation only", no_image("1.2.840.10008.5.1.4.1.1.11.1"), r"no image: r.dcm \(Grayscale Softcopy Pre"),
    case("unknown kind only", no_image("1.2.3.4"), r"no image: r.dcm \(1.2.3.4\)"),
    case("segmentation only", no_image("1.2.840.10008.5.1.4.1.1.66.4", voxels()), "segmentations only; give the"),
    case("dose only", no_image("1.2.840.10008.5.1.4.1.1.481.2", voxels()), r"no image: r.dcm \(RT Dose Storage\)"),
    case("spectra only", no_image("1.2.840.10008.5.1.4.1.1.4.2", voxels()), r"no image: r.dcm \(MR Spectroscopy St"),
    case("mosaic", slices(only(None, ImageType=["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]), array=voxels()[:1]),
         "slice001.dcm' is a Siemens mosaic, .* convert it with dcm2niix"),
    *[case(f"one slice of thickness {text}", stating(0, "SliceThickness", text, array=voxels()[:1]),
           "has one slice without a valid thickness") for text in ("2,0", "2\\3", "xx", "ANONYMIZED", "inf", "-2", "")],
    case("position of words", stating(2, "ImagePositionPatient", "a\\b\\c"),
         r"slice004.dcm' has no valid position \(DICOM tag 0020,0032, ImagePositionPatient: .*'a', 'b', 'c'"),
    case("infinite position", stating(2, "ImagePositionPatient", "5\\-6\\inf"), "has no valid position"),
    case("position of two numbers", stating(2, "ImagePositionPatient", "5\\-6"), "has no valid position"),
    case("pixel spacing with commas", stating(2, "PixelSpacing", "1,5\\1,0"), r"no valid pixel spacing .*'1,5"),
    case("distance 0", stating(2, "SpacingBetweenSlices", "0"), "cannot be read .*Refusing to change spacing"),
    case("orientation of words", stating(2, "ImageOrientationPatient", "REMOVED"), "no valid orientation .*'REMOVED'"),
    case("slope 0", stating(2, "RescaleSlope", "0"), r"has no valid scale \(DICOM tag 0028,1053, RescaleSlope: '0'\)"),
    case("slope too large", stating(2, "RescaleSlope", "1e20"), "has no valid scale .*RescaleSlope: '1e20'"),
    case("pixel spacing too large", stating(2, "PixelSpacing", "1e30\\1e30"), r"has PixelSpacing 1e\+30 1e\+30, which"),
    case("slope of words", stating(2, "RescaleSlope", "one"), "has no valid scale .*'one'"),
    case("intercept infinite", stating(2, "RescaleIntercept", "inf"), "has no valid scale .*RescaleIntercept: 'inf'"),
    case("huge slices", slices(only(2, Rows=60000, Columns=60000)), "is cut short: its header .* 60000 x 60000 pixels"),
    case("huge count", lambda d: make.multiframe(d / "s", [0, 2, 4], count=2**30), "but has a different number|is cut"),
    case("rows of words", stating(2, "Rows", "1,0"), r"has no valid size \(DICOM tag 0028,0010, Rows"),
    case("more frames than the header says", more_frames,
         r"describes frames, rows and columns \(1, 10, 12\), but holds \(6, 10, 12\); export"),
    case("colour slices", pictures, "is a colour image"),
    case("frames without places", lambda d: make.multiframe(d / "s", [0, 2, 4], with_positions=False),
         "frames.dcm' has no valid position"),
    case("frames unevenly apart", lambda d: make.multiframe(d / "s", [0, 2, 6]), "2.00 to 4.00 mm apart"),
    case("frames of many slopes", lambda d: make.multiframe(d / "s", [0, 2, 4], [1, 2, 3]), "with 3 different slopes"),
]  # fmt: skip


@pytest.mark.parametrize(("make_input", "message", "more"), [*FILES, *VOLUMES, *DICOM])
def test_an_input_that_cannot_be_segmented_is_refused(d, command, make_input, message, more):
    path = make_input(d)
    before = contents(d)
    code, out, err = command("segment", path, "-o", "o.seg.nrrd", *more)
    check_refusal(code, err, message)
    assert out == ""
    assert contents(d) == before


@pytest.mark.slow
def test_what_the_tables_say_holds_in_a_process_of_its_own(d, run_child, tiny):
    """The cases above run in this process, to be fast."""
    path = two_series(d)
    before = contents(d)
    result = run_child("segment", path, "-o", "o.seg.nrrd", "--model", tiny, "--device", "cpu", "--progress", "none")
    check_refusal(result.returncode, result.stderr, "choose one with --series")
    assert contents(d) == before


# ---- Right values: what looks odd and is read as it is meant.


def multi_member(d):
    data = make.nifti(d / "a.nii").read_bytes()
    (d / "a.nii.gz").write_bytes(gzip.compress(data[:900]) + gzip.compress(data[900:]) + bytes(20))
    (d / "a.nii").unlink()
    return d / "a.nii.gz"


def in_any_order(d):
    """Enhanced MR in three interleaved packages."""
    order = [0, 3, 1, 4, 2, 5]
    make.multiframe(d / "s", [7 + 2 * k for k in order], array=voxels()[order])
    return d / "s"


def bare(d):
    for path in make.dicom(d / "s").iterdir():
        make.without_preamble(path)
    return d / "s"


def equal_slopes(d):
    return make.multiframe(d / "s", [7 + 2 * k for k in range(6)], [2] * 6, array=voxels())


def in_syntax(name):
    def write(d):
        make.dicom(d / "s")
        for path in (d / "s").iterdir():
            make.reencode(path, name)
        return d / "s"

    return write


def twice(d):
    make.dicom(d / "s")
    return make.dicom(d / "s", names="copy{:03d}.dcm")


def with_company(d):
    make.no_image(make.dicom(d / "s") / "report.dcm")
    (d / "s" / "notes.txt").write_text("hello")
    (d / "s" / "._slice001.dcm").write_bytes(b"\0\x05\x16\x07")
    shutil.copy(pydicom.data.get_testdata_file("DICOMDIR"), d / "s" / "DICOMDIR")
    return d / "s"


def slope_of_its_own(k, data):
    data.RescaleSlope, data.RescaleIntercept = (1 if k == 0 else 0.25), -10


VARYING = voxels() * np.array([1, *[0.25] * 5])[:, None, None] - 10
IN_A_UNIT = {"um": 1000, "cm": 0.1, "m": 0.001}


def in_unit(unit):
    factor = IN_A_UNIT[unit]
    vectors = f"({factor},0,0) (0,{1.5 * factor},0) (0,0,{2 * factor})"
    origin = f"({5 * factor},{-6 * factor},{7 * factor})"
    return nrrd(space_directions=vectors, space_origin=origin, space_units=" ".join([f'"{unit}"'] * 3))


def right(name, make_input, array=None, grid=GRID, *more):
    return pytest.param(make_input, voxels() if array is None else array, grid, more, id=name)


def nifti_in(unit, factor):
    changes = [(80, "<3f", factor, 1.5 * factor, 2 * factor), (123, "b", unit), (252, "<2h", 0, 1)]
    sform = np.array([[-1, 0, 0, -5], [0, -1.5, 0, 6], [0, 0, 2, 7]]) * factor
    return nifti(*changes, (280, "<12f", *sform.ravel()))


RIGHT = [
    right("plain NIfTI named nii.gz", renamed("a.nii", "a.nii.gz")),
    right("gzip of several members", multi_member),
    right("nhdr", written("a.nhdr")),
    right("mhd zlib", written("a.mhd", compressed=True)),
    right("mha zlib", written("a.mha", compressed=True)),
    right("scl_slope 0", nifti((112, "<2f", 0, 99))),
    right("scl_slope NaN", nifti((112, "<2f", np.nan, 99))),
    right("scl_slope 2", nifti((112, "<2f", 2, 1)), voxels() * 2 + 1),
    right("NIfTI in micron", nifti_in(3, 1000)),
    right("NIfTI in metre", nifti_in(1, 0.001)),
    right("sform other than qform", nifti((252, "<2h", 1, 2), (280, "<12f", -1, 0, 0, 9, 0, -1.5, 0, 9, 0, 0, 2, 9))),
    right("NIfTI without a unit", nifti((123, "b", 0))),
    *[right(f"NRRD in {unit}", in_unit(unit)) for unit in IN_A_UNIT],
    right("MetaImage in um", mha(ElementSpacing="1000 1500 2000", Offset="5000 -6000 7000", DistanceUnits="um")),
    right("one frame of 4-D", written("a.nii", lambda: sitk.JoinSeries(make.image()))),
    right("five dimensions of size 1", nifti((40, "<8h", 5, 12, 10, 6, 1, 1, 1, 1))),
    right("big-endian nrrd", nrrd(array=voxels(">i2"))),
    right("int64 nii", nifti(array=voxels(np.int64)), voxels(np.int64)),
    right("uint64 nrrd", nrrd(array=voxels(np.uint64)), voxels(np.uint64)),
    right("int8 nrrd", nrrd(array=voxels(np.int8)), voxels(np.int8)),
    right("double nrrd", nrrd(array=voxels(np.float64)), voxels(np.float64)),
    right("constant", nrrd(array=np.full(make.SHAPE, 7, np.int16)), np.full(make.SHAPE, 7)),
    right("one voxel", written("a.nrrd", lambda: make.image(voxels(shape=(1, 1, 1)))), voxels(shape=(1, 1, 1))),
    right("one slice", written("a.nii", lambda: make.image(voxels()[:1])), voxels()[:1]),
    right("3 x 3 x 3", written("a.mha", lambda: make.image(voxels(shape=(3, 3, 3)))), voxels(shape=(3, 3, 3))),
    right("frames in any order", in_any_order),
    right("frames of one slope", equal_slopes, voxels() * 2),
    right("slices of many slopes", slices(slope_of_its_own), VARYING),
    right("files without ending", slices(names="IM{:04d}")),
    right("slices there twice", twice),
    right("slices without preamble", bare),
    right("one slice of thickness 2", slices(array=voxels()[:1]), voxels()[:1]),
    *[
        right(f"{name} {text or 'empty'}", stating(None, name, text))
        for name, texts in (
            ("SliceThickness", ("2,0", "2\\3", "xx", "ANONYMIZED", "inf", "", "0")),
            ("SpacingBetweenSlices", ("", "-2")),
            ("SamplesPerPixel", ("",)),
            ("NumberOfFrames", ("ONE", "1\\2", "")),
            ("Modality", ("MR\\CT",)),
            ("ImageType", ("",)),
            ("SOPInstanceUID", ("?",)),
            ("RescaleSlope", ("",)),
        )
        for text in texts
    ],
    right("other files beside", with_company),
    right("RLE", in_syntax("1.2.840.10008.1.2.5")),
    right("the chosen series", two_series, voxels()[:4], GRID, "--series", "1.2.826.0.1.3680043.2.1125.9"),
]


@pytest.mark.parametrize(("make_input", "array", "grid", "more"), RIGHT)
def test_what_looks_odd_is_read_as_it_is_meant(d, command, make_input, array, grid, more):
    path = make_input(d)
    before = contents(d)
    code, _, err = command("segment", path, "-o", "o.nrrd", *more)
    assert code == 0, err
    mask = sitk.ReadImage("o.nrrd")
    assert sitk.GetArrayFromImage(mask).shape == array.shape
    np.testing.assert_allclose(ijk_to_ras_of(mask), grid, atol=1e-4)
    volume = read_volume(path, *more[1:])
    np.testing.assert_array_equal(volume.array_kji, array)
    np.testing.assert_allclose(volume.ijk_to_ras, grid, atol=1e-4)
    assert {**contents(d), d / "o.nrrd": None} == {**before, d / "o.nrrd": None}


SFORM = (280, "<12f", -1, 0, 0, 9, 0, -1.5, 0, 9, 0, 0, 2, 9)
QFORM_2, BOTH_2 = (252, "<2h", 2, 1), (252, "<2h", 2, 2)


@pytest.mark.parametrize(
    ("changes", "used"),
    [
        ([(252, "<2h", 1, 2), SFORM], "qform"),
        ([BOTH_2, SFORM], "qform"),
        ([QFORM_2, SFORM], "sform"),
        ([(252, "<2h", 1, 1), SFORM], "sform"),
        ([QFORM_2, (268, "<3f", 1, 2, 3)], "sform"),
        ([QFORM_2, (256, "<3f", 0, 0, 0)], "sform"),
        ([(252, "<2h", 0, 1), SFORM], ""),
        ([(252, "<2h", 1, 0), SFORM], ""),
        ([], ""),
        ([(76, "<f", 1)], ""),
    ],
)
def test_matrices_of_nifti_that_differ_are_said(d, caplog, changes, used):
    path = make.nifti(d / "a.nii", *changes)
    np.testing.assert_allclose(read_volume(path).ijk_to_ras, ijk_to_ras_of(sitk.ReadImage(str(path))), atol=1e-4)
    assert caplog.text.count("a qform and an sform that differ") == bool(used)
    assert f"the {used} is used" in caplog.text or not used


def test_qform_is_itks_own(d):
    """Any rotation and either hand."""
    for turn in ((0.3, -0.2, 0.9), (3.1, 0, 0.2), (0, 0, np.pi)):
        for hand in (1, -1):
            direction = np.reshape(sitk.Euler3DTransform((0, 0, 0), *turn).GetMatrix(), (3, 3)) * (1, 1, hand)
            header = read_header(make.write(d / "a.nii", make.image(direction=direction)))
            np.testing.assert_allclose(header.qform, ijk_to_ras_of(sitk.ReadImage(str(d / "a.nii"))), atol=1e-4)


@pytest.mark.parametrize("syntax", ["jp2klossless", "jpeg_ls_lossless", "RLE", "bigendian", "implicit"])
def test_every_transfer_syntax_gives_the_same_slice(d, syntax):
    """Files of pydicom's own, of one scan in several forms."""
    arrays = []
    for name in ("MR_small.dcm", f"MR_small_{syntax}.dcm"):
        shutil.rmtree(d / "s", ignore_errors=True)
        (d / "s").mkdir()
        shutil.copy(pydicom.data.get_testdata_file(name), d / "s" / name)
        arrays.append(read_volume(d / "s"))
    np.testing.assert_array_equal(arrays[0].array_kji, arrays[1].array_kji)
    np.testing.assert_array_equal(arrays[0].ijk_to_ras, arrays[1].ijk_to_ras)


@pytest.mark.parametrize(
    "array",
    [
        np.where(np.arange(720).reshape(make.SHAPE) % 7 == 0, np.nan, voxels()).astype(np.float32),
        np.where(np.arange(720).reshape(make.SHAPE) % 7 == 0, np.inf, voxels()).astype(np.float32),
        voxels(np.int64) * 2**52,
    ],
    ids=["NaN", "Inf", "2**60"],
)
def test_odd_values_give_a_mask_and_no_warning_of_a_library(d, command, array):
    code, _, err = command("segment", make.nrrd(d / "a.nrrd", array), "-o", "o.nrrd")
    assert code == 0, err
    assert all(line.startswith(("INFO: ", "WARNING: ")) for line in err.splitlines()), err


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("scale", [1e25, 1e-25, 2.0**52])
def test_the_scale_of_the_values_does_not_matter(d, command, scale):
    masks = []
    for factor in (1.0, scale):
        make.nrrd(d / "a.nrrd", voxels(np.float64) * factor)
        code, _, err = command("segment", "a.nrrd", "-o", "o.nrrd", "--confidence", "c.nrrd", "--overwrite")
        assert code == 0, err
        masks.append([sitk.GetArrayFromImage(sitk.ReadImage(name)).astype(int) for name in ("o.nrrd", "c.nrrd")])
    np.testing.assert_allclose(*masks, atol=1)
    assert np.ptp(masks[0][1]) > 0


@pytest.mark.parametrize(("dtype", "added"), [(np.int64, 2**40), (np.uint32, 2**31)])
def test_a_great_number_added_to_all_values_does_not_matter(d, command, dtype, added):
    masks = []
    for number in (0, added):
        make.write(d / "a.nii.gz", make.image(voxels(dtype) + dtype(number)))
        code, _, err = command("segment", "a.nii.gz", "-o", "o.nrrd", "--confidence", "c.nrrd", "--overwrite")
        assert code == 0, err
        masks.append([sitk.GetArrayFromImage(sitk.ReadImage(name)) for name in ("o.nrrd", "c.nrrd")])
    np.testing.assert_array_equal(*masks)


def test_padding_is_said_on_the_command_line(d, command):
    array = voxels(np.int32)
    array[:, :, 0] = -(2**31)
    code, _, err = command("segment", make.mha(d / "a.mha", array), "-o", "o.nrrd")
    assert code == 0, err
    assert "WARNING: 8.3 % of the voxels are -2.14748e+09, far below all others" in err


def test_spacing_much_finer_than_a_millimetre_keeps_the_aspect(d, command):
    array = voxels(shape=(6, 64, 32))
    masks = []
    for scale in (1.0, 4e-5):
        path = make.write(d / "a.nrrd", make.image(array, tuple(scale * s for s in (1.2, 1.0, 3.0))))
        code, _, err = command("segment", path, "-o", "o.nrrd", "--overwrite")
        assert code == 0, err
        masks.append(sitk.GetArrayFromImage(sitk.ReadImage("o.nrrd")))
    np.testing.assert_array_equal(*masks)


@pytest.mark.parametrize("ending", [".nrrd", ".mha", ".seg.nrrd"])
def test_tilted_axes_are_kept_by_the_formats_that_can(d, command, ending):
    path = make.write(d / "a.nrrd", make.image(direction=SHEARED))
    code, _, err = command("segment", path, "-o", f"o{ending}")
    assert code == 0, err
    np.testing.assert_allclose(ijk_to_ras_of(sitk.ReadImage(f"o{ending}")), read_volume(path).ijk_to_ras, atol=1e-6)


# ---- Outputs


def good(d):
    return make.write(d / "a.nrrd")


def with_a_segmentation(d):
    make.write(d / "b.seg.nrrd")
    return good(d)


def existing(*names):
    def write(d):
        for name in names:
            (d / name).write_bytes(b"precious")
        return good(d)

    return write


def tilted(d):
    return make.write(d / "a.nrrd", make.image(direction=SHEARED))


def detached(d):
    return make.write(d / "a.nhdr")


def closed_folder(d):
    (d / "closed").mkdir(mode=0o500)
    return good(d)


def folder_there(d):
    (d / "o.nrrd").mkdir()
    return good(d)


def two_volumes(d):
    (d / "in").mkdir()
    make.write(d / "in" / "a.nrrd")
    make.write(d / "in" / "b.nrrd")
    return d / "in"


OUTPUTS = [
    case("exists", existing("o.nrrd"), "o.nrrd' exists already; add --overwrite", "-o", "o.nrrd"),
    case("is the input", good, "a.nrrd' is also an input and would be lost", "-o", "a.nrrd", "--overwrite"),
    case("is the input by another path", good, "is also an input", "-o", "../d/a.nrrd", "--overwrite"),
    case("is the input's data", detached, "a.raw' is also an input",
         "-o", "o.nrrd", "--report", "a.raw", "--overwrite"),
    case("confidence is the input", good, "is also an input",
         "-o", "o.nrrd", "--confidence", "a.nrrd", "--overwrite"),
    case("report is the input", good, "is also an input", "-o", "o.nrrd", "--report", "a.nrrd", "--overwrite"),
    case("report is a slice", slices(), "slice001.dcm' is also an input",
         "-o", "o.nrrd", "--report", "s/slice001.dcm", "--overwrite"),
    case("report is one of many", two_volumes, "b.nrrd' is also an input",
         "-o", "out", "--report", "in/b.nrrd", "--overwrite"),
    case("confidence exists", existing("c.nrrd"), "c.nrrd' exists already",
         "-o", "o.nrrd", "--confidence", "c.nrrd"),
    case("report exists", existing("r.json"), "r.json' exists already", "-o", "o.nrrd", "--report", "r.json"),
    case("confidence is the mask", good, "two outputs would both be written to .*o.nrrd'",
         "-o", "o.nrrd", "--confidence", "o.nrrd"),
    case("report is the mask", good, "two outputs would both be written to", "-o", "o.nrrd", "--report", "./o.nrrd"),
    case("unknown ending", good, r"has an unknown ending; use \.seg\.nrrd, \.nii", "-o", "o.png"),
    case("no ending", good, "'o' has an unknown ending", "-o", "o"),
    case("confidence of unknown ending", good, "has no image ending", "-o", "o.nrrd", "--confidence", "c.png"),
    case("confidence as segmentation", good, "has no image ending",
         "-o", "o.nrrd", "--confidence", "c.seg.nrrd"),
    case("folder missing", good, "nowhere' does not exist; make it first", "-o", "nowhere/o.nrrd"),
    case("confidence's folder missing", good, "make it first", "-o", "o.nrrd", "--confidence", "nowhere/c.nrrd"),
    case("report's folder missing", good, "make it first", "-o", "o.nrrd", "--report", "nowhere/r.json"),
    case("is a folder", folder_there, "o.nrrd' is a folder; give a file name", "-o", "o.nrrd"),
    case("folder closed", closed_folder, "cannot be written to", "-o", "closed/o.nrrd", marks=as_root),
    case("name too long", good, "cannot be written|File name too long", "-o", "o" * 300 + ".nrrd"),
    case("tilted axes as nii", tilted, r"cannot hold the volume's tilted axes.*use \.seg\.nrrd, \.nrrd, \.mha",
         "-o", "o.nii"),
    case("tilted axes as nii.gz", tilted, "cannot hold the volume's tilted axes", "-o", "o.nii.gz"),
    case("tilted axes of confidence", tilted, "cannot hold the volume's tilted axes",
         "-o", "o.nrrd", "--confidence", "c.nii"),
    case("many volumes to one file", two_volumes, "'o.seg.nrrd' is the name of one file, but there are 2 volumes",
         "-o", "o.seg.nrrd"),
    case("many volumes to a file that is there", two_volumes, "README.md' is a file; for several volumes give a folder",
         "-o", MODULE.parent / "README.md"),
    case("confidence of many", two_volumes, "is one file; leave it out for several", "-o", "out",
         "--confidence", "c.nrrd"),
    case("series of a file", good, "is for one DICOM folder", "-o", "o.nrrd", "--series", "1.2"),
    case("unknown model", good, "model 'liver' is unknown", "-o", "o.nrrd", "--model", "liver"),
    case("not a model file", good, "model file 'm.sam3d' does not exist", "-o", "o.nrrd", "--model", "m.sam3d"),
    case("a volume as model", good, "is not a model file", "-o", "o.nrrd", "--model", "a.nrrd"),
    case("unknown device", good, "device 'abacus' is unknown", "-o", "o.nrrd", "--device", "abacus"),
    case("absent device", good, "device 'cuda:99' is not available", "-o", "o.nrrd", "--device", "cuda:99"),
    case("fp16 on the CPU", good, "not available on the CPU", "-o", "o.nrrd", "--precision", "fp16"),
]  # fmt: skip


@pytest.mark.parametrize(("make_input", "message", "arguments"), OUTPUTS)
def test_an_output_or_option_that_cannot_work_is_refused(d, command, make_input, message, arguments):
    path = make_input(d)
    before = contents(d)
    code, _, err = command("segment", path, *arguments)
    check_refusal(code, err, message)
    assert contents(d) == before


def test_the_model_is_no_output(d, command, tiny):
    shutil.copy(tiny, d / "m.sam3d")
    good(d)
    before = contents(d)
    code, _, err = command(
        "segment", "a.nrrd", "-o", "o.nrrd", "--model", "m.sam3d", "--report", "m.sam3d", "--overwrite"
    )
    check_refusal(code, err, "m.sam3d' is also an input")
    assert contents(d) == before


@pytest.mark.parametrize(
    "arguments",
    [
        ["segment"],
        ["segment", "a.nrrd"],
        ["segment", "a.nrrd", "-o", "o.nrrd", "--precision", "half"],
        ["segment", "a.nrrd", "-o", "o.nrrd", "--progress", "loud"],
        ["segment", "a.nrrd", "-o", "o.nrrd", "--juggle"],
        ["evaluate", "--predictions", "x"],
        ["evaluate", "--predictions", "x", "--labels", "x", "--tolerance-mm", "wide"],
        ["juggle"],
        [],
    ],
)
def test_wrong_usage_is_2(d, run_cli, arguments):
    result = run_cli(*arguments)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert contents(d) == {}


@pytest.mark.skipif(sys.platform != "linux", reason="a small file system is mounted by Linux's mount")
def test_a_full_disk_leaves_what_was_there(d, command):
    full = d / "full"
    full.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", full], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"mounting is not allowed here: {mounted.stderr.strip()}")
    try:
        (full / "o.nrrd").write_bytes(b"precious")
        (full / "filler").write_bytes(bytes(50_000))
        make.write(d / "a.nrrd", make.image(voxels(shape=(40, 100, 100))))
        code, _, err = command(
            *("segment", d / "a.nrrd", "-o", full / "o.nrrd", "--overwrite", "--confidence", full / "c.nrrd")
        )
        check_refusal(code, err, "c.nrrd' cannot be written .*check free space and permissions")
        assert (full / "o.nrrd").read_bytes() == b"precious"
        assert {path.name for path in full.iterdir()} == {"o.nrrd", "filler"}
    finally:
        subprocess.run(["umount", full], check=True)


# ---- Folders


def in_folder(d, **makers):
    (d / "in").mkdir(exist_ok=True)
    for name, maker in makers.items():
        maker(d / "in" / name.replace("_", "."))
    return d / "in"


def empty_folder(d):
    (d / "in").mkdir()
    return d / "in"


def segmentations_only(d):
    return in_folder(d, a_seg_nrrd=make.write)


def of_one_stem(d):
    return in_folder(d, a_nii=make.nifti, a_nrrd=make.nrrd)


def of_one_stem_in_two_cases(d):
    return in_folder(d, a_nrrd=make.nrrd, A_nrrd=make.nrrd)


FOLDERS = [
    case("empty", empty_folder, "holds no volume file and no DICOM series"),
    case("segmentations only", segmentations_only, "holds segmentations only; give the folder of the images"),
    case("two files of one stem", of_one_stem, "a.nii' and .*a.nrrd' would both become .*out/a.seg.nrrd'; rename one"),
    case("names that differ in case", of_one_stem_in_two_cases, "would both become"),
    case("DICOM and volumes", with_a_volume_beside, "holds a DICOM series and volume files"),
    case("series of many", two_volumes, "is for one DICOM folder", "--series", "1.2"),
    case("missing among several", good, "gone.nrrd' does not exist", "gone.nrrd"),
    case("segmentation among several", with_a_segmentation, "b.seg.nrrd' is a segmentation", "b.seg.nrrd"),
]


@pytest.mark.parametrize(("make_input", "message", "more"), FOLDERS)
def test_a_folder_that_cannot_be_segmented_is_refused(d, command, make_input, message, more):
    path = make_input(d)
    before = contents(d)
    code, _, err = command("segment", path, *more, "-o", "out")
    check_refusal(code, err, message)
    assert contents(d) == before


def singular(path):
    return make.nrrd(path, space_directions="(1,0,0) (1,0.0001,0) (0,0,2)")


def nan_origin(path):
    return make.mha(path, Offset="nan 0 0")


def all_nan(path):
    return make.nrrd(path, np.full(make.SHAPE, np.nan, np.float32))


def dangling_file(path):
    path.symlink_to("../.git/annex/objects/b")


def cut_file(path):
    return make.cut(make.write(path))


def claims_too_much(path):
    return make.nrrd(path, sizes="99999 99999 99999")


@pytest.mark.parametrize(
    ("harm", "name", "message"),
    [
        (singular, "b.nrrd", "b.nrrd'.*do not span space"),
        (nan_origin, "b.mha", "b.mha'.*which is not a finite position"),
        (all_nan, "b.nrrd", "none of the 720 voxels"),
        (cut_file, "b.nii", "b.nii' is cut short"),
        (dangling_file, "b.nrrd", "b.nrrd' is a link to '../.git/annex/objects/b', which does not exist; fetch"),
        (claims_too_much, "b.nrrd", "b.nrrd' is cut short"),
    ],
    ids=["GeometryError", "NaN origin", "all NaN", "cut", "dangling", "huge"],
)
def test_one_bad_volume_does_not_end_a_folder(d, command, harm, name, message):
    in_folder(d, a_nrrd=make.write, c_nii_gz=make.nifti)
    harm(d / "in" / name)
    before = contents(d / "in")
    code, _, err = command("segment", "in", "-o", "out", "--report", "r.json")
    check_refusal(code, err, message)
    assert sorted(path.name for path in (d / "out").iterdir()) == ["a.seg.nrrd", "c.seg.nrrd"]
    report = json.loads((d / "r.json").read_text())
    assert [record["input"] for record in report["segmented"]] == ["in/a.nrrd", "in/c.nii.gz"]
    assert list(report["failed"]) == [f"in/{name}"]
    assert contents(d / "in") == before


def test_one_volume_that_is_too_large_does_not_end_a_folder(d, command, monkeypatch):
    """Memory cannot be made to run out at will in a test: the segmenter raises what torch and numpy raise."""
    in_folder(d, a_nrrd=make.write, b_nrrd=make.write, c_nrrd=make.write, e_nrrd=make.write)
    errors = [None, MemoryError(), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), None]
    segment = Segmenter.segment_with_confidence

    def sometimes(self, *arguments):
        error = errors.pop(0)
        if error:
            raise error
        return segment(self, *arguments)

    monkeypatch.setattr(Segmenter, "segment_with_confidence", sometimes)
    code, _, err = command("segment", "in", "-o", "out", "--report", "r.json")
    check_refusal(code, err, "in/b.nrrd' failed", lines=2)
    assert sorted(path.name for path in (d / "out").iterdir()) == ["a.seg.nrrd", "e.seg.nrrd"]
    assert list(json.loads((d / "r.json").read_text())["failed"]) == ["in/b.nrrd", "in/c.nrrd"]


def test_what_is_no_image_in_a_folder_is_left_out_and_said(d, command):
    in_folder(d, a_nrrd=make.write, a_seg_nrrd=make.write, b_nii_gz=make.nifti)
    make.named_segments(d / "in" / "drawn.nrrd", voxels(np.uint8), {1: "x"})
    (d / "in" / "._a.nii.gz").write_bytes(b"\0\x05\x16\x07")
    (d / "in" / "more").mkdir()
    (d / "in" / "series").symlink_to("../gone")
    make.write(d / "in" / "more" / "z.nrrd")
    code, _, err = command("segment", "in", "-o", "out")
    assert code == 0, err
    assert sorted(path.name for path in (d / "out").iterdir()) == ["a.seg.nrrd", "b.seg.nrrd"]
    assert "left out of in, because they are segmentations: a.seg.nrrd, drawn.nrrd." in err
    assert "subfolders of in are not searched: more." in err
    assert "links of in to what does not exist are left out: series." in err


def test_a_segmentation_drawn_beside_its_image_is_neither_a_result_nor_replaced(d, command):
    in_folder(d, a_nrrd=make.write, b_nrrd=make.write)
    make.named_segments(d / "in" / "a.seg.nrrd", voxels(np.uint8), {1: "by hand"})
    before = contents(d / "in")
    for more in ([], ["--overwrite"]):
        code, _, err = command("segment", "in", "-o", "in", "--report", "r.json", *more)
        check_refusal(code, err, "output 'in/a.seg.nrrd' is a segmentation beside its image that was not made by this")
        report = json.loads((d / "r.json").read_text())
        assert [record["input"] for record in report["segmented"]] == ["in/b.nrrd"]
        assert list(report["failed"]) == ["in/a.nrrd"]
        after = contents(d / "in")
        assert after.keys() - before.keys() == {d / "in" / "b.seg.nrrd"}
        assert {path: after[path] for path in before} == before


def test_a_second_run_keeps_the_records_of_the_first(d, command, bundled_model):
    """The first is interrupted, so the report is written after each volume."""
    in_folder(d, a_nrrd=make.write, b_nrrd=make.write)
    request = Request((Path("in"),), sources.Outputs(Path("out"), report=Path("r.json")))
    done = Watch(cancelled=(d / "out" / "a.seg.nrrd").exists)
    with pytest.raises(Cancelled):
        segment_files(request, bundled_model, lambda: Segmenter.load(bundled_model, "cpu"), done)
    [first] = json.loads((d / "r.json").read_text())["segmented"]
    assert (first["input"], first["model"]) == ("in/a.nrrd", "hippocampus-mri")
    code, _, err = command("segment", "in", "-o", "out", "--report", "r.json")
    assert code == 0, err
    report = json.loads((d / "r.json").read_text())
    assert report["segmented"][0] == first
    assert [record["model"] for record in report["segmented"]] == ["hippocampus-mri", "tiny"]
    assert report["skipped"] == ["in/a.nrrd"]
    assert command("segment", "in", "-o", "out", "--report", "r.json")[0] == 0  # nothing is left to do
    assert json.loads((d / "r.json").read_text())["segmented"] == report["segmented"]
    (d / "r.json").write_text("{}")
    code, _, err = command("segment", "in", "-o", "out", "--report", "r.json")
    check_refusal(code, err, "output 'r.json' exists already")


def test_a_volume_that_does_not_suit_is_told_in_one_line_and_in_the_report(d, command):
    in_folder(d, a_nrrd=make.write)
    make.write(d / "in" / "b.nrrd", make.image(labels(1, 2)))
    make.write(d / "in" / "c.nrrd", make.image(voxels() - 1000))
    code, _, err = command("segment", "in", "-o", "out", "--report", "r.json")
    assert code == 0, err
    warnings = [line for line in err.splitlines() if line.startswith("WARNING: ")]
    expected = ["This is a label map; choose the image", "Its values go down to -1000, as in a CT"]
    for name, line, words in zip("bc", warnings, expected, strict=True):
        assert line.startswith(f"WARNING: 'in/{name}.nrrd' may not suit the model 'tiny': {words}")
    records = json.loads((d / "r.json").read_text())["segmented"]
    assert [len(record["misfits"]) for record in records] == [0, 1, 1]


def test_strict_refuses_a_volume_that_does_not_suit(d, command):
    in_folder(d, a_nrrd=make.write, c_nrrd=make.write)
    make.write(d / "in" / "b.nrrd", make.image(labels(1, 2)))
    code, _, err = command("segment", "in/b.nrrd", "-o", "o.nrrd", "--strict", "--report", "r.json")
    check_refusal(code, err, "in/b.nrrd' does not suit the model 'tiny': This is a label map; .* leave out --strict")
    assert sorted(path.name for path in d.iterdir()) == ["in"]
    code, _, err = command("segment", "in", "-o", "out", "--strict")
    check_refusal(code, err, "in/b.nrrd' does not suit")
    assert sorted(path.name for path in (d / "out").iterdir()) == ["a.seg.nrrd", "c.seg.nrrd"]


def test_the_modality_of_a_dicom_series_is_compared(d, command):
    make.dicom(d / "s", change=lambda k, data: setattr(data, "Modality", "CT"))
    code, _, err = command("segment", "s", "-o", "o.nrrd")
    assert code == 0, err
    assert "WARNING: 's' may not suit the model 'tiny': Its modality is CT, but the model is for MRI" in err


def test_an_error_of_any_kind_does_not_end_a_folder(d, command, monkeypatch):
    """What a library raises for a file that nobody has thought of."""
    in_folder(d, a_nrrd=make.write, b_nrrd=make.write, c_nrrd=make.write)
    read = inputs.read_volume

    def odd(path, *more):
        if path.name == "b.nrrd":
            raise OverflowError("cannot convert float infinity to integer")
        return read(path, *more)

    monkeypatch.setattr(inputs, "read_volume", odd)
    code, _, err = command("segment", "in", "-o", "out")
    check_refusal(code, err, "'in/b.nrrd' failed: cannot convert float infinity to integer")
    assert sorted(path.name for path in (d / "out").iterdir()) == ["a.seg.nrrd", "c.seg.nrrd"]


def test_an_error_of_any_kind_does_not_end_an_evaluation(d, command, monkeypatch):
    pairs(labels(1), labels(1))(d)
    read = evaluation.read_label_map

    def odd(path, **more):
        if path.name == "b.nrrd":
            raise OverflowError("cannot convert float infinity to integer")
        return read(path, **more)

    monkeypatch.setattr(evaluation, "read_label_map", odd)
    code, out, err = command("evaluate", "--predictions", "p", "--labels", "l")
    check_refusal(code, err, "'p/b.nrrd' failed: cannot convert float infinity to integer")
    assert "mean" in out


def test_results_beside_the_images_are_not_segmented_in_the_next_run(d, command):
    in_folder(d, a_nrrd=make.write)
    for expected in ("1 segmented, 0 already there", "0 segmented, 1 already there"):
        code, _, err = command("segment", "in", "-o", "in", "--report", f"{expected[0]}.json")
        assert code == 0, err
        assert expected in err or expected.startswith("1")
    assert sorted(path.name for path in (d / "in").iterdir()) == ["a.nrrd", "a.seg.nrrd"]


def test_the_header_of_an_input_is_read_once(d, command, monkeypatch):
    read = []

    def counted(path, read_header=volumes.read_header):
        read.append(path.name)
        return read_header(path)

    for module in (volumes, inputs):
        monkeypatch.setattr(module, "read_header", counted)
    in_folder(d, a_nrrd=make.write, b_nii_gz=make.nifti, c_seg_nrrd=make.write)
    make.named_segments(d / "in" / "drawn.nrrd", voxels(np.uint8), {1: "x"})
    assert command("segment", "in", "-o", "out")[0] == 0
    assert sorted(read) == ["a.nrrd", "b.nii.gz", "drawn.nrrd"]
    read.clear()
    assert command("segment", d / "in" / "a.nrrd", "-o", "o.nrrd")[0] == 0
    assert read == ["a.nrrd"]


def test_a_cancelled_folder_keeps_and_counts_what_is_segmented(d, bundled_model):
    in_folder(d, a_nrrd=make.write, b_nrrd=make.write)
    request = Request((d / "in",), sources.Outputs(d / "out"))
    done = d / "out" / "a.seg.nrrd"
    with pytest.raises(Cancelled, match="cancelled; 1 of 2 volumes were segmented"):
        segment_files(
            request, bundled_model, lambda: Segmenter.load(bundled_model, "cpu"), Watch(cancelled=done.exists)
        )
    assert list((d / "out").iterdir()) == [done]


# ---- evaluate


def labels(*boxes, dtype=np.uint8):
    """A label map with a box of each value at its place."""
    array = np.zeros(make.SHAPE, dtype)
    for place, value in enumerate(boxes):
        array[2:4, 2:5, 1 + 3 * place : 3 + 3 * place] = value
    return array


def pair(d, name, prediction, reference):
    for folder, one in (("p", prediction), ("l", reference)):
        (d / folder).mkdir(exist_ok=True)
        if isinstance(one, np.ndarray):
            one = make.image(one)
        if one is not None:
            make.write(d / folder / f"{name}.nrrd", one)


def good_pair(d):
    pair(d, "a", labels(1, 2), labels(1, 2))


def pairs(*more):
    def write(d):
        good_pair(d)
        pair(d, "b", *more)

    return write


def coarser(d):
    """0.9 % larger along one axis."""
    good_pair(d)
    pair(d, "b", labels(1), make.image(labels(1), spacing=(1.0, 1.5 * 1.009, 2.0)))


def evaluate_existing(d):
    good_pair(d)
    (d / "e.json").write_text("precious")


def of_one_name(d):
    good_pair(d)
    make.write(d / "p" / "a.nii.gz", make.image(labels(1)))


def broken_segments(d):
    good_pair(d)
    pair(d, "b", None, labels(1))
    make.named_segments(d / "p" / "b.nrrd", labels(1), {"one": "Anterior"})


def missing_layer(d):
    good_pair(d)
    pair(d, "b", None, labels(1))
    path = make.named_segments(d / "p" / "b.nrrd", labels(1), {1: "Anterior"})
    path.write_bytes(path.read_bytes().replace(b"_Layer:=0", b"_Layer:=7"))


def dangling_prediction(d):
    good_pair(d)
    pair(d, "b", None, labels(1))
    (d / "p" / "b.nrrd").symlink_to("../gone/b.nrrd")


EVALUATE = [
    case("no folder", lambda d: None, "folder 'p' does not exist"),
    case("no common name", lambda d: (pair(d, "a", labels(1), None), pair(d, "b", None, labels(1))),
         "no file in 'p' has the name of one in 'l'"),
    case("two files of one name", of_one_name, "a.nii.gz' and .*a.nrrd' have the same name"),
    case("no label at all", lambda d: pair(d, "a", labels(), labels()), "no label map in 'p' or 'l' holds a label"),
    case("tolerance negative", good_pair, "tolerance -1.0 mm is not a finite number of at least 0",
         "--tolerance-mm", "-1"),
    case("tolerance NaN", good_pair, "tolerance nan mm", "--tolerance-mm", "nan"),
    case("tolerance infinite", good_pair, "tolerance inf mm", "--tolerance-mm", "inf"),
    case("json exists", evaluate_existing, "e.json' exists already; add --overwrite", "--json", "e.json"),
    case("csv exists", evaluate_existing, "e.json' exists already", "--csv", "e.json"),
    case("json is a label map", good_pair, "a.nrrd' is also an input", "--json", "l/a.nrrd", "--overwrite"),
    case("csv is a prediction", good_pair, "a.nrrd' is also an input", "--csv", "p/a.nrrd", "--overwrite"),
    case("json is csv", good_pair, "--json and --csv are both 'e'", "--json", "e", "--csv", "e"),
    case("json's folder missing", good_pair, "make it first", "--json", "nowhere/e.json"),
]  # fmt: skip


@pytest.mark.parametrize(("make_input", "message", "more"), EVALUATE)
def test_an_evaluation_that_cannot_work_is_refused(d, command, make_input, message, more):
    make_input(d)
    before = contents(d)
    code, out, err = command("evaluate", "--predictions", "p", "--labels", "l", *more)
    check_refusal(code, err, message)
    assert out == ""
    assert contents(d) == before


FAILING_PAIRS = [
    case("probabilities", pairs(labels(1).astype(np.float32) * 0.37, labels(1)),
         "b.nrrd' has values such as 0.37; give a label map of whole numbers"),
    case("NaN", pairs(labels(1).astype(np.float32) * np.nan, labels(1)), "has values such as nan"),
    case("an image", pairs(np.arange(720, dtype=np.int16).reshape(make.SHAPE), labels(1)),
         "has values from 0 to 719, outside 0..255; renumber them"),
    case("another size", pairs(labels(1)[:5], labels(1)), "b.nrrd' is not on the grid of 'l/b.nrrd'"),
    case("a spacing 0.9 % larger", coarser, "is not on the grid of"),
    case("broken fields of segments", broken_segments, "b.nrrd' has invalid segment fields .*save it again"),
    case("a layer that is not there", missing_layer, "b.nrrd' refers to a layer that it does not have"),
    case("link to nothing", dangling_prediction, "p/b.nrrd' is a link to '../gone/b.nrrd', which does not exist"),
    case("missing prediction", pairs(None, labels(1)),
         "1 references have no prediction and are left out of the means: b"),
]  # fmt: skip


@pytest.mark.parametrize(("make_input", "message", "more"), FAILING_PAIRS)
def test_one_bad_pair_does_not_end_an_evaluation(d, command, make_input, message, more):
    make_input(d)
    before = contents(d)
    code, out, err = command("evaluate", "--predictions", "p", "--labels", "l", "--json", "e.json")
    check_refusal(code, err, message)
    assert [line.split()[0] for line in out.splitlines()] == ["case", "a", "a", "mean", "mean"]
    written = json.loads((d / "e.json").read_text())
    assert list(written["failed"]) + written["missing"] == ["b"]
    assert {path: data for path, data in contents(d).items() if path.name != "e.json"} == before


def rows_of(d, command):
    code, _, err = command("evaluate", "--predictions", "p", "--labels", "l", "--json", "e.json", "--overwrite")
    assert code == 0, err
    return {(row["case"], row["label"]): row for row in json.loads((d / "e.json").read_text())["rows"]}


def test_a_case_in_which_nothing_is_has_a_row_and_no_dice(d, command):
    good_pair(d)
    pair(d, "b", labels(), labels())
    pair(d, "c", labels(1), labels())
    rows = rows_of(d, command)
    assert rows["b", 1]["dice"] is None
    assert (rows["b", 1]["volume_ml"], rows["b", 1]["dice_cases"]) == (0, 0)
    assert rows["c", 1]["dice"] == 0
    assert rows["c", 2]["dice"] is None
    assert (rows["mean", 1]["dice"], rows["mean", 1]["dice_cases"], rows["mean", 1]["hd95_mm_cases"]) == (0.5, 2, 1)
    assert (rows["mean", 2]["dice"], rows["mean", 2]["dice_cases"]) == (1, 1)


def test_named_segments_are_compared_by_name(d, command):
    """Anterior is 1 in one file and 2 in another."""
    (d / "p").mkdir()
    (d / "l").mkdir()
    make.named_segments(d / "l" / "a.seg.nrrd", labels(1, 2), {1: "Anterior", 2: "Posterior"})
    make.named_segments(d / "p" / "a.seg.nrrd", labels(2, 1), {2: "Anterior", 1: "posterior"})
    make.named_segments(d / "l" / "b.seg.nrrd", labels(2, 1), {2: "Anterior", 1: "Posterior"})
    make.named_segments(d / "p" / "b.seg.nrrd", labels(1, 0), {1: "Anterior", 2: "Posterior"})
    rows = rows_of(d, command)
    assert (rows["a", "Anterior"]["dice"], rows["a", "Posterior"]["dice"]) == (1, 1)
    assert (rows["b", "Anterior"]["dice"], rows["b", "Posterior"]["dice"]) == (1, 0)


def test_a_reference_without_the_first_structure_is_compared_by_name(d, command):
    """The only segment of a file has the value 1, whichever structure it is; the table names it."""
    (d / "p").mkdir()
    (d / "l").mkdir()
    both = {1: "Anterior", 2: "Posterior"}
    make.named_segments(d / "l" / "a.seg.nrrd", labels(0, 1), {1: "posterior "})
    make.named_segments(d / "l" / "b.seg.nrrd", labels(1, 2), both)
    for name in "ab":
        make.named_segments(d / "p" / f"{name}.seg.nrrd", labels(1, 2), both)
    rows = rows_of(d, command)
    assert {label for _, label in rows} == {"Anterior", "posterior"}
    assert (rows["a", "Anterior"]["dice"], rows["a", "posterior"]["dice"]) == (0, 1)
    assert rows["mean", "posterior"]["dice"] == 1
    assert "Anterior" in command("evaluate", "--predictions", "p", "--labels", "l")[1]


def test_segments_that_overlap_are_compared(d, command):
    """An organ with a tumour: two layers, both of the value 1."""
    (d / "p").mkdir()
    (d / "l").mkdir()
    organ, tumour = labels(1, 1), labels(1)
    path = make.named_segments(
        d / "l" / "a.seg.nrrd", np.stack([organ, tumour], axis=-1), {1: "Organ", 2: "Tumour"}, dimension=4,
        space="left-posterior-superior", space_directions="none (1,0,0) (0,1.5,0) (0,0,2)", space_origin="(5,-6,7)",
        kinds="list domain domain domain",
    )  # fmt: skip
    data = path.read_bytes()
    for old, new in ((b"Segment1_LabelValue:=2", b"Segment1_LabelValue:=1"), (b"1_Layer:=0", b"1_Layer:=1")):
        assert old in data
        data = data.replace(old, new)
    for folder in "lp":
        (d / folder / "a.seg.nrrd").write_bytes(data)
    rows = rows_of(d, command)
    assert (rows["a", "Organ"]["dice"], rows["a", "Tumour"]["dice"]) == (1, 1)
    assert rows["a", "Organ"]["volume_ml"] == pytest.approx(2 * rows["a", "Tumour"]["volume_ml"])


def test_plain_label_maps_are_matched_with_names_by_the_other_folder_or_dataset_json(d, command):
    pair(d, "a", labels(1, 2), None)
    (d / "l").mkdir(exist_ok=True)
    make.named_segments(d / "l" / "a.nrrd", labels(1, 2), {1: "Anterior", 2: "Posterior"})
    rows = rows_of(d, command)
    assert (rows["a", "Anterior"]["dice"], rows["a", "Posterior"]["dice"]) == (1, 1)
    (d / "dataset.json").write_text(json.dumps({"labels": {"0": "background", "1": "posterior", "2": "anterior"}}))
    rows = rows_of(d, command)
    assert (rows["a", "Anterior"]["dice"], rows["a", "Posterior"]["dice"]) == (0, 0)


def test_a_value_that_is_two_structures_is_not_guessed(d, command):
    """Slicer numbers the segments of each file from 1."""
    good_pair(d)
    make.write(d / "p" / "b.nrrd", make.image(labels(1)))
    make.named_segments(d / "l" / "b.nrrd", labels(1), {1: "Anterior"})
    for folder in "lp":
        make.named_segments(d / folder / "c.nrrd", labels(1), {1: "Posterior"})
    code, out, err = command("evaluate", "--predictions", "p", "--labels", "l")
    message = "b.nrrd' has the value 1, which is 'Anterior' in one segmentation and 'Posterior' in another"
    check_refusal(code, err, message)
    assert {line.split()[1] for line in out.splitlines()[1:]} == {"1", "2", "Posterior"}


def test_masks_of_0_and_255_against_0_and_1_are_refused(d, command):
    pair(d, "a", labels(255), labels(1))
    pair(d, "b", labels(), labels(1))
    code, _, err = command("evaluate", "--predictions", "p", "--labels", "l")
    check_refusal(code, err, "no value is in both: the predictions have 255, the references 1; give")
    pair(d, "b", labels(1), labels(1))
    code, _, err = command("evaluate", "--predictions", "p", "--labels", "l")
    assert code == 0, err
    assert "WARNING: a: no value is in both: the prediction has 255, the reference 1." in err


def test_a_cropped_segmentation_and_one_of_layers_are_compared_where_they_lie(d, command):
    """3D Slicer saves a segmentation cropped to what it shows, and segments that overlap in layers."""
    (d / "p").mkdir()
    (d / "l").mkdir()
    whole = labels(1, 2)
    names = {1: "Anterior", 2: "Posterior"}
    make.named_segments(d / "p" / "a.seg.nrrd", whole, names)
    make.named_segments(d / "l" / "a.seg.nrrd", whole[1:5, 1:9, 1:7], names, space_origin="(6,-4.5,9)")
    layers = np.stack([whole == 1, whole == 2], axis=-1).astype(np.uint8)
    directions = "none (1,0,0) (0,1.5,0) (0,0,2)"
    make.named_segments(
        d / "l" / "b.seg.nrrd", layers, {1: "Anterior"}, dimension=4, space="left-posterior-superior",
        space_directions=directions, space_origin="(5,-6,7)", kinds="list domain domain domain",
    )  # fmt: skip
    make.named_segments(d / "p" / "b.seg.nrrd", whole, names)
    rows = rows_of(d, command)
    found = [rows[key]["dice"] for key in (("a", "Anterior"), ("a", "Posterior"), ("b", "Anterior"))]
    assert found == [1, 1, 1]
    assert rows["a", "Posterior"]["reference_ml"] == pytest.approx(rows["a", "Posterior"]["volume_ml"])


def test_a_label_map_of_whole_numbers_as_floats_is_one(d, command):
    pair(d, "a", labels(1, 2, dtype=np.float32), labels(1, 2))
    assert rows_of(d, command)["a", 2]["dice"] == 1
