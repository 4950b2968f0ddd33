"""Who is measured: what all of them have in common, the floor, and the node."""
import dataclasses
import os
import pathlib
import shutil

from servers import HOST, LOAD_CORE, ROOT, SERVER_CORE, TARGET, Server, free_port, git_commit, version

SECRET = "the benchmark's own secret, which is long enough for HS256"
NATS_SERVER = os.environ.get("NATS_SERVER", "nats-server")


@dataclasses.dataclass(frozen=True)
class Setup:
    """What a scenario asks of a server beyond delivering."""

    token: bool = False  # clients show an HS256 token that allows their channel
    history: bool = False  # channels keep history
    presence: bool = False  # subscribers are members
    deflate: bool = False  # permessage-deflate is on, and clients offer it
    sse: bool = False  # clients are streams of server-sent events
    memory: bool = False  # no broker
    nodes: int = 1


PLAIN = Setup()


class Running:
    """Processes that were started for one case, with the options of fanfare-load that lead to them."""

    def __init__(self, servers, options, broker=None):
        self.servers, self.options, self.broker = servers, options, broker

    def targets(self):
        words = []
        for server in self.servers:
            words += ["--server", f"{HOST}:{server.port}", "--pid", server.pid]
        if self.broker:
            words += ["--broker-pid", self.broker.pid]
        return words + self.options

    def told(self):
        """What the processes themselves say once the load is gone."""
        figures = {"rss_mib": sum(server.resident() for server in self.servers) / 2**20}
        nodes = [server for server in self.servers if server.internal]
        reads = [value for node in nodes for name, value in node.metrics().items() if name.startswith("fanfare_history_reads_total")]
        return figures | ({"history_reads": sum(reads)} if nodes else {})

    def said(self):
        return "".join(server.said() for server in self.servers)

    def end(self):
        for server in self.servers:
            server.end()


class Contender:
    """`missing` says what to install; `start` gives what runs. Brokers live until `end`."""

    name, peer, missing = None, False, None

    def versions(self):
        return None

    def can(self, setup):
        return setup == PLAIN

    def start(self, setup):
        raise NotImplementedError

    def end(self):
        pass


class Floor(Contender):
    """Handshakes, and then nothing but send(); with `joined` one write for all that is published at once. With history it sends
    one message right after each handshake, as large as what a node's clients have missed in a storm."""

    MISSED = 10 * (128 + 90)

    def __init__(self, joined=False):
        self.joined = joined
        self.name = "floor, joined" if joined else "floor"

    def can(self, setup):
        return setup in (PLAIN, Setup(token=True), Setup(history=True), Setup(deflate=True))

    def start(self, setup):
        command = [TARGET / "fanfare-load", "floor", "--listen", f"{HOST}:0"] + (["--join"] if self.joined else [])
        command += ["--greet", self.MISSED] if setup.history else []
        options = ["--publish", "floor", "--path", "/?channel={n}", "--subscribed", ""]
        return Running([Server("floor", command, SERVER_CORE, ready=True)], options)


class Fanfare(Contender):
    """A node with bench/fanfare.toml, and NATS (or nothing) behind it. `binary`: another build than this tree's."""

    def __init__(self, name="fanfare", binary=None):
        self.name, self.binary = name, pathlib.Path(binary or TARGET / "fanfare-gateway")
        self.brokers, self.store = {}, None

    @property
    def missing(self):
        if not self.binary.exists():
            return f"cargo build --release --bins ({self.binary} is not there)"
        return None if shutil.which(NATS_SERVER) else "apt-get install nats-server"

    def versions(self):
        build = git_commit() if self.name == "fanfare" else self.binary
        return f"{self.name} {build} on nats-server {version(NATS_SERVER, '--version')}, one shard"

    def can(self, setup):
        return True

    def start(self, setup):
        broker = None if setup.memory else self.broker(setup)
        url = f"nats://{HOST}:{broker.port}" if broker else "memory:"
        servers = [self.node(setup, url) for _ in range(setup.nodes)]
        path = "/sse" if setup.sse else "/ws"
        options = ["--path", path + "?channels=bench:{n}" + ("&token={token}" if setup.token else "")]
        options += ["--subject", "rt.pub.default.bench.{n}"]
        options += ["--publish", url] if broker else []
        options += ["--secret", SECRET] if setup.token else []
        return Running(servers, options, broker)

    def node(self, setup, url):
        command = ["env", *self.variables(setup), self.binary, "--config", ROOT / "bench/fanfare.toml"]
        command += ["--listen", f"{HOST}:0", "--internal-listen", f"{HOST}:0", "--broker", url]
        return Server("fanfare", command, SERVER_CORE, ready=True)

    def variables(self, setup):
        wanted = {"FANFARE_AUTH__HMAC_SECRET": SECRET, "FANFARE_AUTH__ANONYMOUS": str(not setup.token).lower()}
        if setup.token:
            wanted["FANFARE_NAMESPACE_DEFAULTS__SUBSCRIBE"] = "token"
        if setup.history:
            wanted["FANFARE_NAMESPACES__BENCH__HISTORY__SIZE"] = "1000"
        if setup.presence:
            wanted["FANFARE_NAMESPACES__BENCH__PRESENCE"] = "true"
            wanted["FANFARE_STORE"] = self.redis()
            wanted["FANFARE_PRESENCE__GRACE"] = "0s"
        return [f"{name}={value}" for name, value in wanted.items()]

    def broker(self, setup):
        """One for all runs; another with JetStream where history is kept."""
        if setup.history not in self.brokers:
            self.brokers[setup.history] = nats_broker(setup.history)
        return self.brokers[setup.history]

    def redis(self):
        self.store = self.store or redis()
        return f"redis://{HOST}:{self.store.port}"

    def end(self):
        for process in [*self.brokers.values(), *filter(None, [self.store])]:
            process.end()


def nats_broker(history=False):
    port = free_port()
    command = [NATS_SERVER, "-a", HOST, "-p", port] + (["-js", "-sd", "{directory}/jetstream"] if history else [])
    return Server("broker", command, LOAD_CORE, port=port)


def redis():
    port = free_port()
    command = ["redis-server", "--bind", HOST, "--port", port, "--save", "", "--appendonly", "no"]
    return Server("redis", command, LOAD_CORE, port=port)
