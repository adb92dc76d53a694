"""In the section "Setup": on which computer is computed, and a test of the connection to it."""

from __future__ import annotations

import html
from collections.abc import Callable
from typing import Any

from slicer.i18n import tr as _

from ..preferences import remote, setRemote
from ..worker import lastObject
from .controls import enableUnless
from .protocols import Ui

SHOWN = ("device", "cuda", "mps", "free memory", "free disk")  # of what `doctor` finds, beside the first line

Run = Callable[[list[str], str, Callable[[str], None], Callable[[], None]], None]  # see SetupSection


class ConnectionBox:
    """run(arguments, status, onLine, onFinished) starts a command, and shows its failure."""

    def __init__(self, ui: Ui, run: Run) -> None:
        self._ui = ui
        self._run = run
        ui.remoteHostEdit.text = remote()
        ui.remoteHostEdit.connect("textChanged(QString)", self._changed)
        ui.testConnectionButton.connect("clicked(bool)", lambda _checked=False: self._test())

    def update(self, isIdle: bool) -> None:
        why = "" if remote() else _("Give the name of another computer first.")
        enableUnless(self._ui.testConnectionButton, why, _("Connect, and list what that computer offers."))
        if not isIdle:
            self._ui.testConnectionButton.enabled = False

    def _changed(self, text: str) -> None:
        setRemote(text.strip())
        self._ui.connectionLabel.text = ""
        self.update(isIdle=True)

    def _test(self) -> None:
        host, lines = remote(), list[str]()
        self._ui.connectionLabel.text = ""
        self._run(
            ["doctor", "--json", "--remote", host],
            _("Connecting to {host}...").format(host=host),
            lines.append,
            lambda: self._show(host, lastObject(lines)),
        )

    def _show(self, host: str, examination: dict[str, Any]) -> None:
        found = [(name, text) for name, text in examination["findings"] if name == host or name.startswith(SHOWN)]
        rows = "".join(
            f"<tr><td>{html.escape(name)}&nbsp;</td><td>{html.escape(text)}</td></tr>" for name, text in found
        )
        problems = "".join(f"<p>\u26a0 {html.escape(problem)}</p>" for problem in examination["problems"])
        self._ui.connectionLabel.text = f"{problems}<table>{rows}</table>"
