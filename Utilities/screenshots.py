"""Pictures for the README and the tutorial: the panel in its states, and the result in Slicer's own views.

The panel is drawn by the stand-in host (Testing/Host), so its widgets look plainer than in Slicer; the views are drawn
by Slicer's displayable managers, and the chart of a training by VTK from the nodes that Slicer's plot view shows.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
for folder in ("MODELS", "WEIGHTS", "CACHE"):  # not those of whoever runs this
    os.environ[f"SAM3DSEGMENT_{folder}"] = f"/home/you/SAM3DSegment/{folder.lower()}"
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "Testing" / "Host"))

import host  # noqa: E402 - found through the line above

host.install()

import slicer  # noqa: E402
import vtk  # noqa: E402

MODULE = ROOT / "SAM3DSegment" / "SAM3DSegment.py"
SAMPLE = MODULE.parent / "Resources" / "SampleData" / "hippocampus_015.nii.gz"
CASES = ROOT / "Testing" / "Data" / "hippocampus"
LABELS = {"Anterior hippocampus": (230, 159, 0), "Posterior hippocampus": (86, 180, 233)}
OUTPUT = ROOT / "Resources" / "Screenshots"
PANEL_WIDTH = 460
VIEW_PIXELS = 480
SLICE_MANAGERS = ("vtkMRMLModelSliceDisplayableManager", "vtkMRMLSegmentationsDisplayableManager2D")
THREE_D_MANAGERS = (
    "vtkMRMLCameraDisplayableManager",
    "vtkMRMLViewDisplayableManager",
    "vtkMRMLModelDisplayableManager",
    "vtkMRMLSegmentationsDisplayableManager3D",
)


def main() -> None:
    OUTPUT.mkdir(parents=True, exist_ok=True)
    widget = host.load_module(MODULE)[2]
    volume = slicer.util.loadVolume(str(SAMPLE))
    widget.parent.resize(PANEL_WIDTH, 10)
    widget.parent.show()
    widget.ui.inputSelector.setCurrentNode(volume)
    grab(widget, "idle")

    widget.ui.segmentButton.click()
    bar = widget.ui.progressBar
    wait(lambda: bar.maximum > 0 and bar.value > bar.maximum // 4)
    grab(widget, "running")
    wait(lambda: widget.ui.segmentButton.text == "Segment")
    grab(widget, "results")
    segmentation = widget.ui.outputSelector.currentNode()

    far = slicer.util.addVolumeFromArray(slicer.util.arrayFromVolume(volume).repeat(4, 0).repeat(4, 1), name="head")
    widget.ui.inputSelector.setCurrentNode(far)
    grab(widget, "warning")
    widget.ui.inputSelector.setCurrentNode(volume)
    slicer.mrmlScene.RemoveNode(far)
    widget.ui.advancedBox.collapsed = False
    widget.panel._parameters.device = "cuda"
    widget.ui.segmentButton.click()
    wait(lambda: widget.ui.segmentButton.text == "Segment")
    grab(widget, "error")

    widget.panel._parameters.device = "auto"
    for section, collapsed in (("segmentSection", True), ("resultsSection", True), ("setupSection", False)):
        getattr(widget.ui, section).collapsed = collapsed
    widget.ui.checkButton.click()
    wait(lambda: widget.ui.checkLabel.text)
    widget.ui.checkLabel.text = widget.ui.checkLabel.text.replace(sys.prefix, "/home/you/Slicer")
    grab(widget, "setup")

    widget.ui.setupSection.collapsed = True
    draw_slice_view(volume, segmentation, OUTPUT / "slice_view.png")
    draw_3d_view(segmentation, OUTPUT / "3d_view.png")
    with tempfile.TemporaryDirectory() as folder:
        segment_folder(widget, Path(folder))
    with tempfile.TemporaryDirectory() as folder:  # last: its segmentations would be in the views, too
        train(widget, Path(folder))
    host.unload_all()


def segment_folder(widget, folder: Path) -> None:
    """While the third of four volumes is computed."""
    ui = widget.ui
    ui.folderSection.collapsed = False
    for button, path in ((ui.chooseImagesFolderButton, CASES / "imagesTr"), (ui.chooseResultsFolderButton, folder)):
        host.answerNext("file", str(path))
        button.click()
    ui.folderButton.click()
    wait(lambda: 240 < ui.folderProgressBar.value < 300)
    ui.folderImagesLabel.text, ui.folderResultsLabel.text = "/home/you/images", "/home/you/masks"
    grab(widget, "folder")
    wait(lambda: ui.folderButton.text == "Segment folder")
    ui.folderSection.collapsed = True


def train(widget, folder: Path) -> None:
    """Cases are added from the scene, and a model is trained on them for a minute."""
    ui, shown = widget.ui, "/home/you/cases"
    cases = folder / "cases"
    cases.mkdir()
    for name in ("MODELS", "CACHE"):
        os.environ[f"SAM3DSEGMENT_{name}"] = str(folder / name.lower())
    ui.trainSection.collapsed = False
    host.answerNext("file", str(cases))
    ui.chooseCasesButton.click()
    for image in sorted((CASES / "imagesTr").iterdir()):
        volume, segmentation = load_case(image)
        ui.caseSegmentationSelector.setCurrentNode(segmentation)
        ui.caseVolumeSelector.setCurrentNode(volume)
        ui.addCaseButton.click()
        wait(lambda: "being read" not in ui.casesLabel.text)
    ui.modelNameEdit.text = "my-hippocampus"
    ui.minutesBox.value = 1
    ui.casesFolderLabel.text = shown
    grab(widget, "train")

    ui.trainButton.click()
    wait(lambda: ui.trainingStatusLabel.text.count("Dice") and ui.trainingProgressBar.value > 44, 1200)
    ui.casesFolderLabel.text = shown
    grab(widget, "training")
    draw_chart(OUTPUT / "training_chart.png")
    wait(lambda: ui.trainButton.text == "Train")
    if "Done" not in ui.trainingStatusLabel.text:
        raise RuntimeError(ui.trainingStatusLabel.text)


def load_case(image: Path):
    """A volume, and its label map as a segmentation with names, as a user draws it."""
    volume = slicer.util.loadVolume(str(image))
    labels = slicer.util.loadVolume(str(CASES / "labelsTr" / image.name), {"labelmap": True})
    segmentation = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", f"{volume.GetName()} segmentation")
    slicer.modules.segmentations.logic().ImportLabelmapToSegmentationNode(labels, segmentation)
    slicer.mrmlScene.RemoveNode(labels)
    for index, (name, color) in enumerate(LABELS.items()):
        segment = segmentation.GetSegmentation().GetNthSegment(index)
        segment.SetName(name)
        segment.SetColor(*(component / 255 for component in color))
    return volume, segmentation


def draw_chart(path: Path) -> None:
    """The chart's series with their colours and markers."""
    [node] = slicer.util.getNodesByClass("vtkMRMLPlotChartNode")
    chart = vtk.vtkChartXY()
    chart.SetTitle(node.GetTitle())
    chart.SetShowLegend(True)
    for place, title in ((vtk.vtkAxis.BOTTOM, node.GetXAxisTitle()), (vtk.vtkAxis.LEFT, node.GetYAxisTitle())):
        chart.GetAxis(place).SetTitle(title)
    for index in range(node.GetNumberOfPlotSeriesNodes()):
        series = node.GetNthPlotSeriesNode(index)
        line = chart.AddPlot(vtk.vtkChart.LINE)
        table = series.GetTableNode().GetTable()
        line.SetInputData(table, series.GetXColumnName(), series.GetYColumnName())
        line.SetColorF(*series.GetColor())
        line.SetWidth(2)
        line.SetMarkerStyle(series.GetMarkerStyle())
    view = vtk.vtkContextView()
    window = view.GetRenderWindow()
    window.SetOffScreenRendering(1)
    window.SetSize(VIEW_PIXELS, VIEW_PIXELS * 3 // 4)
    view.GetRenderer().SetBackground(1, 1, 1)
    view.GetScene().AddItem(chart)
    save(window, path)


def wait(condition, timeout_s: float = 300) -> None:
    if not host.pump(condition, timeout_s):
        raise RuntimeError("the panel did not get there in time: " + host.take_errors())


def grab(widget, name: str) -> None:
    """The panel at the height that its contents need."""
    for _ in range(2):  # wrapped labels tell their height only once they have their width
        host.process_events()
        widget.parent.resize(PANEL_WIDTH, widget.parent.layout().totalHeightForWidth(PANEL_WIDTH))
    host.process_events()
    widget.parent.grab().save(str(OUTPUT / f"{name}.png"))


def draw_slice_view(volume, segmentation, path: Path) -> None:
    """The sagittal slice with the largest mask, as Slicer's yellow view shows it."""
    application = slicer.app.applicationLogic()
    slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(slicer.mrmlScene, True)
    factory = slicer.vtkMRMLSliceViewDisplayableManagerFactory.GetInstance()
    register(factory, SLICE_MANAGERS, application)
    logic = slicer.vtkMRMLSliceLogic()
    logic.SetMRMLApplicationLogic(application)
    logic.SetMRMLScene(slicer.mrmlScene)
    logic.AddSliceNode(path.stem)
    application.GetSliceLogics().AddItem(logic)
    node = logic.GetSliceNode()
    node.SetOrientation("Sagittal")
    logic.GetSliceCompositeNode().SetBackgroundVolumeID(volume.GetID())
    window, renderer = make_window()
    group = factory.InstantiateDisplayableManagers(renderer)  # kept: the view lives as long as it does
    group.SetMRMLDisplayableNode(node)
    node.SetDimensions(VIEW_PIXELS, VIEW_PIXELS, 1)
    logic.ResizeSliceNode(VIEW_PIXELS, VIEW_PIXELS)
    logic.FitSliceToAll(VIEW_PIXELS, VIEW_PIXELS)
    node.JumpSliceByCentering(*widest_place(volume, segmentation))
    mapper = vtk.vtkImageMapper()
    mapper.SetColorWindow(255)
    mapper.SetColorLevel(127.5)
    mapper.SetInputConnection(logic.GetImageDataConnection())
    actor = vtk.vtkActor2D()
    actor.SetMapper(mapper)
    actor.GetProperty().SetDisplayLocationToBackground()
    renderer.AddViewProp(actor)
    segmentation.GetDisplayNode().SetVisibility2DFill(False)
    save(window, path)


def widest_place(volume, segmentation) -> list[float]:
    """Centre, in RAS, of the slice through the volume's first axis that has most segment voxels."""
    ids = segmentation.GetSegmentation().GetSegmentIDs()
    mask = sum(slicer.util.arrayFromSegmentBinaryLabelmap(segmentation, i, volume) for i in ids)
    i = int(mask.sum(axis=(0, 1)).argmax())
    k, j = (int(places.mean()) for places in mask[:, :, i].nonzero())
    to_ras = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(to_ras)
    return list(to_ras.MultiplyPoint((i, j, k, 1))[:3])


def draw_3d_view(segmentation, path: Path) -> None:
    segmentation.CreateClosedSurfaceRepresentation()
    factory = slicer.vtkMRMLThreeDViewDisplayableManagerFactory.GetInstance()
    register(factory, THREE_D_MANAGERS, slicer.app.applicationLogic())
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLViewNode", "Picture")
    node.SetLayoutName("Picture")
    node.SetBoxVisible(False)
    node.SetAxisLabelsVisible(False)
    window, renderer = make_window()
    group = factory.InstantiateDisplayableManagers(renderer)
    group.SetMRMLDisplayableNode(node)
    renderer.ResetCamera()
    renderer.GetActiveCamera().Azimuth(60)
    renderer.GetActiveCamera().Zoom(1.15)
    renderer.ResetCameraClippingRange()
    save(window, path)


def register(factory, names: tuple[str, ...], application) -> None:
    factory.SetMRMLApplicationLogic(application)
    for name in names:
        factory.RegisterDisplayableManager(name)


def make_window():
    window, renderer = vtk.vtkRenderWindow(), vtk.vtkRenderer()
    window.SetOffScreenRendering(1)
    window.SetMultiSamples(0)
    window.SetSize(VIEW_PIXELS, VIEW_PIXELS)
    window.AddRenderer(renderer)
    interactor = vtk.vtkRenderWindowInteractor()
    interactor.SetRenderWindow(window)
    interactor.SetInteractorStyle(vtk.vtkInteractorStyleUser())
    return window, renderer


def save(window, path: Path) -> None:
    window.Render()
    picture = vtk.vtkWindowToImageFilter()
    picture.SetInput(window)
    picture.ReadFrontBufferOff()
    writer = vtk.vtkPNGWriter()
    writer.SetFileName(str(path))
    writer.SetInputConnection(picture.GetOutputPort())
    writer.Write()


if __name__ == "__main__":
    main()
