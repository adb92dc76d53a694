"""Messages and questions to the user, as plain text: they quote files, which may hold what looks like HTML."""

from __future__ import annotations

import html

import slicer


def tell(message: str, title: str) -> None:
    """Show an error, until the user has read it."""
    slicer.util.errorDisplay(plain(message), title)


def ask(question: str, title: str) -> bool:
    """Whether the user says OK."""
    return slicer.util.confirmOkCancelDisplay(plain(question), title)


def plain(text: str) -> str:
    """For message boxes and tool tips, which take a text for HTML if it looks so; then it is made to look as it is."""
    if "<" not in text and "&" not in text:
        return text
    lines = html.escape(text).replace("\n", "<br>")
    return f"<p>{lines}</p>"
