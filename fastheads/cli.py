"""The command line: one sub-command a system; typed settings, YAML plus flags."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser, Namespace, set_parsing_settings

from fastheads.presets import PRESETS


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one sub-command; returns the exit status."""
    args = list(sys.argv[1:] if argv is None else argv)
    warnings.filterwarnings("ignore", message=".*lr_scheduler.step.*")
    try:
        if args[:1] == ["bench"]:  # a benchmark has flags of its own
            return _bench(args[1:])
        parser = _parser(args)
        options = parser.parse_args(args)
        command = options.subcommand
        return COMMANDS[command][2](parser.instantiate(options)[command])
    except ArgumentError as error:
        print("fastheads:", " ".join(str(error).split()), file=sys.stderr)
        return 2
    except (ValueError, FloatingPointError, ImportError, OSError) as error:
        print(f"fastheads: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("fastheads: stopped; the same command goes on from here", file=sys.stderr)
        return 130


def _parser(args: Sequence[str]) -> ArgumentParser:
    import fastheads

    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = ArgumentParser(
        prog="fastheads",
        description="Train, augment and measure image classifiers over many labels.",
        version=fastheads.__version__,
        exit_on_error=False,  # or every mistake prints a hundred flags
    )
    commands = parser.add_subcommands()
    for name, (description, add, _) in COMMANDS.items():
        sub = ArgumentParser(description=description, exit_on_error=False)
        add(sub)
        for flag, (meaning, settings) in PRESETS.get(name, {}).items():
            sub.add_argument(flag, action="store_true", help=meaning)
            if flag in args:
                sub.set_defaults(settings)
        commands.add_subcommand(name, sub, help=description)
    bench = ArgumentParser(description="Measure an operator or a system against its peers.")
    commands.add_subcommand("bench", bench, help=bench.description)
    return parser


def _add_train(parser: ArgumentParser) -> None:
    from fastheads.pipelines.train import TrainBaseConfig

    parser.add_argument("--config", action="config", help="settings in YAML; flags override them")
    parser.add_class_arguments(TrainBaseConfig)


def _train(options: Namespace) -> int:
    from fastheads.pipelines.train import TrainBaseConfig, train

    result = train(TrainBaseConfig(**_fields(options)))
    for name, value in result.metrics.items():
        print(f"{name:16} {value:,.4f}" if isinstance(value, float) else f"{name:16} {value:,}")
    print(f"network: {options.output_dir}")
    return 0


def _add_augment(parser: ArgumentParser) -> None:
    from fastheads.pipelines.augment import AugmentConfig

    parser.add_argument("--config", action="config", help="settings in YAML; flags override them")
    parser.add_class_arguments(AugmentConfig)


def _augment(options: Namespace) -> int:
    from fastheads.pipelines.augment import AugmentConfig, augment_run

    augment_run(AugmentConfig(**_fields(options)))
    return 0


def _add_concentrate(parser: ArgumentParser) -> None:
    from fastheads.pipelines.concentrate import ConcentrateConfig

    parser.add_argument("--config", action="config", help="settings in YAML; flags override them")
    parser.add_class_arguments(ConcentrateConfig)


def _concentrate(options: Namespace) -> int:
    from fastheads.pipelines.concentrate import ConcentrateConfig, concentrate_run

    concentrate_run(ConcentrateConfig(**_fields(options)))
    return 0


def _add_adaptive(parser: ArgumentParser) -> None:
    from fastheads.pipelines.adaptive_config import AdaptiveConfig

    parser.add_argument("--config", action="config", help="settings in YAML; flags override them")
    parser.add_class_arguments(AdaptiveConfig)


def _adaptive(options: Namespace) -> int:
    from fastheads.pipelines.adaptive import adaptive_run
    from fastheads.pipelines.adaptive_config import AdaptiveConfig

    adaptive_run(AdaptiveConfig(**_fields(options)))
    return 0


def _add_lesion(parser: ArgumentParser) -> None:
    from fastheads.pipelines.lesion import LesionConfig

    parser.add_argument("--config", action="config", help="settings in YAML; flags override them")
    parser.add_class_arguments(LesionConfig)


def _lesion(options: Namespace) -> int:
    from fastheads.pipelines.lesion import LesionConfig, lesion_run

    lesion_run(LesionConfig(**_fields(options)))
    return 0


def _add_stream(parser: ArgumentParser) -> None:
    from fastheads.pipelines.stream_config import StreamConfig

    parser.add_argument("--config", action="config", help="settings in YAML; flags override them")
    parser.add_class_arguments(StreamConfig)


def _stream(options: Namespace) -> int:
    from fastheads.pipelines.stream import stream_run
    from fastheads.pipelines.stream_config import StreamConfig

    stream_run(StreamConfig(**_fields(options)))
    return 0


def _add_predict(parser: ArgumentParser) -> None:
    parser.add_argument("images", type=Path, nargs="+", help="image files")
    parser.add_argument("--run", type=Path, required=True, help="folder of a finished run")
    parser.add_argument("--top", type=int, default=5, help="labels an image, or a vertical")
    parser.add_argument(
        "--per_vertical",
        action="store_true",
        help="the best labels of each vertical, of a student that concentrate trained",
    )
    ink = "gray pictures: light on dark, dark on light, or by the border"
    parser.add_argument("--ink", default="auto", choices=["auto", "light", "dark"], help=ink)


def _predict(options: Namespace) -> int:
    from fastheads.pipelines.predict import predict, predict_verticals

    chosen = options.images, options.run, options.top, options.ink
    if options.per_vertical:
        for path, verticals in predict_verticals(*chosen).items():
            print(path)
            for vertical, labels in verticals.items():
                print(f"  {vertical}: " + ", ".join(f"{name} {p:.4f}" for name, p in labels))
        return 0
    for path, labels in predict(*chosen).items():
        print(path)
        for name, score in labels:
            print(f"  {score:8.4f}  {name}")
    return 0


def _add_data(parser: ArgumentParser) -> None:
    from fastheads.data import DataConfig

    parser.add_argument("--config", action="config", help="settings in YAML; flags override them")
    parser.add_class_arguments(DataConfig)
    parser.add_argument("--sheet", type=Path | None, default=None, help="draw a contact sheet here")
    parser.add_argument("--count", type=int, default=200, help="pictures on the sheet")


def _data(options: Namespace) -> int:
    from fastheads.data import DataConfig, load_data, write_sheet

    fields = _fields(options)
    sheet, count = fields.pop("sheet"), fields.pop("count")
    data = load_data(DataConfig(**fields))
    print(data.summary())
    for level in data.label_space.levels:
        grouping = data.label_space.grouping(level)
        largest = sorted(zip(-grouping.sizes, grouping.names, strict=True))[:12]
        print(f"{level}: {grouping.num_groups} groups; "
              + ", ".join(f"{name} {-size}" for size, name in largest))  # fmt: skip
    if sheet is not None:
        write_sheet(data.train, sheet, count, seed=fields["seed"])
        print(f"contact sheet: {sheet}")
    return 0


def _add_report(parser: ArgumentParser) -> None:
    parser.add_argument("run", type=Path, help="folder of a finished run")


def _report(options: Namespace) -> int:
    from fastheads.report import write_report

    print(f"report: {write_report(options.run)}")
    return 0


def _bench(args: list[str]) -> int:
    from fastheads_bench.__main__ import main as measure

    return measure(args)


def _fields(options: Namespace) -> dict[str, Any]:
    """The fields of a configuration among a sub-command's options."""
    flags = {flag[2:] for presets in PRESETS.values() for flag in presets}
    others = {"config", "__default_config__", *flags}
    return {name: value for name, value in vars(options).items() if name not in others}


COMMANDS: dict[str, tuple[str, Callable[[ArgumentParser], None], Callable[[Namespace], int]]] = {
    "train": ("Train a base network.", _add_train, _train),
    "augment": (
        "Train a base network, grow specialist heads for the labels that it confuses, "
        "compare with controls, and write a report.",
        _add_augment,
        _augment,
    ),
    "concentrate": (
        "Concentrate specialists, one a group of labels, into one student that knows every label, "
        "compare with controls, and write a report.",
        _add_concentrate,
        _concentrate,
    ),
    "adaptive": (
        "Put gates into a residual network so that each image runs the layers it needs, compare "
        "with networks that run all, and write a report.",
        _add_adaptive,
        _adaptive,
    ),
    "stream": (
        "Teach a trained classifier pictures that carry several of its labels, without the old "
        "pictures, compare networks and guards against forgetting, and write a report.",
        _add_stream,
        _stream,
    ),
    "lesion": (
        "Delete and reorder the layers of residual networks, own or of timm and torchvision, "
        "follow the gradient along their paths, and write a report.",
        _add_lesion,
        _lesion,
    ),
    "predict": ("Print the best labels of images.", _add_predict, _predict),
    "data": ("Load or draw a data set; say what is in it.", _add_data, _data),
    "report": ("Write the report of a finished run anew.", _add_report, _report),
}

if __name__ == "__main__":
    sys.exit(main())
