"""The ctk and qMRML widgets of the stand-in host: what they hold, and what they tell whom."""

import numpy as np
import pytest
import slicer

import ctk
import host
import qt


@pytest.fixture
def selector():
    box = slicer.qMRMLNodeComboBox()
    box.nodeTypes, box.noneEnabled = ["vtkMRMLScalarVolumeNode"], True
    return box


def test_node_combo_box_lists_what_it_should(selector, add_volume):
    heard = []
    assert not selector.enabled
    selector.setMRMLScene(slicer.mrmlScene)
    assert selector.enabled
    selector.connect("currentNodeChanged(vtkMRMLNode*)", heard.append)
    selector.connect("currentNodeChanged(bool)", heard.append)
    volume = add_volume("first")
    labels = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "labels")
    slicer.mrmlScene.AddNewNodeByClass("vtkMRMLModelNode", "model")
    assert host.selector_entries(selector)[:3] == ["None", "first", "labels"]
    assert selector.currentNode() is None
    assert heard == []
    selector.hideChildNodeTypes = ["vtkMRMLLabelMapVolumeNode"]
    assert (selector.nodeCount(), selector.nodeFromIndex(0)) == (1, volume)
    selector.setCurrentNode(volume)
    assert heard == [volume, True]
    selector.setCurrentNode(labels)  # is not listed
    assert selector.currentNode() is None
    assert heard[2:] == [None, False]
    selector.setCurrentNode(volume)
    slicer.mrmlScene.RemoveNode(volume)
    assert selector.currentNode() is None
    assert heard[6:] == [None, False]


def test_node_combo_box_is_no_combo_box(selector):
    assert not isinstance(selector, qt.QComboBox)
    for name in ("nodes", "count", "currentText", "itemText", "currentIndex"):
        assert not hasattr(selector, name)


def test_another_node_of_the_same_name_is_told_and_again_when_an_earlier_row_goes(selector, add_volume):
    selector.setMRMLScene(slicer.mrmlScene)
    first, second = add_volume("same"), add_volume("same")
    selector.setCurrentNode(first)
    heard = []
    selector.connect("currentNodeChanged(vtkMRMLNode*)", heard.append)
    selector.setCurrentNode(second)
    selector.setCurrentNode(second)
    add_volume("other")
    assert heard == [second]
    slicer.mrmlScene.RemoveNode(first)  # the row of the second moves
    assert heard == [second, second]
    selector.setCurrentNode(None)
    assert heard == [second, second, None]


def test_a_rename_of_the_current_node_is_told_again(selector, add_volume):
    heard, volume = [], add_volume("first")
    other = add_volume("second")
    selector.setMRMLScene(slicer.mrmlScene)
    selector.setCurrentNode(volume)
    selector.connect("currentNodeChanged(vtkMRMLNode*)", heard.append)
    volume.SetName("renamed")
    assert heard == [volume]
    assert host.current_entry(selector) == "renamed"
    other.SetName("third")
    assert heard == [volume]
    assert host.selector_entries(selector)[1:3] == ["renamed", "third"]


def test_importing_a_scene_leaves_no_node_chosen(selector, add_volume, tmp_path):
    add_volume("stored")
    assert slicer.util.saveScene(str(tmp_path / "scene.mrb"))
    slicer.mrmlScene.Clear(False)
    heard, volume = [], add_volume("mine")
    selector.setMRMLScene(slicer.mrmlScene)
    selector.setCurrentNode(volume)
    selector.connect("currentNodeChanged(vtkMRMLNode*)", heard.append)
    slicer.app.ioManager().loadScene(str(tmp_path / "scene.mrb"), False)
    assert selector.currentNode() is None
    assert heard == [None]
    assert host.selector_entries(selector)[1:3] == ["mine", "stored"]


def test_the_user_creates_renames_and_deletes_nodes():
    box, byUser = slicer.qMRMLNodeComboBox(), []
    box.nodeTypes, box.baseName, box.renameEnabled = ["vtkMRMLSegmentationNode"], "Output", True
    box.addAttribute("vtkMRMLSegmentationNode", "Mine", "yes")
    box.connect("nodeAddedByUserAction(vtkMRMLNode*)", byUser.append)
    box.setMRMLScene(slicer.mrmlScene)
    slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "other")
    assert box.nodeCount() == 0
    host.choose_entry(box, "Create new Segmentation")
    added = box.currentNode()
    assert byUser == [added]
    assert (added.GetName(), added.GetAttribute("Mine")) == ("Output", "yes")
    host.answerNext("dialog", "Better name")
    host.choose_entry(box, "Rename current Segmentation")
    assert host.current_entry(box) == "Better name"
    host.choose_entry(box, "Delete current Segmentation")
    assert box.currentNode() is None
    assert box.addNode("vtkMRMLModelNode") is None
    assert box.addNode() is box.currentNode()


def test_without_none_no_node_is_chosen_until_somebody_does(add_volume):
    box = slicer.qMRMLNodeComboBox()
    box.nodeTypes = ["vtkMRMLScalarVolumeNode"]
    box.setMRMLScene(slicer.mrmlScene)
    volume = add_volume()
    add_volume("second")
    assert box.currentNode() is None
    box.setCurrentNode(volume)
    assert box.currentNode() is volume


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
    host.mouse_click(button)
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


def test_a_second_subject_hierarchy_is_merged(add_volume):
    """Merging removes the second node, of which the host hears as of every removal."""
    first = slicer.mrmlScene.GetSubjectHierarchyNode()
    second = slicer.vtkMRMLSubjectHierarchyNode()
    slicer.mrmlScene.AddNode(second)
    volume = add_volume()
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSubjectHierarchyNode") == 1
    assert first.GetItemName(first.GetItemByDataNode(volume)) == "CT"


@pytest.mark.parametrize("kind", [ctk.ctkSliderWidget, ctk.ctkDoubleSpinBox])
def test_real_numbers_are_not_rounded_to_what_is_shown(kind):
    box, heard = kind(), []
    box.minimum, box.maximum, box.decimals = -1, 2, 1
    box.connect("valueChanged(double)", heard.append)
    box.value = 1.23
    assert box.value == 1.23
    box.value = 99
    box.maximum = 1.5  # moves the value
    assert heard == [1.23, 2, 1.5]


def test_a_slider_tells_its_value_again_when_decimals_are_set():
    slider, heard = ctk.ctkSliderWidget(), []
    slider.connect("valueChanged(double)", heard.append)
    slider.decimals = 3
    assert heard == [0, 0]


def test_a_range_has_two_values():
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
    host.mouse_click(button.findChild(qt.QPushButton))
    button.browse()  # dismissed
    assert heard == ["/models/a.sam3d", "/models"]
    assert (edit.currentPath, button.directory) == ("/models/a.sam3d", "/models")
    assert not hasattr(button, "click")
    edit.addCurrentPathToHistory()
    assert edit.comboBox().findText("/models/a.sam3d") == 0


def test_collapsible_button_hides_its_contents():
    section, heard = ctk.ctkCollapsibleButton(), []
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


def test_a_menu_button_is_clicked_by_mouse_only():
    button, heard = ctk.ctkMenuButton(), []
    button.connect("clicked()", lambda: heard.append("clicked"))
    button.click()
    button.setMenu(qt.QMenu(button))
    host.mouse_click(button)
    assert heard == ["clicked", "clicked"]
    button.click()
    assert len(heard) == 2
    assert "opens its menu and waits" in host.take_errors()


def test_a_section_has_no_constructor_with_a_text():
    for arguments in (("Advanced",), (None, "Advanced")):
        with pytest.raises(ValueError, match="ctkCollapsibleButton"):
            ctk.ctkCollapsibleButton(*arguments)
