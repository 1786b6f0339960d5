"""One file, environment over file, unknown keys refused by name."""

import datetime as dt
from pathlib import Path

import pytest

from engine.errors import SettingsError
from engine.eventlog import topic_plan
from engine.settings import loader, sections


def written(folder: Path, text: str) -> Path:
    path = folder / "headrace.toml"
    path.write_text(text)
    return path


def test_environment_comes_over_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, '[clicks]\ntopic = "from-file"\ntime_unit = "s"\n[clicks.fields]\nuser = "visitor.id"\n')
    loaded = loader.load(path, {"HEADRACE_CLICKS__TOPIC": "from-env", "HEADRACE_WORKER__THREADS": "2", "PATH": "/"})
    assert loaded.clicks.topic == "from-env"
    assert loaded.clicks.time_unit == "s"
    assert loaded.clicks.fields.user == "visitor.id"
    assert loaded.worker.threads == 2
    assert loaded.kafka == sections.KafkaSettings()


def test_the_default_action_is_one_that_has_a_weight(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"clicks\.default_action': found 'look', .* one of clicks\.actions: view"):
        loader.load(None, {"HEADRACE_CLICKS__DEFAULT_ACTION": "look"})
    path = written(tmp_path, "[clicks.actions]\nbuy = 3.0\n")
    with pytest.raises(SettingsError, match=r"clicks\.default_action': found 'view', .* one of clicks\.actions: buy"):
        loader.load(path, {})
    assert loader.load(path, {"HEADRACE_CLICKS__DEFAULT_ACTION": "buy"}).clicks.default_action == "buy"


def test_the_prefix_names_everything() -> None:
    shop, other = (loader.load(None, {"HEADRACE_KAFKA__PREFIX": prefix}) for prefix in ("shop", "other"))
    assert names(shop) == {
        "kafka.group": "shop.headrace",
        "kafka.client_id": "shop.headrace",
        "clicks.topic": "shop.clicks",
        "clicks.dead_letter_topic": "shop.clicks.dead",
        "clicks.by_user_topic": "shop.clicks.by-user",
        "windows.topic": "shop.windows",
        "recommendations.topic": "shop.recommendations",
        "releases.topic": "shop.releases",
        "canary.topic": "shop.canary-sums",
        "impressions.topic": "shop.impressions",
    }
    assert {*names(shop).values()}.isdisjoint(names(other).values())
    assert (shop.deployment, other.deployment) == ("shop/shop.clicks", "other/other.clicks")
    values = loader.flatten(sections.Settings())
    every_topic = {name for name, value in values.items() if name.endswith("topic") and isinstance(value, str)}
    assert every_topic <= names(shop).keys(), "a topic without the prefix"


@pytest.mark.parametrize(
    ("start", "start_ms"),
    [
        ('"latest"', None),
        ('"1970-01-01T00:00:02Z"', 2_000),
        ('"1970-01-01T01:00:02+01:00"', 2_000),
        ("1970-01-02", 86_400_000),
        ("1970-01-01T00:00:02", 2_000),
    ],
)
def test_a_start_is_a_word_or_a_time(tmp_path: Path, start: str, start_ms: int | None) -> None:
    loaded = loader.load(written(tmp_path, f"[clicks]\nstart = {start}\n"), {})
    assert topic_plan.start_ms(loaded.clicks.start) == start_ms


def test_a_name_of_its_own_has_no_prefix(tmp_path: Path) -> None:
    path = written(tmp_path, '[kafka]\nprefix = "shop"\n[clicks]\ntopic = "events"\n')
    environ = {"HEADRACE_WINDOWS__TOPIC": "windows"}
    loaded = loader.load(path, environ)
    assert (loaded.clicks.topic, loaded.windows.topic) == ("events", "windows")
    assert loaded.clicks.dead_letter_topic == "shop.clicks.dead"
    assert loaded.deployment == "shop/events"
    origins = loader.origins(path, environ)
    assert (origins["clicks.topic"], origins["windows.topic"]) == (str(path), "environment")
    assert origins["releases.topic"] == "kafka.prefix"


def names(settings: sections.Settings) -> dict[str, str]:
    values = loader.flatten(settings)
    return {
        f"{section}.{key}": values[f"{section}.{key}"] for section, keys in sections.PREFIXED.items() for key in keys
    }


def test_origin_of_each_setting_is_known(tmp_path: Path) -> None:
    path = written(tmp_path, '[clicks]\ntopic = "a"\n[clicks.actions]\nview = 1\n')
    assert loader.origins(path, {"HEADRACE_INDEX__M": "8"}) == {
        "clicks.topic": str(path),
        "clicks.actions": str(path),
        "index.m": "environment",
    }


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[kafka]\nbootstrap = 'x'", "did you mean 'kafka.bootstrap_servers'?"),
        ("[click]\ntopic = 'x'", "did you mean 'clicks'?"),
        ("threads = 3", "did you mean 'worker.threads'?"),
        ("[clicks.fields]\nuserid = 'x'", "did you mean 'clicks.fields.user'?"),
        ("[windows]\nzzz = 1", "known here: topic, length, ttl_days, max_users, standby, on_return"),
    ],
)
def test_unknown_key_is_refused_with_the_nearest(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(SettingsError) as refused:
        loader.load(written(tmp_path, text), {})
    assert named in str(refused.value)


def test_unknown_environment_variable_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"HEADRACE_KAFKA__GRUOP: unknown setting 'kafka.gruop'.*'kafka.group'"):
        loader.load(None, {"HEADRACE_KAFKA__GRUOP": "x"})


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"HEADRACE_WINDOWS__LENGTH": "0"}, "setting 'windows.length': found '0'"),
        ({"HEADRACE_CLICKS__TIME_UNIT": "ns"}, "setting 'clicks.time_unit': found 'ns'"),
        ({"HEADRACE_CLICKS__EARLIEST": "1969-12-31"}, "setting 'clicks.earliest': found '1969-12-31'"),
        ({"HEADRACE_CLICKS__ACTIONS": '{"view": 1e9}'}, "weight of action 'view'"),
        ({"HEADRACE_CLICKS__ACTIONS": "{"}, "written as JSON"),
        ({"HEADRACE_CLICKS__START": "noon"}, "'clicks.start': found 'noon', expected earliest, latest or a time"),
        ({"HEADRACE_KAFKA__PREFIX": "my shop"}, "setting 'kafka.prefix': found 'my shop'"),
    ],
)
def test_wrong_value_names_setting_and_value(environ: dict[str, str], message: str) -> None:
    with pytest.raises(SettingsError) as refused:
        loader.load(None, environ)
    assert message in str(refused.value)


def test_the_variable_that_names_the_file_is_no_setting() -> None:
    assert loader.load(None, {loader.CONFIG_VARIABLE: "headrace.toml"}) == sections.Settings()


def test_file_that_is_no_toml_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="not valid TOML"):
        loader.load(written(tmp_path, "[kafka"), {})
    with pytest.raises(SettingsError, match="cannot be read"):
        loader.load(tmp_path / "absent.toml", {})


def test_a_byte_order_mark_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "headrace.toml"
    path.write_bytes(b"\xef\xbb\xbf[clicks]\nearliest = 2000-01-01\n")
    assert loader.load(path, {}).clicks.earliest == dt.date(2000, 1, 1)


def test_secrets_are_not_shown() -> None:
    loaded = loader.load(None, {"HEADRACE_KAFKA__SASL_PASSWORD": "open sesame"})
    assert loaded.kafka.sasl_password == "open sesame"
    assert "open sesame" not in repr(loader.flatten(loaded))
    assert "open sesame" not in repr(loaded)


def test_no_secret_is_shown_in_a_table_a_representation_or_an_error(tmp_path: Path) -> None:
    secrets = {name for name in sections.KafkaSettings.model_fields if name.endswith("_password")}
    assert secrets == {"sasl_password", "ssl_key_password"}
    hidden = "hush-hush"
    loaded = loader.load(None, {f"HEADRACE_KAFKA__{name.upper()}": hidden for name in secrets})
    assert hidden not in repr(loaded)
    assert hidden not in str(loader.flatten(loaded))
    for name in secrets:
        with pytest.raises(SettingsError, match=rf"'kafka\.{name}': found a hidden value, expected") as caught:
            loader.load(written(tmp_path, f'[kafka]\n{name} = ["{hidden}"]\n'), {})
        assert hidden not in str(caught.value)
