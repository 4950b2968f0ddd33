"""Peers that install from packages, each as its makers run it in production, on one core.

A channel is `bench` and its number everywhere; `{n}` in options is that number. A peer whose program is missing is left
out: `missing` says what to install.
"""
import os
import pathlib
import shutil
import subprocess
import tempfile

from contender import NATS_SERVER, PLAIN, Contender, Running, Setup, redis
from servers import HOST, ROOT, SERVER_CORE, Server, free_everywhere, free_port, version

OPEN_FILES = 19_900
PROGRAMS = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"  # where Debian has servers


def program(name):
    return shutil.which(name, path=PROGRAMS)


class Peer(Contender):
    peer = True
    deflates = False  # whether it has permessage-deflate

    def can(self, setup):
        """Tokens are left out for peers: they authenticate in ways too different to compare."""
        return setup == PLAIN or (self.deflates and setup == Setup(deflate=True))


class Nats(Peer):
    """nats-server's own WebSocket: the load publishes over TCP to the same server, which is the one that is measured."""

    name, deflates = "nats", True

    @property
    def missing(self):
        return None if program(NATS_SERVER) else "apt-get install nats-server"

    def versions(self):
        return f"nats-server {version(NATS_SERVER, '--version')}"

    def start(self, setup):
        port, tcp = free_port(), free_port()
        compression = str(setup.deflate).lower()
        config = f"""listen: "{HOST}:{tcp}"
max_connections: {OPEN_FILES}
websocket {{ listen: "{HOST}:{port}", no_tls: true, compression: {compression} }}
"""
        command = [program(NATS_SERVER), "-c", "{directory}/nats.conf"]
        server = Server(self.name, command, SERVER_CORE, port=port, files={"nats.conf": config})
        hello = r'CONNECT {"verbose":false}\r\nSUB bench.{n} 1\r\nPING\r\n'
        options = ["--publish", f"nats://{HOST}:{tcp}", "--subject", "bench.{n}", "--path", "/"]
        return Running([server], [*options, "--hello", hello, "--subscribed", "PONG"])


class Nchan(Peer):
    """nginx with nchan: one worker, messages in memory, no access log; publications are HTTP requests on one kept connection."""

    name, deflates = "nchan", True
    module = pathlib.Path("/usr/lib/nginx/modules/ngx_nchan_module.so")

    @property
    def missing(self):
        return None if program("nginx") and self.module.exists() else "apt-get install nginx libnginx-mod-nchan"

    def versions(self):
        package = subprocess.run(["dpkg-query", "-W", "-f", "${Version}", "libnginx-mod-nchan"], capture_output=True, text=True).stdout
        return f"nchan {package.split(':')[-1].split('+')[0]} in nginx {version(program('nginx'), '-v')}"

    def start(self, setup):
        port = free_port()
        deflate = "nchan_deflate_message_for_websocket on;" if setup.deflate else ""
        config = f"""
            load_module {self.module};
            daemon off; worker_processes 1; worker_rlimit_nofile {OPEN_FILES}; error_log stderr crit;
            events {{ worker_connections {OPEN_FILES}; multi_accept on; }}
            http {{
                access_log off; tcp_nodelay on; keepalive_requests 10000000; nchan_shared_memory_size 512M;
                server {{
                    listen {HOST}:{port} backlog=4096;
                    location = /sub {{ nchan_subscriber websocket; nchan_channel_id $arg_id; nchan_subscriber_first_message newest; }}
                    location = /pub {{ nchan_publisher http; nchan_channel_id $arg_id; nchan_message_buffer_length 100;
                                       nchan_message_timeout 1m; {deflate} }}
                }}
            }}
            """
        command = [program("nginx"), "-p", "{directory}", "-e", "stderr", "-c", "{directory}/nginx.conf", "-g", "pid {directory}/pid;"]
        server = Server(self.name, command, SERVER_CORE, port=port, worker=True, files={"nginx.conf": config})
        options = ["--publish", f"http://{HOST}:{port}/pub?id=bench{{n}}", "--path", "/sub?id=bench{n}", "--subscribed", ""]
        return Running([server], options)


class Mosquitto(Peer):
    """MQTT over WebSocket at QoS 0; publications over TCP."""

    name = "mosquitto"

    @property
    def missing(self):
        return None if program("mosquitto") else "apt-get install mosquitto"

    def versions(self):
        return f"mosquitto {version(program('mosquitto'), '-h')}"

    def start(self, setup):
        port, tcp = free_everywhere(), free_port()
        config = f"""allow_anonymous true
persistence false
log_dest stderr
log_type error
set_tcp_nodelay true
listener {tcp} {HOST}
protocol mqtt
listener {port} {HOST}
protocol websockets
"""
        command = [program("mosquitto"), "-c", "{directory}/mosquitto.conf"]
        server = Server(self.name, command, SERVER_CORE, port=port, files={"mosquitto.conf": config})
        options = ["--publish", f"mqtt://{HOST}:{tcp}", "--subject", "bench.{n}", "--path", "/mqtt", "--protocol", "mqtt"]
        return Running([server], [*options, "--hello", "mqtt:bench.{n}", "--subscribed", "hex:9003000100"])


class SocketIo(Peer):
    """Socket.IO on Node with its Redis adapter: bench/socketio, with the packages that it names."""

    name, deflates = "socket.io", True

    def __init__(self):
        self.directory, self.redis = None, None

    @property
    def missing(self):
        if not (program("node") and program("npm") and program("redis-server")):
            return "Node 20 with npm, and apt-get install redis-server"
        return None if self.installed() else "npm cannot install what bench/socketio/package.json names"

    def installed(self):
        if self.directory is None:
            self.directory = pathlib.Path(tempfile.mkdtemp(prefix="bench-socketio-"))
            for file in ("package.json", "server.mjs"):
                shutil.copy(ROOT / "bench/socketio" / file, self.directory)
            command = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--silent"]
            subprocess.run(command, cwd=self.directory, capture_output=True)
        return (self.directory / "node_modules/socket.io/package.json").exists()

    def versions(self):
        packages = (self.directory / "node_modules/socket.io/package.json").read_text()
        socketio = packages.split('"version": "')[1].split('"')[0]
        return f"Socket.IO {socketio} on Node {version('node', '--version')}, redis-server {version('redis-server', '--version')}"

    def start(self, setup):
        self.redis = self.redis or redis()
        port, host = free_port(), f"{HOST}:{self.redis.port}"
        command = ["env", "NODE_ENV=production", program("node"), self.directory / "server.mjs", HOST, port, f"redis://{host}"]
        command += ["deflate"] if setup.deflate else []
        server = Server("socketio", command, SERVER_CORE, port=port)
        path = "/socket.io/?EIO=4&transport=websocket&room=bench{n}"
        options = ["--publish", f"socketio+redis://{host}", "--subject", "bench{n}", "--path", path]
        return Running([server], [*options, "--hello", "40", "--subscribed", '40{"sid"', "--ping", "2", "--pong", "3"], self.redis)

    def end(self):
        if self.redis:
            self.redis.end()
        if self.directory:
            shutil.rmtree(self.directory, ignore_errors=True)
