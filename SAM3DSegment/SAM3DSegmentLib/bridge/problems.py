"""Error messages for the user."""

from __future__ import annotations

import logging

from slicer.i18n import tr as _

from ..base.errors import Sam3dError

logger = logging.getLogger(__name__)


def explain(error: BaseException) -> str:
    """Our own errors have a message with a remedy. Any other is a bug: its traceback is logged."""
    if isinstance(error, Sam3dError):
        return str(error)
    logger.error("unexpected error", exc_info=error)
    return _("unexpected error: {kind}: {text}; please report it with the application log.").format(
        kind=type(error).__name__, text=error
    )
