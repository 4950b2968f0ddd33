"""What a delivery costs: fan-out, many channels, compression."""
from contender import Setup
from scenarios.base import Bars, Case, Scenario, Step, able, load, ours
from tables import BROKER, CPU, MEMORY, P50, P99, RSS, Column


class FanOut(Scenario):
    name, title = "fanout", "Fan-out"
    about = (
        "One channel. A round publishes one message, or ten at once, and waits until every socket has all of them. Latency here is the "
        "time to serve all sockets: with one message to 10,000 the last waits for the 9,999 before it."
    )
    columns = [CPU, BROKER, P50, P99, MEMORY, RSS]
    charts = [
        Bars("CPU per delivery, one message at a time, × floor", "cpu_us_per_delivery", times_floor=True, unit="µs", where={"burst": 1, "bytes": 128}),
        Bars("CPU per delivery, bursts of ten, × floor", "cpu_us_per_delivery", times_floor=True, unit="µs", where={"burst": 10, "bytes": 128}),
    ]
    DELIVERIES = 200_000  # of one run, about

    def cases(self, contenders, quick):
        shared, own = [1_000, 10_000], [] if quick else [100, 19_000]
        cases = []
        for size in [128] if quick else [128, 1024]:
            for sockets in sorted(shared + (own if size == 128 else [])):
                for burst in [1] if quick else [1, 10]:
                    who = contenders if sockets in shared and size == 128 else ours(contenders)
                    cases += self.group(able(who, Setup()), sockets, burst, size)
        return cases

    def group(self, contenders, sockets, burst, size):
        rounds = max(10, min(500, self.DELIVERIES // (sockets * burst)))
        command = load("fanout", sockets=sockets, rounds=rounds, burst=burst, bytes=size)
        labels = {"bytes": size, "sockets": sockets, "burst": burst}
        return [Case(contender, labels, [Step(command)]) for contender in contenders]


class Channels(Scenario):
    name, title = "channels", "Many channels"
    about = "Each channel gets one message a second, evenly paced: nothing that is done once per message is shared by many deliveries."
    columns = [CPU, BROKER, P50, P99, Column("lost", "lost", "", 0), RSS]
    charts = [Bars("CPU per delivery on many channels, × floor", "cpu_us_per_delivery", times_floor=True, unit="µs")]
    SECONDS = 5

    def cases(self, contenders, quick):
        shapes = [(10_000, 1)] if quick else [(10_000, 1), (1_000, 10)]
        cases = []
        for channels, each in shapes:
            command = load("rate", sockets=channels * each, channels=channels, rate=channels, seconds=self.SECONDS, bytes=128)
            labels = {"channels": channels, "sockets each": each}
            cases += [Case(contender, labels, [Step(command)]) for contender in able(contenders, Setup())]
        return cases


class Deflate(Scenario):
    name, title = "deflate", "Compression"
    about = (
        "1,000 sockets of one channel, 1 KiB of data, one message at a time; permessage-deflate agreed to by all sockets, or offered by none. "
        "The node compresses once per message, without context from message to message. The data is made to compress as JSON does not: it repeats."
    )
    columns = [CPU, BROKER, P50, P99, MEMORY, RSS]
    charts = [Bars("CPU per delivery of 1 KiB, × floor without compression", "cpu_us_per_delivery", times_floor=True, unit="µs", base={"deflate": "off"})]

    def cases(self, contenders, quick):
        cases = []
        for deflate in [False, True]:
            setup = Setup(deflate=deflate)
            command = load("fanout", sockets=1_000, rounds=100, burst=1, bytes=1024, deflate=deflate)
            for contender in able(contenders, setup):
                if contender.can(Setup(deflate=True)):
                    labels = {"deflate": "on" if deflate else "off"}
                    cases.append(Case(contender, labels, [Step(command)], setup))
        return cases
