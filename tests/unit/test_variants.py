"""Files of variants: settings that are read, and settings that are refused by name."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.errors import SettingsError
from engine.settings.sections import Settings, WindowSettings
from models.data.dataset import Interactions
from models.evaluation.queries import EvalData
from models.lab.comparison import systems, variants


def read(tmp_path: Path, text: str) -> dict[str, dict[str, Any]]:
    (tmp_path / "variants.toml").write_text(text)
    return variants.read(tmp_path / "variants.toml")


def eval_data(window_length: int = 100) -> EvalData:
    numbers = np.array([0, 1, 0, 1], np.int32)
    data = Interactions(
        users=np.sort(numbers),
        items=numbers,
        times_ms=np.arange(4, dtype=np.int64),
        actions=np.zeros(4, np.int32),
        user_ids=["ann", "bob"],
        item_ids=["x", "y"],
        action_names=[""],
    )
    return EvalData(data, Settings(windows=WindowSettings(length=window_length)))


def test_tables_are_variants_of_encoder_and_training(tmp_path: Path) -> None:
    tables = read(tmp_path, "[one-interest]\ninterests = 1\n\n[slow]\nlearning_rate = 1e-4\ndropout = 0.5\n")
    assert list(tables) == ["one-interest", "slow"]
    plan = variants.settings("slow", tables["slow"], seed=7, minutes=2.0)
    assert (plan.learning_rate, plan.encoder.dropout, plan.seed, plan.minutes) == (1e-4, 0.5, 7, 2.0)
    assert variants.settings("one-interest", tables["one-interest"]).encoder.interests == 1


@pytest.mark.parametrize("name", ["ablations.toml", "interests.toml"])
def test_the_variants_in_deploy_are_valid(name: str) -> None:
    tables = variants.read(Path(__file__).parents[2] / "deploy" / name)
    assert len(systems.two_hop_systems(eval_data(), "last", tables)) == 3 + len(tables)


def test_an_unknown_setting_is_named_with_the_known_ones() -> None:
    with pytest.raises(SettingsError, match=r"variant wide: unknown dimension; known are .*dimensions.*learning_rate"):
        variants.settings("wide", {"dimension": 128})


@pytest.mark.parametrize(("key", "option"), [("seed", "--seeds"), ("minutes", "--minutes"), ("holdout", "--split")])
def test_settings_of_the_comparison_are_refused(key: str, option: str) -> None:
    with pytest.raises(SettingsError, match=f"variant late: {key} is the same for all systems, set it with {option}"):
        variants.settings("late", {key: 1})


def test_a_value_out_of_range_is_named() -> None:
    with pytest.raises(SettingsError, match=r"variant none: encoder\.interests: found 0"):
        variants.settings("none", {"interests": 0})


@pytest.mark.parametrize(
    ("text", "reason"), [("interests = 1", "interests is outside of any variant"), ("[a", "cannot be read")]
)
def test_a_file_that_is_no_table_of_variants_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(SettingsError, match=reason):
        read(tmp_path, text)


def test_content_is_true_or_false() -> None:
    with pytest.raises(SettingsError, match="variant rich: content: found 'yes', expected true or false"):
        systems.two_hop_systems(eval_data(), "last", {"rich": {"content": "yes"}})


def test_a_name_that_is_taken_is_refused() -> None:
    with pytest.raises(SettingsError, match="a variant cannot be called bpr"):
        systems.two_hop_systems(eval_data(), "last", {"bpr": {}})


def test_all_systems_get_the_same_windows() -> None:
    two_hop_systems = systems.two_hop_systems(eval_data(window_length=30), "last", {"short": {"window_length": 10}})
    lengths = {system.name: system.settings["encoder"]["window_length"] for system in two_hop_systems}
    assert lengths == {"one-vector": 30, "encoder-alone": 30, "two-hop": 30, "short": 10}
    with pytest.raises(SettingsError, match=r"variant long: window_length is 40, but windows keep 30.*windows\.length"):
        systems.two_hop_systems(eval_data(window_length=30), "last", {"long": {"window_length": 40}})
