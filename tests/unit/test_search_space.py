"""Training settings in files: domains that a tuning searches, and values that are refused before it begins."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import SettingsError
from models.lab.tuning import search_space
from models.lab.tuning.search_space import DEFAULTS, Categories, Domain, Range, Space
from models.settings import EncoderSettings, TrainSettings


def written(folder: Path, text: str) -> Path:
    path = folder / "space.toml"
    path.write_text(text)
    return path


def values_of(domain: Domain) -> st.SearchStrategy[float | int | str]:
    if isinstance(domain, Categories):
        return st.sampled_from(domain.choices)
    if isinstance(domain.low, int) and isinstance(domain.high, int):
        return st.integers(domain.low, domain.high)
    return st.floats(domain.low, domain.high)


@given(st.fixed_dictionaries({name: values_of(domain) for name, domain in DEFAULTS.items()}))
def test_the_settings_accept_every_sample_of_the_default_space(sample: dict[str, float | str]) -> None:
    settings = search_space.read(None, with_content=True).settings(TrainSettings(), sample)
    assert {name: search_space.flat(settings)[name] for name in sample} == sample


def test_a_tuning_starts_from_the_defaults_of_training() -> None:
    space, base = search_space.read(None, with_content=True), TrainSettings()
    assert space.settings(base, space.start(base)) == base


def test_content_settings_are_searched_where_items_have_content() -> None:
    assert search_space.read(None, with_content=True).searched == DEFAULTS
    without = search_space.read(None, with_content=False).searched
    assert DEFAULTS.keys() - without.keys() == {"id_dropout"}


def test_a_file_narrows_fixes_and_extends(tmp_path: Path) -> None:
    text = """
        learning_rate = { low = 1e-3, high = 2e-3 }
        window_length = { choices = [20, 50] }
        dropout = 0.1
    """
    space = search_space.read(written(tmp_path, text), with_content=False)
    assert space.searched["learning_rate"] == Range(low=1e-3, high=2e-3)
    assert space.searched["window_length"] == Categories(choices=(20, 50))
    assert space.searched["heads"] == DEFAULTS["heads"]
    assert "dropout" not in space.searched
    settings = space.settings(TrainSettings(), {"window_length": 20, "learning_rate": 0.002})
    assert (settings.encoder.dropout, settings.encoder.window_length, settings.learning_rate) == (0.1, 20, 0.002)


def test_a_start_outside_the_space_is_left_open() -> None:
    space = Space(searched={"learning_rate": Range(low=0.1, high=1.0), "heads": Categories(choices=(2, 4))}, fixed={})
    assert space.start(TrainSettings()) == {"heads": EncoderSettings().heads}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("learning_rat = 0.1", "unknown setting 'learning_rat'; did you mean 'learning_rate'"),
        ("zzz = 1", "unknown setting 'zzz'; known: dimensions, interests"),
        ("holdout = 'last'", "'holdout' cannot be set in this file: give --holdout"),
        (
            "holdout_items = { low = 0.0, high = 0.1 }",
            "'holdout_items' cannot be set in this file: give --holdout-items",
        ),
        ("device = 'cpu'", "'device' cannot be set in this file: give --device"),
        ("scoring = { choices = ['dot', 'cosine'] }", "scoring: found 'cosine', Input should be 'dot' or 'additive'"),
        ("encoder = { heads = 2 }", "'encoder' cannot be set in this file"),
        ("dropout = { low = 0.0, high = 1.0 }", "dropout: found 1.0, Input should be less than 1"),
        ("dropout = 1.5", "dropout: found 1.5, Input should be less than 1"),
        ("interests = { choices = [1, 64] }", "interests: found 64, Input should be less than or equal to 32"),
        ("dimensions = { choices = [] }", r"dimensions\.choices: found \[\]"),
        ("dimensions = { choices = [8], log = true }", r"dimensions\.log: found True, Extra inputs are not permitted"),
        ("dimensions = { low = 8, high = 16, step = 2 }", r"dimensions\.step: found 2"),
        ("dimensions = { low = 8 }", r"dimensions\.high: .* Field required; a range has low, high"),
        ("dimensions = { low = 8.5, high = 9.5 }", "dimensions: found 8.5, Input should be a valid integer"),
        ("dropout = { low = 0.5, high = 0.1 }", r"low \(0.5\) must be less than high \(0.1\)"),
        ("dropout = { low = 0.0, high = 0.1, log = true }", "must begin above 0"),
        ("validation_users = { choices = [10, 20] }", "decides how trials are measured"),
        ("dropout = ", "not valid TOML"),
        ("\n".join(f"{name} = {search_space.flat(TrainSettings())[name]!r}" for name in DEFAULTS), "nothing is left"),
    ],
)
def test_a_setting_that_cannot_be_searched_is_refused_by_name(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(SettingsError, match=reason):
        search_space.read(written(tmp_path, text), with_content=True)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"none\.toml cannot be read: No such file"):
        search_space.read(tmp_path / "none.toml", with_content=False)


def test_settings_to_train_with_have_one_value_each(tmp_path: Path) -> None:
    assert search_space.read_settings(written(tmp_path, "heads = 4")) == {"heads": 4}
    with pytest.raises(SettingsError, match="heads is one of 2, 4, expected one value"):
        search_space.read_settings(written(tmp_path, "heads = { choices = [2, 4] }"))
