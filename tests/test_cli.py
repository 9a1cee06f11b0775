"""The command line: help, settings from YAML and flags, messages, exit status."""

import os
import re
import subprocess
import sys

import pytest
import yaml
from PIL import Image

from fastheads.cli import COMMANDS, main
from fastheads.presets import PRESETS

TINY = """
data: {limit_labels: 60}
base: {channels: [8, 16], hidden: [32, 8]}
trunk_width: 32
trunk: {epochs: 1, batch_size: 32, accelerator: cpu, threads: 1}
top: {batch_size: 32, accelerator: cpu, threads: 1}
passes: 1
holdout_passes: 1
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A base network trained on glyphs by a YAML file and flags."""
    root = tmp_path_factory.mktemp("train")
    (root / "tiny.yaml").write_text(TINY)
    cache = ["--data.cache_dir", str(root / "cache")]
    run = ["--output_dir", str(root / "run"), "--trunk.batch_size", "16", "--base.hidden", "[24,6]"]
    assert main(["train", "--config", str(root / "tiny.yaml"), *cache, *run]) == 0
    return root


def fails(capsys, *args):
    """Exit status and stderr of a command that must not raise."""
    try:
        status = main(list(args))
    except SystemExit as stop:
        status = stop.code
    return status, capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "explained"),
    [
        ("train", ["--trunk.epochs", "--passes", "augmented copies of each training picture"]),
        ("augment", ["--heads.num_groups", "None lets the eigengap", "Peak learning rate", "--full",
                     "keep only glyphs of these scripts", "--seeds"]),
        ("concentrate", ["--quick", "--teachers.top_k", "--verticals.source", "--students.rows",
                         "specialists and the student's head are made for", "Inception-V2"]),
        ("lesion", ["--quick", "--checkpoint", "timm:NAME or torchvision:NAME", "--networks.widths",
                    "training pictures in the batch that a path is sampled with"]),
        ("predict", ["--per_vertical", "image files", "--top TOP", "finished run", "--ink"]),
        ("data", ["--sheet", "a table of image paths", "height and width of the pictures"]),
        ("report", ["folder of a finished run"]),
        ("bench", ["clustering", "topk_confusion"]),
    ],
)  # fmt: skip
def test_help_explains(capsys, command, explained):
    try:
        status = main([command, "--help"])
    except SystemExit as stop:
        status = stop.code
    out = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert status == 0
    for text in explained:
        assert text in out


@pytest.mark.parametrize("command", ["augment", "concentrate", "lesion"])
def test_every_setting_is_explained(capsys, command):
    """Of each flag the help says something beyond its type."""
    with pytest.raises(SystemExit):
        main([command, "--help"])
    out = capsys.readouterr().out
    assert len(re.findall(r"^  --", out, re.M)) > 60
    bare = [
        name
        for name, text in re.findall(r"^  (--[\w.]+)(.*?)(?=^  --|\Z)", out, re.M | re.S)
        if not re.search(r"\s{2,}[a-zA-Z]", text)
    ]
    assert bare == []


def test_commands_are_listed(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    out = capsys.readouterr().out
    for command in (
        "train",
        "augment",
        "concentrate",
        "lesion",
        "predict",
        "data",
        "report",
        "bench",
    ):
        assert re.search(rf"^    {command} ", out, re.M)


def test_yaml_and_flags(trained):
    written = yaml.safe_load((trained / "run" / "config.yaml").read_text())
    assert written["trunk_width"] == 32  # from the file
    assert written["trunk"]["batch_size"] == 16  # the flag wins
    assert written["base"] == {"channels": [8, 16], "hidden": [24, 6]}
    assert written["top"]["lr"] == 5e-3 or written["top"]["lr"] > 0  # the default stays
    assert written["output_dir"] == str(trained / "run")


def test_finished_run_goes_on_from_its_own_settings(trained, capsys):
    """The file that a run writes starts the same run, which is finished."""
    before = (trained / "run" / "model.safetensors").read_bytes()
    metrics = (trained / "run" / "metrics.json").read_bytes()
    assert main(["train", "--config", str(trained / "run" / "config.yaml")]) == 0
    out = capsys.readouterr().out
    assert re.search(r"map50_per_label +0\.\d{4}", out)
    assert re.search(r"parameters +[\d,]+", out)
    assert (trained / "run" / "model.safetensors").read_bytes() == before
    assert (trained / "run" / "metrics.json").read_bytes() == metrics


def test_other_settings_are_refused(trained, capsys):
    config = str(trained / "run" / "config.yaml")
    status, errors = fails(capsys, "train", "--config", config, "--passes", "2")
    assert status == 1
    assert errors.startswith("fastheads: ") and errors.count("\n") == 1
    assert "another configuration (passes was 1 and is 2)" in errors


def test_predict(trained, capsys, tmp_path):
    from fastheads.data import DataConfig, load_data

    data = load_data(DataConfig(limit_labels=60, cache_dir=trained / "cache"), progress=False)
    images, _ = data.test.__getitems__([0, 7])
    paths = []
    for number, image in enumerate(images):
        paths.append(str(tmp_path / f"picture {number}.png"))
        Image.fromarray(image[0].numpy()).save(paths[-1])
    assert main(["predict", *paths, "--run", str(trained / "run"), "--top", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if not line.startswith("  ")] == paths
    scored = [re.fullmatch(r"  +(\d\.\d{4})  (.+)", line) for line in lines if line[0] == " "]
    assert len(scored) == 6 and all(scored)
    assert all(match[2] in data.label_space.names for match in scored)
    first = [float(match[1]) for match in scored[:3]]
    assert first == sorted(first, reverse=True)
    assert main(["predict", paths[0], "--run", str(trained / "run"), "--ink", "dark"]) == 0


def test_data_and_contact_sheet(capsys, tmp_path):
    sheet = tmp_path / "sheet.png"
    args = ["--limit_labels", "60", "--count", "20", "--cache_dir", str(tmp_path / "cache")]
    assert main(["data", *args, "--sheet", str(sheet)]) == 0
    out = capsys.readouterr().out
    assert "60 labels; " in out
    assert re.search(r"^script: \d+ groups; ", out, re.M)
    with Image.open(sheet) as image:
        image.load()
        assert image.format == "PNG" and min(image.size) > 100
        assert len(image.convert("L").getcolors()) > 50
    assert list(tmp_path.glob("sheet*")) == [sheet]


@pytest.mark.parametrize(
    ("command", "flag"), [(command, flag) for command, each in PRESETS.items() for flag in each]
)
def test_presets_are_sets_of_defaults(capsys, command, flag):
    _, preset = PRESETS[command][flag]
    with pytest.raises(SystemExit) as stop:
        main([command, flag, "--seeds", "[7]", "--print_config"])
    assert stop.value.code == 0
    settings = yaml.safe_load(capsys.readouterr().out)
    assert settings["seeds"] == [7]  # a flag wins over the preset
    for name, value in preset.items():
        found = settings
        for part in name.split("."):
            found = found[part]
        assert found == value or name == "seeds", name


def test_bench_lists_its_names(capsys):
    assert main(["bench"]) == 0
    out = capsys.readouterr().out
    assert "usage: fastheads bench NAME... [options]" in out
    assert re.search(r"NAME: .*clustering, .*topk_confusion", out)


def test_report_anew(trained, capsys):
    """Of a run without an analysis: one sentence."""
    status, errors = fails(capsys, "report", str(trained / "run"))
    assert status == 1
    assert errors.startswith("fastheads: ") and errors.count("\n") == 1


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["bench", "nothing"], "bench must be one of .*, got 'nothing'"),
        (["report", "/nowhere"], "folder must be the folder of a finished run, got /nowhere"),
        (["augment", "--seeds", "[1,1]"], r"seeds must be distinct and .*, got \(1, 1\)"),
        (["augment", "--heads.num_groups", "1"], "num_groups must be at least 2, got 1"),
        (["lesion", "--model", "timm:resnet18"], "model and checkpoint must be given together"),
        (["lesion", "--networks.rows", "[alexnet]"], "rows must be among .*, got 'alexnet'"),
        (["train", "--trunk.epochs", "0"], "epochs must be above 0, got 0"),
        (["data", "--scripts", "[Klingon]"], "scripts must be among .*; got 'Klingon'"),
        (["data", "--kind", "folder"], "path must be given for kind 'folder'"),
        (["adaptive", "--cifar", "--data.path", "/nowhere"], "path must be a folder of images"),
        (["adaptive", "--imagenet50", "--data.path", "/nowhere"], "path must be a folder of im"),
        (["adaptive", "--imagenet101", "--data.path", "/nowhere"], "path must be a folder of im"),
        (["adaptive", "--targets", "[0.5, 1.5]"], "targets must be above 0 and at most 1, got 1.5"),
        (["data", "--kind", "folder", "--path", "/nowhere"], "path must be a folder of images"),
        (["predict", "a.png", "--run", "/nowhere"], "run must be a folder of a finished run"),
    ],
)
def test_bad_values(capsys, args, message):
    status, errors = fails(capsys, *args)
    assert status == 1
    assert re.fullmatch(f"fastheads: .*{message}.*\n", errors)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "subcommand"),
        (["nothing"], "invalid choice: 'nothing'"),
        (["augment", "--nothing", "1"], "unrecognized arguments: --nothing"),
        (["augment", "--data.limit_labels", "many"], "data.limit_labels"),
        (["augment", "--heads.capacity", "large"], "heads.capacity"),
        (["augment", "--config", "/nowhere.yaml"], "/nowhere.yaml"),
        (["predict", "--run", "/nowhere"], "images"),
        (["predict", "a.png"], "run"),
    ],
)
def test_bad_arguments(capsys, args, message):
    status, errors = fails(capsys, *args)
    assert status == 2
    assert message in errors
    assert errors.startswith("fastheads: ") and errors.count("\n") == 1


def test_unreadable_image(trained, capsys, tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    status, errors = fails(capsys, "predict", str(tmp_path / "text.png"), "--run", str(trained / "run"))  # fmt: skip  # noqa: E501
    assert status == 1
    assert re.fullmatch("fastheads: image must be a readable picture, got .*text.png.*\n", errors)


def test_as_a_program(tmp_path):
    """Exit status and one line on stderr, as a shell sees them."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "fastheads.cli", "report", str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("fastheads: ") and done.stderr.count("\n") == 1


def test_a_library_that_is_not_installed(capsys, monkeypatch):
    def report(options):
        raise ModuleNotFoundError("model 'timm:resnet18' needs timm, which is not installed")

    monkeypatch.setitem(COMMANDS, "report", (*COMMANDS["report"][:2], report))
    status, errors = fails(capsys, "report", "/nowhere")
    assert status == 1
    assert errors == "fastheads: model 'timm:resnet18' needs timm, which is not installed\n"
