"""Peers whose binaries the reader names: `CENTRIFUGO=/path/to/centrifugo`, `SOCKUDO=/path/to/sockudo`."""
import json
import os
import pathlib

from contender import NATS_SERVER, Running, nats_broker
from peers import Peer
from servers import HOST, SERVER_CORE, Server, free_port, version


class Named(Peer):
    variable = None

    @property
    def binary(self):
        return os.environ.get(self.variable)

    @property
    def missing(self):
        if self.binary and pathlib.Path(self.binary).exists():
            return None
        return f"{self.variable}=/path/to/{self.name}"


class Centrifugo(Named):
    """Centrifugo with NATS as its broker, in raw mode: what is published on a subject goes to the channel of that name, with
    no API in between. Clients speak its JSON protocol, anonymously; one CPU, as for all."""

    name, variable, deflates = "centrifugo", "CENTRIFUGO", True

    def __init__(self):
        self.broker = None

    def versions(self):
        return f"centrifugo {version(self.binary, 'version')} on nats-server {version(NATS_SERVER, '--version')}"

    def start(self, setup):
        self.broker = self.broker or nats_broker()
        port, url = free_port(), f"nats://{HOST}:{self.broker.port}"
        config = {
            "http_server": {"address": HOST, "port": str(port)},
            "log": {"level": "error"},
            "client": {"allow_anonymous_connect_without_token": True, "allowed_origins": ["*"]},
            "channel": {"without_namespace": {"allow_subscribe_for_client": True, "allow_subscribe_for_anonymous": True}},
            "broker": {"enabled": True, "type": "nats", "nats": {"url": url, "raw_mode": {"enabled": True}}},
            "websocket": {"compression": setup.deflate, "compression_min_size": 512, "use_write_buffer_pool": True},
        }
        command = ["env", "GOMAXPROCS=1", self.binary, "--config", "{directory}/centrifugo.json"]
        files = {"centrifugo.json": json.dumps(config)}
        server = Server(self.name, command, SERVER_CORE, port=port, files=files)
        hello = r'{"id":1,"connect":{}}\n{"id":2,"subscribe":{"channel":"bench.{n}"}}'
        options = ["--publish", url, "--subject", "bench.{n}", "--path", "/connection/websocket", "--hello", hello]
        return Running([server], [*options, "--subscribed", '"id":2,', "--ping", "{}", "--pong", "{}"], self.broker)

    def end(self):
        if self.broker:
            self.broker.end()


class Sockudo(Named):
    """Sockudo speaks Pusher's protocol. One node with its local adapter; publications are signed requests to its HTTP API on
    one kept connection, as Pusher's libraries make them. Limits of the app are out of the way."""

    name, variable = "sockudo", "SOCKUDO"
    ID, KEY, KEY_SECRET = "bench", "bench-key", "bench-secret"

    def versions(self):
        return f"sockudo {version(self.binary, '--version')}"

    def start(self, setup):
        port, most = free_port(), 10_000_000
        limits = {name: most for name in ["max_connections", "max_backend_events_per_second", "max_client_events_per_second", "max_read_requests_per_second"]}
        app = {"id": self.ID, "key": self.KEY, "secret": self.KEY_SECRET, "enabled": True, "enable_client_messages": False}
        config = {
            "host": HOST,
            "port": port,
            "debug": False,
            "mode": "production",
            "adapter": {"driver": "local"},
            "app_manager": {"driver": "memory", "array": {"apps": [app | limits]}},
            "cache": {"driver": "memory"},
            "queue": {"driver": "memory"},
            "rate_limiter": {"enabled": False},
            "metrics": {"enabled": False},
        }
        files = {"sockudo.json": json.dumps(config)}
        server = Server(self.name, [self.binary, "--config", "{directory}/sockudo.json"], SERVER_CORE, port=port, files=files)
        hello = '{"event":"pusher:subscribe","data":{"channel":"bench-{n}"}}'
        options = ["--publish", f"pusher+http://{self.KEY}:{self.KEY_SECRET}@{HOST}:{port}/{self.ID}", "--subject", "bench-{n}"]
        options += ["--path", f"/app/{self.KEY}?protocol=7&client=bench&version=1&flash=false", "--hello", hello]
        options += ["--subscribed", "subscription_succeeded", "--marker", r'\"t\":']
        return Running([server], [*options, "--ping", '{"event":"pusher:ping","data":{}}', "--pong", '{"event":"pusher:pong","data":{}}'])
