"""What must be reached (docs/benchmarks.md, "Targets"), held against a run. Pure."""
import dataclasses
import json
import sys

from results import FLOOR, Results, number
from tables import row

NODE, PEERS = "fanfare", ["nats", "nchan", "mosquitto", "socket.io", "centrifugo", "sockudo"]
NOT_MEASURED, BUSY = "not measured", "not judged: other programs were running"


@dataclasses.dataclass(frozen=True)
class Target:
    """`read` gives what was found, or None; `bound` is the most it may be, or with `least` the least. What is measured by the
    clock is not judged on a busy machine, where it says who got the core, not who needs it."""

    what: str
    bound: float
    unit: str
    read: object
    least: bool = False
    clock: bool = False

    def verdict(self, scenarios, busy=False):
        found = self.read(scenarios)
        if found is None:
            return None, NOT_MEASURED
        if self.clock and busy:
            return found, BUSY
        met = found >= self.bound if self.least else found <= self.bound
        return found, "met" if met else "missed"

    @property
    def asked(self):
        return f"{'≥' if self.least else '≤'} {number(self.bound)} {self.unit}"


class Scenarios:
    """The results of a run by scenario."""

    def __init__(self, results):
        self.by_name = {}
        for result in results:
            self.by_name.setdefault(result["scenario"], []).append(result)

    def __getitem__(self, name):
        return Results(self.by_name.get(name, []))

    def __iter__(self):
        return iter(self.by_name)


def times_floor(scenario, key, **labels):
    def read(scenarios):
        results = scenarios[scenario]
        groups = results.where(**labels)
        return results.ratio(groups[0], NODE, key) if groups else None

    return read


def median_of(scenario, key, **labels):
    def read(scenarios):
        groups = scenarios[scenario].where(**labels)
        return scenarios[scenario].median(groups[0], NODE, key) if groups else None

    return read


def times_server(scenario, key, server, base, best=max, **labels):
    """The node's figure as a multiple of that of `base`, or of the best of several."""

    def read(scenarios):
        results = scenarios[scenario]
        for group in results.where(**labels):
            ratios = [results.ratio(group, server, key, each) for each in base]
            ratios = [ratio for ratio in ratios if ratio is not None]
            return best(ratios) if ratios else None

    return read


def growth(scenarios):
    """What 19,000 sockets make of the cost at 100, net of what they make of the floor's."""
    results = scenarios["fanout"]
    few, many = (results.where(sockets=sockets, burst=1, bytes=128) for sockets in [100, 19_000])
    if not few or not many:
        return None
    own, floor = (results.ratio(many[0], who, "cpu_us_per_delivery", who, few[0]) for who in [NODE, FLOOR])
    return own / floor if own and floor else None


INTEREST = 128  # bytes of an interest on NATS: what a test holds its table to (docs/adr/0007)


def idle(kind):
    def read(scenarios):
        results = scenarios["idle"]
        groups = results.where(channel="own")
        found = groups and results.median(groups[0], f"{NODE} ({kind})", "idle_bytes_per_socket")
        return found / 1024 if found else None

    return read


def idle_without_interest(kind):
    found = idle(kind)
    return lambda scenarios: (kib := found(scenarios)) and kib - INTEREST / 1024


def deflate(scenarios):
    results = scenarios["deflate"]
    on, off = results.where(deflate="on"), results.where(deflate="off")
    return results.ratio(on[0], NODE, "cpu_us_per_delivery", NODE, off[0]) if on and off else None


# In which figures less (or more) is better than a peer's, wherever both were measured.
SHARED = {
    "fanout": ["cpu_us_per_delivery", "idle_bytes_per_socket"],
    "channels": ["cpu_us_per_delivery"],
    "latency": ["cpu_us_per_delivery"],
    "handshake": ["cpu_us_per_handshake"],
    "storm": ["cpu_s"],
    "deflate": ["cpu_us_per_delivery"],
    "idle": ["idle_bytes_per_socket"],
}


def losses(scenarios):
    """Where a peer needs less than the node: `(scenario, labels, peer, figure)`."""
    lost = []
    for name, keys in SHARED.items():
        results = scenarios[name]
        own = f"{NODE} (NATS)" if name == "idle" else NODE
        for labels in results.groups():
            for peer in set(PEERS) & set(results.servers(labels)):
                lost += [(name, labels, peer, key) for key in keys if (results.ratio(labels, own, key, peer) or 0) > 1]
    return lost


def shared(scenarios):
    """How many comparisons with a peer are lost."""
    compared = any(set(PEERS) & set(scenarios[name].servers(labels)) for name in SHARED for labels in scenarios[name].groups())
    return len(losses(scenarios)) if compared else None


FAN_OUT = {"bytes": 128, "burst": 1}
PER_CORE = "deliveries_per_cpu_s"
OTHERS = [peer for peer in PEERS if peer != "nats"]
TARGETS = [
    Target("delivery to 10,000 sockets, one message of 128 B at a time", 1.15, "× floor", times_floor("fanout", "cpu_us_per_delivery", sockets=10_000, **FAN_OUT)),
    Target("the same, 1,000 sockets", 1.15, "× floor", times_floor("fanout", "cpu_us_per_delivery", sockets=1_000, **FAN_OUT)),
    Target("saturation at 1,000 sockets, deliveries per CPU second", 1, "× nats", times_server("saturation", PER_CORE, NODE, ["nats"], sockets=1_000), least=True),
    Target("the same, against the best of the other peers", 2, "× the best", times_server("saturation", PER_CORE, NODE, OTHERS, min, sockets=1_000), least=True),
    Target("saturation at 10,000 sockets, deliveries per CPU second", 1, "× floor, single writes", times_floor("saturation", PER_CORE, sockets=10_000), least=True),
    Target("growth from 100 sockets to 19,000, net of the floor's own", 1.25, "×", growth),
    Target("10,000 channels of one socket, one message a second each", 1.5, "× floor", times_floor("channels", "cpu_us_per_delivery", channels=10_000)),
    Target("idle authenticated connection, own channel, on NATS with its broker interest", 1.5, "KiB", idle("NATS")),
    Target(f"the same with presence, without the {INTEREST} B of its broker interest", 2.5, "KiB", idle_without_interest("NATS, presence")),
    Target("handshake with HS256, connect and subscribe, shared channel", 3, "× floor's accept and upgrade", times_floor("handshake", "cpu_us_per_handshake", channel="shared")),
    Target("the same, own channel that nobody had: with its interest at NATS", 3, "× floor's accept and upgrade", times_floor("handshake", "cpu_us_per_handshake", channel="own")),
    Target("storm: 15,000 sockets back and recovered, time", 1.6, "× floor", times_floor("storm", "seconds", sockets=15_000), clock=True),
    Target("its history reads, of one channel", 2, "reads", median_of("storm", "history_reads", sockets=15_000)),
    Target("p99 at 50,000 deliveries/s, 10,000 sockets", 1.25, "× floor", times_floor("latency", "latency_p99_ms", sockets=10_000), clock=True),
    Target("the same, 1,000 sockets", 1.25, "× floor", times_floor("latency", "latency_p99_ms", sockets=1_000), clock=True),
    Target("shared deflate, 1 KiB, CPU", 1.3, "× uncompressed", deflate),
    Target("figures in which a peer needs less CPU or memory", 0, "", shared),
]


def busy(run):
    """Whether other programs had so much of the machine's cores that the clock says nothing."""
    return max(run["others"].values()) > 0.1


def table(run, all_of_them=True):
    """Met or missed, with figures; without those that were not measured unless `all_of_them`."""
    scenarios = Scenarios(run["results"])
    lines = [row(["what", "asked", "found", ""]), row(["---"] * 4)]
    for target in TARGETS:
        found, verdict = target.verdict(scenarios, busy(run))
        if all_of_them or verdict != NOT_MEASURED:
            lines.append(row([target.what, target.asked, number(found), f"**{verdict}**" if verdict == "missed" else verdict]))
    for name, labels, peer, key in losses(scenarios):
        where = ", ".join(f"{label} {value}" for label, value in labels.items())
        lines.append(row([f"less at {peer}: {name}, {where}", key, "", ""]))
    return "\n".join(lines)


if __name__ == "__main__":
    with open(sys.argv[1]) as file:
        print(table(json.load(file)))
