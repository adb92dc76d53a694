"""`sam3dsegment bench`: how fast and how good this is on this computer, beside others."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from ..card import ANATOMICAL_PLANES
from ..quality import BEST, QUALITIES
from .shared import (
    DONE,
    add_command,
    add_computing,
    add_group,
    add_model,
    add_precision,
    add_sam_checkpoint,
    count,
    read_json,
    say,
    watched,
)

# Benchmark -> module of `bench/`, function, and the options that are handed on to it, in their order.
_BENCHMARKS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "encoder": (
        "networks",
        "bench_encoder",
        ("image_size", "device", "precision", "rounds", "threads", "sam_checkpoint"),
    ),
    "decoder": ("networks", "bench_decoder", ("image_size", "device", "precision", "rounds", "threads")),
    "volume": ("processes", "bench_volume", ("slices", "device", "precision", "quality", "threads")),
    "quality": ("levels", "bench_quality", ("data", "config", "model", "device", "precision", "threads")),
    "reuse": ("networks", "bench_reuse", ("image_size", "slices", "device", "precision", "threads")),
    "startup": ("processes", "bench_startup", ("rounds",)),
    "complete": (
        "complete",
        "bench_complete",
        ("data", "model", "every", "painted", "cases", "axis", "device", "sam_checkpoint", "threads"),
    ),
    "region": ("region", "bench_region", ("data", "output", "config", "minutes", "cases", "size", "device", "threads")),
    "load": ("load", "bench_load", ("slices", "precision", "rounds")),
    "parts": ("parts", "bench_parts", ("volumes", "processes")),
}


def add(commands: Any) -> None:
    group = add_group(commands, "bench", "how fast and how good this is on your computer, beside others")

    def add_benchmark(name: str, text: str) -> argparse.ArgumentParser:
        return add_command(group, name, lambda options: _measure(name, options), text)

    encoder = add_benchmark("encoder", "SAM's encoder beside segment_anything's")
    add_sam_checkpoint(encoder)
    decoder = add_benchmark("decoder", "the decoder beside torch's plain modules")
    volume = add_benchmark("volume", "whole volumes: seconds and memory")
    volume.add_argument("--slices", type=count, nargs="+", default=[100, 300], metavar="N", help="default: 100 300")
    volume.add_argument(
        "--quality", nargs="+", default=[BEST], choices=tuple(QUALITIES), help="levels; default: %(default)s"
    )
    quality = add_benchmark("quality", "Dice and seconds of each level of quality")
    quality.add_argument("--data", type=Path, required=True, metavar="DIR", help="labelled cases, as for train")
    quality.add_argument(
        "--config", type=Path, required=True, metavar="FILE", help="settings of the training whose test cases to use"
    )
    add_model(quality)
    reuse = add_benchmark("reuse", "a volume with one decoder on SAM's encoder, then with another")
    reuse.add_argument("--slices", type=count, default=24, metavar="N", help="default: %(default)s")
    startup = add_benchmark("startup", "from the start of a process to a mask")
    load = add_benchmark("load", "a volume alone, and beside programs that keep processors busy")
    load.add_argument("--slices", type=count, default=20, metavar="N", help="default: %(default)s")
    add_precision(load)
    parts = add_benchmark("parts", "a tree of small volumes by one process, and by several that divide it")
    parts.add_argument("--volumes", type=count, default=300, metavar="N", help="default: %(default)s")
    parts.add_argument("--processes", type=count, default=2, metavar="N", help="default: %(default)s")
    complete = add_benchmark("complete", "painted slices completed, beside other ways: Dice on the slices not shown")
    _add_complete(complete)
    region = add_benchmark("region", "volumes set into larger ones: whether their place is found, Dice and seconds")
    _add_region(region)
    for parser in (encoder, decoder, reuse):
        parser.add_argument("--image-size", type=count, default=512, metavar="S", help="default: %(default)s pixels")
    for parser in (encoder, decoder, startup, load):
        parser.add_argument("--rounds", type=count, default=3, metavar="N", help="default: %(default)s")
    for parser in (encoder, decoder, volume, quality, reuse):
        add_precision(parser)
    for parser in (encoder, decoder, volume, quality, reuse, complete, region):
        parser.add_argument("--device", default="auto", help="default: %(default)s")
        parser.add_argument("--threads", type=count, metavar="N", help="of the CPU; default: torch's choice")
    for parser in (encoder, decoder, volume, quality, reuse, startup, load, parts, complete, region):
        parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures")
    _add_fewshot(group)
    _add_suggest(group)


def _add_complete(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="complete labelled cases, as for train")
    parser.add_argument("--model", metavar="NAME|FILE", help="not trained on these cases; default: none")
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument("--every", type=count, metavar="N", help="show each Nth slice of the structures")
    shown.add_argument("--painted", type=count, default=5, metavar="N", help="slices shown; default: %(default)s")
    parser.add_argument("--cases", type=count, default=10, metavar="N", help="at most; default: %(default)s")
    parser.add_argument(
        "--axis", nargs="+", default=["sagittal"], choices=ANATOMICAL_PLANES, help="of the slices; default: %(default)s"
    )
    add_sam_checkpoint(parser)


def _add_region(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="complete labelled cases, as for train")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="for the volumes and the model")
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="settings, with test_cases")
    parser.add_argument("--minutes", type=float, metavar="M", help="of the training; default: as in the settings")
    parser.add_argument("--cases", type=count, default=160, metavar="N", help="to train on; default: %(default)s")
    parser.add_argument("--size", type=count, default=192, metavar="N", help="voxels a side; default: %(default)s")


def _measure(name: str, options: argparse.Namespace) -> int:
    """Run one of `_BENCHMARKS`, and show its figures."""
    from ..base.files import check_new_file, write_json
    from ..base.jsonable import to_json
    from ..bench.measuring import as_table
    from ..training.plan import make_config

    module, function, names = _BENCHMARKS[name]
    bench: Callable[..., Any] = getattr(import_module(f"..bench.{module}", __package__), function)
    values = {key: getattr(options, key) for key in names}
    if "config" in values:
        values["config"] = make_config(read_json(values["config"]), {})
    if options.json:
        check_new_file(options.json, overwrite=True)
    result = bench(*values.values())
    if options.json:
        write_json(options.json, to_json(result))
    say(as_table(result))
    return DONE


def _add_fewshot(group: Any) -> None:
    parser = add_command(group, "fewshot", _fewshot, "Dice against training cases and minutes, beside a 3-D U-Net")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="as for train")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="for JSON, table and plot")
    parser.add_argument(
        "--config",
        type=Path,
        nargs="+",
        default=(),
        metavar="FILE",
        help="settings to compare, with test_cases and names",
    )
    parser.add_argument(
        "--cases",
        type=_drawings,
        default="5,10,20,50,all",
        metavar="N,N",
        help="training cases; 20/4: 20 of which one slice in 4 is painted; default: %(default)s",
    )
    parser.add_argument("--minutes", type=_minutes, default="5", metavar="M,M", help="default: %(default)s")
    parser.add_argument("--seeds", type=_seeds, default="0,1,2", metavar="S,S", help="default: %(default)s")
    parser.add_argument("--encoder", metavar="NAME", help="as for train")
    add_computing(parser)


def _drawings(text: str) -> tuple[tuple[int, int], ...]:
    """(cases, every): 0 cases stand for all; 20/4 for 20 of which every 4th slice is painted."""
    pairs = (part.partition("/") for part in text.split(","))
    return tuple((0 if cases == "all" else count(cases), count(every) if slash else 1) for cases, slash, every in pairs)


def _minutes(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(","))


def _seeds(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def _fewshot(options: argparse.Namespace) -> int:
    from ..base.devices import keep_freed_memory
    from ..bench.fewshot import Benchmark, Drawing, run_benchmark
    from ..bench.fewshot_report import make_table
    from ..training.plan import make_config

    keep_freed_memory()
    overrides = {"encoder": options.encoder} if options.encoder else {}
    settings = [read_json(path) for path in options.config] or [{}]
    benchmark = Benchmark(
        options.data,
        tuple(make_config(one, overrides, options.sam_checkpoint) for one in settings),
        tuple(Drawing(*pair) for pair in options.cases),
        options.minutes,
        options.seeds,
        options.sam_checkpoint,
        options.device,
    )
    with watched("none") as watch:
        rows = run_benchmark(benchmark, options.output, watch)
    say(make_table(rows))
    return DONE


def _add_suggest(group: Any) -> None:
    parser = add_command(group, "suggest", _suggest, "Dice of cases and slices that `suggest` chose, beside others")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="complete labelled cases, as for train")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="for JSON and table")
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="settings, with test_cases")
    parser.add_argument(
        "--cases",
        type=count,
        nargs=3,
        default=(5, 12, 16),
        metavar=("START", "N", "MORE"),
        help="to begin with, in all, and for comparison at random; default: 5 12 16",
    )
    parser.add_argument("--pool", type=count, default=40, metavar="N", help="chosen from; default: %(default)s")
    parser.add_argument("--painted", type=count, default=6, metavar="N", help="slices a case; default: %(default)s")
    parser.add_argument(
        "--steps",
        type=count,
        nargs=2,
        default=(160, 80),
        metavar=("FIRST", "FURTHER"),
        help="of the first training, and of those that go on from it; default: 160 80",
    )
    parser.add_argument("--seeds", type=_seeds, default="0,1,2", metavar="S,S", help="default: %(default)s")
    add_computing(parser)


def _suggest(options: argparse.Namespace) -> int:
    from ..base.devices import keep_freed_memory
    from ..bench.suggest import Simulation, make_table, run_simulation
    from ..training.plan import make_config

    keep_freed_memory()
    config = make_config(read_json(options.config), {}, options.sam_checkpoint)
    start, cases, more = options.cases
    steps, further = options.steps
    simulation = Simulation(
        options.data,
        config,
        start,
        cases,
        more,
        options.pool,
        options.painted,
        steps,
        further,
        options.seeds,
        options.sam_checkpoint,
        options.device,
    )
    with watched("none") as watch:
        rows = run_simulation(simulation, options.output, watch)
    say(make_table(rows))
    return DONE
