"""`sam3dsegment evaluate`: predictions beside references."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

from ..base.errors import InputError
from .shared import DONE, FAILED, add_command, read_json, say

logger = logging.getLogger(__name__)


def add(commands: Any) -> None:
    parser = add_command(commands, "evaluate", run, "compare predictions with references")
    parser.add_argument("--predictions", type=Path, required=True, metavar="DIR")
    parser.add_argument("--labels", type=Path, required=True, metavar="DIR", help="references with the same names")
    parser.add_argument(
        "--tolerance-mm", type=float, default=1.0, metavar="MM", help="of the surface Dice; default: %(default)s"
    )
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help='settings as JSON, such as {"regions": {"WT": [1, 2, 3]}}',
    )
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--csv", type=Path, metavar="FILE")
    parser.add_argument("--overwrite", action="store_true", help="replace the files of --json and --csv")


def run(options: argparse.Namespace) -> int:
    """Without a watch: distances of one case can take minutes, and an interrupt should end them at once."""
    from ..base.files import check_new_file, write_json, write_text
    from ..training.description import as_regions, names_of_values, regions_of
    from .evaluation import evaluate_folders
    from .figures import as_csv, as_dicts, as_table

    outputs = [path for path in (options.json, options.csv) if path]
    read = [file for folder in (options.predictions, options.labels) if folder.is_dir() for file in folder.iterdir()]
    for path in outputs:
        check_new_file(path, options.overwrite, read)
    if len({path.absolute() for path in outputs}) < len(outputs):
        raise InputError(f"--json and --csv are both {str(options.json)!r}; give each its own name.")
    # Decathlon's and nnU-Net's dataset.json lies above the labels; nnU-Net writes one beside its predictions.
    folders = (options.labels, options.labels.absolute().parent, options.predictions)
    regions = as_regions(_regions(options.config), options.config) if options.config else regions_of(folders)
    result = evaluate_folders(
        options.predictions,
        options.labels,
        options.tolerance_mm,
        described=names_of_values(folders),
        regions=regions,
    )
    if options.json:
        content = {"tolerance_mm": options.tolerance_mm, "rows": as_dicts(result.rows)}
        write_json(options.json, {**content, "missing": result.missing, "failed": result.failed})
    if options.csv:
        write_text(options.csv, as_csv(result.rows))
    say(as_table(result.rows))
    if result.missing:
        some = ", ".join(result.missing[:5])
        logger.error("%d references have no prediction and are left out of the means: %s.", len(result.missing), some)
    return FAILED if result.missing or result.failed else DONE


def _regions(path: Path) -> Any:
    """What the settings say of regions. Raises InputError for any other settings."""
    settings = read_json(path)
    if not isinstance(settings, dict) or set(settings) != {"regions"}:
        raise InputError(f'{str(path)!r} is not settings for evaluate; give {{"regions": {{"WT": [1, 2, 3]}}}}.')
    return settings["regions"]
