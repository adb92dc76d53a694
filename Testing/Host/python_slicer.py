"""The program PythonSlicer: a launcher that starts Python as a child of its own, and waits, as Slicer's does.

The child has this process's standard input, output and error. A signal that is sent here does not reach it: whoever
kills the launcher leaves the child running. When the child dies by a signal, the launcher says so and ends with 1, like
any program that has failed.

    python_slicer.py HIDDEN_PACKAGES_FILE ARGUMENTS_OF_PYTHON...
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

_SITE = Path(__file__).resolve().parent / "child_site"


def main() -> int:
    hidden, *arguments = sys.argv[1:]
    environment = dict(os.environ)
    if Path(hidden).is_file():
        environment["SLICER_HOST_HIDDEN_PACKAGES"] = hidden
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(_SITE), environment.get("PYTHONPATH")]))
    code = subprocess.Popen([sys.executable, *arguments], env=environment).wait()
    if code >= 0:
        return code
    program = Path(sys.argv[0]).with_name("python-real")
    sys.stderr.write(f"error: [{program}] exit abnormally - Report the problem.\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
