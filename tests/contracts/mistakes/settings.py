"""Mistakes in settings, click fields, addresses of Kafka and on the command line."""

from pathlib import Path

from click.testing import CliRunner

from engine.catalogue.actions import Actions
from engine.cli.main import headrace
from engine.errors import (
    BrokerUnavailableError,
    DamagedReleaseError,
    SettingsError,
)
from engine.eventlog.kafka import KafkaLog
from engine.ingest.decoder import ClickDecoder
from engine.ingest.fields import ClickLayout
from engine.settings import loader
from engine.settings.sections import (
    ClickFields,
    ClickSettings,
    KafkaSettings,
)
from tests.contracts.mistakes.row import Act, Row


def file_of_settings(text: str) -> Act:
    def act(folder: Path) -> object:
        (folder / "headrace.toml").write_text(text)
        return loader.load(folder / "headrace.toml", {})

    return act


def environment(**variables: str) -> Act:
    return lambda _folder: loader.load(None, {f"HEADRACE_{name}": value for name, value in variables.items()})


def click_fields(**paths: str) -> Act:
    settings = ClickSettings(fields=ClickFields(**paths))
    return lambda _folder: ClickDecoder(settings, Actions(settings))


def kafka(**changes: object) -> Act:
    return lambda _folder: KafkaLog(KafkaSettings.model_validate(changes)).partitions("clicks")


def command(*arguments: str) -> Act:
    def act(folder: Path) -> object:
        words = [argument.replace("FOLDER", str(folder)) for argument in arguments]
        return CliRunner(env=dict.fromkeys(("HEADRACE_CONFIG",))).invoke(headrace, words, catch_exceptions=False)

    return act


def short_key(folder: Path) -> object:
    (folder / "key").write_text("secret")
    return ClickDecoder(ClickSettings(pseudonym_key_file=folder / "key"), Actions(ClickSettings()))


def repartition_of_pseudonyms(_folder: Path) -> object:
    environ = {"HEADRACE_CONFIG": None, "HEADRACE_CLICKS__PSEUDONYM_KEY_FILE": "/etc/key"}
    words = ["repartition", "--partitioner", "murmur2"]
    return CliRunner(env=environ).invoke(headrace, words, catch_exceptions=False)


SKIPPING = ClickSettings(skip_types=["heartbeat"])

SETTINGS = [
    Row(
        "a settings file that is not there",
        lambda folder: loader.load(folder / "none.toml", {}),
        SettingsError,
        r"settings file .*none\.toml | cannot be read: No such file | - | --config or HEADRACE_CONFIG",
    ),
    Row(
        "a settings file with a typing error",
        file_of_settings("[windows\n"),
        SettingsError,
        r"settings file .*headrace\.toml | at line 1 | not valid TOML | correct it there",
    ),
    Row(
        "a setting with a spelling mistake",
        file_of_settings("[windows]\nlenght = 3\n"),
        SettingsError,
        r"headrace\.toml: unknown setting | 'windows\.lenght' | - | did you mean 'windows\.length'\?",
    ),
    Row(
        "a setting in a section that does not have it",
        file_of_settings("[kafka]\nmax_users = 3\n"),
        SettingsError,
        r"unknown setting | 'kafka\.max_users' | - | did you mean 'windows\.max_users'\?",
    ),
    Row(
        "a section that nobody knows",
        file_of_settings("[zzz]\n"),
        SettingsError,
        r"unknown setting | 'zzz' | - | known here: kafka, clicks",
    ),
    Row(
        "a variable with a spelling mistake",
        environment(KAFKA__GRUOP="shop"),
        SettingsError,
        r"environment variable HEADRACE_KAFKA__GRUOP | 'kafka\.gruop' | - | did you mean 'kafka\.group'\?",
    ),
    Row(
        "a word in the place of a number",
        file_of_settings('[windows]\nlength = "long"\n'),
        SettingsError,
        r"setting 'windows\.length' | found 'long' | expected a valid integer | or HEADRACE_WINDOWS__LENGTH",
    ),
    Row(
        "a number out of range in the environment",
        environment(WINDOWS__LENGTH="0"),
        SettingsError,
        r"setting 'windows\.length' | found '0' | expected greater than or equal to 1 | \(HEADRACE_WIND",
    ),
    Row(
        "a unit that there is none of",
        environment(CLICKS__TIME_UNIT="ns"),
        SettingsError,
        r"setting 'clicks\.time_unit' | found 'ns' | expected 's', 'ms', 'us' or 'iso8601' | HEADRACE_CLICKS__TIME",
    ),
    Row(
        "a table in the environment that is no JSON",
        environment(CLICKS__ACTIONS="{"),
        SettingsError,
        r"environment: | error parsing value for field \"clicks\" | table written as JSON | HEADRACE_SECTION__KEY",
    ),
    Row(
        "types to skip and no field that holds them",
        lambda _folder: ClickDecoder(SKIPPING, Actions(SKIPPING)),
        SettingsError,
        r"setting 'clicks\.skip_types' is \['heartbeat'\] | 'clicks\.fields\.type' is empty | the path of | name it",
    ),
    Row(
        "transactions that end before commits do",
        environment(KAFKA__TRANSACTION_TIMEOUT_S="5"),
        SettingsError,
        r"kafka\.transaction_timeout_s | is 5 | more than kafka\.commit_timeout_s \(15\) | raise the first or lower",
    ),
    Row(
        "arms judged by reports that nobody takes",
        file_of_settings('[canary]\nexposure = "impressions"\n'),
        SettingsError,
        r"^canary\.exposure | is 'impressions' while impressions\.accept is false | expected reports of what users are"
        r" shown | set impressions\.accept = true, here .*\(file .*headrace\.toml\)$",
    ),
    Row(
        "clicks that are rekeyed onto their own topic",
        environment(CLICKS__REKEY="true", CLICKS__BY_USER_TOPIC="clicks"),
        SettingsError,
        r"clicks\.by_user_topic | found 'clicks' | expected another topic than clicks\.topic | name another one",
    ),
    Row(
        "a weight beyond all measure",
        environment(CLICKS__ACTIONS='{"view": 1e9}'),
        SettingsError,
        r"'clicks\.actions': weight of action 'view' | is 1000000000\.0 | -1000 to 1000 | HEADRACE_CLICKS__ACTIONS",
    ),
    Row(
        "an action with an endless name",
        environment(CLICKS__ACTIONS='{"' + 300 * "a" + '": 1}'),
        SettingsError,
        r"'clicks\.actions': action 'aaa | has 300 bytes | 255 at most | HEADRACE_CLICKS__ACTIONS",
    ),
    Row(
        "a default action without a weight",
        environment(CLICKS__DEFAULT_ACTION="gaze"),
        SettingsError,
        r"'clicks\.default_action' | found 'gaze' | one of clicks\.actions: view, | HEADRACE_CLICKS__DEFAULT_ACTION",
    ),
]


CLICK_FIELDS = [
    Row(
        "a key of pseudonyms that anybody could guess",
        short_key,
        SettingsError,
        r"clicks\.pseudonym_key_file | found 6 bytes in | expected 32 or more | write such a key \(openssl rand",
    ),
    Row(
        "windows with pseudonyms to be moved",
        repartition_of_pseudonyms,
        SettingsError,
        r"clicks\.pseudonym_key_file | is '/etc/key' | expected none | read the clicks again into a new windows\.topic",
    ),
    Row(
        "no field for the user",
        click_fields(user=""),
        SettingsError,
        r"'clicks\.fields\.user' | is empty | expected a path | name the field that holds the user",
    ),
    Row(
        "two dots in a path",
        click_fields(user="visitor..id"),
        SettingsError,
        r"'clicks\.fields\.user' | 'visitor\.\.id', which has an empty step | keys joined by dots | take the dot out",
    ),
    Row(
        "consent that is needed, and no field for it",
        lambda _folder: ClickLayout(ClickSettings(require_consent=True)),
        SettingsError,
        r"'clicks\.require_consent' is true | 'clicks\.fields\.consent' is empty | - | name the field that",
    ),
    Row(
        "an index beyond all arrays",
        click_fields(user="visitors.99999"),
        SettingsError,
        r"'clicks\.fields\.user' | found index 99999 in 'visitors\.99999' | expected \d+ at most | map another field",
    ),
    Row(
        "an object that is an array, too",
        click_fields(user="ids.0", item="ids.item"),
        SettingsError,
        r"'clicks\.fields' | 'ids' is both an object and an array | one of them | correct the path",
    ),
    Row(
        "a quotation mark in a name",
        click_fields(item='i"d'),
        SettingsError,
        r"'clicks\.fields\.item' | 'i\"d', which has a character | printable ones without | map a field with an",
    ),
    Row(
        "one field for two things",
        click_fields(user="id", item="id"),
        SettingsError,
        r"'clicks\.fields\.item' | 'id' is mapped twice | expected once | name another one",
    ),
    Row(
        "a field that is an object, too",
        click_fields(user="visitor", item="visitor.item"),
        SettingsError,
        r"'clicks\.fields' | 'visitor' is both a field and an object | one of them | correct the path",
    ),
]


LOGIN: dict[str, object] = {"security_protocol": "SASL_SSL", "sasl_mechanism": "PLAIN", "sasl_username": "me"}
KAFKA_SETTINGS = [
    Row(
        "an address without a port",
        kafka(bootstrap_servers="broker"),
        SettingsError,
        r"kafka\.bootstrap_servers | found 'broker' | expected host:port | for example 127\.0\.0\.1:9092",
    ),
    Row(
        "an address at which nobody answers",
        kafka(bootstrap_servers="127.0.0.1:1", connect_timeout_s=0.2),
        BrokerUnavailableError,
        r"Kafka at 127\.0\.0\.1:1 | ECONNREFUSED | no answer .* within 0\.2 s | check kafka\.bootstrap_servers and",
    ),
    Row(
        "a login without a name",
        kafka(security_protocol="SASL_SSL", sasl_mechanism="PLAIN"),
        SettingsError,
        r"kafka\.sasl_username | is not set | security_protocol is 'SASL_SSL' | set it, or choose a protocol without",
    ),
    Row(
        "a certificate file that is not there",
        kafka(security_protocol="SSL", ssl_ca_file="nowhere.pem"),
        SettingsError,
        r"kafka\.ssl_ca_file | 'nowhere\.pem', which cannot be used .*No such file | certificates in PEM form | name",
    ),
    Row(
        "a certificate of this client that is not there",
        kafka(security_protocol="SSL", ssl_certificate_file="nowhere.pem"),
        SettingsError,
        r"kafka\.ssl_certificate_file | 'nowhere\.pem' | certificate and its key in PEM form | name the right files",
    ),
    Row(
        "a secret twice",
        kafka(**LOGIN, sasl_password="one", sasl_password_file="two"),  # noqa: S106
        SettingsError,
        r"kafka\.sasl_password_file | found both | expected one of them | take one out",
    ),
    Row(
        "a file of a secret that is not there",
        kafka(**LOGIN, sasl_password_file="nowhere"),  # noqa: S106 - a file
        SettingsError,
        r"kafka\.sasl_password_file | 'nowhere', which cannot be read \(No such | the secret alone | name another, or",
    ),
    Row(
        "a file of a secret without one",
        kafka(**LOGIN, sasl_password_file="/dev/null"),  # noqa: S106
        SettingsError,
        r"kafka\.sasl_password_file | '/dev/null', which is empty | the secret alone | write it there",
    ),
    Row(
        "tokens from nowhere",
        kafka(security_protocol="SASL_SSL", sasl_mechanism="OAUTHBEARER"),
        SettingsError,
        r"kafka\.sasl_oauth_token_url | found None and None | expected one of them | set the address of",
    ),
    Row(
        "a secret that would be sent in clear",
        kafka(
            **LOGIN
            | {"sasl_mechanism": "OAUTHBEARER", "sasl_password": "x", "sasl_oauth_token_url": "http://idp/token"}
        ),
        SettingsError,
        r"kafka\.sasl_oauth_token_url | found 'http://idp/token' | begins with https:// | name that of the identity",
    ),
]


COMMANDS = [
    Row(
        "dead letters shown by another number",
        command("dead", "show", "17"),
        SettingsError,
        r"PLACE | found '17' | expected partition/offset | `headrace dead list` shows each place",
    ),
    Row(
        "nobody to forget",
        command("forget", ""),
        SettingsError,
        r"USER | found an empty id | expected the id that the user's clicks have | name it",
    ),
    Row(
        "nobody to show",
        command("show", ""),
        SettingsError,
        r"USER | found an empty id | expected the id that the user's clicks have | name it",
    ),
    Row(
        "a settings file that is not there, by the command",
        command("settings", "--config", "FOLDER/none.toml"),
        SettingsError,
        r"settings file .*none\.toml | cannot be read: No such file | - | --config or HEADRACE_CONFIG",
    ),
    Row(
        "a release that is not there, by the command",
        command("publish", "FOLDER/none"),
        DamagedReleaseError,
        r"release .*/none: release\.json | cannot be read | the folder of a release | name another, or copy",
    ),
    Row(
        "simulated clicks into a folder, without an end",
        command("produce", "simulate", "--out", "FOLDER/clicks"),
        SettingsError,
        r"to write a folder | - | - | give --out FOLDER and --events N, without --seconds",
    ),
]

ROWS = [*SETTINGS, *CLICK_FIELDS, *KAFKA_SETTINGS, *COMMANDS]
