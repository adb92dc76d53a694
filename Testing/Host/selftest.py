"""Run the self-test of a module on the host, as Slicer's button "Reload and Test" does: `selftest.py MODULE.py`."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import host


def main() -> int:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    host.install()
    path = Path(sys.argv[1])
    host.load_module(path)
    try:
        host.run_self_test(path.stem)
        host.assert_clean()
    finally:
        host.unload_all()
    return 0


if __name__ == "__main__":
    sys.exit(main())
