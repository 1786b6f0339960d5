# One command each. CONTRIBUTING.md lists the same commands; tests/contracts/test_justfile.py holds the two together.

# The recipes below.
[private]
default:
    @just --list --unsorted

# Install the package with everything that its tests need, this program and pre-commit among it.
setup:
    pip install -e '.[dev]'

# Lint, formatting, types and import contracts.
check:
    ruff check . && ruff format --check . && mypy && lint-imports

# Every test that needs no broker; with KAFKA_HOME or KAFKA_BOOTSTRAP set, every test.
test:
    pytest

# Every test, on a real Kafka from HOME, an unpacked Kafka 4.
test-kafka HOME:
    KAFKA_HOME={{ HOME }} pytest

# The engine beside its floor.
bench:
    headrace bench throughput --items 100000

# Simulated shoppers and live lists, without a broker.
demo:
    headrace demo

# Dashboards, rules and the page of metrics, after a change of a metric, a panel or a rule.
generate:
    python -m deploy.monitoring

# Known weaknesses of the installed dependencies, from a service on the network.
audit:
    pip-audit --skip-editable

# Size and shape of the source, by package.
structure:
    python -m tests.contracts.structure
