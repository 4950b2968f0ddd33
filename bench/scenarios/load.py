"""Under load: how much is too much, and how long messages take below that."""
from contender import Floor, Setup
from scenarios.base import Bars, Case, Scenario, Step, able, load, ours
from tables import BROKER, CPU, P50, P99, P99_FLOOR, Column

LOST = Column("lost", "lost", "", 0)


class Saturation(Scenario):
    name, title = "saturation", "Saturation"
    about = (
        "One channel, 128 B. The load keeps messages in flight, and more of them as long as throughput grows and p99 stays below 250 ms. Then messages "
        "come evenly at 50 % and at 80 % of that rate. The floor is there twice: with one write for each message, and joined, with one write "
        "for ten messages, which is what a server can hope for that joins what waits."
    )
    columns = [
        Column("deliveries/s", "deliveries_per_s", "", 0, times_floor=True),
        Column("per CPU second", "deliveries_per_cpu_s", "", 0),
        Column("server's load", "server_load", "", 2),
        LOST,
        P99,
        Column("p99 at 50 %", "at50_latency_p99_ms", "ms", 1),
        Column("p99 at 80 %", "at80_latency_p99_ms", "ms", 1),
    ]
    charts = [Bars("Deliveries per CPU second at saturation, thousands", "deliveries_per_cpu_s", scale=1e-3, more_is_better=True)]

    def cases(self, contenders, quick):
        joined = [Floor(joined=True)] if any(contender.name == "floor" for contender in contenders) else []
        cases = []
        for sockets in [1_000] if quick else [1_000, 10_000]:
            for contender in [*able(contenders, Setup()), *joined]:
                steps = [Step(load("saturate", sockets=sockets, bytes=128, seconds=3 if quick else 5))]
                if not contender.peer or sockets == 1_000 and not quick:
                    steps += [share(sockets, percent) for percent in [50, 80]]
                cases.append(Case(contender, {"sockets": sockets}, steps))
        return cases


def share(sockets, percent):
    """A share of what the same process delivered at saturation."""

    def arguments(figures):
        most = figures.get("deliveries_per_s")
        rate = most and int(most / sockets * percent / 100)
        return load("rate", sockets=sockets, bytes=128, rate=rate, seconds=3) if rate else None

    return Step(arguments, f"at{percent}_")


class Latency(Scenario):
    name, title = "latency", "Latency at 50,000 deliveries/s"
    about = "One channel, 128 B, messages evenly paced. With 10,000 sockets one message is a burst of 10,000 deliveries, and latency is mostly the time to serve them all."
    columns = [P50, P99_FLOOR, Column("max", "latency_max_ms", "ms", 1), Column("server's load", "server_load", "", 2), CPU, LOST]
    charts = [Bars("p99 latency at 50,000 deliveries/s, × floor", "latency_p99_ms", times_floor=True, unit="ms")]
    DELIVERIES, SECONDS = 50_000, 4

    def cases(self, contenders, quick):
        cases = []
        for sockets in [10_000] if quick else [1_000, 10_000]:
            command = load("rate", sockets=sockets, bytes=128, rate=self.DELIVERIES // sockets, seconds=self.SECONDS)
            cases += [Case(contender, {"sockets": sockets}, [Step(command)]) for contender in able(contenders, Setup())]
        return cases


class Slow(Scenario):
    name, title = "slow", "Slow consumers"
    about = (
        "1,000 sockets of one channel, 100 messages of 1 KiB a second; of them none or 50 stop reading. The others must not notice, "
        "and those that stopped are cut once their outbox is full."
    )
    columns = [CPU, P50, P99, Column("max", "latency_max_ms", "ms", 1), LOST, Column("cut", "slow_closed", "", 0)]
    SECONDS = 20

    def cases(self, contenders, quick):
        nodes = [contender for contender in ours(contenders) if contender.name != "floor"]
        cases = []
        for slow in [0, 50]:
            command = load("rate", sockets=1_000, bytes=1024, rate=100, seconds=self.SECONDS, slow=slow)
            cases += [Case(contender, {"slow": slow}, [Step(command)]) for contender in nodes]
        return cases


class Mixed(Scenario):
    name, title = "mixed", "Mixed traffic"
    about = (
        "5,000 sockets on 500 channels, 1,000 messages a second (10,000 deliveries/s); beside it sockets that close and come back, and commands "
        "of clients (`ping`), as they would come in an application."
    )
    columns = [CPU, BROKER, P50, P99, Column("server's load", "server_load", "", 2), LOST]
    SECONDS = 5
    COMMAND = '{"id":7,"type":"ping"}'

    def cases(self, contenders, quick):
        nodes = [contender for contender in ours(contenders) if contender.name != "floor"]
        cases = []
        for traffic, churn, commands in [("deliveries", 0, 0), ("and 100 reconnects/s", 100, 0), ("and 1,000 commands/s", 100, 1_000)]:
            options = {"churn": churn or None, "commands": commands or None, "command": self.COMMAND if commands else None}
            command = load("rate", sockets=5_000, channels=500, bytes=128, rate=1_000, seconds=self.SECONDS, **options)
            cases += [Case(contender, {"traffic": traffic}, [Step(command)]) for contender in nodes]
        return cases


class Cluster(Scenario):
    name, title = "cluster", "Nodes of a cluster"
    about = (
        "10,000 sockets, spread evenly over 1, 2 or 4 nodes that share the one core: what a node costs that others could have done with. "
        "One channel, of which each node gets every message; and 1,000 channels of ten sockets, so that with four nodes most messages go to all of them."
    )
    columns = [CPU, BROKER, P50, P99]
    SOCKETS = 10_000

    def cases(self, contenders, quick):
        nodes = [contender for contender in ours(contenders) if contender.name != "floor"]
        cases = []
        for channels in [1, 1_000]:
            if channels == 1:
                command = load("fanout", sockets=self.SOCKETS, rounds=20, burst=1, bytes=128)
            else:
                command = load("rate", sockets=self.SOCKETS, channels=channels, rate=1_000, seconds=5, bytes=128)
            for count in [1, 2, 4]:
                labels = {"channels": channels, "nodes": count}
                cases += [Case(contender, labels, [Step(command)], Setup(nodes=count)) for contender in nodes]
        return cases


__all__ = ["Bars", "Cluster", "Latency", "Mixed", "Saturation", "Slow"]
