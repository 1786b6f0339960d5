"""A file of variants says what it wants, or is refused by name."""

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


def recording(window_length: int = 100) -> EvalData:
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


def test_the_ablations_of_deploy_are_to_be_had() -> None:
    tables = variants.read(Path(__file__).parents[2] / "deploy" / "ablations.toml")
    assert len(systems.two_hops(recording(), "last", tables)) == 2 + len(tables)


def test_an_unknown_setting_is_named_with_the_known_ones() -> None:
    with pytest.raises(SettingsError, match=r"variant wide: unknown dimension; known are .*dimensions.*learning_rate"):
        variants.settings("wide", {"dimension": 128})


@pytest.mark.parametrize(("key", "option"), [("seed", "--seeds"), ("minutes", "--minutes"), ("holdout", "--split")])
def test_what_the_comparison_decides_is_no_variant(key: str, option: str) -> None:
    with pytest.raises(SettingsError, match=f"variant mine: {key} is the same for all systems, set it with {option}"):
        variants.settings("mine", {key: 1})


def test_a_value_out_of_range_is_named() -> None:
    with pytest.raises(SettingsError, match=r"variant none: encoder\.interests: found 0"):
        variants.settings("none", {"interests": 0})


@pytest.mark.parametrize(("text", "reason"), [("interests = 1", "interests stands outside"), ("[a", "cannot be read")])
def test_a_file_that_is_no_table_of_variants_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(SettingsError, match=reason):
        read(tmp_path, text)


def test_content_is_learned_from_or_not() -> None:
    with pytest.raises(SettingsError, match="variant told: content: found 'yes', expected true or false"):
        systems.two_hops(recording(), "last", {"told": {"content": "yes"}})


def test_a_name_that_is_taken_is_refused() -> None:
    with pytest.raises(SettingsError, match="a variant cannot be called bpr"):
        systems.two_hops(recording(), "last", {"bpr": {}})


def test_all_look_at_the_same_windows() -> None:
    ours = systems.two_hops(recording(window_length=30), "last", {"short": {"window_length": 10}})
    lengths = {one.name: one.settings["encoder"]["window_length"] for one in ours}
    assert lengths == {"one-vector": 30, "two-hop": 30, "short": 10}
    with pytest.raises(SettingsError, match=r"long looks at 40 events, but windows keep 30.*windows\.length"):
        systems.two_hops(recording(window_length=30), "last", {"long": {"window_length": 40}})
