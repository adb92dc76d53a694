"""Loss and Dice of a training as a chart in Slicer's plot view."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import slicer
from slicer.i18n import tr as _

LOSS_COLOR = (110, 110, 110)
OTHER_COLOR = (0, 114, 178)  # of a label whose colour is not known


@dataclass
class History:
    """The figures of a training so far: (minutes, loss) often, and (minutes, Dice by label) at each validation."""

    losses: list[tuple[float, float]] = field(default_factory=list)
    dices: list[tuple[float, dict[str, float]]] = field(default_factory=list)

    def add(self, event: Mapping[str, Any]) -> None:
        """A line of `train --progress json` that names an event; an event without figures changes nothing."""
        if event["event"] == "loss":
            self.losses.append((event["seconds"] / 60, event["loss"]))
        elif event["event"] == "validation":
            self.dices.append((event["seconds"] / 60, event["dice"]))


class TrainingPlot:
    """One chart with its tables and series, in the scene but not saved with it.

    After the scene was closed they are made again from the history, so that nothing is lost.
    """

    def __init__(self) -> None:
        self._chart: slicer.vtkMRMLPlotChartNode | None = None
        self._tables: dict[str, slicer.vtkMRMLTableNode] = {}  # of "Loss" and "Dice"
        self._series: dict[str, slicer.vtkMRMLPlotSeriesNode] = {}  # by the column that they show
        self._layouts: tuple[int, int] | None = None  # the user's, and the one with a plot that was shown instead

    def begin(self, name: str) -> slicer.vtkMRMLPlotChartNode:
        """Show an empty chart for a new training, and return it; the chart of an earlier training is reused."""
        self._forgetClosedScene()
        for node in (*self._series.values(), *self._tables.values()):
            slicer.mrmlScene.RemoveNode(node)
        self._series.clear()
        self._tables.clear()
        chart = self._chart or _addNode("vtkMRMLPlotChartNode", "SAM3DSegment training")
        chart.SetXAxisTitle(_("Minutes of training"))
        chart.SetYAxisTitle(_("Loss, Dice"))
        chart.SetTitle(_("Training of {name}").format(name=name))
        self._showInLayout(chart)
        self._chart = chart
        return chart

    def restoreLayout(self) -> None:
        """The user's own layout again, if the views are still as they were changed for the chart."""
        manager = slicer.app.layoutManager()
        if manager is not None and self._layouts is not None and manager.layout == self._layouts[1]:
            manager.setLayout(self._layouts[0])
        self._layouts = None

    def _showInLayout(self, chart: slicer.vtkMRMLPlotChartNode) -> None:
        self.restoreLayout()
        manager = slicer.app.layoutManager()  # None without a main window
        before = manager.layout if manager is not None else 0
        slicer.modules.plots.logic().ShowChartInLayout(chart)
        if manager is not None and manager.layout != before:
            self._layouts = before, manager.layout

    def show(self, name: str, history: History, colors: Mapping[str, tuple[int, int, int]]) -> None:
        """Show the history in the chart; colors are those of the labels, RGB 0..255."""
        if slicer.mrmlScene.IsBatchProcessing():  # it is being closed or loaded; the next figures will be shown
            return
        self._forgetClosedScene()
        chart = self._chart or self.begin(name)
        if history.losses:
            self._fill(chart, "Loss", [_("Loss")], np.array(history.losses), {_("Loss"): LOSS_COLOR})
        if history.dices:
            labels = list(dict.fromkeys(label for _minutes, dice in history.dices for label in dice))
            # A validation leaves out a label that neither the cases nor the model have.
            rows = [[minutes, *(dice.get(label, np.nan) for label in labels)] for minutes, dice in history.dices]
            columns = [_("Dice {label}").format(label=label) for label in labels]
            chosen = {column: colors.get(label, OTHER_COLOR) for column, label in zip(columns, labels)}
            self._fill(chart, "Dice", columns, np.array(rows, float), chosen)

    def _fill(
        self,
        chart: slicer.vtkMRMLPlotChartNode,
        kind: str,
        columns: list[str],
        rows: np.ndarray,
        colors: Mapping[str, tuple[int, int, int]],
    ) -> None:
        minutes = _("Minutes")
        if kind not in self._tables:
            self._tables[kind] = _addNode("vtkMRMLTableNode", f"SAM3DSegment training {kind}")
        slicer.util.updateTableFromArray(self._tables[kind], rows, [minutes, *columns])
        for column in columns:
            if column not in self._series:
                series = _addNode("vtkMRMLPlotSeriesNode", column)
                series.SetAndObserveTableNodeID(self._tables[kind].GetID())
                series.SetXColumnName(minutes)
                series.SetYColumnName(column)
                series.SetPlotType(series.PlotTypeScatter)  # points by both columns, joined by lines
                series.SetMarkerStyle(series.MarkerStyleNone if kind == "Loss" else series.MarkerStyleCircle)
                series.SetColor(*(component / 255 for component in colors[column]))
                self._series[column] = series
                chart.AddAndObservePlotSeriesNodeID(series.GetID())
        chart.Modified()

    def _forgetClosedScene(self) -> None:
        """Nodes of a closed scene belong to no scene; nodes that the user has removed are treated alike."""
        if self._chart is not None and self._chart.GetScene() is None:
            self._chart = None
        if self._chart is None or any(node.GetScene() is None for node in self._tables.values()):
            self._tables.clear()
            self._series.clear()


def _addNode(className: str, name: str) -> Any:
    node = slicer.mrmlScene.AddNewNodeByClass(className, slicer.mrmlScene.GenerateUniqueName(name))
    node.SetSaveWithScene(False)
    return node
