"""The work of a section in a child process: one at a time, with its progress bar and its line of status."""

from __future__ import annotations

import math
from collections.abc import Callable

from slicer.i18n import tr as _

import qt

from ..job import SceneJob
from ..problems import explain
from ..worker import CommandProcess


class CommandBox:
    """Shows one running command. onChanged() is called when a command has begun and when it has ended."""

    def __init__(
        self, statusLabel: qt.QLabel, onChanged: Callable[[], None], progressBar: qt.QProgressBar | None = None
    ) -> None:
        self._statusLabel = statusLabel
        self._onChanged = onChanged
        self._progressBar = progressBar
        self._job: SceneJob | CommandProcess | None = None
        self.isFinishing = False  # a training was asked to end early
        self._showBar(False)

    @property
    def isRunning(self) -> bool:
        return self._job is not None

    def run(
        self,
        arguments: list[str],
        status: str,
        onLine: Callable[[str], None],
        onFinished: Callable[[], None],
        onFailed: Callable[[str], None],
        onCancelled: Callable[[], None],
    ) -> None:
        """Start a command; nothing while another one runs. Each of the last three callbacks has to call `end`."""
        if self.isRunning:
            return
        process = CommandProcess(arguments, onLine, onFinished, onFailed, onCancelled)
        self.begin(process, status)
        process.start()

    def begin(self, job: SceneJob | CommandProcess, status: str) -> None:
        """Show a job that has just been started, or is about to."""
        self._job = job
        self.say(status)
        self._showBar(True)
        self._onChanged()

    def cancelOr(self, start: Callable[[], None], onFailed: Callable[[str], None]) -> None:
        """Cancel what is running; if nothing is, start."""
        if self.isRunning:
            self.cancel(_("Cancelling..."))
            return
        try:
            start()
        except Exception as error:  # Slicer would only print it, and the panel would look as if it had begun
            onFailed(explain(error))

    def say(self, text: str) -> None:
        self._statusLabel.text = text
        self._statusLabel.visible = True  # which may be hidden until there is something to say

    def showProgress(self, done: int, total: int, text: str) -> None:
        if self.isFinishing:
            return
        if self._progressBar is not None:
            self._progressBar.setRange(0, total)
            self._progressBar.value = done
        self.say(text)

    def finish(self, status: str) -> None:
        """Ask a training to end early with what it has reached."""
        if isinstance(self._job, CommandProcess):
            self.isFinishing = True
            self._job.finish()
            self.say(status)
            self._showBar(True)
            self._onChanged()

    def cancel(self, status: str) -> None:
        if self._job is not None:
            self.say(status)
            self._job.cancel()

    def end(self, status: str) -> None:
        """The command has ended, or could not be started."""
        self._job = None
        self.isFinishing = False
        self._showBar(False)
        self.say(status)
        self._onChanged()

    def abandon(self) -> None:
        """Stop the command without any callback; for when the module is closed."""
        if self._job is not None:
            self._job.abandon()
            self._job = None

    def _showBar(self, visible: bool) -> None:
        if self._progressBar is not None:
            if visible:
                self._progressBar.setRange(0, 0)  # busy, until there is progress
            self._progressBar.visible = visible


def describeProgress(stage: str, done: int, total: int, secondsToGo: float | None) -> str:
    text = _("{percent} % sent") if stage == "send" else _("{percent} % done")
    text = text.format(percent=100 * done // total)
    if secondsToGo is not None and done < total:
        text += ", " + _("about {seconds} s to go").format(seconds=math.ceil(secondsToGo))
    return text
