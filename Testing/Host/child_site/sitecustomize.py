"""Python runs this when it starts as a child of the host's PythonSlicer: hide there what the host hides here."""

import os
import sys
from pathlib import Path

_host = str(Path(__file__).resolve().parents[1])
sys.path.insert(0, _host)
import packages  # noqa: E402 - found through the line above

sys.path.remove(_host)
packages.hideAsIn(os.environ["SLICER_HOST_HIDDEN_PACKAGES"])
