"""The layout, and who may import whom: one table, to which every module of the library is held."""

import ast
import re
import subprocess
import sys

import pytest

from conftest import MODULE

LIBRARY = MODULE / "SAM3DSegmentLib"
MODULES = {
    ".".join(path.relative_to(LIBRARY).with_suffix("").parts): path
    for path in sorted(LIBRARY.rglob("*.py"))
    if path.name != "__init__.py"
}
MOST_LINES = 350  # of a file
MOST_AT_THE_ROOT = 24
MOST_LINES_OF_A_FUNCTION = 60

# From the ground up: a wing may import itself and what stands above it here, and nothing else of ours. A wing is a
# folder, or some modules at the package's root.
WINGS = {
    "base": "base/",
    "words": "channel card settings geometry intensity preparation suitability",
    "formats": "formats/",
    "method": "decoder detail losses network work quality streaming postprocessing metrics",
    "sam": "sam/",
    "models": "encoder model_file model_store",
    "places": "places/",
    "inference": "inference results",
    "training": "training/",
    "bench": "bench/",
    "remote": "remote/",
    "commands": "commands/",
    "command line": "cli __main__",
    "scene": "bridge/scene/",
    "bridge": "bridge/",
    "panel": "bridge/panel/",
}
ORDER = list(WINGS)
SLICER_SIDE = {"slicer", "vtk", "qt", "ctk", "PythonQt", "PySide6", "vtkmodules"}
IN_SLICER = {"scene", "bridge", "panel"}


def wing_of(module):
    """The wing of a module such as "training.loop", or None."""
    folder, _, _ = module.rpartition(".")
    for wing, members in WINGS.items():
        if (folder.replace(".", "/") + "/" == members) if folder else (module in members.split()):
            return wing
    return None


def imports(source):
    """(level, module, names) of every import statement, wherever it stands."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name, ()) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.level, node.module or "", tuple(alias.name for alias in node.names)


def others(source):
    """Packages that are not ours."""
    return {name.split(".")[0] for level, name, _ in imports(source) if not level} - {LIBRARY.name}


def ours(module, source):
    """Modules of the library that a module imports, as "training.loop"."""
    found = set()
    for level, name, names in imports(source):
        if level:
            base = module.split(".")[:-level]
            base = [*base, *filter(None, name.split("."))]
        elif name.split(".")[0] == LIBRARY.name:
            base = name.split(".")[1:]
        else:
            continue
        whole = ".".join(base)
        found |= {whole} if whole in MODULES else {".".join([*base, part]) for part in names}
    return found & set(MODULES)


def forbidden(module, source):
    """Sentences: what is wrong with the imports of a module."""
    wing = wing_of(module)
    allowed = ORDER[: ORDER.index(wing) + 1]
    return [
        f"{module}, of {wing!r}, imports {other} of {wing_of(other)!r}; it may import {', '.join(allowed)}."
        for other in sorted(ours(module, source))
        if wing_of(other) not in allowed
    ]


def test_the_library_is_found():
    assert {"geometry", "decoder", "inference", "training.loop", "bridge.panel.widget"} <= set(MODULES)


@pytest.mark.parametrize("module", MODULES)
def test_a_module_has_a_wing_and_imports_only_what_it_may(module):
    wing = wing_of(module)
    assert wing is not None, f"{module} is of no wing; put it into one of {WINGS}."
    assert not forbidden(module, MODULES[module].read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("module", "line", "named"),
    [
        ("base.files", "from ..card import Label", "card"),
        ("geometry", "from .training import loop", "training.loop"),
        ("geometry", "import SAM3DSegmentLib.bridge.logic", None),
        ("decoder", "def f():\n    from SAM3DSegmentLib.bridge.logic import x", "bridge.logic"),
        ("training.loop", "from ..commands import doctor", "commands.doctor"),
        ("bridge.scene.volumes", "from ..panel import widget", "bridge.panel.widget"),
        ("cli", "from . import bridge", None),
    ],
)
def test_a_forbidden_import_is_told_in_a_sentence(module, line, named):
    if named is None:  # a package, or a dotted import, which nobody here writes
        assert "bridge" in line
        return
    (sentence,) = forbidden(module, line)
    assert f"imports {named} of" in sentence
    assert "it may import base" in sentence


@pytest.mark.parametrize("module", MODULES)
def test_the_library_is_imported_by_relative_imports_of_modules(module):
    """Others would not be seen by the table."""
    for level, name, _ in imports(MODULES[module].read_text(encoding="utf-8")):
        assert level or name.split(".")[0] != LIBRARY.name, f"{module} imports {name} by its full name."


@pytest.mark.parametrize("module", MODULES)
def test_only_the_bridge_imports_slicer_vtk_or_qt_and_only_the_core_torch(module):
    found = others(MODULES[module].read_text(encoding="utf-8"))
    if wing_of(module) in IN_SLICER:
        assert not found & {"torch", "torchvision", "monai", "segment_anything"}
    else:
        assert not found & SLICER_SIDE


@pytest.mark.parametrize("module", MODULES)
def test_segmenting_needs_no_training_package_and_training_no_monai(module):
    """Whose newest version demands the newest torch."""
    found = others(MODULES[module].read_text(encoding="utf-8"))
    if wing_of(module) not in ("training", "bench"):
        assert "lightning_fabric" not in found
    if wing_of(module) != "bench" and module != "commands.evaluation":
        assert "monai" not in found


@pytest.mark.parametrize("module", MODULES)
def test_no_file_and_no_function_needs_a_scroll_bar(module):
    source = MODULES[module].read_text(encoding="utf-8")
    assert source.count("\n") <= MOST_LINES
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert node.end_lineno - node.lineno < MOST_LINES_OF_A_FUNCTION, f"{module}.{node.name}"


def test_the_root_is_no_hall():
    assert len(list(LIBRARY.glob("*.py"))) <= MOST_AT_THE_ROOT


def test_the_readme_names_every_folder():
    table = (MODULE.parent / "README.md").read_text(encoding="utf-8").partition("| folder | contents |")[2]
    first_cells = " ".join(row.split("|")[1] for row in table.partition("\n\n")[0].splitlines() if row)
    folders = {path.parent.relative_to(LIBRARY).as_posix() for path in MODULES.values()} - {"."}
    assert set(re.findall(r"`(\S+)`", first_cells)) == folders


def test_importing_the_package_and_the_command_line_imports_no_heavy_library():
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import SAM3DSegmentLib.cli, SAM3DSegmentLib.model_store; "
        "print([m for m in ('torch', 'SimpleITK', 'numpy', 'monai', 'segment_anything') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code, str(MODULE)], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
