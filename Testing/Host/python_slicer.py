"""The program PythonSlicer: a launcher that starts Python as a child of its own, and waits, as Slicer's does.

The child has this process's standard input, output and error. A signal that is sent here does not reach it: whoever
kills the launcher leaves the child running. When the child dies by a signal, the launcher says so and ends with 1, like
any program that has failed.

The host sees which children there are in a folder that has a file for each, named by process id. If it has started a
warm Python, `-m MODULE` runs in a fork of that, unless packages are hidden, or SLICER_HOST_COLD is set.

    python_slicer.py HOST_FOLDER ARGUMENTS_OF_PYTHON...
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

_SITE = Path(__file__).resolve().parent / "child_site"


def main() -> int:
    folder, arguments = Path(sys.argv[1]), sys.argv[2:]
    hidden, environment = folder / "hidden_packages.json", dict(os.environ)
    if hidden.is_file():
        environment["SLICER_HOST_HIDDEN_PACKAGES"] = str(hidden)
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(_SITE), environment.get("PYTHONPATH")]))
    children, warm = folder / "children", folder / "warm_python"
    if warm.exists() and arguments[:1] == ["-m"] and not hidden.is_file() and "SLICER_HOST_COLD" not in environment:
        sys.path.insert(0, str(Path(__file__).resolve().parent))
        import warm_python

        code = warm_python.ask(warm, arguments, children)
    else:
        child = subprocess.Popen([sys.executable, *arguments], env=environment)
        (children / str(child.pid)).touch()
        code = child.wait()
    if code >= 0:
        return code
    sys.stderr.write(f"error: [{folder / 'python-real'}] exit abnormally - Report the problem.\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
