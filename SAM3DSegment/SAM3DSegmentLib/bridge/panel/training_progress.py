"""The reports of a running training, as text and as a live chart."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

from slicer.i18n import tr as _

from ...card import Label
from .training_plot import History, TrainingPlot

logger = logging.getLogger(__name__)


class TrainingProgress:
    """stage: that of the last progress, empty before; report: the path of the report, empty until it is written."""

    def __init__(self) -> None:
        self.stage = ""
        self.report = ""
        self._name = ""
        self._labels: tuple[Label, ...] = ()
        self._history = History()
        self._plot = TrainingPlot()

    def begin(self, name: str, labels: tuple[Label, ...]) -> None:
        """Forget the training before, and show an empty chart."""
        self.stage = self.report = ""
        self._name, self._labels, self._history = name, labels, History()
        self._draw(lambda: self._plot.begin(name))

    def end(self) -> None:
        """The chart stays in the scene, but the views are the user's again."""
        self._draw(self._plot.restoreLayout)

    def addEvent(self, event: Mapping[str, Any]) -> None:
        """A line of `train --progress json` that names an event."""
        if event["event"] == "report":
            self.report = event["file"]
            return
        self._history.add(event)
        colors = {label.name: label.color for label in self._labels}
        self._draw(lambda: self._plot.show(self._name, self._history, colors))

    def describe(self, stage: str, done: int, total: int, secondsToGo: float | None) -> str:
        """The progress in one line, and in a second one the Dice of the last validation."""
        self.stage = stage
        text = describeStage(stage, done, total)
        if secondsToGo is not None and done < total:
            text += ", " + _describeSeconds(secondsToGo)
        if self._history.dices:
            text += "\n" + _("Held-out Dice: {dice}").format(dice=describeDice(self._history.dices[-1][1]))
        return text

    def _draw(self, action: Callable[[], object]) -> None:
        """A chart that cannot be drawn is no reason to lose a training."""
        try:
            action()
        except Exception:
            logger.exception("the chart of the training could not be drawn")


def describeStage(stage: str, done: int, total: int) -> str:
    if stage == "send":
        return _("Sending: {done:.0f} of {total:.0f} MB").format(done=done / 1e6, total=total / 1e6)
    if stage == "look":
        return _("Reading case {done} of {total}").format(done=done, total=total)
    if stage == "prepare":
        return _("Preparing case {done} of {total}").format(done=done, total=total)
    if stage == "encode":
        return _("Encoding slice {done} of {total}").format(done=done, total=total)
    return _("Training: {done:.1f} of {total:.1f} min").format(done=done / 60, total=total / 60)


def describeDice(diceByLabel: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.3f}" for name, value in diceByLabel.items())


def _describeSeconds(seconds: float) -> str:
    if seconds < 100:
        return _("about {seconds} s to go").format(seconds=math.ceil(seconds))
    return _("about {minutes} min to go").format(minutes=math.ceil(seconds / 60))
