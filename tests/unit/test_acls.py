"""The rights of each role, by the names in the settings, and the commands that give them."""

import shlex

import pytest
from click.testing import CliRunner

from engine.cli.acls import acls
from engine.eventlog import acl_plan
from engine.settings import loader

SHOP = {"HEADRACE_KAFKA__PREFIX": "shop"}


def rights(role: str, **variables: str) -> dict[tuple[str, str], tuple[str, ...]]:
    settings = loader.load(None, SHOP | {f"HEADRACE_{name}": value for name, value in variables.items()})
    return {(grant.kind, grant.name): grant.operations for grant in acl_plan.ROLES[role](settings)}


def test_a_worker_may_do_this_and_no_more() -> None:
    assert rights("worker") == {
        ("topic", "shop.clicks"): ("Read",),
        ("topic", "shop.windows"): ("Read", "Write"),
        ("topic", "shop.recommendations"): ("Read", "Write"),
        ("topic", "shop.clicks.dead"): ("Read", "Write"),
        ("topic", "shop.releases"): ("Read", "Write"),
        ("topic", "shop.canary-sums"): ("Read", "Write"),
        ("group", "shop.headrace"): ("Read",),
        ("transactional-id", "shop.headrace-"): ("Write",),
    }


def test_rekeying_needs_a_topic_and_a_group_more_and_at_least_once_no_transactions() -> None:
    more = rights("worker", CLICKS__REKEY="true").keys() - rights("worker").keys()
    assert more == {("topic", "shop.clicks.by-user"), ("group", "shop.headrace-rekey")}
    fewer = rights("worker").keys() - rights("worker", KAFKA__DELIVERY="at_least_once").keys()
    assert fewer == {("transactional-id", "shop.headrace-")}


def test_a_worker_reads_impressions_where_there_are_some() -> None:
    more = rights("worker", IMPRESSIONS__ACCEPT="true").items() - rights("worker").items()
    assert more == {(("topic", "shop.impressions"), ("Read",))}


@pytest.mark.parametrize("role", ["archive", "serve"])
def test_who_only_reads_may_write_nothing(role: str) -> None:
    assert {operation for operations in rights(role).values() for operation in operations} == {"Read"}


def test_a_server_writes_impressions_alone_and_only_where_it_takes_them() -> None:
    more = rights("serve", IMPRESSIONS__ACCEPT="true").items() - rights("serve").items()
    assert more == {(("topic", "shop.impressions"), ("Write",))}
    assert ("topic", "shop.impressions") in rights("operator", IMPRESSIONS__ACCEPT="true")


def test_no_role_but_the_operators_may_create_or_delete() -> None:
    for role in acl_plan.ROLES.keys() - {"operator"}:
        assert {word for operations in rights(role).values() for word in operations} <= {"Read", "Write"}


def test_the_table_has_every_role_and_the_commands_are_those_of_kafka() -> None:
    table = CliRunner().invoke(acls, [], env=SHOP, catch_exceptions=False)
    assert [line[:-1] for line in table.output.splitlines() if line.endswith(":")] == [*acl_plan.ROLES]
    assert "  transactional-id shop.headrace-*                  Write  # one a worker: exactly once" in table.output
    options = ["--role", "worker", "--commands", "User:me"]
    result = CliRunner().invoke(acls, options, env=SHOP, catch_exceptions=False)
    head, *commands = result.output.splitlines()
    assert head == "# worker"
    assert shlex.split(commands[0]) == [
        *("kafka-acls.sh", "--bootstrap-server", "127.0.0.1:9092", "--add", "--allow-principal", "User:me"),
        *("--operation", "Read", "--topic", "shop.clicks", "--group", "shop.headrace"),
    ]
    assert commands[-1].endswith("--transactional-id shop.headrace- --resource-pattern-type prefixed")
