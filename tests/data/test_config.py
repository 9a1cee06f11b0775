from pathlib import Path

import pytest
from jsonargparse import auto_cli

from fastheads.data import DataConfig, load_data
from fastheads.labels import LabelSpace


def command(data: DataConfig) -> DataConfig:
    return data


def parse(*arguments: str) -> DataConfig:
    return auto_cli(command, args=arguments)


def test_flags_become_a_config():
    assert parse("--data.kind=glyphs") == DataConfig()
    config = parse("--data.kind=folder", "--data.path=/x", "--data.size=64", "--data.channels=3")
    assert config == DataConfig(kind="folder", path=Path("/x"), size=64, channels=3)
    assert parse('--data.scripts=["Greek","Latin"]').scripts == ("Greek", "Latin")


def test_help_explains_every_field(capsys):
    with pytest.raises(SystemExit):
        parse("--help")
    text = " ".join(capsys.readouterr().out.split())
    for words in ("one folder a label", "every font here", "what stands between the labels"):
        assert words in text


def test_loads_each_kind(digits, cache_dir):
    common = {"cache_dir": cache_dir}
    glyphs = load_data(DataConfig(scripts=("Greek",), limit_labels=9, **common), progress=False)
    assert glyphs.num_labels == 9 and glyphs.faces
    known = LabelSpace(tuple("9876543210"))
    config = DataConfig(kind="folder", path=digits, channels=3, size=8, **common)
    folder = load_data(config, label_space=known, progress=False)
    assert folder.label_space is known and folder.train.images.shape[1:] == (3, 8, 8)
    lines = [f"{file},{file.parent.name}" for file in digits.glob("*/*.png")]
    (digits / "all.csv").write_text("\n".join(["image,digit", *lines]))
    config = DataConfig(
        kind="table", path=digits / "all.csv", path_column="image", label_column="digit", **common
    )
    assert load_data(config, progress=False).num_labels == 10


def test_rejects():
    with pytest.raises(ValueError, match="path must be given for kind 'table'"):
        DataConfig(kind="table")
    with pytest.raises(ValueError, match="path must be absent for kind 'glyphs'"):
        DataConfig(path=Path("/x"))
    with pytest.raises(ValueError, match=r"seed must be at least 0 .*, got -1"):
        DataConfig(seed=-1)


@pytest.mark.parametrize(
    "given", [{"fonts": "system"}, {"scripts": ("Greek",)}, {"limit_labels": 3}, {"min_faces": 2}]
)
def test_options_of_glyphs_alone(given):
    DataConfig(**given)
    with pytest.raises(ValueError, match=f"{next(iter(given))} must be absent for kind 'folder'"):
        DataConfig(kind="folder", path=Path("/x"), **given)
