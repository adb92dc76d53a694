"""The ctk and qMRML widgets of the stand-in host: what they hold, and what they tell whom."""

import numpy as np
import pytest
import slicer

import ctk
import host
import qt


def test_node_combo_box_lists_what_it_should(add_volume):
    box, heard = slicer.qMRMLNodeComboBox(), []
    box.nodeTypes, box.noneEnabled = ["vtkMRMLScalarVolumeNode"], True
    box.setMRMLScene(slicer.mrmlScene)
    box.connect("currentNodeChanged(vtkMRMLNode*)", heard.append)
    box.connect("currentNodeChanged(bool)", heard.append)
    volume = add_volume("first")
    labels = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "labels")
    slicer.mrmlScene.AddNewNodeByClass("vtkMRMLModelNode", "model")
    assert [box.itemText(row) for row in range(box.count)] == ["None", "first", "labels"]
    assert box.currentNode() is None
    assert heard == []
    box.hideChildNodeTypes = ["vtkMRMLLabelMapVolumeNode"]
    assert box.nodes() == [volume]
    box.setCurrentNode(labels)
    assert box.currentNode() is None
    box.setCurrentNode(volume)
    assert heard == [volume, True]
    volume.SetName("renamed")
    assert box.currentText == "renamed"
    slicer.mrmlScene.RemoveNode(volume)
    assert box.currentNode() is None
    assert heard[2:] == [None, False]


def test_node_combo_box_without_none_chooses_and_adds():
    box = slicer.qMRMLNodeComboBox()
    box.nodeTypes, box.baseName = ["vtkMRMLSegmentationNode"], "Output"
    box.addAttribute("vtkMRMLSegmentationNode", "Mine", "yes")
    box.setMRMLScene(slicer.mrmlScene)
    slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "other")
    assert box.nodeCount() == 0
    added = box.addNode()
    assert box.currentNode() is added
    assert (added.GetName(), added.GetAttribute("Mine")) == ("Output", "yes")
    host.answerNext("dialog", "Better name")
    box.renameCurrentNode()
    assert box.currentText == "Better name"
    box.removeCurrentNode()
    assert box.currentNode() is None


@pytest.fixture
def segmentation(add_volume):
    volume = add_volume()
    segmentation = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Seg")
    segmentation.CreateDefaultDisplayNodes()
    segmentation.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    for name, value in (("low", 30), ("high", 60)):
        segmentation.GetSegmentation().AddEmptySegment(name, name, (0.5, 0, 1))
        mask = (slicer.util.arrayFromVolume(volume) > value).astype(np.uint8)
        slicer.util.updateSegmentBinaryLabelmapFromArray(mask, segmentation, name, volume)
    return segmentation


def test_segment_widgets_show_the_segmentation(segmentation):
    table, button = slicer.qMRMLSegmentsTableView(), slicer.qMRMLSegmentationShow3DButton()
    for shown in (table, button):
        shown.setSegmentationNode(segmentation)
    assert table.displayedSegmentIDs() == ["low", "high"]
    table.setSelectedSegmentIDs(["high"])
    segmentation.GetSegmentation().AddEmptySegment("third", "third")
    assert table.segmentCount() == 3
    assert table.selectedSegmentIDs() == ["high"]
    assert not button.checked
    button.click()
    assert segmentation.GetSegmentation().ContainsRepresentation("Closed surface")
    segmentation.RemoveClosedSurfaceRepresentation()
    assert not button.checked


def test_segment_editor_remembers_what_to_edit(segmentation):
    editor = slicer.modules.segmenteditor.widgetRepresentation().self().editor
    editor.setSegmentationNode(segmentation)
    assert slicer.modules.SegmentEditorWidget.editor.segmentationNode() is segmentation


def test_displayable_nodes_have_subject_hierarchy_items(add_volume):
    tree = slicer.mrmlScene.GetSubjectHierarchyNode()
    volume = add_volume()
    roi = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "Box")
    roi.SetSize(10, 20, 30)
    assert tree.GetItemName(tree.GetItemByDataNode(volume)) == "CT"
    assert tree.GetItemByDataNode(roi)
    slicer.mrmlScene.RemoveNode(volume)
    assert not tree.GetItemByDataNode(volume)


def test_number_widgets():
    for box in (ctk.ctkSliderWidget(), ctk.ctkDoubleSpinBox()):
        heard = []
        box.connect("valueChanged(double)", heard.append)
        box.minimum, box.maximum, box.decimals = -1, 2, 1
        box.value = 1.25
        assert box.value == pytest.approx(1.3)
        box.value = 99
        assert heard == pytest.approx([1.3, 2])
    limits, heard = ctk.ctkRangeWidget(), []
    limits.setRange(-5, 5)
    limits.connect("valuesChanged(double,double)", lambda low, high: heard.append((low, high)))
    limits.setValues(-2, 3)
    limits.minimumValue = -1
    assert heard == [(-2, 3), (-1, 3)]


def test_path_widgets():
    edit, button, heard = ctk.ctkPathLineEdit(), ctk.ctkDirectoryButton(), []
    edit.connect("currentPathChanged(QString)", heard.append)
    button.connect("directoryChanged(QString)", heard.append)
    host.answerNext("file", "/models/a.sam3d")
    edit.browse()
    host.answerNext("file", "/models")
    button.click()
    button.click()  # dismissed
    assert heard == ["/models/a.sam3d", "/models"]
    assert (edit.currentPath, button.directory, button.text) == ("/models/a.sam3d", "/models", "/models")
    edit.addCurrentPathToHistory()
    assert edit.comboBox().findText("/models/a.sam3d") == 0


def test_collapsible_button_hides_its_contents():
    section, heard = ctk.ctkCollapsibleButton("Advanced"), []
    child = qt.QLabel("inside", section)
    section.connect("contentsCollapsed(bool)", heard.append)
    section.show()
    assert child.visible
    section.collapsed = True
    assert not child.visible
    section.checked = True
    assert child.visible
    assert heard == [True, False]


def test_other_ctk_widgets():
    picker, heard = ctk.ctkColorPickerButton(), []
    picker.connect("colorChanged(QColor)", lambda color: heard.append(color.name()))
    picker.color = qt.QColor(255, 0, 128)
    picker.color = qt.QColor(255, 0, 128)
    assert heard == ["#ff0080"]
    box = ctk.ctkComboBox()
    box.defaultText = "Choose"
    assert (box.placeholderText, box.currentIndex) == ("Choose", -1)
    browser = ctk.ctkFittedTextBrowser()
    browser.plainText = "one"
    height = browser.sizeHint().height()
    browser.plainText = "\n".join(["one"] * 20)
    assert browser.sizeHint().height() > height + 50
    menu_button = ctk.ctkMenuButton()
    menu_button.setMenu(qt.QMenu(menu_button))
    assert menu_button.menu() is not None
