#!/usr/bin/env python3
"""Fan-out side by side: the floor, a node, and the peers that are installed, interleaved in one run.

Every server runs on the first core, the load and the broker on the second, so that a server's CPU time is its own.
Figures are medians over the rounds with their spread; CPU is compared with the floor of the same run.
"""
import argparse
import json
import os
import pathlib
import platform
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"
SERVER_CORE, LOAD_CORE = "0", "1"
HOST = "127.0.1.1"  # outgoing sockets use other loopback addresses, so a port that is free here stays free


class Server:
    """A process with its address; ended when the scenario is over."""

    def __init__(self, name, command, core, ready=None, port=None):
        self.name, self.port = name, port
        self.directory = tempfile.mkdtemp(prefix=f"bench-{name}-")
        self.log = open(pathlib.Path(self.directory) / "log", "wb")
        self.process = subprocess.Popen(
            ["taskset", "-c", core, *command], stdout=subprocess.PIPE if ready else self.log, stderr=self.log
        )
        if ready:
            line = self.process.stdout.readline()
            self.port = int(json.loads(line)["public"].rsplit(":", 1)[1])
        else:
            wait_for_port(port)

    @property
    def pid(self):
        """nginx and the like work in a child."""
        children = pathlib.Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return int(children[0]) if children else self.process.pid

    def end(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)


def free_port():
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]


def wait_for_port(port, deadline=20):
    until = time.monotonic() + deadline
    while time.monotonic() < until:
        try:
            socket.create_connection((HOST, port), 1).close()
            return
        except OSError:
            time.sleep(0.02)
    sys.exit(f"nothing listens on {HOST}:{port} after {deadline} s")


def floor(_):
    server = Server("floor", [TARGET / "fanfare-load", "floor", "--listen", f"{HOST}:0"], SERVER_CORE, ready=True)
    return server, ["--publish", "floor", "--path", "/", "--subscribed", "", "--marker", ""]


def fanfare(broker_port):
    command = [TARGET / "fanfare-gateway", "--config", str(ROOT / "bench/fanfare.toml"), "--listen", f"{HOST}:0"]
    command += ["--internal-listen", f"{HOST}:0", "--broker", f"nats://{HOST}:{broker_port}"]
    return Server("fanfare", command, SERVER_CORE, ready=True), ["--publish", f"nats://{HOST}:{broker_port}"]


def nats_websocket(_):
    """nats-server's own WebSocket: the load publishes over TCP to the same server, which is the one that is measured."""
    port, tcp = free_port(), free_port()
    config = tempfile.NamedTemporaryFile("w", suffix=".conf", delete=False)
    config.write(f'listen: "{HOST}:{tcp}"\nwebsocket {{ listen: "{HOST}:{port}", no_tls: true }}\n')
    config.close()
    server = Server("nats", [os.environ.get("NATS_SERVER", "nats-server"), "-c", config.name], SERVER_CORE, port=port)
    hello = r'CONNECT {"verbose":false}\r\nSUB bench 1\r\nPING\r\n'
    return server, ["--publish", f"nats://{HOST}:{tcp}", "--subject", "bench", "--path", "/", "--hello", hello, "--subscribed", "PONG"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sockets", type=int, nargs="+", default=[1_000, 10_000])
    parser.add_argument("--bytes", type=int, default=128)
    parser.add_argument("--bursts", type=int, nargs="+", default=[1, 10])
    parser.add_argument("--runs", type=int, default=3, help="interleaved runs of each server")
    parser.add_argument("--only", nargs="+", help="servers to measure, the floor always")
    arguments = parser.parse_args()
    servers = {"floor": floor, "fanfare": fanfare, "nats": nats_websocket}
    if arguments.only:
        servers = {name: start for name, start in servers.items() if name == "floor" or name in arguments.only}

    broker_port = free_port()
    broker = Server("broker", ["nats-server", "-a", HOST, "-p", str(broker_port)], LOAD_CORE, port=broker_port)
    print(f"{platform.processor() or platform.machine()}, Linux {platform.release()}, {os.cpu_count()} cores; {arguments.bytes} B of data, {arguments.runs} runs")
    print("| sockets | burst | server | CPU per delivery | × floor | spread | p50 | p99 | idle memory per socket |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    try:
        for sockets in arguments.sockets:
            for burst in arguments.bursts:
                compare(servers, broker_port, sockets, burst, arguments)
    finally:
        broker.end()


def compare(servers, broker_port, sockets, burst, arguments):
    figures = {name: [] for name in servers}
    rounds = max(20, 400_000 // (sockets * burst))
    for _ in range(arguments.runs):
        for name, start in servers.items():
            server, options = start(broker_port)
            try:
                command = ["taskset", "-c", LOAD_CORE, TARGET / "fanfare-load", "fanout", "--server", f"{HOST}:{server.port}"]
                command += ["--pid", server.pid, "--sockets", sockets, "--rounds", rounds, "--burst", burst, "--bytes", arguments.bytes]
                result = subprocess.run([str(part) for part in command + options], capture_output=True, text=True, timeout=300)
                if result.returncode != 0:
                    sys.exit(f"{name}: {result.stderr}")
                figures[name].append(json.loads(result.stdout))
            finally:
                server.end()
    base = statistics.median(run["cpu_us_per_delivery"] for run in figures["floor"])
    for name, runs in figures.items():
        cpu = sorted(run["cpu_us_per_delivery"] for run in runs)
        median = statistics.median(cpu)
        times = [statistics.median(run[key] for run in runs) if runs[0][key] is not None else None for key in ("latency_p50_ms", "latency_p99_ms")]
        shown = ["–" if value is None else f"{value:.1f} ms" for value in times]
        idle = statistics.median(run["idle_bytes_per_socket"] for run in runs)
        print(f"| {sockets:,} | {burst} | {name} | {median:.2f} µs | {median / base:.2f} | {cpu[0]:.2f}–{cpu[-1]:.2f} | {shown[0]} | {shown[1]} | {idle / 1024:.2f} KiB |", flush=True)


if __name__ == "__main__":
    main()
