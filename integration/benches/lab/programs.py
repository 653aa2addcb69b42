"""The programs, each driven without a screen: how it is started, given a torrent, and says that it is complete.

All find peers by the tracker alone: DHT, PEX, LSD, port mapping, uTP and encryption are off where there is an option
for it; the rest stays as the program has it.
"""
import http.client
import json
import re
import shutil
import socket
import subprocess
import sys
import urllib.parse
import xmlrpc.client
from dataclasses import dataclass
from pathlib import Path

from .payload import Torrent
from .world import Failed, Process, host, listening, wait_until

HERE = Path(__file__).resolve().parent
PATIENCE = 60
GET, SEED, CHECK, SWARM = "get", "seed", "check", "swarm"


@dataclass(frozen=True)
class Errand:
    """What a program is to do: GET (fetch), SEED, CHECK (hash what is there) or SWARM (fetch, then go on as a seed)."""
    purpose: str
    torrent: Torrent
    folder: Path
    host: int
    cores: tuple
    max_up: int = 0


class Client:
    """One run of a program. `prepare` makes it ready, `begin` gives it the torrent, `complete` says how it stands."""
    name = ""
    command = ""

    def __init__(self, lab, errand):
        self.lab, self.errand = lab, errand
        self.address, self.port = host(errand.host)
        self.control = 9000 + errand.host
        self.process = None

    @classmethod
    def missing(cls):
        """Why it cannot be run, if so."""
        return None if shutil.which(cls.command) else f"{cls.command} is not installed"

    @classmethod
    def version(cls):
        said = subprocess.run([cls.command, "--version"], capture_output=True, text=True).stdout
        found = re.search(r"\d+\.\d+[\w.]*", said)
        return found[0] if found else "?"

    def start(self, *command, stdin=False):
        self.process = Process(self.lab, self.name, command, self.errand.cores, stdin)

    def prepare(self):
        """What has to run before a torrent can be given; that is not measured."""

    def begin(self):
        raise NotImplementedError

    def complete(self):
        """Whether it has all pieces; as long as it does not answer, it has not."""
        self.process.running()
        try:
            return self.is_complete()
        except (OSError, http.client.HTTPException, LookupError, ValueError):
            return False

    def is_complete(self):
        raise NotImplementedError

    def ended_well(self):
        """For programs that end when they are complete."""
        if self.process.ended() is None:
            return False
        if self.process.ended() != 0:
            self.process.running()
        return True

    def serving(self):
        """Whether it is complete and peers can connect."""
        return self.complete() and listening(self.port)

    def request(self, path, body=None, **headers):
        connection = http.client.HTTPConnection("127.0.0.1", self.control, timeout=5)
        try:
            connection.request("POST" if body is not None else "GET", path, body, headers)
            answer = connection.getresponse()
            data = answer.read()
        finally:
            connection.close()
        if answer.status != 200:
            raise ValueError(f"{self.name}: {path}: {answer.status} {data[:200]}")
        return data

    def wait_for_control(self, path):
        def answers():
            self.process.running()
            try:
                self.request(path)
                return True
            except (OSError, ValueError, http.client.HTTPException):
                return False
        wait_until(answers, f"{self.name} answers", PATIENCE)


class Castanet(Client):
    name = "castanet"

    def begin(self):
        errand = self.errand
        torrent, state = errand.torrent.file, self.lab.folder / f"castanet-state-{errand.host}"
        shutil.rmtree(state, ignore_errors=True)  # nothing is remembered from the run before
        if errand.purpose == CHECK:
            self.start(self.command, "verify", torrent, errand.folder)
            return
        network = ["--listen", f"{self.address}:{self.port}", "--no-dht", "--no-pex", "--no-lsd",
                   "--port-mapping", "off", "--state", state]
        if errand.max_up:
            network += ["--max-up", errand.max_up]
        if errand.purpose == SEED:
            self.start(self.command, "seed", "--json", *network, torrent, errand.folder)
        else:
            more = ["--seed", "--json"] if errand.purpose == SWARM else []
            self.start(self.command, "get", *more, *network, "-o", errand.folder, torrent)

    def complete(self):
        if self.errand.purpose in (GET, CHECK):
            return self.ended_well()
        return super().complete()

    def is_complete(self):
        return self.process.says('"event":"complete"')


class Libtorrent(Client):
    name = "libtorrent"

    @classmethod
    def missing(cls):
        if cls.run_python("import libtorrent").returncode:
            return "PyPI's libtorrent is not in target/peers/venv (tools/peers.sh, or --install)"
        return None

    @classmethod
    def run_python(cls, code):
        try:
            return subprocess.run([cls.command, "-c", code], capture_output=True, text=True)
        except FileNotFoundError as error:
            return subprocess.CompletedProcess(error, 1, "", "")

    @classmethod
    def version(cls):
        return cls.run_python("import libtorrent; print(libtorrent.__version__)").stdout.strip()

    def prepare(self):
        self.start(self.command, HERE / "libtorrent_client.py", f"{self.address}:{self.port}", self.errand.max_up,
                   stdin=True)

        def ready():
            self.process.running()
            return self.process.says("ready")
        wait_until(ready, "libtorrent is ready", PATIENCE)

    def begin(self):
        self.process.child.stdin.write(f"{self.errand.torrent.file}\t{self.errand.folder}\n".encode())
        self.process.child.stdin.flush()

    def is_complete(self):
        return self.process.says("complete")


class Qbittorrent(Client):
    name, command = "qbittorrent", "qbittorrent-nox"

    def prepare(self):
        profile = self.lab.folder / f"qbittorrent-{self.errand.host}"
        shutil.rmtree(profile, ignore_errors=True)
        config = profile / "qBittorrent/config"
        config.mkdir(parents=True)
        (config / "qBittorrent.conf").write_text(
            "[LegalNotice]\nAccepted=true\n\n[Preferences]\nWebUI\\LocalHostAuth=false\nWebUI\\Address=127.0.0.1\n"
            f"WebUI\\Port={self.control}\nWebUI\\UseUPnP=false\n\n[Network]\nPortForwardingEnabled=false\n\n"
            f"[BitTorrent]\nSession\\Port={self.port}\nSession\\InterfaceAddress={self.address}\n"
            "Session\\DHTEnabled=false\nSession\\PeXEnabled=false\nSession\\LSDEnabled=false\nSession\\Encryption=2\n"
            "Session\\BTProtocol=TCP\n"
            f"Session\\GlobalUPSpeedLimit={self.errand.max_up // 1024}\nSession\\IgnoreLimitsOnLAN=false\n"
        )
        self.start(self.command, f"--profile={profile}")
        self.wait_for_control("/api/v2/app/version")

    def begin(self):
        edge = "----castanet-compare"
        part = f'--{edge}\r\nContent-Disposition: form-data; name='
        body = (f'{part}"savepath"\r\n\r\n{self.errand.folder}\r\n'
                f'{part}"torrents"; filename="a.torrent"\r\nContent-Type: application/x-bittorrent\r\n\r\n').encode()
        body += self.errand.torrent.file.read_bytes() + f"\r\n--{edge}--\r\n".encode()
        answer = self.request("/api/v2/torrents/add", body, **{"Content-Type": f"multipart/form-data; boundary={edge}"})
        if answer != b"Ok.":
            raise Failed(f"qBittorrent refused: {answer[:200]}")

    def is_complete(self):
        torrent = json.loads(self.request("/api/v2/torrents/info"))[0]
        return torrent["progress"] == 1 and torrent["state"] in ("uploading", "stalledUP", "forcedUP", "queuedUP")


class Aria2(Client):
    name, command = "aria2", "aria2c"

    def begin(self):
        errand = self.errand
        there = {
            GET: [], SWARM: [], SEED: ["--check-integrity=true"],
            CHECK: ["--check-integrity=true", "--hash-check-only=true", "--seed-time=0"],
        }[errand.purpose]
        self.start(
            self.command, "--no-conf", "--enable-rpc", "--seed-ratio=0.0", "--file-allocation=none",
            "--allow-overwrite=true", "--enable-dht=false", "--enable-dht6=false", "--enable-peer-exchange=false",
            "--bt-enable-lpd=false", "--disable-ipv6=true", "--summary-interval=0", "--console-log-level=warn",
            f"--rpc-listen-port={self.control}", f"--listen-port={self.port}", f"--interface={self.address}",
            f"--max-overall-upload-limit={errand.max_up}", f"--dir={errand.folder}", *there, errand.torrent.file,
        )

    def complete(self):
        if self.errand.purpose == CHECK:
            return self.checked()
        return super().complete()

    def task(self, method):
        call = {"jsonrpc": "2.0", "id": 1, "method": f"aria2.{method}", "params": [0, 1][:2 * (method != "tellActive")]}
        return json.loads(self.request("/jsonrpc", json.dumps(call)))["result"][0]

    def checked(self):
        """After the check alone it stops or waits, and says how much it found."""
        if self.process.ended() is not None:
            return self.ended_well()
        try:
            task = self.task("tellStopped")
            return task["completedLength"] == task["totalLength"]
        except (OSError, http.client.HTTPException, LookupError, ValueError):
            return False

    def is_complete(self):
        task = self.task("tellActive")
        checking = "verifiedLength" in task or "verifyIntegrityPending" in task
        return not checking and task.get("seeder") == "true" and task["completedLength"] == task["totalLength"]


class Rtorrent(Client):
    name, command = "rtorrent", "rtorrent"

    @classmethod
    def version(cls):
        said = subprocess.run([cls.command, "-h"], capture_output=True, text=True).stdout
        return re.search(r"version ([\w.]+)", said)[1].rstrip(".")

    def prepare(self):
        session = self.lab.folder / f"rtorrent-{self.errand.host}"
        shutil.rmtree(session, ignore_errors=True)
        session.mkdir()
        options = [
            "system.daemon.set=true", f"session.path.set={session}", f"directory.default.set={self.errand.folder}",
            f"network.bind_address.set={self.address}", f"network.port_range.set={self.port}-{self.port}",
            "network.port_random.set=no", f"network.scgi.open_port=127.0.0.1:{self.control}",
            "dht.mode.set=disable", "protocol.pex.set=no",
            f"throttle.global_up.max_rate.set_kb={self.errand.max_up // 1024}",
        ]
        self.start(self.command, "-n", *(word for option in options for word in ("-o", option)))

        def answers():
            self.process.running()
            try:
                return bool(self.call("system.client_version"))
            except OSError:
                return False
        wait_until(answers, "rtorrent answers", PATIENCE)

    def call(self, method, *parameters):
        """XML-RPC over SCGI."""
        body = xmlrpc.client.dumps(parameters, method).encode()
        headers = b"CONTENT_LENGTH\0%d\0SCGI\x001\0" % len(body)
        with socket.create_connection(("127.0.0.1", self.control), 5) as stream:
            stream.sendall(b"%d:%s,%s" % (len(headers), headers, body))
            answer = b""
            while chunk := stream.recv(65536):
                answer += chunk
        return xmlrpc.client.loads(answer.split(b"\r\n\r\n", 1)[1])[0][0]

    def begin(self):
        self.call("load.start", "", str(self.errand.torrent.file))

    def is_complete(self):
        states = self.call("d.multicall2", "", "main", "d.complete=", "d.hashing=", "d.is_active=")
        return states[0] == [1, 0, 1]


class Rqbit(Client):
    name = "rqbit"

    @classmethod
    def missing(cls):
        return None if Path(cls.command).exists() else "not installed (--install builds it, which takes minutes)"

    def begin(self):
        limit = ["--ratelimit-upload", self.errand.max_up] if self.errand.max_up else []
        self.start(
            self.command, "-v", "warn", "--disable-dht", "--disable-dht-persistence", "--disable-lsd",
            "--disable-upnp-port-forward", "--http-api-listen-addr", f"127.0.0.1:{self.control}",
            "--listen-ip", self.address, "--listen-port", self.port, *limit,
            "download", "--overwrite", "-o", self.errand.folder, self.errand.torrent.file,
        )

    def is_complete(self):
        return json.loads(self.request("/torrents/0/stats/v1"))["finished"]


CLIENTS = {client.name: client for client in (Castanet, Libtorrent, Qbittorrent, Aria2, Rtorrent, Rqbit)}


def install(root, castanet, wanted, everything):
    """Says where the programs are; builds Castanet if it is not there, and with `everything` the others."""
    peers = root / "target/peers"
    Castanet.command = str(castanet or root / "target/release/castanet")
    Libtorrent.command = str(peers / "venv/bin/python")
    Rqbit.command = str(peers / "rqbit/bin/rqbit")
    if castanet is None and not Path(Castanet.command).exists():
        print("Building Castanet: cargo build --release -p castanet-cli", file=sys.stderr)
        subprocess.run(["cargo", "build", "--release", "-p", "castanet-cli"], cwd=root, check=True)
    if not Path(Castanet.command).exists():
        sys.exit(f"{Castanet.command} is not there; build it, or name it with --castanet")
    if not everything:
        return
    if any(CLIENTS[name].missing() for name in wanted if name not in ("castanet", "rqbit")):
        subprocess.run([root / "tools/peers.sh"], cwd=root, check=True)
    if "rqbit" in wanted and Rqbit.missing():
        print("Building rqbit: cargo install rqbit (this takes minutes)", file=sys.stderr)
        # A target folder of its own, so that its build and ours do not wait for each other.
        subprocess.run(["cargo", "install", "rqbit", "--locked", "--root", peers / "rqbit",
                        "--target-dir", peers / "rqbit-build"], cwd=root, check=True)
