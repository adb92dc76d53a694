"""What a user is told of an error."""

from __future__ import annotations

import logging

from slicer.i18n import tr as _

from ..base.errors import Sam3dError

logger = logging.getLogger(__name__)


def explain(error: BaseException) -> str:
    """Our own errors say what to do. Any other is a fault of the program: its traceback goes to the log."""
    if isinstance(error, Sam3dError):
        return str(error)
    logger.error("unexpected error", exc_info=error)
    return _("unexpected error: {kind}: {text}; please report it with the application log.").format(
        kind=type(error).__name__, text=error
    )
