#!/usr/bin/env python3
"""Fan-out side by side: the floor, a node, and the peers that are installed, interleaved in one run.

Every server runs on the first core, the load and the broker on the second, so that a server's CPU time is its own.
Figures are medians over the rounds with their spread; CPU is compared with the floor of the same run.
With --idle: memory per idle connection instead.
"""
import argparse
import json
import os
import platform
import statistics
import subprocess
import sys

from peers import Mosquitto, Nats, Nchan, SocketIo
from servers import HOST, LOAD_CORE, TARGET, Fanfare, Floor, NotListening

ATTEMPTS = 5  # to start a server, each with other ports
SETTLE = 10  # seconds until an allocator has given back what handshakes needed


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sockets", type=int, nargs="+", default=[1_000, 10_000])
    parser.add_argument("--bytes", type=int, default=128, help="bytes of an event's data")
    parser.add_argument("--bursts", type=int, nargs="+", default=[1, 10], help="messages that are published at once")
    parser.add_argument("--runs", type=int, default=3, help="interleaved runs of each server")
    parser.add_argument("--only", nargs="+", help="servers to measure; the floor always, except for --idle")
    parser.add_argument("--idle", type=int, metavar="SOCKETS", help="memory per idle connection at so many")
    arguments = parser.parse_args()

    servers = [Floor(), Fanfare(), Nats(), Nchan(), Mosquitto(), SocketIo()]
    if arguments.only:
        servers = [server for server in servers if server.name in {"floor", *arguments.only}]
    measured = []
    try:
        for server in servers:
            if server.missing:
                print(f"{server.name} is left out. To measure it: {server.missing}")
            else:
                measured.append(server)
        print(f"{platform.processor() or platform.machine()}, Linux {platform.release()}, {os.cpu_count()} cores; {arguments.runs} runs")
        print("; ".join(filter(None, (server.versions() for server in measured))) + "\n", flush=True)
        if arguments.idle:
            idle(measured, arguments)
        else:
            fan_out(measured, arguments)
    finally:
        for server in servers:
            server.end()


def fan_out(servers, arguments):
    print(f"{arguments.bytes} B of data:\n")
    print("| sockets | burst | server | CPU per delivery | × floor | spread | broker's CPU | p50 | p99 | idle memory per socket |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for sockets in arguments.sockets:
        for burst in arguments.bursts:
            compare(servers, sockets, burst, arguments)


def compare(servers, sockets, burst, arguments):
    figures = {server.name: [] for server in servers}
    rounds = max(20, 400_000 // (sockets * burst))
    for _ in range(arguments.runs):
        for server in servers:
            load = ["--sockets", sockets, "--rounds", rounds, "--burst", burst, "--bytes", arguments.bytes]
            figures[server.name].append(measure(server, load))
    base = statistics.median(run["cpu_us_per_delivery"] for run in figures["floor"])
    for name, runs in figures.items():
        cpu = sorted(run["cpu_us_per_delivery"] for run in runs)
        median = statistics.median(cpu)
        cells = [f"{sockets:,}", burst, name, f"{median:.2f} µs", f"{median / base:.2f}", f"{cpu[0]:.2f}–{cpu[-1]:.2f}"]
        cells += [shown(runs, "broker_us_per_delivery", "µs", 3), shown(runs, "latency_p50_ms", "ms"), shown(runs, "latency_p99_ms", "ms")]
        idle_bytes = statistics.median(run["idle_bytes_per_socket"] for run in runs)
        print(row([*cells, f"{idle_bytes / 1024:.2f} KiB"]), flush=True)


def idle(servers, arguments):
    """One channel for all connections, on every server; a channel for each, on a node."""
    print(f"{arguments.idle:,} idle, subscribed, anonymous connections, read {SETTLE} s after the last:\n")
    print("| server | broker | channel | memory per connection | spread |")
    print("| --- | --- | --- | --- | --- |")
    own = ["--path", "/ws?channels=bench:{n}"]
    cases = []
    for server in servers:
        if isinstance(server, Fanfare):
            memory = Fanfare(memory=True)
            cases += [(server, "NATS", "shared", []), (server, "NATS", "own", own)]
            cases += [(memory, "memory:", "shared", []), (memory, "memory:", "own", own)]
        elif not isinstance(server, Floor):
            cases.append((server, "–", "shared", []))
    figures = [[] for _ in cases]
    load = ["--sockets", arguments.idle, "--rounds", 0, "--settle", SETTLE]
    for _ in range(arguments.runs):
        for (server, _, _, options), runs in zip(cases, figures):
            runs.append(measure(server, load, options)["idle_bytes_per_socket"] / 1024)
    for (server, broker, channel, _), runs in zip(cases, figures):
        spread = f"{min(runs):.2f}–{max(runs):.2f}"
        print(row([server.name, broker, channel, f"{statistics.median(runs):.2f} KiB", spread]), flush=True)


def measure(server, load, instead=()):
    """One run of the load against a fresh process of the server. `instead` replaces options of the server's own."""
    process, options = started(server)
    try:
        command = ["taskset", "-c", LOAD_CORE, TARGET / "fanfare-load", "fanout", "--server", f"{HOST}:{process.port}", "--pid", process.pid]
        if server.broker:
            command += ["--broker-pid", server.broker.pid]
        command = [str(part) for part in [*command, *load, *options, *instead]]
        result = subprocess.run(command, capture_output=True, text=True, timeout=600)
        if result.returncode != 0:
            sys.exit(f"{server.name}: {result.stderr}{process.said()}")
        return json.loads(result.stdout)
    finally:
        process.end()


def started(server):
    """A port that was free a moment ago may have been taken."""
    for _ in range(ATTEMPTS):
        try:
            return server.start()
        except NotListening as error:
            reason = error
    sys.exit(str(reason))


def shown(runs, key, unit, digits=1):
    """The median of a figure that not every server has."""
    values = [run[key] for run in runs if run[key] is not None]
    return f"{statistics.median(values):.{digits}f} {unit}" if values else "–"


def row(cells):
    return "| " + " | ".join(map(str, cells)) + " |"


if __name__ == "__main__":
    main()
