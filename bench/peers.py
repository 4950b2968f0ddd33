"""Other servers of the same work, each as its makers run it in production, on one core.

A peer whose program is missing is left out: `missing` says what to install.
"""
import os
import pathlib
import shutil
import subprocess
import tempfile

from servers import HOST, LOAD_CORE, ROOT, SERVER_CORE, Server, free_everywhere, free_port, version

OPEN_FILES = 19_900
PROGRAMS = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"  # where Debian has servers


def program(name):
    return shutil.which(name, path=PROGRAMS)


class Peer:
    """`start` gives a running server and what the load has to know of it."""

    broker = None

    @property
    def missing(self):
        return None

    def end(self):
        if self.broker:
            self.broker.end()


class Nats(Peer):
    """nats-server's own WebSocket: the load publishes over TCP to the same server, which is the one that is measured."""

    name = "nats"
    binary = os.environ.get("NATS_SERVER", "nats-server")

    @property
    def missing(self):
        return None if program(self.binary) else "apt-get install nats-server"

    def versions(self):
        return f"nats-server {version(self.binary, '--version')}, no TLS, no compression"

    def start(self):
        port, tcp = free_port(), free_port()
        config = f'listen: "{HOST}:{tcp}"\nmax_connections: {OPEN_FILES}\nwebsocket {{ listen: "{HOST}:{port}", no_tls: true }}\n'
        command = [program(self.binary), "-c", "{directory}/nats.conf"]
        server = Server(self.name, command, SERVER_CORE, port=port, files={"nats.conf": config})
        hello = r'CONNECT {"verbose":false}\r\nSUB bench 1\r\nPING\r\n'
        return server, ["--publish", f"nats://{HOST}:{tcp}", "--subject", "bench", "--path", "/", "--hello", hello, "--subscribed", "PONG"]


class Nchan(Peer):
    """nginx with nchan: one worker, messages in memory, no access log; publications are HTTP requests on one kept connection."""

    name = "nchan"
    module = pathlib.Path("/usr/lib/nginx/modules/ngx_nchan_module.so")

    @property
    def missing(self):
        return None if program("nginx") and self.module.exists() else "apt-get install nginx libnginx-mod-nchan"

    def versions(self):
        package = subprocess.run(["dpkg-query", "-W", "-f", "${Version}", "libnginx-mod-nchan"], capture_output=True, text=True).stdout
        return f"nchan {package.split(':')[-1].split('+')[0]} in nginx {version(program('nginx'), '-v')}, one worker, messages in memory"

    def start(self):
        port = free_port()
        config = f"""
            load_module {self.module};
            daemon off; worker_processes 1; worker_rlimit_nofile {OPEN_FILES}; error_log stderr warn;
            events {{ worker_connections {OPEN_FILES}; multi_accept on; }}
            http {{
                access_log off; tcp_nodelay on; keepalive_requests 1000000; nchan_shared_memory_size 128M;
                server {{
                    listen {HOST}:{port} backlog=4096;
                    location = /sub {{ nchan_subscriber websocket; nchan_channel_id bench; nchan_subscriber_first_message newest; }}
                    location = /pub {{ nchan_publisher http; nchan_channel_id bench; nchan_message_buffer_length 100; nchan_message_timeout 1m; }}
                }}
            }}
            """
        command = [program("nginx"), "-p", "{directory}", "-e", "stderr", "-c", "{directory}/nginx.conf", "-g", "pid {directory}/pid;"]
        server = Server(self.name, command, SERVER_CORE, port=port, worker=True, files={"nginx.conf": config})
        return server, ["--publish", f"http://{HOST}:{port}/pub", "--path", "/sub", "--subscribed", ""]


class Mosquitto(Peer):
    """MQTT over WebSocket at QoS 0; publications over TCP."""

    name = "mosquitto"
    # CONNECT with a clean session and no keep-alive, and SUBSCRIBE to `bench` at QoS 0; what answers the latter is SUBACK.
    HELLO = "hex:100c00044d51545404020000" + "0000" + "820a0001000562656e636800"
    SUBACK = "hex:9003000100"

    @property
    def missing(self):
        return None if program("mosquitto") else "apt-get install mosquitto"

    def versions(self):
        return f"mosquitto {version(program('mosquitto'), '-h')}, QoS 0, no persistence"

    def start(self):
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
        options = ["--publish", f"mqtt://{HOST}:{tcp}", "--subject", "bench", "--path", "/mqtt", "--protocol", "mqtt"]
        return server, options + ["--hello", self.HELLO, "--subscribed", self.SUBACK]


class SocketIo(Peer):
    """Socket.IO on Node with its Redis adapter: bench/socketio, with the packages that it names."""

    name = "socket.io"

    def __init__(self):
        self.directory = None

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
        redis = version("redis-server", "--version")
        return f"Socket.IO {socketio} on Node {version('node', '--version')}, WebSocket only, Redis adapter, redis-server {redis}"

    def start(self):
        if self.broker is None:
            redis = free_port()
            command = [program("redis-server"), "--bind", HOST, "--port", redis, "--save", "", "--appendonly", "no"]
            self.broker = Server("redis", command, LOAD_CORE, port=redis)
        port, host = free_port(), f"{HOST}:{self.broker.port}"
        command = ["env", "NODE_ENV=production", program("node"), self.directory / "server.mjs", HOST, port, f"redis://{host}", "bench"]
        server = Server("socketio", command, SERVER_CORE, port=port)
        options = ["--publish", f"socketio+redis://{host}", "--subject", "bench", "--path", "/socket.io/?EIO=4&transport=websocket"]
        return server, options + ["--hello", "40", "--subscribed", '40{"sid"', "--ping", "2", "--pong", "3"]

    def end(self):
        super().end()
        if self.directory:
            shutil.rmtree(self.directory, ignore_errors=True)
