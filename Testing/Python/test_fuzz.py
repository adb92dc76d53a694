"""Damaged headers at random: a file is read right, or refused in one line; nothing else ever comes out.

`make test` tries some hundred per kind of file, always the same ones. `make fuzz` goes on with new ones for
FUZZ_MINUTES (30) in all.
"""

import gzip
import io
import logging
import math
import os
import struct
import time
import warnings

import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import image_files as make
from SAM3DSegmentLib.base.errors import Sam3dError
from SAM3DSegmentLib.card import ModelCard
from SAM3DSegmentLib.formats.dicom_frames import TAGS
from SAM3DSegmentLib.formats.label_maps import read_label_map
from SAM3DSegmentLib.formats.volumes import VolumeFile, read_volume
from SAM3DSegmentLib.geometry import spacing_and_directions
from SAM3DSegmentLib.model_file import load_model, save_model
from SAM3DSegmentLib.model_store import read_card
from test_model_file import small_model

logger = logging.getLogger(__name__)

MINUTES = float(os.environ.get("FUZZ_MINUTES", "0"))
EXAMPLES = 60
SECONDS_EACH = 5  # no file may take longer
INFLATION = 1032  # times that a compressed file can become larger
SHAPE = (3, 5, 4)
KINDS = (
    "a.nii",
    "a.nii.gz",
    "a.nrrd",
    "z.nrrd",
    "a.nhdr",
    "a.mha",
    "z.mha",
    "a.mhd",
    "s.seg.nrrd",
    "m.sam3d",
    "dicom",
    "frames",
)

SEQUENCES = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")

NUMBERS = st.one_of(
    st.sampled_from([0, 1, -1, 2, 255, 256, 32767, -32768, 65535, 2**31 - 1, -(2**31), 2**40]),
    st.integers(-(2**63), 2**63 - 1),
)
FLOATS = st.one_of(
    st.sampled_from([0.0, -0.0, 1.0, -1.0, 1e-45, 1e-30, 1e30, math.nan, math.inf, -math.inf]),
    st.floats(width=32),
)
WORDS = st.one_of(
    st.sampled_from(
        ["", "none", "nan", "inf", "-1", "0", "1e400", "99999999999999999999", "(", "()", "(nan,0,0)", '"um"', '"',
         ":=", "=", "LIST", "LOCAL", "a.raw", "..", "/dev/null", "%d", "raw", "gzip", "ascii", "hex", "bzip2", "int8",
         "block", "double", "MET_FLOAT", "True", "False", "little", "big", "\0", "\u00b5m", "null", "{}", "[]", "1e5"]
    ),
    NUMBERS.map(str),
    FLOATS.map(str),
    st.text(max_size=8),
)  # fmt: skip


@st.composite
def changes_of_bytes(draw, content):
    """Some bytes changed, put in or taken out, mostly in the header; or the end cut off."""
    data = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        kind = draw(st.sampled_from(["byte", "number", "float", "insert", "delete", "cut"]))
        at = draw(st.integers(0, min(len(data), 400)))
        if kind == "byte":
            data[at : at + 1] = draw(st.binary(min_size=1, max_size=1))
        elif kind == "number":
            form = draw(st.sampled_from(["<b", "<h", "<i", "<q", ">h", ">i"]))
            size = struct.calcsize(form)
            wrapped = (draw(NUMBERS) % 2 ** (8 * size)).to_bytes(size, "little")
            data[at : at + size] = wrapped if form[0] == "<" else wrapped[::-1]
        elif kind == "float":
            with np.errstate(over="ignore"):
                data[at : at + 4] = np.float32(draw(FLOATS)).tobytes()
        elif kind == "insert":
            data[at:at] = draw(st.binary(max_size=8))
        elif kind == "delete":
            del data[at : at + draw(st.integers(1, 8))]
        else:
            del data[draw(st.integers(0, len(data))) :]
    return bytes(data)


@st.composite
def changes_of_fields(draw, content):
    """NIfTI's own fields at their places."""
    data = bytearray(content)
    places = {"<h": [40, 42, 44, 46, 48, 50, 68, 70, 72, 252, 254], "<f": [*range(76, 108, 4), 108, 112, 116],
              "<b": [123], ">h": [40, 70]}  # fmt: skip
    places["<f"] += [*range(256, 328, 4)]
    for _ in range(draw(st.integers(1, 4))):
        form = draw(st.sampled_from(sorted(places)))
        at = draw(st.sampled_from(places[form]))
        if form == "<f":
            with np.errstate(over="ignore"):
                data[at : at + 4] = np.float32(draw(FLOATS)).tobytes()
        else:
            size = struct.calcsize(form)
            data[at : at + size] = (draw(NUMBERS) % 2 ** (8 * size)).to_bytes(size, "little")
    return bytes(data)


@st.composite
def changes_of_lines(draw, content):
    """Lines of a text header changed, doubled, taken out or put elsewhere; or a word within one."""
    end = content.find(b"\n\n") + 1 or content.find(b"ElementDataFile") + 1 or len(content)
    head, rest = content[:end], content[end:]
    lines = head.decode("utf-8", "replace").split("\n")
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(lines) - 1))
        kind = draw(st.sampled_from(["word", "value", "double", "delete", "move", "insert"]))
        if kind == "word":
            words = lines[at].split(" ")
            words[draw(st.integers(0, len(words) - 1))] = draw(WORDS)
            lines[at] = " ".join(words)
        elif kind == "value":
            key = lines[at].replace("=", ":").partition(":")[0]
            lines[at] = f"{key}{draw(st.sampled_from([': ', ' = ', ':=']))}{draw(WORDS)} {draw(WORDS)} {draw(WORDS)}"
        elif kind == "double":
            lines.insert(at, lines[at])
        elif kind == "delete" and len(lines) > 1:
            del lines[at]
        elif kind == "move":
            lines.insert(draw(st.integers(0, len(lines) - 1)), lines.pop(at))
        else:
            lines.insert(at, draw(WORDS))
    return "\n".join(lines).encode("utf-8", "replace") + rest


@st.composite
def changes_of_a_card(draw, content):
    """Words within the JSON of a model's header, its length kept right."""
    length = int.from_bytes(content[:8], "little")
    head, rest = content[8 : 8 + length].decode(), content[8 + length :]
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(head) - 1))
        stop = head.find(draw(st.sampled_from([",", ":", "}", '"'])), at)
        head = head[:at] + draw(WORDS) + head[stop if stop > 0 else at :]
    encoded = head.encode("utf-8", "replace")
    return len(encoded).to_bytes(8, "little") + encoded + rest


@st.composite
def changes_of_tags(draw, content):
    """Words as the values of DICOM tags, and sometimes other bytes as well."""
    data = pydicom.dcmread(io.BytesIO(content))
    places = [data, *(item for name in SEQUENCES if name in data for item in data[name].value)]
    places += [item for place in places[1:] for element in place for item in element.value]
    for _ in range(draw(st.integers(1, 4))):
        words = draw(st.lists(WORDS | st.sampled_from(["2,0", "ANONYMIZED", "ONE"]), max_size=4))
        make.state(draw(st.sampled_from(places)), draw(st.sampled_from(TAGS)), "\\".join(words)[:1000])
    file = io.BytesIO()
    data.save_as(file)
    changed = file.getvalue()
    return changed if draw(st.booleans()) else draw(changes_of_bytes(changed))


def right_file(folder, kind):
    if kind in ("dicom", "frames"):
        make.dicom(folder / kind) if kind == "dicom" else make.multiframe(folder / kind, [0, 2, 4])
        return sorted((folder / kind).iterdir())[-1]
    path = folder / kind
    array = make.voxels(shape=SHAPE)
    if kind == "m.sam3d":
        save_model(small_model(), path)
    elif kind.startswith("s."):
        make.named_segments(path, (array > 50).astype(np.uint8), {1: "Anterior", 2: "Posterior"})
    else:
        make.write(path, make.image(array), compressed=kind.startswith("z.") or kind.endswith(".gz"))
    return path


def files(content, kind):
    if kind in ("dicom", "frames"):
        return st.one_of(changes_of_bytes(content), changes_of_tags(content))
    if kind == "m.sam3d":
        return st.one_of(changes_of_bytes(content), changes_of_a_card(content))
    if ".nii" in kind:
        return st.one_of(changes_of_bytes(content), changes_of_fields(content))
    return st.one_of(changes_of_bytes(content), changes_of_lines(content))


def outcome(read, path):
    """What is read, or else the message of the refusal."""
    try:
        return read(path), None
    except Sam3dError as error:
        return None, str(error)


def check_volume(path):
    """A right volume, or one line that says why not. True if it was read."""
    assert VolumeFile(path).is_segmentation in (True, False)
    label_map, refusal = outcome(read_label_map, path)
    assert refusal is None or "\n" not in refusal
    if label_map is not None and label_map.segments is not None:
        assert all(segment.layer < len(label_map.layers) for segment in label_map.present())
    volume, refusal = outcome(read_volume, path)
    if refusal is not None:
        assert "\n" not in refusal
        assert path.name in refusal
        return False
    assert volume.array_kji.ndim == 3
    assert volume.array_kji.size > 0
    assert volume.array_kji.dtype.kind in "iuf"
    # Scaled to floats, a value of one byte takes four.
    assert volume.array_kji.nbytes <= 8 * INFLATION * sum(p.stat().st_size for p in path.parent.iterdir())
    spacing, _ = spacing_and_directions(volume.ijk_to_ras)
    assert (spacing > 0).all()
    return True


def check_series(path):
    """A volume of all its slices, or one line that says why not. True if it was read."""
    volume, refusal = outcome(read_volume, path.parent)
    if refusal is not None:
        assert "\n" not in refusal
        assert path.parent.name in refusal
        return False
    assert volume.array_kji.shape[0] == (6 if path.parent.name == "dicom" else 3)
    spacing, _ = spacing_and_directions(volume.ijk_to_ras)
    assert (spacing > 0).all()
    return True


def check_model(path):
    """A model and its card, or one line that says why not. True if it was read."""
    card, refusal = outcome(read_card, path)
    assert isinstance(card, ModelCard) or "\n" not in refusal
    model, refusal = outcome(load_model, path)
    assert (model is not None and model.card == card) or "\n" not in refusal
    return model is not None


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_is_read_right_or_refused_in_one_line(tmp_path, caplog, kind):
    caplog.set_level(logging.ERROR, "SAM3DSegmentLib")  # warnings would fill the log of `make fuzz`
    path = right_file(tmp_path, kind)
    check = {"m.sam3d": check_model, "dicom": check_series, "frames": check_series}.get(kind, check_volume)
    check(path)
    gzipped = kind.endswith(".nii.gz")
    content = path.read_bytes()
    if gzipped:
        content = gzip.decompress(content)
    tried = taken = 0

    @settings(
        max_examples=EXAMPLES,
        derandomize=not MINUTES,
        database=None,
        deadline=SECONDS_EACH * 1000,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )
    @given(files(content, kind))
    @example(b"")
    @example(content[:-1])
    @example(content[:100])
    def check_one(data):
        nonlocal tried, taken
        tried += 1
        path.write_bytes(gzip.compress(data, 1) if gzipped else data)
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            taken += check(path)

    end = time.monotonic() + MINUTES * 60 / len(KINDS)
    check_one()
    while time.monotonic() < end:
        check_one()
    logger.info("%s: %d files tried, %d of them read", kind, tried, taken)
