"""From an empty scene to a completed case and a trained model, as in the second half of the tutorial.

Plays the way through the panel on the stand-in host (Testing/Host). What a person would paint is every `EVERY`th slice
of the reference; the references are hidden from the program otherwise, and say at the end how good the result is.
Prints the figures and takes the tutorial's pictures.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import numpy as np

from screenshots import CASES, MODULE, OUTPUT, PANEL_WIDTH, SAMPLE, draw_slice_view, grab, wait

import host  # isort: skip - found by way of screenshots
import slicer  # isort: skip

LABELS = {"Head": (230, 159, 0), "Body and tail": (86, 180, 233)}  # no names of the bundled model, which would help
EVERY = 5
AXIS = 1  # of (K, J, I): the coronal slices of these MRIs
MINUTES = 5.0
NAME = "my-hippocampus"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name in ("MODELS", "CACHE"):
            os.environ[f"SAM3DSEGMENT_{name}"] = str(Path(folder) / name.lower())
        play(Path(folder) / "cases")
    host.unload_all()


def play(cases: Path) -> None:
    cases.mkdir()
    widget = host.load_module(MODULE)[2]
    ui = widget.ui
    widget.parent.resize(PANEL_WIDTH, 10)
    widget.parent.show()
    ui.segmentSection.collapsed = ui.resultsSection.collapsed = True
    ui.trainSection.collapsed = False
    host.answerNext("file", str(cases))
    ui.chooseCasesButton.click()
    wait(lambda: "being read" not in ui.casesLabel.text)
    ui.modelNameEdit.text = NAME
    ui.minutesBox.value = MINUTES
    images = sorted((CASES / "imagesTr").iterdir())
    for number, image in enumerate(images):
        volume, reference = load(image)
        segmentation = paint(widget, volume, reference, is_first=number == 0)
        if number == 1:
            grab_panel(widget, "painting")
        if number < len(images) - 1:
            ui.addCaseButton.click()
            wait(lambda: "being read" not in ui.casesLabel.text)
            for node in (segmentation, volume):
                slicer.mrmlScene.RemoveNode(node)
    draw_slice_view(volume, segmentation, OUTPUT / "painted_view.png")
    complete(widget, volume, segmentation, reference)
    draw_slice_view(volume, segmentation, OUTPUT / "completed_view.png")
    train(widget)
    segment_another(widget)


def load(image: Path):
    """A volume, and the voxels (K, J, I) of its reference."""
    volume = slicer.util.loadVolume(str(image))
    return volume, read_labels(CASES / "labelsTr" / image.name)


def read_labels(path: Path) -> np.ndarray:
    node = slicer.util.loadVolume(str(path), {"labelmap": True})
    labels = slicer.util.arrayFromVolume(node).copy()
    slicer.mrmlScene.RemoveNode(node)
    return labels


def paint(widget, volume, reference: np.ndarray, is_first: bool):
    """Every `EVERY`th slice that shows the structure, and the last; the first person to paint names the segments."""
    ui = widget.ui
    ui.caseSegmentationSelector.setCurrentNode(None)
    ui.caseVolumeSelector.setCurrentNode(volume)
    ui.paintButton.click()
    segmentation = ui.caseSegmentationSelector.currentNode()
    segments = segmentation.GetSegmentation()
    if is_first:  # as in the Segment Editor
        segments.AddEmptySegment()
        for index, (name, color) in enumerate(LABELS.items()):
            segments.GetNthSegment(index).SetName(name)
            segments.GetNthSegment(index).SetColor(*(component / 255 for component in color))
    shown = np.flatnonzero((np.moveaxis(reference, AXIS, 0) > 0).any(axis=(1, 2)))
    known = np.zeros(reference.shape[AXIS], bool)
    known[[*range(shown[0], shown[-1], EVERY), shown[-1]]] = True
    across = known.reshape([-1 if axis == AXIS else 1 for axis in range(3)])
    for index in range(len(LABELS)):
        mask = ((reference == index + 1) & across).astype(np.uint8)
        slicer.util.updateSegmentBinaryLabelmapFromArray(mask, segmentation, segments.GetNthSegmentID(index), volume)
    print(f"{volume.GetName()}: {known.sum()} of {len(known)} slices painted")
    return segmentation


def complete(widget, volume, segmentation, reference: np.ndarray) -> None:
    """By the button, with a picture on the way; the Dice is that of all voxels."""
    ui = widget.ui
    before = masks_of(segmentation, volume)
    began = time.monotonic()
    ui.completeCaseButton.click()
    wait(lambda: "% done" in ui.caseStatusLabel.text)
    grab_panel(widget, "completing")
    wait(lambda: ui.completeCaseButton.text == "2. Complete")
    if "Done" not in ui.caseStatusLabel.text:
        raise RuntimeError(ui.caseStatusLabel.text)
    print(f"{volume.GetName()}: completed in {time.monotonic() - began:.0f} s")
    after = masks_of(segmentation, volume)
    for index, name in enumerate(LABELS):
        truth = reference == index + 1
        print(f"  Dice {name}: {dice(before[index], truth):.3f} as painted, {dice(after[index], truth):.3f} completed")
        painted = np.moveaxis(before[index], AXIS, 0)
        slices = painted.any(axis=(1, 2))
        if not np.array_equal(np.moveaxis(after[index], AXIS, 0)[slices], painted[slices]):
            raise RuntimeError(f"painted slices of {name} were changed")


def train(widget) -> None:
    ui = widget.ui
    ui.addAndTrainButton.click()
    wait(lambda: ui.trainButton.text != "Train")
    wait(lambda: ui.trainingStatusLabel.text.count("Dice") and ui.trainingProgressBar.value > 60 * MINUTES // 2, 1800)
    grab_panel(widget, "adding_and_training")
    wait(lambda: ui.trainButton.text == "Train", 1800)
    print(f"{ui.casesCostLabel.text}\n{ui.trainingStatusLabel.text}")
    if "Done" not in ui.trainingStatusLabel.text:
        raise RuntimeError(ui.trainingStatusLabel.text)


def segment_another(widget) -> None:
    """The model on an MRI that has cost nothing."""
    ui = widget.ui
    volume = slicer.util.loadVolume(str(SAMPLE))
    labels = read_labels(SAMPLE.with_name(SAMPLE.name.replace(".nii.gz", "_label.nii.gz")))
    ui.inputSelector.setCurrentNode(volume)
    widget.logic.getParameterNode().model = NAME
    ui.segmentButton.click()
    wait(lambda: ui.segmentButton.text == "Segment")
    segmentation = ui.outputSelector.currentNode()
    if segmentation is None:
        raise RuntimeError(ui.statusLabel.text)
    for name, mask, value in zip(LABELS, masks_of(segmentation, volume), (1, 2)):
        print(f"{volume.GetName()}, of which nothing was painted: Dice {name} {dice(mask, labels == value):.3f}")


def masks_of(segmentation, volume) -> list[np.ndarray]:
    """Of each segment, boolean (K, J, I) on the volume's grid."""
    ids = segmentation.GetSegmentation().GetSegmentIDs()
    return [slicer.util.arrayFromSegmentBinaryLabelmap(segmentation, i, volume) > 0 for i in ids]


def dice(mask: np.ndarray, truth: np.ndarray) -> float:
    return 2 * np.count_nonzero(mask & truth) / (np.count_nonzero(mask) + np.count_nonzero(truth))


def grab_panel(widget, name: str) -> None:
    """A folder of the person who follows the tutorial, instead of a temporary one."""
    shown, widget.ui.casesFolderLabel.text = widget.ui.casesFolderLabel.text, "/home/you/cases"
    grab(widget, name)
    widget.ui.casesFolderLabel.text = shown


if __name__ == "__main__":
    main()
