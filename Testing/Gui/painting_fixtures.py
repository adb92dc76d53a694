"""What the tests of painting and completing share: a painted patient, and a program in place of `complete`."""

from __future__ import annotations

import numpy as np
import slicer
from panel_fixtures import add_volume
from vtk import reference

SHAPE = (11, 14, 16)
PAINTED = (2, 5, 8)  # slices, along the first axis
OBLIQUE = np.array([[0.0, -1.6, 0.6, 5], [0.0, 1.2, 0.8, -7], [3.0, 0, 0, 1], [0, 0, 0, 1]])
KIDNEY = (
    "Segmentation category and type - DICOM master list~SCT^123037004^Anatomical Structure~SCT^64033007^Kidney"
    "~SCT^7771000^Left~Anatomic codes - DICOM master list~^^~^^"
)
COLORS = {"Left kidney": (0.2, 0.6, 1.0), "Right kidney": (1.0, 0.4, 0.2)}

# Fills each slice between the painted ones with the nearest of these, once GO exists; ends as `complete` does.
NEAREST = """
import json, os, sys, threading, time
import numpy as np
import SimpleITK as sitk

def say(**report):
    print(json.dumps(report), flush=True)

def end_with_input():
    sys.stdin.read()
    os._exit(130)

say(process_id=os.getpid())
threading.Thread(target=end_with_input, daemon=True).start()
_module, _library, command, volume, painted, _o, completed, *options = sys.argv[1:]
assert command == "complete", command
open(ARGUMENTS, "w").write(" ".join([str(os.getpid()), *options]))
image = sitk.ReadImage(painted)
assert sitk.ReadImage(volume).GetSize() == image.GetSize()
array = sitk.GetArrayFromImage(image)
filled = array.copy()
slices = np.flatnonzero(array.any(axis=(1, 2))).tolist()
for done, k in enumerate(range(slices[0], slices[-1] + 1)):
    filled[k] = array[min(slices, key=lambda known: abs(known - k))]
    say(stage="complete", done=done + 1, total=slices[-1] - slices[0] + 2, eta_s=1.0)
while not os.path.exists(GO):
    time.sleep(0.01)
result = sitk.GetImageFromArray(filled)
result.CopyInformation(image)
for key in image.GetMetaDataKeys():
    result.SetMetaData(key, image.GetMetaData(key))
sitk.WriteImage(result, completed, True)
"""


def masks(shift=0):
    """Whole structures."""
    left, right = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)
    for k in range(2, 9):
        left[k, 3 + k // 3 : 8, 1 + shift : 6 + shift] = 1
        right[k, 5:11, 10 : 12 + k // 3] = 1
    return {"Left kidney": left, "Right kidney": right}


def painted(by_name):
    """What a person has painted of them."""
    known = np.isin(np.arange(SHAPE[0]), PAINTED)[:, None, None]
    return {name: mask * known for name, mask in by_name.items()}


def nearest(mask):
    """As NEAREST fills a painted mask."""
    filled = mask.copy()
    for k in range(PAINTED[0], PAINTED[-1] + 1):
        filled[k] = mask[PAINTED[np.abs(np.array(PAINTED) - k).argmin()]]
    return filled


def image_of(by_name, seed=0):
    noise = np.random.default_rng(seed).normal(0, 10, SHAPE)
    return (100 + 300.0 * by_name["Left kidney"] - 200.0 * by_name["Right kidney"] + noise).astype(np.int16)


def add_segmentation(volume, by_name, name="painting"):
    """Segments that a user has drawn on the volume, under its transform."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    node.SetNodeReferenceID(node.GetReferenceImageGeometryReferenceRole(), volume.GetID())
    for segment_name, mask in by_name.items():
        color = COLORS.get(segment_name, (0.5, 0.5, 0.5))
        segment_id = node.GetSegmentation().AddEmptySegment("", segment_name, color)
        node.GetSegmentation().GetSegment(segment_id).SetTag("TerminologyEntry", KIDNEY)
        slicer.util.updateSegmentBinaryLabelmapFromArray(mask, node, segment_id, volume)
    return node


def add_painting(name="patient", shift=0):
    """A volume, and a segmentation of which three slices are painted."""
    whole = masks(shift)
    volume = add_volume(image_of(whole, shift), OBLIQUE, name)
    return volume, add_segmentation(volume, painted(whole), f"{name} painting")


def masks_of(node, volume):
    segmentation = node.GetSegmentation()
    return {
        segmentation.GetSegment(i).GetName(): slicer.util.arrayFromSegmentBinaryLabelmap(node, i, volume).copy()
        for i in segmentation.GetSegmentIDs()
    }


def described(node):
    """ID -> name, colour and tags of each segment, but the note of completion."""
    segmentation, found = node.GetSegmentation(), {}
    for segment_id in segmentation.GetSegmentIDs():
        segment = segmentation.GetSegment(segment_id)
        color = tuple(round(component, 3) for component in segment.GetColor())
        found[segment_id] = (segment.GetName(), color, tag_of(segment, "TerminologyEntry"), tag_of(segment, "Mine"))
    return found


def tag_of(segment, name):
    value = reference("")
    return str(value) if segment.GetTag(name, value) else None


def assert_same(some, others):
    assert list(some) == list(others)
    for name, mask in some.items():
        np.testing.assert_array_equal(mask, others[name])
