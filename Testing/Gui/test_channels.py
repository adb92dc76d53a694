"""A model of several channels in the panel: a selector for each, filled by the names of nodes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import slicer
from panel_fixtures import LABELS, add_volume

import host
from SAM3DSegmentLib.base.errors import InputError
from SAM3DSegmentLib.card import DecoderConfig, EncoderConfig, ModelCard, VitConfig
from SAM3DSegmentLib.channel import Channel

MODULE = Path(__file__).resolve().parents[2] / "SAM3DSegment" / "SAM3DSegment.py"
TIMEOUT_S = 180
MATRIX = np.eye(4)


@pytest.fixture(scope="module")
def pair_model(tmp_path_factory):
    """Of the channels T1 and T2, untrained: its masks depend on every voxel of both."""
    import torch

    from SAM3DSegmentLib.decoder import Sam3dDecoder
    from SAM3DSegmentLib.model_file import Sam3dModel, save_model
    from SAM3DSegmentLib.sam.vit import build_vit, tensors_sha256

    torch.manual_seed(3)
    vit = VitConfig(16, 1, 2, (0,))
    tensors = {key: value.half() for key, value in build_vit(vit, 32).state_dict().items()}
    encoder = EncoderConfig("compact_vit", 32, tensors_sha256(tensors), vit)
    config = DecoderConfig(3, (512, 8, 8, 8, 8), grey_channels=2)
    card = ModelCard("pair", "", "MRI", LABELS, encoder, config, channels=(Channel("T1"), Channel("T2")))
    path = tmp_path_factory.mktemp("model") / "pair.sam3d"
    save_model(Sam3dModel(card, Sam3dDecoder.from_config(config), tensors), path)
    return str(path)


@pytest.fixture
def widget():
    return host.load_module(MODULE)[2]


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    return [rng.normal(size=(7, 9, 11)).cumsum(axis=1).astype(np.float32) for _ in range(2)]


def selectors(widget):
    """Of the channels after the first, as far as they are shown."""
    found = widget.ui.channelsWidget.findChildren(slicer.qMRMLNodeComboBox)
    return [selector for selector in found if not selector.isHidden()]


def masks(node, volume):
    segmentation = node.GetSegmentation()
    return [
        slicer.util.arrayFromSegmentBinaryLabelmap(node, segmentId, volume)
        for segmentId in segmentation.GetSegmentIDs()
    ]


@pytest.mark.slow
def test_a_volume_for_each_channel_is_chosen_by_names_and_segmented(widget, pair_model, tiny_model, arrays):
    import torch  # noqa: F401 (the child has it too)

    from SAM3DSegmentLib.inference import segment_volume

    second = add_volume(arrays[1], MATRIX, "case_7_T2")
    first = add_volume(arrays[0], MATRIX, "case_7_T1")
    add_volume(arrays[0], MATRIX, "other")
    parameters = widget.logic.getParameterNode()
    parameters.inputVolume = second
    assert (widget.ui.inputLabel.text, selectors(widget)) == ("Volume:", [])
    parameters.model = pair_model
    assert widget.ui.inputLabel.text == "T1:"
    assert parameters.inputVolume is first
    (selector,) = selectors(widget)
    assert selector.currentNode() is second
    assert "Reads T1, T2: encoding takes 2 times as long" in widget.ui.modelCardLabel.text

    selector.setCurrentNode(None)
    assert not widget.ui.segmentButton.enabled
    assert "Choose a volume for the channel T2." in widget.ui.segmentButton.toolTip
    selector.setCurrentNode(second)
    widget.ui.segmentButton.click()
    assert host.pump(lambda: widget.ui.segmentButton.text == "Segment", TIMEOUT_S), widget.ui.statusLabel.text
    node = widget.ui.outputSelector.currentNode()
    expected = segment_volume(arrays, MATRIX, pair_model, "cpu")
    for label, mask in zip(LABELS, masks(node, first), strict=True):
        assert np.array_equal(mask > 0, expected == label.value)

    parameters.model = tiny_model
    assert (widget.ui.inputLabel.text, selectors(widget)) == ("Volume:", [])


def test_the_logic_takes_channels_by_name_and_tells_what_does_not_fit(widget, pair_model, arrays):
    first, second = (add_volume(array, MATRIX, name) for array, name in zip(arrays, ("a", "b")))
    shifted = add_volume(arrays[1], np.array([[1, 0, 0, 3.0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), "c")
    node = widget.logic.segment(first, model=pair_model, channels={"T2": second})
    assert len(masks(node, first)) == 2
    for channels, told in (
        ({}, "choose a volume for the channel 'T2'; the model 'pair' reads T1, T2."),
        ({"T2": second, "T3": second}, "leave out the channel 'T3'"),
        (
            {"T2": shifted},
            "the volume .c. is not on the grid of 'a': its voxels lie up to 3 mm from where they should be",
        ),
    ):
        with pytest.raises(InputError, match=told):
            widget.logic.segment(first, model=pair_model, channels=channels)


@pytest.fixture
def panel(widget, pair_model):
    """The widget with the model of two channels."""
    widget.logic.getParameterNode().model = pair_model
    return widget


def test_another_patients_volume_is_never_left_as_a_channel(panel, arrays):
    """Of files by their names, of DICOM by the study; where that says nothing, none is chosen."""
    parameters = panel.logic.getParameterNode()
    nodes = {name: add_volume(arrays[0], MATRIX, name) for name in ("a T1", "a T2", "b_T2", "b_T1", "c T1")}
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    for day, names in {"day 1": ("4: AX T1", "5: AX T2 TSE"), "day 2": ("3: AX T1", "7: AX T2 TSE")}.items():
        study = hierarchy.CreateStudyItem(hierarchy.GetSceneItemID(), day)
        for name in names:
            nodes[name] = add_volume(arrays[1], MATRIX, name)
            hierarchy.SetItemParent(hierarchy.GetItemByDataNode(nodes[name]), study)
    for first, second in (
        ("a T1", "a T2"),
        ("b_T1", "b_T2"),
        ("4: AX T1", "5: AX T2 TSE"),
        ("c T1", None),
        ("3: AX T1", "7: AX T2 TSE"),
    ):
        panel.ui.inputSelector.setCurrentNode(nodes[first])
        (selector,) = selectors(panel)
        assert selector.currentNode() is nodes.get(second)
        assert panel.ui.segmentButton.enabled == (second is not None)
    selector.setCurrentNode(nodes["c T1"])
    selector.setCurrentNode(nodes["3: AX T1"])
    assert "is chosen for the channel 'T2' and for another" in panel.ui.segmentButton.toolTip
    with pytest.raises(InputError, match="is chosen for the channel 'T2' and for another; choose one for each"):
        panel.logic.segment(nodes["a T1"], model=parameters.model, channels={"T2": nodes["a T1"]})


def test_what_is_chosen_for_channels_is_kept_with_the_scene(panel, arrays, tmp_path):
    first, second = (add_volume(array, MATRIX, name) for array, name in zip(arrays, ("mprage", "tse")))
    for name in ("T1", "T2"):  # which would be chosen by their names
        add_volume(arrays[0], MATRIX, name)
    panel.ui.inputSelector.setCurrentNode(first)
    (selector,) = selectors(panel)
    assert selector.currentNode() is None
    selector.setCurrentNode(second)
    slicer.util.saveScene(str(tmp_path / "scene.mrb"))
    slicer.mrmlScene.Clear()
    assert selector.currentNode() is None
    slicer.util.loadScene(str(tmp_path / "scene.mrb"))
    assert panel.ui.inputSelector.currentNode().GetName() == "mprage"
    assert selectors(panel)[0].currentNode().GetName() == "tse"
    assert panel.ui.segmentButton.enabled
    slicer.mrmlScene.RemoveNode(slicer.util.getNode("tse"))
    assert selectors(panel)[0].currentNode() is None  # not the volume beside it
    assert not panel.ui.segmentButton.enabled


def test_each_channels_volume_is_judged(panel, arrays):
    first = add_volume(arrays[0], MATRIX, "a T1")
    second = add_volume(np.zeros_like(arrays[1]), MATRIX, "a T2")
    panel.ui.inputSelector.setCurrentNode(first)
    assert panel.ui.warningLabel.text == "\u26a0 T2: It is empty: each of its voxels is 0."
    (selector,) = selectors(panel)
    selector.setCurrentNode(add_volume(arrays[1][1:], MATRIX, "c"))
    assert "is not on the grid of 'a T1': it has 11 x 9 x 6 voxels" in panel.ui.warningLabel.text.replace("&#x27;", "'")
    slicer.util.updateVolumeFromArray(second, arrays[1])
    panel.ui.inputSelector.setCurrentNode(second)
    selectors(panel)[0].setCurrentNode(first)
    assert "is called &#x27;a T2&#x27;, but given as T1, not T2; check that" in panel.ui.warningLabel.text
    assert "T2: It is called &#x27;a T1&#x27;, but given as T2, not T1" in panel.ui.warningLabel.text


def test_a_case_gets_no_channel_of_another_patient(widget, arrays):
    widget.ui.caseChannelsEdit.text = "T1, T2"
    widget.ui.caseChannelsEdit.editingFinished.emit()
    nodes = {name: add_volume(arrays[0], MATRIX, name) for name in ("a T1", "a T2", "b T1", "b T2", "c T1")}
    for name, other in (("a T1", "a T2"), ("b T1", "b T2"), ("c T1", None)):
        widget.ui.caseVolumeSelector.setCurrentNode(nodes[name])
        (selector,) = widget.ui.caseChannelsWidget.findChildren(slicer.qMRMLNodeComboBox)
        assert selector.currentNode() is nodes.get(other)


def add_segmentation(volume, mask):
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    segmentId = node.GetSegmentation().AddEmptySegment("", "Inside")
    slicer.util.updateSegmentBinaryLabelmapFromArray(mask, node, segmentId, volume)
    return node


def test_a_case_of_two_volumes_is_written_and_the_folder_asks_for_both_from_then_on(widget, arrays, tmp_path):
    from SAM3DSegmentLib.bridge import preferences
    from SAM3DSegmentLib.formats.volumes import read_volume
    from SAM3DSegmentLib.training.dataset import find_dataset

    cases = widget.panel._train._cases
    cases.folder = tmp_path
    preferences.setCasesFolder(tmp_path)
    cases.update()
    assert host.pump(lambda: not cases.isReading, TIMEOUT_S)
    first, second = (add_volume(array, MATRIX, name) for array, name in zip(arrays, ("a T1", "a T2")))
    mask = np.zeros(arrays[0].shape, np.uint8)
    mask[2:5, 2:5, 2:5] = 1
    segmentation = add_segmentation(first, mask)
    widget.ui.caseSegmentationSelector.setCurrentNode(segmentation)
    assert widget.ui.caseVolumeLabel.text == "Volume:"
    widget.ui.caseChannelsEdit.text = "T1, T2"
    widget.ui.caseChannelsEdit.editingFinished.emit()
    assert widget.ui.caseVolumeLabel.text == "T1:"
    (selector,) = widget.ui.caseChannelsWidget.findChildren(slicer.qMRMLNodeComboBox)
    assert selector.currentNode() is second
    widget.ui.caseNameEdit.text = "a"
    widget.ui.addCaseButton.click()
    assert host.pump(lambda: not cases.isReading and cases.survey.rows, TIMEOUT_S), widget.ui.casesLabel.text
    (case,) = find_dataset(tmp_path, least=1).cases
    assert [(part.name, part.path.name) for part in case.channels] == [("T1", "T1.nrrd"), ("T2", "T2.nrrd")]
    assert np.array_equal(read_volume(case.channels[1].path).array_kji, arrays[1])
    assert cases.survey.channels == ("T1", "T2")
    assert widget.ui.caseChannelsEdit.isHidden()

    selector.setCurrentNode(None)
    assert not widget.ui.addCaseButton.enabled
    assert {path.name for path in cases.survey.rows[0].files} == {"T1.nrrd", "T2.nrrd", "a.seg.nrrd"}
