"""The benchmark commands run and say what they measured; how fast anything is, is no matter for a test."""

import json

import pytest


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ("decoder", "--image-size", "64", "--rounds", "1"),
        ("encoder", "--image-size", "64", "--rounds", "1"),
        ("startup", "--rounds", "1"),
        ("volume", "--slices", "2", "4"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_benchmark_prints_a_table_and_writes_its_figures(run_cli, tmp_path, arguments):
    result = run_cli("bench", *arguments, "--json", tmp_path / "figures.json")
    assert result.returncode == 0, result.stderr
    assert len(result.stdout.splitlines()) > 2
    assert json.loads((tmp_path / "figures.json").read_text())
