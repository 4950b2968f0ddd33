"""What connections cost: idle, when they come, when they all come back, and when they come and go where all are told."""
from contender import Setup
from scenarios.base import Bars, Case, Scenario, Step, able, load, ours
from tables import P50, P99, RSS, Column


class Idle(Scenario):
    name, title = "idle", "Idle memory"
    about = (
        "What the process has allocated (`RssAnon`, its growth since before the first socket) for each of 15,000 idle, subscribed connections, "
        "ten seconds after the last. Those of the node are authenticated by token. On `memory:` the node has no broker: the difference to NATS is what a "
        "broker interest costs, which a channel has only once per node. CPU does not count here, so several servers are measured at one time."
    )
    columns = [Column("memory per connection", "idle_bytes_per_socket", "KiB", scale=1 / 1024, spread=True), RSS]
    charts = [Bars("Memory per idle connection, KiB", "idle_bytes_per_socket", unit="KiB", scale=1 / 1024, where={"channel": "own"})]
    parallel = 3
    SOCKETS = 15_000

    def cases(self, contenders, quick):
        cases = []
        for channel, count in [("own", self.SOCKETS)] if quick else [("own", self.SOCKETS), ("shared", 1)]:
            for contender in contenders:
                kinds = {None: Setup()} if contender.peer else self.kinds(quick)
                if contender.name != "floor":
                    cases += [self.case(contender, {"channel": channel}, count, setup, kind) for kind, setup in kinds.items()]
        return cases

    @staticmethod
    def kinds(quick):
        """The node's ways to be idle."""
        kinds = {}
        for broker, memory in [("NATS", False), ("memory:", True)]:
            kinds[broker] = Setup(token=True, memory=memory)
            kinds[f"{broker}, presence"] = Setup(token=True, memory=memory, presence=True)
            if not quick:
                kinds[f"{broker}, SSE"] = Setup(token=True, memory=memory, sse=True)
        return kinds

    def case(self, contender, labels, channels, setup, kind):
        command = load("idle", sockets=self.SOCKETS, channels=channels, settle=10, sse=setup.sse)
        return Case(contender, labels, [Step(command)], setup, f"{contender.name} ({kind})" if kind else None)


class Handshake(Scenario):
    name, title = "handshake", "Handshakes"
    about = (
        "From `connect()` until the subscription is confirmed, 64 at a time; the node verifies an HS256 token that allows the channel, the others "
        "take everybody. The floor accepts and upgrades. Closing is measured apart."
    )
    columns = [
        Column("CPU per handshake", "cpu_us_per_handshake", "µs", 1, times_floor=True),
        Column("broker's CPU", "broker_us_per_handshake", "µs", 1),
        Column("handshakes/s", "handshakes_per_s", "", 0),
        P50,
        P99,
        Column("CPU per close", "cpu_us_per_close", "µs", 1),
    ]
    charts = [Bars("CPU per handshake and subscription, × floor", "cpu_us_per_handshake", times_floor=True, unit="µs")]

    def cases(self, contenders, quick):
        sockets, rounds = 2_000, 2 if quick else 3
        cases = []
        for channel, count in [("own", sockets)] if quick else [("own", sockets), ("shared", 1)]:
            command = load("handshake", sockets=sockets, channels=count, concurrency=64, rounds=rounds)
            for contender in contenders:
                setup = Setup(token=not contender.peer and contender.name != "floor")
                cases.append(Case(contender, {"channel": channel}, [Step(command)], setup))
        return cases


class Storm(Scenario):
    name, title = "storm", "Reconnect storm"
    about = (
        "All sockets of one channel are cut at once by reset, ten messages are published, and all come back at once. The node gives each what it "
        "missed, by the position that the client remembers; the floor sends one message of the same size after the handshake; peers only take "
        "their clients back. Time runs from the first connect to the last socket that is back."
    )
    columns = [
        Column("time", "seconds", "s", 2, times_floor=True),
        Column("CPU", "cpu_s", "s", 2),
        Column("broker's CPU", "broker_cpu_s", "s", 3),
        Column("CPU of the cut", "cut_cpu_s", "s", 2),
        Column("p99 of a return", "latency_p99_ms", "ms", 0),
        Column("recovered", "recovered", "", 0),
        Column("lost", "lost", "", 0),
        Column("history reads", "history_reads", "", 0),
    ]
    charts = [Bars("Reconnect storm: time until all are back, × floor", "seconds", times_floor=True, unit="s")]
    MESSAGES = 10

    def cases(self, contenders, quick):
        cases = []
        for sockets in [5_000] if quick else [5_000, 15_000]:
            who = contenders if sockets == 5_000 else ours(contenders)
            for contender in who:
                floor = contender.name == "floor"
                options = {} if contender.peer else {"expect": 1} if floor else {"recover": True}
                command = load("storm", sockets=sockets, messages=self.MESSAGES, **options)
                cases.append(Case(contender, {"sockets": sockets}, [Step(command)], Setup(history=not contender.peer)))
        return cases


class PresenceChurn(Scenario):
    name, title = "presence", "Presence churn"
    about = (
        "Members of channels with presence leave and join, half of the changes each, while one watcher per channel is told. `presence.grace` is 0, so "
        "that each of them is a change; else whoever is back within five seconds was never gone. Rows are in Redis, whose CPU is not in these figures."
    )
    columns = [
        Column("CPU per change", "cpu_us_per_change", "µs", 1, spread=True),
        Column("broker's CPU", "broker_us_per_change", "µs", 1),
        Column("changes", "changes", "", 0),
        Column("told", "events", "", 0),
    ]
    SECONDS = 5

    def cases(self, contenders, quick):
        nodes = [contender for contender in ours(contenders) if contender.name != "floor"]
        cases = []
        for channels in [100] if quick else [10, 100, 1_000]:
            command = load("presence", sockets=2_000, channels=channels, churn=200, seconds=self.SECONDS)
            labels = {"members": 2_000, "channels": channels, "changes/s": 200}
            cases += [Case(contender, labels, [Step(command)], Setup(presence=True)) for contender in nodes]
        return cases
