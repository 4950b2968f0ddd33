"""Processes that a measurement starts and ends."""
import json
import os
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"
SERVER_CORE, LOAD_CORE = "0", "1"
HOST = "127.0.1.1"  # outgoing sockets use other loopback addresses, so a port that is free here stays free


class NotListening(Exception):
    """A server did not come up: a port may have been taken since it was found free."""


class Server:
    """A process with its address; ended when the scenario is over."""

    def __init__(self, name, command, core, ready=False, port=None, worker=False, files=None):
        """`ready`: it prints a line with its address. `worker`: its one child does the work. `files`: what to write into
        its directory first; `{directory}` in the command is that directory."""
        self.name, self.port, self.worker, self.internal = name, port, worker, None
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix=f"bench-{name}-"))
        for file, text in (files or {}).items():
            (self.directory / file).write_text(text)
        command = [str(part).replace("{directory}", str(self.directory)) for part in command]
        self.log = open(self.directory / "log", "wb")
        self.process = subprocess.Popen(
            ["taskset", "-c", core, *command], stdout=subprocess.PIPE if ready else self.log, stderr=self.log
        )
        if ready:
            self.read_addresses()
        else:
            self.wait_for_port()

    def read_addresses(self):
        line = self.process.stdout.readline()
        if not line:
            said = self.said()
            self.end()
            raise NotListening(f"{self.name} has ended: {said}")
        addresses = json.loads(line)
        self.port = int(addresses["public"].rsplit(":", 1)[1])
        self.internal = addresses.get("internal")

    @property
    def pid(self):
        """The process that does the work."""
        if not self.worker:
            return self.process.pid
        children = pathlib.Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        while self.process.poll() is None:
            if pids := children.read_text().split():
                return int(pids[0])
        raise NotListening(f"{self.name} has ended: {self.said()}")

    def resident(self):
        """Bytes of memory that the process has now."""
        status = pathlib.Path(f"/proc/{self.pid}/status").read_text()
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS:"))

    def metrics(self):
        """A node's metrics, `{name and labels: value}`."""
        with urllib.request.urlopen(f"http://{self.internal}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line and not line.startswith("#"))}

    def wait_for_port(self, deadline=20):
        until = time.monotonic() + deadline
        while time.monotonic() < until and self.process.poll() is None:
            try:
                socket.create_connection((HOST, self.port), 1).close()
                return
            except OSError:
                time.sleep(0.02)
        said = self.said()
        self.end()
        raise NotListening(f"{self.name} does not listen on {HOST}:{self.port}: {said}")

    def said(self):
        return (self.directory / "log").read_text(errors="replace")[-2000:]

    def end(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()
        shutil.rmtree(self.directory, ignore_errors=True)


def free_port():
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]


def free_everywhere():
    """A port for a server that binds it on every address: the outgoing sockets of earlier runs, gone or not, are in its way."""
    while True:
        port = random.randrange(1_024, 65_536)
        with socket.socket(socket.AF_INET6) as probe:
            try:
                probe.bind(("::", port))
                return port
            except OSError:
                continue


def version(*command):
    """What a program says of its version, without its name."""
    run = subprocess.run(command, capture_output=True, text=True)
    line = next(iter((run.stdout + run.stderr).splitlines()), "")
    return next((word.strip(",v") for word in line.replace("=", " ").replace("/", " ").split() if word.strip("v")[:1].isdigit()), line)


def git_commit():
    """The commit that is checked out, with `+` where something was changed since."""
    def git(*words):
        return subprocess.run(["git", "-C", ROOT, *words], capture_output=True, text=True).stdout.strip()

    return git("rev-parse", "--short=10", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
