"""The command line. Only the chosen command imports what it needs, so that `--help` answers at once.

Exit codes: 0 done, 1 failed with one line that says what to do, 2 wrong usage, 130 cancelled.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import __version__
from .base.errors import Cancelled, DependencyError, InputError, Sam3dError
from .base.progress import DISPLAYS
from .base.stop import CANCELLED, Stop, clean_up, leave_if_input_ended, should_finish, stop_at_end_of_input
from .base.watch import Watch
from .quality import AUTO, BEST, QUALITIES, QualityChoice

logger = logging.getLogger(__name__)

DONE, FAILED = 0, 1
PRECISIONS = ("auto", "fp32", "bf16", "fp16")


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    stop_at_end_of_input()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as an interrupt, also where a command makes no Stop
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s", stream=sys.stderr, force=True)
    for library in ("monai", "urllib3", "matplotlib"):
        logging.getLogger(library).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", category=FutureWarning, module="monai")  # of its calls to itself
    try:
        return options.run(options)
    except (Cancelled, KeyboardInterrupt) as error:
        logger.warning("%s", str(error) or "cancelled.")
        leave_if_input_ended()
        return CANCELLED
    except Sam3dError as error:
        logger.error("%s", error)
    except ImportError as error:
        logger.error("%s", DependencyError(f"{error}; run `sam3dsegment doctor` to see what is missing."))
    except MemoryError as error:
        logger.error("out of memory (%s); close other programs, or use a smaller volume.", error)
    except BrokenPipeError:
        pass  # the reader of our output has gone
    except OSError as error:
        place = "" if error.filename is None else f"{str(error.filename)!r}: "
        logger.error("%s%s; check the path, space and rights.", place, error.strerror or error)
    finally:
        clean_up()
    return FAILED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sam3dsegment", description="Segment volumes with a frozen SAM encoder and a light 3-D decoder."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    segment = _command(commands, "segment", _segment, "segment a volume, or every volume of a folder")
    segment.add_argument(
        "input", nargs="+", type=Path, metavar="INPUT", help="volume file, DICOM folder, or folder of volumes"
    )
    segment.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="OUT",
        help="file (.seg.nrrd, .nii.gz, ...), or folder for many volumes",
    )
    segment.add_argument("--model", default="hippocampus-mri", metavar="NAME|FILE", help="default: %(default)s")
    _add_computing(segment)
    segment.add_argument("--precision", default="auto", choices=PRECISIONS, help="default: %(default)s")
    segment.add_argument(
        "--quality",
        default=BEST,
        choices=(*QUALITIES, AUTO),
        help="less is faster; auto takes the best that needs at most a minute; default: %(default)s",
    )
    segment.add_argument("--overwrite", action="store_true", help="replace results that are there already")
    segment.add_argument(
        "--confidence", type=Path, metavar="FILE", help="write the probability of each voxel's label, in percent"
    )
    segment.add_argument("--series", metavar="UID", help="which series of a DICOM folder that holds several")
    segment.add_argument("--report", type=Path, metavar="FILE", help="write how the results were made, as JSON")

    _add_train(commands)

    evaluate = _command(commands, "evaluate", _evaluate, "compare predictions with references")
    evaluate.add_argument("--predictions", type=Path, required=True, metavar="DIR")
    evaluate.add_argument("--labels", type=Path, required=True, metavar="DIR", help="references of the same names")
    evaluate.add_argument(
        "--tolerance-mm", type=float, default=1.0, metavar="MM", help="of the surface Dice; default: %(default)s"
    )
    evaluate.add_argument("--json", type=Path, metavar="FILE")
    evaluate.add_argument("--csv", type=Path, metavar="FILE")
    evaluate.add_argument("--overwrite", action="store_true", help="replace the files of --json and --csv")

    models = _group(commands, "models", "the models that are there")
    _command(models, "list", _models_list, "names, modality and labels")
    show = _command(models, "show", _models_show, "one model's card, as JSON")
    show.add_argument("model", metavar="NAME|FILE")
    importing = _command(models, "import", _models_import, "take a model file among your own, after checking it")
    importing.add_argument("file", type=Path, metavar="FILE")
    importing.add_argument(
        "--from", dest="source", choices=("sam3d",), help="FILE is a checkpoint of the paper's code, UARK-AICV/SAM3D"
    )
    importing.add_argument("-o", "--output", type=Path, metavar="MODEL.sam3d", help="where to write it, with --from")
    importing.add_argument("--overwrite", action="store_true", help="replace a model of the same name")

    weights = _group(commands, "weights", "SAM's own checkpoints")
    for name, run, text in (
        ("list", _weights_list, "which there are, and which of them are here"),
        ("path", _weights_path, "where a checkpoint is, or has to be put"),
        ("verify", _weights_verify, "check a checkpoint against its published hash"),
        ("download", _weights_download, "get a checkpoint"),
        ("clear", _weights_clear, "remove downloaded checkpoints"),
    ):
        command = _command(weights, name, run, text)
        if name in ("path", "verify", "download"):
            command.add_argument("encoder", nargs="?", default="sam_vit_b", help="default: %(default)s")
        if name == "verify":
            command.add_argument("--file", type=Path, help="a checkpoint elsewhere")
        if name == "download":
            _add_progress(command)

    cache = _group(commands, "cache", "cached embeddings")
    _command(cache, "info", _cache_info, "where they are and how much they take")
    _command(cache, "clear", _cache_clear, "remove them")

    bench = _group(commands, "bench", "how fast and how good this is on your computer, beside others")
    _add_bench(bench)
    _add_fewshot(bench)

    doctor = _command(commands, "doctor", _doctor, "check this computer")
    doctor.add_argument("--model", metavar="NAME|FILE", help="measure how fast this model is, too")
    doctor.add_argument("--json", action="store_true", help="write the findings as JSON")
    return parser


def _add_fewshot(bench: Any) -> None:
    fewshot = _command(bench, "fewshot", _bench_fewshot, "Dice against training cases and minutes, beside a 3-D U-Net")
    fewshot.add_argument("--data", type=Path, required=True, metavar="DIR", help="as for train")
    fewshot.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="for JSON, table and plot")
    fewshot.add_argument(
        "--config",
        type=Path,
        nargs="+",
        default=(),
        metavar="FILE",
        help="settings to compare, with test_cases and names",
    )
    fewshot.add_argument(
        "--cases", type=_case_counts, default="5,10,20,50,all", metavar="N,N", help="default: %(default)s"
    )
    fewshot.add_argument("--minutes", type=_minutes, default="5", metavar="M,M", help="default: %(default)s")
    fewshot.add_argument("--seeds", type=_seeds, default="0,1,2", metavar="S,S", help="default: %(default)s")
    fewshot.add_argument("--encoder", metavar="NAME", help="as for train")
    _add_computing(fewshot)


def _add_train(commands: Any) -> None:
    train = _command(commands, "train", _train, "train a decoder from labelled volumes")
    train.add_argument(
        "--data",
        type=Path,
        required=True,
        metavar="DIR",
        help="labelled cases: imagesTr and labelsTr (Decathlon, nnU-Net), pairs of files, or a folder for each case",
    )
    train.add_argument("-o", "--output", type=Path, metavar="MODEL.sam3d", help="needed unless --check is given")
    train.add_argument("--check", action="store_true", help="only list the cases, what is odd, time and disk")
    train.add_argument("--config", type=Path, metavar="FILE", help="settings as JSON; the options below override it")
    train.add_argument("--cases", type=_count, metavar="N", help="use only N training cases")
    train.add_argument(
        "--folds", type=_count, metavar="K", help="train K decoders, each without another part of the cases"
    )
    length = train.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=float, metavar="M", help="time to train for, without encoding and validation")
    length.add_argument("--epochs", type=_count, metavar="E", help="passes over the training cases, instead of a time")
    again = train.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="go on where a training was stopped")
    again.add_argument("--overwrite", action="store_true", help="replace the model, or a stopped training")
    train.add_argument(
        "--encoder",
        metavar="NAME",
        help="sam_vit_b, sam_vit_l, sam_vit_h, compact_vit, or a model whose encoder to use",
    )
    train.add_argument(
        "--resample", action="store_true", default=None, help="bring label maps on another grid to that of their image"
    )
    train.add_argument("--seed", type=int, metavar="S")
    _add_computing(train)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _case_counts(text: str) -> tuple[int, ...]:
    """0 stands for all."""
    return tuple(0 if part == "all" else _count(part) for part in text.split(","))


def _minutes(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(","))


def _seeds(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def _add_bench(bench: Any) -> None:
    encoder = _command(bench, "encoder", _bench_encoder, "SAM's encoder beside segment_anything's")
    encoder.add_argument("--sam-checkpoint", type=Path, metavar="FILE", help="SAM's weights, if not in `weights path`")
    decoder = _command(bench, "decoder", _bench_decoder, "the decoder beside torch's plain modules")
    volume = _command(bench, "volume", _bench_volume, "whole volumes: seconds and memory")
    volume.add_argument("--slices", type=_count, nargs="+", default=[100, 300], metavar="N", help="default: 100 300")
    volume.add_argument(
        "--quality", nargs="+", default=[BEST], choices=tuple(QUALITIES), help="levels; default: %(default)s"
    )
    quality = _command(bench, "quality", _bench_quality, "Dice and seconds of each level of quality")
    quality.add_argument("--data", type=Path, required=True, metavar="DIR", help="labelled cases, as for train")
    quality.add_argument(
        "--config", type=Path, required=True, metavar="FILE", help="settings of the training; its test cases are taken"
    )
    quality.add_argument("--model", default="hippocampus-mri", metavar="NAME|FILE", help="default: %(default)s")
    reuse = _command(bench, "reuse", _bench_reuse, "a volume with one decoder on SAM's encoder, then with another")
    reuse.add_argument("--slices", type=_count, default=24, metavar="N", help="default: %(default)s")
    startup = _command(bench, "startup", _bench_startup, "from the start of a process to a mask")
    for command in (encoder, decoder, reuse):
        command.add_argument("--image-size", type=_count, default=512, metavar="S", help="default: %(default)s pixels")
    for command in (encoder, decoder, startup):
        command.add_argument("--rounds", type=_count, default=3, metavar="N", help="default: %(default)s")
    for command in (encoder, decoder, volume, quality, reuse):
        command.add_argument("--device", default="auto", help="default: %(default)s")
        command.add_argument("--precision", default="auto", choices=PRECISIONS, help="default: %(default)s")
        command.add_argument("--threads", type=_count, metavar="N", help="of the CPU; default: torch's choice")
    for command in (encoder, decoder, volume, quality, reuse, startup):
        command.add_argument("--json", type=Path, metavar="FILE", help="write the figures, too")


def _group(commands: Any, name: str, text: str) -> Any:
    return commands.add_parser(name, help=text, description=text).add_subparsers(metavar="COMMAND", required=True)


def _command(commands: Any, name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    parser.set_defaults(run=run)
    return parser


def _add_computing(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sam-checkpoint", type=Path, metavar="FILE", help="SAM's weights, if not in `weights path`")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps; default: %(default)s")
    _add_progress(parser)


def _add_progress(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--progress", default="bar", choices=tuple(DISPLAYS), help="default: %(default)s")


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")


def _segment(options: argparse.Namespace) -> int:
    from .base.devices import keep_freed_memory
    from .base.files import write_json
    from .commands.batch import Outputs, segment_files
    from .inference import Segmenter
    from .model_file import load_model
    from .model_store import find_model

    keep_freed_memory()
    stop = Stop()
    progress = DISPLAYS[options.progress]()
    model = load_model(options.model)

    def load() -> Segmenter:
        return Segmenter.load(
            model, options.device, options.precision, options.sam_checkpoint, options.quality, tell_choice
        )

    def tell_choice(choice: QualityChoice) -> None:
        progress.event("quality", quality=choice.quality, seconds=choice.seconds[choice.quality])

    try:
        summary = segment_files(
            model,
            load,
            options.input,
            Outputs(options.output, options.confidence, options.report, options.overwrite),
            Watch(progress, stop),
            options.series,
            [path for path in (find_model(options.model), options.sam_checkpoint) if path],
        )
    finally:
        progress.close()
    if len(summary.records) + len(summary.skipped) + len(summary.failed) > 1 or not summary.records:
        logger.info("%s.", summary)
    if options.report:
        write_json(
            options.report,
            {"segmented": summary.records, "skipped": summary.skipped, "failed": summary.failed},
        )
    return FAILED if summary.failed else DONE


def _train(options: argparse.Namespace) -> int:
    from .base.devices import keep_freed_memory
    from .training.check import check
    from .training.plan import make_config
    from .training.run import Options, train

    keep_freed_memory()
    settings = _read_json(options.config) if options.config else {}
    given = {key: getattr(options, key) for key in ("minutes", "epochs", "encoder", "seed", "folds", "resample")}
    if given["minutes"] is not None:
        given["epochs"] = 0
    config = make_config(settings, {key: value for key, value in given.items() if value is not None})
    how = Options(options.cases, options.sam_checkpoint, options.device, options.resume, options.overwrite)
    if options.check:
        lines, problems = check(options.data, config, how)
        _say("\n".join(lines))
        return FAILED if problems else DONE
    if options.output is None:
        raise InputError("no model file is given to write to; add -o MODEL.sam3d, or only --check the data.")
    stop = Stop()
    progress = DISPLAYS[options.progress]()
    try:
        model = train(options.data, options.output, config, how, Watch(progress, stop, should_finish))
    finally:
        progress.close()
    summary = model.card.training
    dice = ", ".join(f"{name} {value:.4f}" for name, value in summary.dice.items())
    logger.info("%s: Dice %s (%s, %d cases).", options.output, dice, summary.dice_note, summary.dice_cases)
    return DONE


def _bench_fewshot(options: argparse.Namespace) -> int:
    from .base.devices import keep_freed_memory
    from .bench.fewshot import Benchmark, make_table, run_benchmark
    from .training.plan import make_config

    keep_freed_memory()
    overrides = {"encoder": options.encoder} if options.encoder else {}
    settings = [_read_json(path) for path in options.config] or [{}]
    benchmark = Benchmark(
        options.data,
        tuple(make_config(one, overrides) for one in settings),
        options.cases,
        options.minutes,
        options.seeds,
        options.sam_checkpoint,
        options.device,
    )
    _say(make_table(run_benchmark(benchmark, options.output, Watch(cancelled=Stop()))))
    return DONE


def _evaluate(options: argparse.Namespace) -> int:
    from .base.files import check_new_file, write_json, write_text
    from .evaluation import as_csv, as_dicts, as_table, evaluate_folders

    outputs = [path for path in (options.json, options.csv) if path]
    read = [file for folder in (options.predictions, options.labels) if folder.is_dir() for file in folder.iterdir()]
    for path in outputs:
        check_new_file(path, options.overwrite, read)
    if len({path.absolute() for path in outputs}) < len(outputs):
        raise InputError(f"--json and --csv are both {str(options.json)!r}; give each a name of its own.")
    result = evaluate_folders(options.predictions, options.labels, options.tolerance_mm)
    _say(as_table(result.rows))
    if options.json:
        content = {"tolerance_mm": options.tolerance_mm, "rows": as_dicts(result.rows)}
        write_json(options.json, {**content, "missing": result.missing, "failed": result.failed})
    if options.csv:
        write_text(options.csv, as_csv(result.rows))
    if result.missing:
        some = ", ".join(result.missing[:5])
        logger.error("%d references have no prediction, and are in no mean: %s.", len(result.missing), some)
    return FAILED if result.missing or result.failed else DONE


def _models_list(options: argparse.Namespace) -> int:
    from .base.errors import ModelFileError
    from .model_store import list_models, read_card

    for path in list_models():
        try:
            card = read_card(path)
        except ModelFileError as error:
            logger.warning("%s", error)
            continue
        _say(f"{path.stem:<24} {card.modality:<8} {', '.join(label.name for label in card.labels)}")
    return DONE


def _models_show(options: argparse.Namespace) -> int:
    import json

    from .base.jsonable import to_json
    from .model_store import find_model, read_card

    path = find_model(options.model)
    _say(json.dumps({"file": str(path), **to_json(read_card(path))}, indent=2))
    return DONE


def _models_import(options: argparse.Namespace) -> int:
    from .model_file import import_model

    if bool(options.source) != bool(options.output):
        raise InputError("--from and -o belong together: a checkpoint, and the model file to write.")
    if options.source:
        return _import_paper_checkpoint(options.file, options.output, options.overwrite)
    path = import_model(options.file, options.overwrite)
    logger.info("%s is now among your models.", path.stem)
    return DONE


def _import_paper_checkpoint(source: Path, output: Path, overwrite: bool) -> int:
    from .base.files import check_new_file
    from .commands.paper_checkpoint import NOT_IMPORTED, read_paper_checkpoint
    from .model_file import save_model
    from .model_store import SUFFIX

    if output.suffix != SUFFIX:
        raise InputError(f"model {str(output)!r} has an unknown ending; use {SUFFIX}.")
    check_new_file(output, overwrite, [source])
    save_model(read_paper_checkpoint(source), output)
    logger.warning("%s gives other masks than their code, without %s.", output, NOT_IMPORTED)
    return DONE


def _weights_list(options: argparse.Namespace) -> int:
    from .sam.weights import CHECKPOINTS

    for name, checkpoint in CHECKPOINTS.items():
        here = "here" if checkpoint.path.is_file() else "not here"
        _say(f"{name:<12} {checkpoint.megabytes:>5} MB  {here:<9} {checkpoint.url}")
    return DONE


def _weights_path(options: argparse.Namespace) -> int:
    from .sam.weights import published

    _say(str(published(options.encoder).path))
    return DONE


def _weights_verify(options: argparse.Namespace) -> int:
    from .sam.weights import published, verify

    checkpoint = published(options.encoder)
    path = options.file or checkpoint.path
    verify(checkpoint, path)
    _say(f"{path} is the published {checkpoint.file_name}.")
    return DONE


def _weights_download(options: argparse.Namespace) -> int:
    from .sam.weights import download, published

    progress = DISPLAYS[options.progress]()
    try:
        path = download(published(options.encoder), Watch(progress, Stop()))
    finally:
        progress.close()
    logger.info("%s is here and is the published file.", path)
    return DONE


def _weights_clear(options: argparse.Namespace) -> int:
    from .sam.weights import clear

    removed, left = clear()
    for path in removed:
        _say(f"removed {path}")
    for path in left:
        logger.warning("%s is not the published file, so it was left; remove it yourself.", path)
    return DONE


def _cache_info(options: argparse.Namespace) -> int:
    from .sam.cache import cache_info

    info = cache_info()
    _say(f"{info.files} files, {info.bytes / 1e6:.1f} of at most {info.limit_bytes / 1e6:.1f} MB, in {info.folder}")
    return DONE


def _cache_clear(options: argparse.Namespace) -> int:
    from .sam.cache import clear_cache

    info = clear_cache()
    _say(f"removed {info.files} files, {info.bytes / 1e6:.1f} MB from {info.folder}")
    return DONE


def _bench_encoder(options: argparse.Namespace) -> int:
    from .bench.networks import bench_encoder

    return _bench(
        options,
        lambda: bench_encoder(
            options.image_size,
            options.device,
            options.precision,
            options.rounds,
            options.threads,
            options.sam_checkpoint,
        ),
    )


def _bench_decoder(options: argparse.Namespace) -> int:
    from .bench.networks import bench_decoder

    return _bench(
        options,
        lambda: bench_decoder(options.image_size, options.device, options.precision, options.rounds, options.threads),
    )


def _bench_volume(options: argparse.Namespace) -> int:
    from .bench.processes import bench_volume

    return _bench(
        options,
        lambda: bench_volume(options.slices, options.device, options.precision, options.quality, options.threads),
    )


def _bench_quality(options: argparse.Namespace) -> int:
    from .base.jsonable import from_json
    from .bench.levels import bench_quality
    from .settings import TrainingConfig

    config = from_json(TrainingConfig, _read_json(options.config))
    return _bench(
        options,
        lambda: bench_quality(options.data, config, options.model, options.device, options.precision, options.threads),
    )


def _bench_reuse(options: argparse.Namespace) -> int:
    from .bench.networks import bench_reuse

    return _bench(
        options,
        lambda: bench_reuse(options.image_size, options.slices, options.device, options.precision, options.threads),
    )


def _bench_startup(options: argparse.Namespace) -> int:
    from .bench.processes import bench_startup

    return _bench(options, lambda: bench_startup(options.rounds))


def _bench(options: argparse.Namespace, measure: Callable[[], Any]) -> int:
    from .base.files import check_new_file, write_json
    from .base.jsonable import to_json
    from .bench.measuring import as_table

    if options.json:
        check_new_file(options.json, overwrite=True)
    result = measure()
    _say(as_table(result))
    if options.json:
        write_json(options.json, to_json(result))
    return DONE


def _doctor(options: argparse.Namespace) -> int:
    import dataclasses
    import json

    from .commands.doctor import examine

    result = examine(options.model)
    if options.json:
        _say(json.dumps(dataclasses.asdict(result)))
        return DONE
    for name, finding in result.findings:
        _say(f"{name:<18} {finding}")
    for problem in result.problems:
        logger.error("%s", problem)
    return FAILED if result.problems else DONE


def _read_json(path: Path) -> Any:
    import json

    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{str(path)!r} cannot be read: {error.strerror}; check the path.") from error
    except ValueError as error:
        raise InputError(f"{str(path)!r} is not valid JSON: {error}.") from error
