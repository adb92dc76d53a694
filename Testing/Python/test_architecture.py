"""Rules of the layout that no single module can keep."""

import ast
import subprocess
import sys

import pytest

from conftest import MODULE

LIBRARY = MODULE / "SAM3DSegmentLib"
CORE = [path for path in LIBRARY.rglob("*.py") if "bridge" not in path.parts]
SLICER_SIDE = {"slicer", "vtk", "qt", "ctk", "PythonQt", "PySide6", "vtkmodules"}


def imports(path):
    return [
        node
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, (ast.Import, ast.ImportFrom))
    ]


def imported(path):
    """Packages of others."""
    for node in imports(path):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module.split(".")[0]


def imported_from_ours(path):
    """Modules and packages of ours, as words: `from .a import b` gives a and b."""
    for node in imports(path):
        if isinstance(node, ast.Import):
            yield from (word for alias in node.names for word in alias.name.split(".") if "SAM3D" in alias.name)
        elif node.level or node.module.startswith("SAM3DSegmentLib"):
            yield from (node.module or "").split(".")
            yield from (alias.name for alias in node.names)


def test_the_core_is_found():
    assert {"geometry.py", "decoder.py", "inference.py", "loop.py"} <= {path.name for path in CORE}


@pytest.mark.parametrize("path", CORE, ids=lambda path: str(path.relative_to(LIBRARY)))
def test_the_core_never_imports_slicer_vtk_or_qt(path):
    assert not set(imported(path)) & SLICER_SIDE
    assert "bridge" not in imported_from_ours(path)


@pytest.mark.parametrize(
    "line", ["from .bridge import nodes", "from . import bridge", "import SAM3DSegmentLib.bridge.nodes",
             "from SAM3DSegmentLib.bridge.nodes import x", "def f():\n    from ..bridge.nodes import x"]
)  # fmt: skip
def test_an_import_of_the_bridge_is_seen(tmp_path, line):
    (tmp_path / "core.py").write_text(line)
    assert "bridge" in imported_from_ours(tmp_path / "core.py")


@pytest.mark.parametrize("path", [*LIBRARY.glob("bridge/*.py"), MODULE / "SAM3DSegment.py"], ids=lambda path: path.name)
def test_only_the_core_names_torch(path):
    assert not set(imported(path)) & {"torch", "torchvision", "monai", "segment_anything"}


@pytest.mark.parametrize("path", CORE, ids=lambda path: str(path.relative_to(LIBRARY)))
def test_segmenting_needs_no_training_package(path):
    if "training" not in path.parts and path.name != "evaluation.py":
        assert "monai" not in set(imported(path))


def test_importing_the_package_and_the_command_line_imports_no_heavy_library():
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import SAM3DSegmentLib.cli, SAM3DSegmentLib.model_store; "
        "print([m for m in ('torch', 'SimpleITK', 'numpy', 'monai', 'segment_anything') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code, str(MODULE)], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
