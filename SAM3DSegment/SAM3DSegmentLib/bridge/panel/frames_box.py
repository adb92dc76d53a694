"""The choice between the frame that is shown and all frames of its sequence."""

from __future__ import annotations

from slicer.i18n import tr as _

from ..scene.sequences import browserOf
from .controls import fillList, selectData
from .protocols import Parameters, Ui

THIS, ALL = "this", "all"


class FramesBox:
    """Shown where the volume is a frame of a sequence."""

    def __init__(self, ui: Ui) -> None:
        self._ui = ui
        self._parameters: Parameters | None = None
        fillList(ui.framesBox, {THIS: _("This frame"), ALL: _("All frames")})
        ui.framesBox.connect("currentIndexChanged(int)", self._chosen)

    @property
    def areAll(self) -> bool:
        """Whether all frames are to be segmented."""
        return self._parameters is not None and self._parameters.allFrames and self._isFrame()

    def update(self, parameters: Parameters | None, isRunning: bool) -> None:
        """Show what the parameters say, after the section has shown the rest of it."""
        self._parameters = parameters
        box = self._ui.framesBox
        if parameters is not None:
            selectData(box, ALL if parameters.allFrames else THIS)
        box.visible = self._isFrame()
        box.enabled = not isRunning
        if self.areAll:  # their segmentations are new ones
            self._ui.outputSelector.enabled = False
        self._ui.confidenceBox.enabled = not self.areAll

    def _isFrame(self) -> bool:
        volumeNode = self._parameters.inputVolume if self._parameters is not None else None
        return volumeNode is not None and browserOf(volumeNode) is not None

    def _chosen(self, index: int) -> None:
        if self._parameters is not None:
            self._parameters.allFrames = self._ui.framesBox.itemData(index) == ALL
