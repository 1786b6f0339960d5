"""A real Apache Kafka for the tests: KRaft nodes on free loopback ports, from $KAFKA_HOME/libs and Java 17."""

import atexit
import contextlib
import functools
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tests.integration.certificates import Authority

CLUSTER_ID = "aGVhZHJhY2UtdGVzdHMtMQ"  # any 16 bytes in base64
USER, PASSWORD = "app", "app-secret"
GUEST, GUEST_PASSWORD = "guest", "guest-secret"  # may log in, and has no right to anything
SERVICE = "service"  # whom tokens and certificates of the tests name
WORKER, WORKER_PASSWORD = "worker", "worker-secret"  # has the rights that a test gives it
PORTS = range(15_000, 32_000)
START_LIMIT_S = 90.0
STOP_LIMIT_S = 20.0

# Nothing here changes what a client may rely on; it makes a broker quick to start and quick to notice.
QUICK = {
    "auto.create.topics.enable": "false",
    "broker.heartbeat.interval.ms": "1000",
    "broker.session.timeout.ms": "6000",
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "1000",
    "log.cleaner.backoff.ms": "200",
    "log.cleaner.dedupe.buffer.size": "2097152",
    "log.retention.check.interval.ms": "1000",
    "num.network.threads": "2",
    "num.io.threads": "4",
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.num.partitions": "4",
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000",
}


@dataclass(frozen=True, slots=True)
class Node:
    """One broker, which is a controller too, and where it lives."""

    number: int
    folder: Path
    port: int
    internal_port: int
    controller_port: int
    mutual_port: int

    @property
    def properties(self) -> Path:
        return self.folder / "server.properties"

    @property
    def log(self) -> Path:
        return self.folder / "log.txt"


class Cluster:
    """Nodes that are started on entering the context and stopped on leaving it; each can be killed and started again.

    With `secure` clients come in by SASL_SSL (SCRAM-SHA-512 or PLAIN as USER, OAUTHBEARER with unsigned tokens), or on
    another port by a certificate of `authority`, and trust `ca_file`. A node of which
    `advertised` names a port sends its clients there: to a proxy (`tests.integration.proxy`).
    """

    def __init__(
        self,
        home: Path,
        folder: Path,
        *,
        nodes: int = 1,
        secure: bool = False,
        advertised: Mapping[int, int] | None = None,
        options: Mapping[str, str] | None = None,
    ) -> None:
        self.ca_file = folder / "ca.pem"
        self.authority = Authority.new("tests")
        self._home = home
        self._folder = folder
        self._secure = secure
        self._advertised = advertised or {}
        self._options = options or {}
        ports = iter(free_ports(4 * nodes))
        self.nodes = [
            Node(number, folder / f"node{number}", next(ports), next(ports), next(ports), next(ports))
            for number in range(1, nodes + 1)
        ]
        self._processes: dict[int, subprocess.Popen[bytes]] = {}

    @property
    def bootstrap(self) -> str:
        """The client listeners, as `kafka.bootstrap_servers` wants them."""
        return ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)

    @property
    def mutual_bootstrap(self) -> str:
        """The listeners of a secure cluster that want a certificate of their clients."""
        return ",".join(f"127.0.0.1:{node.mutual_port}" for node in self.nodes)

    def set_acls(self, arguments: list[str]) -> None:
        """Run Kafka's own program for ACLs, as a superuser."""
        server = f"127.0.0.1:{self.nodes[0].internal_port}"
        _run([*self._java(), "org.apache.kafka.tools.AclCommand", "--bootstrap-server", server, *arguments])

    def start(self, node: Node) -> None:
        """Start one node, formatted at its first start, and wait until it listens."""
        self.launch(node)
        self.wait_for(node)

    def launch(self, node: Node) -> None:
        """Start one node without waiting: a controller of several answers only when the others are there."""
        if not node.folder.exists():
            self._format(node)
        with node.log.open("ab") as log:
            self._processes[node.number] = subprocess.Popen(
                [*_ends_with_us(), *self._java(), "kafka.Kafka", str(node.properties)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def wait_for(self, node: Node) -> None:
        """Return when the node accepts clients."""
        deadline = time.monotonic() + START_LIMIT_S
        while time.monotonic() < deadline:
            if self._processes[node.number].poll() is not None:
                break
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", node.port), timeout=1):
                return
            time.sleep(0.05)
        raise RuntimeError(f"Kafka node {node.number} did not come up:\n{node.log.read_text()[-2000:]}")

    def send_signal(self, node: Node, signal_number: int) -> None:
        """Send a signal to one node's process: SIGSTOP makes it a broker that accepts connections and never answers."""
        self._processes[node.number].send_signal(signal_number)

    def stop(self, node: Node, signal_number: int = signal.SIGTERM) -> None:
        """End one node's process, by SIGKILL if it takes too long; again is harmless."""
        process = self._processes.pop(node.number, None)
        if process is None:
            return
        process.send_signal(signal_number)
        try:
            process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def __enter__(self) -> Self:
        if self._secure:
            self._folder.mkdir(parents=True, exist_ok=True)
            self.authority.write(self.ca_file)
            self.authority.issue("broker", self._folder / "broker.pem")
        try:
            for node in self.nodes:
                self.launch(node)
            for node in self.nodes:
                self.wait_for(node)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        for node in self.nodes:  # in order takes long: the last of several controllers waits for a quorum that has gone
            self.stop(node, signal.SIGKILL)

    def _java(self) -> list[str]:
        quick = ["-Xms128m", "-Xmx768m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
        return ["java", *quick, "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", f"{self._home}/libs/*"]

    def _format(self, node: Node) -> None:
        node.folder.mkdir(parents=True)
        node.properties.write_text("".join(f"{key}={value}\n" for key, value in self._settings(node).items()))
        users = ["--add-scram", f"SCRAM-SHA-512=[name={USER},password={PASSWORD}]"] if self._secure else []
        tool = [*self._java(), "kafka.tools.StorageTool", "format", "--cluster-id", CLUSTER_ID]
        _run([*tool, "--config", str(node.properties), *users])

    def _settings(self, node: Node) -> dict[str, str]:
        replicas = str(min(len(self.nodes), 3))
        in_sync = "2" if len(self.nodes) >= 3 else "1"
        clients, internal = f"CLIENTS://127.0.0.1:{node.port}", f"INTERNAL://127.0.0.1:{node.internal_port}"
        seen_by_clients = f"CLIENTS://127.0.0.1:{self._advertised.get(node.number, node.port)}"
        protocol = "SASL_SSL" if self._secure else "PLAINTEXT"
        mutual = f",MUTUAL://127.0.0.1:{node.mutual_port}" if self._secure else ""
        return {
            "process.roles": "broker,controller",
            "node.id": str(node.number),
            "controller.quorum.voters": ",".join(f"{n.number}@127.0.0.1:{n.controller_port}" for n in self.nodes),
            "listeners": f"{clients},{internal}{mutual},CONTROLLER://127.0.0.1:{node.controller_port}",
            "advertised.listeners": f"{seen_by_clients},{internal}{mutual}",
            "listener.security.protocol.map": f"CLIENTS:{protocol},MUTUAL:SSL,INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "INTERNAL",
            "log.dirs": str(node.folder / "data"),
            "default.replication.factor": replicas,
            "min.insync.replicas": in_sync,
            "offsets.topic.replication.factor": replicas,
            "transaction.state.log.replication.factor": replicas,
            "transaction.state.log.min.isr": in_sync,
            **QUICK,
            **(self._secure_settings() if self._secure else {}),
            **self._options,
        }

    def _secure_settings(self) -> dict[str, str]:
        login = "org.apache.kafka.common.security"
        return {
            "sasl.enabled.mechanisms": "SCRAM-SHA-512,PLAIN,OAUTHBEARER",
            "listener.name.clients.oauthbearer.sasl.jaas.config": (
                f'{login}.oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub="broker";'
            ),
            "listener.name.clients.scram-sha-512.sasl.jaas.config": f"{login}.scram.ScramLoginModule required;",
            "listener.name.clients.plain.sasl.jaas.config": (
                f'{login}.plain.PlainLoginModule required user_{USER}="{PASSWORD}" user_{GUEST}="{GUEST_PASSWORD}" '
                f'user_{WORKER}="{WORKER_PASSWORD}";'
            ),
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            # The broker's own listeners have no login.
            "super.users": f"User:{USER};User:{SERVICE};User:CN={SERVICE};User:ANONYMOUS",
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(self._folder / "broker.pem"),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(self.ca_file),
            "listener.name.mutual.ssl.client.auth": "required",
        }


def _ends_with_us() -> list[str]:
    """A prefix that makes the system end the broker when the tests are killed, where there is such a thing."""
    return ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []


def free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago, all different, and none of those that systems give to clients."""
    free: list[int] = []
    for port in random.SystemRandom().sample(PORTS, len(PORTS)):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            free.append(port)
        if len(free) == count:
            return free
    raise RuntimeError(f"found {len(free)} free ports among {PORTS}, expected {count}; end what listens there")


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=START_LIMIT_S)
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed: {done.stdout[-1000:]}{done.stderr[-1000:]}")


@functools.cache
def shared_secure(home: Path, folder: Path) -> Cluster:
    """One secure node for all tests of this process that change nothing but topics and the rights of WORKER."""
    cluster = Cluster(home, folder, secure=True)
    atexit.register(cluster.__exit__)
    return cluster.__enter__()


@functools.cache
def shared(home: Path, folder: Path) -> Cluster:
    """One node for all tests of this process, stopped when the process ends."""
    cluster = Cluster(home, folder)
    atexit.register(cluster.__exit__)
    return cluster.__enter__()


def missing(home: str | None) -> str | None:
    """Why no broker can be started from `home`; None when it can."""
    if not home:
        return "needs a real Kafka: set KAFKA_HOME to an unpacked Kafka release, or KAFKA_BOOTSTRAP to a running one"
    if not any(Path(home, "libs").glob("kafka-server-*.jar")):
        return f"KAFKA_HOME={home} has no libs/kafka-server-*.jar"
    if not shutil.which("java"):
        return "KAFKA_HOME is set, but there is no java (17 or newer) to run it"
    return None
