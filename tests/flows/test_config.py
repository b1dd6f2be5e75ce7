"""What a setting becomes, and one line for each that cannot be obeyed."""

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from cnn.dataset.split import find_group
from cnn.errors import ConfigError
from cnn.spec import Settings
from flows.config import Config, load_config, parse_setting, parse_value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("[96,96]", [96, 96]),
        ('"lenet"', "lenet"),
        ("lenet", "lenet"),
        ("0.25", 0.25),
        ("3", 3),
        ("true", True),
        ("null", None),
        ("two words", "two words"),
        ("", ""),
        ("1\nother = 2", "1\nother = 2"),
        ('{kind = "flatten"}', {"kind": "flatten"}),
    ],
)
def test_values_are_toml_and_bare_words_are_strings(text: str, value: Any) -> None:
    assert parse_value(text) == value


def test_settings_go_on_top_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "safelight.toml"
    file.write_text("[image]\nsize = [64, 64]\nchannels = 1\n[fit]\nepochs = 3\n")
    config = load_config(file, ["image.size=[96,80]", "model.preset=lenet"])
    assert config.image.size == (96, 80)
    assert config.image.channels == 1
    assert config.fit.epochs == 3
    assert config.model.preset == "lenet"


def test_a_file_here_is_found_and_none_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_config(None) == Config()
    (tmp_path / "safelight.toml").write_text("[fit]\nepochs = 7\n")
    assert load_config(None).fit.epochs == 7


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("image.siz=[1,1]", ["image.siz", "known here", "size"]),
        ("imag.size=[1,1]", ["imag", "known here", "image"]),
        ("image.channels=2", ["image.channels", "2"]),
        ("split.test=1.5", ["split.test", "1.5"]),
        ("fit.epochs=many", ["fit.epochs", "many"]),
        ("image.size=[0,96]", ["image.size = [0, 96]", "a whole number from 1 to 4096"]),
        ("image.size=96,96", ["two whole numbers from 1 to 4096 in brackets", "such as [96, 96]"]),
        ("image.size=true", ["image.size = true", "a whole number from 1 to 4096"]),
        ("image.background=[1,true,3]", ["image.background", "three whole numbers", "from 0 to 255"]),
        ("fit.learning_rate=inf", ["fit.learning_rate", "a number above 0"]),
        ("fit.learning_rate=nan", ["fit.learning_rate", "a number above 0"]),
        ("fit.epochs=true", ["fit.epochs = true", "a whole number from 1 to 100000"]),
        ("fit.epochs=1.5", ["fit.epochs = 1.5", "a whole number"]),
        ("fit.class_weights=perhaps", ["true or false"]),
        ("fit.schedule=linear", ['"one_cycle" or "cosine" or "constant"']),
        ("cluster.workers=few", ["a whole number of at least 0, or null"]),
        ("split.test=1.0", ["split.test", "a number of at least 0 and below 1"]),
        ("train.deployment=gpu", ["train.deployment", 'such as "train/birds"']),
        ('model.layers=[{kind="convolution"}]', ["model.layers[0]", "kind is one of", "conv"]),
        ('model.layers=[{kind="conv",filters=0}]', ["model.layers[0].filters = 0", "from 1 to 8192"]),
        ('model.layers=[{kind="conv"}]', ["model.layers[0].filters is missing"]),
        ('model.layers=[{kind="conv",filter=3,filters=3}]', ["no setting model.layers[0].filter", "kernel"]),
        ("model.layers=3", ["model.layers = 3", "a list"]),
        ("image=3", ["section.key=value"]),
        ("image.size", ["section.key=value"]),
        ("split.group=(", ["split.group", "regular expression"]),
        ("split.group=column: ", ["split.group", "no column is named; write column:NAME, such as column:site"]),
        ('gate.slices=["site"]', ["gate.slices", "folder, group, camera or column:NAME", "not 'site'"]),
        ("split.group=[[", ["split.group", "not a regular expression (unterminated"]),
        (f"split.group={'(' * 3000}{')' * 3000}", ["split.group", "not a regular expression"]),
    ],
)
def test_what_cannot_be_obeyed_is_one_line(setting: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, [setting])
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_shares_that_leave_no_training_images_are_refused() -> None:
    with pytest.raises(ConfigError, match="split"):
        load_config(None, ["split.validation=0.6", "split.test=0.4"])


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        load_config(tmp_path / "nowhere.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("[image\n")
    with pytest.raises(ConfigError, match=r"broken\.toml"):
        load_config(broken)
    broken.write_text("image = 3\n")
    with pytest.raises(ConfigError, match="image"):
        load_config(broken)


def test_one_number_stands_for_height_and_width() -> None:
    assert load_config(None, ["image.size=32"]).image.size == (32, 32)


def every_setting(model: type[BaseModel] = Config, name: str = "") -> Iterator[str]:
    for key, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            assert issubclass(field.annotation, Settings), f"{key} is configured: its base is Settings"
            yield from every_setting(field.annotation, f"{name}{key}.")
        else:
            yield f"{name}{key}"


@pytest.mark.parametrize("name", list(every_setting()))
@pytest.mark.parametrize(
    "value", ["inf", "-inf", "nan", "[[]]", "-1e300", "{x = 1}", "1979-05-27", "true", '"\u00e9?"']
)
def test_no_word_of_pydantic_is_shown(name: str, value: str) -> None:
    try:
        load_config(None, [f"{name}={value}"])
    except ConfigError as error:
        text = str(error)
        assert text.startswith((f"setting {name}", f"setting {name.partition('.')[0]} = ")), text
        assert not re.search(r"input should|valid |validation error|pydantic|type=", text, re.IGNORECASE), text


@given(text=st.text(max_size=60))
def test_no_setting_is_a_traceback(text: str) -> None:
    with suppress(ConfigError):
        load_config(None, [text])


@given(name=st.sampled_from(["image.size", "fit.epochs", "model.layers", "split.group"]), value=st.text(max_size=30))
def test_no_value_is_a_traceback(name: str, value: str) -> None:
    assert parse_setting(f"{name}={value}")[:2] == tuple(name.split("."))
    with suppress(ConfigError):
        load_config(None, [f"{name}={value}"])


def test_a_pattern_that_python_warns_of_is_taken_without_a_word(recwarn: pytest.WarningsRecorder) -> None:
    assert load_config(None, ["split.group=[[a]+"]).split.group == "[[a]+"
    assert find_group("owl/[a[/1.jpg", "[[a]+") == "[a["
    load_config(None, ['source.exclude=["[+--]*"]'])
    assert not recwarn.list


def test_a_configuration_survives_json() -> None:
    config = load_config(None, ["image.size=[96,80]", "augment.copies=2", "model.preset=notes"])
    assert Config.model_validate_json(config.to_json()) == config
    assert config.compute_digest() == Config.model_validate_json(config.to_json()).compute_digest()
