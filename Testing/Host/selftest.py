"""Run the self-test of a module on the host, as Slicer's `slicer.testing.runUnitTest` does: `selftest.py MODULE.py`."""

from __future__ import annotations

import sys
import unittest
from pathlib import Path

import host


def main() -> int:
    host.install()
    path = Path(sys.argv[1])
    python, _module, _widget = host.load_module(path)
    suite = unittest.defaultTestLoader.loadTestsFromTestCase(getattr(python, f"{path.stem}Test"))
    result = unittest.TextTestRunner(verbosity=2).run(suite)
    errors = host.take_errors()
    if errors:
        sys.stderr.write(errors)
    host.unload_all()
    return 0 if result.wasSuccessful() and result.testsRun and not errors else 1


if __name__ == "__main__":
    sys.exit(main())
