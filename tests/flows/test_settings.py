"""Every setting is listed with its meaning, the file that `init` writes changes nothing, docs/settings.md is true."""

import re
import tomllib
from pathlib import Path

import pytest

from cnn.errors import ConfigError
from flows.config import Config, load_config
from flows.settings import list_settings, write_page, write_toml

ROOT = Path(__file__).parents[2]


def test_every_setting_says_what_it_means_and_what_may_be_written() -> None:
    listed = list_settings(Config())
    assert {setting.section for setting in listed} == set(Config.model_fields)
    for setting in listed:
        assert setting.allowed
        assert not setting.meaning.endswith("."), setting.name
        assert setting.value == setting.default


def test_a_part_is_a_section_or_one_setting() -> None:
    config = load_config(None, ["fit.epochs=7"])
    assert {setting.section for setting in list_settings(config, "fit")} == {"fit"}
    [epochs] = list_settings(config, "fit.epochs")
    assert (epochs.default, epochs.value) == (None, 7)
    with pytest.raises(ConfigError, match=r"no setting image\.siz \(did you mean image\.size\?\)"):
        list_settings(config, "image.siz")


def test_the_file_of_init_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "safelight.toml"
    file.write_text(write_toml())
    assert load_config(file) == Config()
    assert max(map(len, write_toml().splitlines())) <= 100


def test_each_line_of_the_file_of_init_works_when_its_mark_is_removed(tmp_path: Path) -> None:
    """A setting whose default is not set, or an empty list, is shown with an example; the others with their default."""
    text, file = write_toml(), tmp_path / "safelight.toml"
    assert set(tomllib.loads(text)) == set(Config.model_fields)
    for setting in list_settings(Config()):
        line = re.compile(rf"(?<=^\[{setting.section}\]\n)(.*?)^#(?={setting.key} = )", re.MULTILINE | re.DOTALL)
        changed, count = line.subn(r"\1", text)
        assert count == 1
        file.write_text(changed)
        if setting.name == "model.weights":
            continue  # they are those of a backbone
        given = list_settings(load_config(file), setting.name)[0]
        assert given.value == setting.example or setting.name == "model.layers"
        assert (given.value == setting.default) == (setting.example == setting.default)


def test_the_page_of_settings_is_the_one_in_docs() -> None:
    assert (ROOT / "docs/settings.md").read_text() == write_page(), "safelight settings --markdown > docs/settings.md"
