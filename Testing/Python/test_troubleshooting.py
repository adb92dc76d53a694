"""docs/troubleshooting.md quotes messages that the program really gives."""

import ast
import re

import pytest

from conftest import MODULE, ROOT

PAGE = ROOT / "docs" / "troubleshooting.md"


def literals():
    """All texts of the package, what is filled in replaced by a NUL."""
    found = []
    for path in (MODULE / "SAM3DSegmentLib").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else "\0" for part in node.values]
                found.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(re.sub(r"%[ds]|{\w+}", "\0", node.value))
    return found


LITERALS = literals()


def quoted():
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("| ") and not line.startswith("| message"):
            yield from re.findall(r"`((?:[^`\\]|\\`)+)`", line.split(" | ")[0])


@pytest.mark.parametrize("message", quoted())
def test_each_message_of_the_page_is_given_by_the_program(message):
    pieces = [re.escape(piece.strip()) for piece in message.replace("\\`", "`").split("...")]
    pattern = re.compile(".*".join(pieces), re.DOTALL)
    assert any(pattern.search(literal) for literal in LITERALS), message
