"""The jobs: what each client is to do, and what of it is measured."""
import os
import shutil
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from . import world
from .payload import MIB, NAME, make_torrent
from .programs import CHECK, CLIENTS, GET, SEED, SWARM, Errand
from .tracker import Tracker
from .world import Failed, Lab, Process, host, listening, wait_until

HERE = Path(__file__).resolve().parent
GIB = 1 << 30
FLOOR = "floor"
PEER_HOST, CLIENT_HOST, SINK_HOST = 2, 3, 4
COPIES = 8
SWARM_LIMIT = 64 * MIB
POLL = 0.02


@dataclass(frozen=True)
class Job:
    """One comparison. `pinned`: the client on the last core, its peer on the first; otherwise both on all cores."""
    name: str
    words: str
    what: str
    full_size: int
    piece_length: int
    pinned: bool
    only: tuple = ()

    def size(self, quick):
        return self.full_size // 8 if quick else self.full_size

    def title(self, quick):
        size = self.size(quick)
        return self.words.replace("SIZE", f"{size // GIB} GiB" if size >= GIB else f"{size // MIB} MiB")


JOBS = [
    Job("download-256k-one", "Download SIZE in 256 KiB pieces, one core", GET, 2 * GIB, 256 * 1024, True),
    Job("download-256k-all", "Download SIZE in 256 KiB pieces, all cores", GET, 2 * GIB, 256 * 1024, False),
    Job("download-1m-one", "Download SIZE in 1 MiB pieces, one core", GET, 2 * GIB, MIB, True),
    Job("seed", "Seed SIZE in 256 KiB pieces, one core", SEED, 2 * GIB, 256 * 1024, True),
    Job("swarm", f"Swarm: {COPIES} copies fetch SIZE from a seed limited to 64 MiB/s", SWARM, GIB // 2,
        256 * 1024, False),
    Job("check", "Hash check of SIZE in 1 MiB pieces, cached, all cores", CHECK, 4 * GIB, MIB, False),
    Job("memory-4g", "Download SIZE in 256 KiB pieces, all cores: memory", GET, 4 * GIB, 256 * 1024, False,
        ("castanet", "libtorrent")),
]


@dataclass
class Run:
    """What one run of one client cost."""
    cpu: float          # seconds, user + system
    wall: float         # seconds
    size: int           # bytes that cpu and wall are for
    rss: int = 0        # bytes, peak
    private: int = 0    # bytes, peak of what is anonymous
    others: float = 0   # cores that other processes of the machine used meanwhile


class Runner:
    """Runs jobs inside the namespace."""

    def __init__(self, folder, patience, quick):
        self.lab = Lab(folder)
        self.tracker = Tracker(world.address_of_port)
        self.patience, self.quick = patience, quick
        cores = sorted(os.sched_getaffinity(0))
        self.all, self.peer_core, self.client_core = tuple(cores), (cores[0],), (cores[-1],)
        # This process polls: it is kept from the core of the pinned clients.
        os.sched_setaffinity(0, self.peer_core)

    def close(self):
        self.lab.close()

    def measure(self, job, names, runs):
        """All runs of a job: {client: [Run or None if it failed]}, the order of the clients rotated each round."""
        if job.only:
            names = [name for name in names if name in (*job.only, FLOOR)]
        if job.what == SWARM or job.name.startswith("memory"):
            names = [name for name in names if name != FLOOR]
        torrent = self.payload(job)
        results = {name: [] for name in names}
        for round_ in range(runs):
            turn = round_ % len(names)
            for name in names[turn:] + names[:turn]:
                say(f"{job.name} round {round_ + 1}/{runs} {name}: ", "")
                try:
                    run = self.run(job, name, torrent)
                    say(f"{run.cpu / run.size * GIB:.2f} CPU s/GiB, {run.size / MIB / run.wall:.0f} MiB/s, "
                        f"{run.rss / MIB:.0f} / {run.private / MIB:.0f} MiB; others {run.others:.2f} cores")
                except Failed as failure:
                    run = None
                    say(f"FAILED: {failure}")
                finally:
                    self.lab.clear()
                results[name].append(run)
        return {name: [run and asdict(run) for run in of_client] for name, of_client in results.items()}

    def payload(self, job):
        size = job.size(self.quick)
        folder = self.lab.folder / f"payload-{size}"
        for other in self.lab.folder.glob("payload-*"):
            if other != folder:
                shutil.rmtree(other)
        copies = {GET: 2, SWARM: 2 + COPIES}.get(job.what, 1)
        free = shutil.disk_usage(self.lab.folder).free + (size if folder.exists() else 0)
        if free < copies * size + GIB // 4:
            sys.exit(f"{job.name} needs {copies * size / GIB:.1f} GiB in {self.lab.folder.parent}; "
                     f"{free / GIB:.1f} GiB are free (--folder names another)")
        folder.mkdir(exist_ok=True)
        return make_torrent(folder, size, job.piece_length, self.lab.folder / f"{job.name}.torrent")

    def run(self, job, name, torrent):
        self.tracker.reset()
        cores = self.client_core if job.pinned else self.all
        busy, own, wall = world.busy(), world.tree_cpu(os.getpid()), time.monotonic()
        if name == FLOOR:
            run = self.floor(job, torrent, cores)
        else:
            verb = {GET: self.get, SEED: self.seed, CHECK: self.check, SWARM: self.swarm}[job.what]
            run = verb(CLIENTS[name], torrent, cores, self.peer_core if job.pinned else self.all)
        self.lab.clear()
        wall = time.monotonic() - wall
        run.others = max(0.0, (world.busy() - busy - (world.tree_cpu(os.getpid()) - own)) / wall)
        return run

    def client(self, kind, purpose, torrent, folder, cores, number=CLIENT_HOST, max_up=0):
        client = kind(self.lab, Errand(purpose, torrent, folder, number, cores, max_up))
        client.prepare()
        return client

    def timed(self, client, size, done=lambda: True):
        """From the moment the client is given the torrent until it is complete, and `done` agrees."""
        before = client.process.cpu() if client.process else 0.0
        start = time.monotonic()
        client.begin()
        wait_until(lambda: client.complete() and done(), f"{client.name} is complete", self.patience,
                   [client.process], POLL)
        wall = time.monotonic() - start
        process = client.process
        return Run(process.cpu() - before, wall, size, process.rss, process.private)

    def settle(self, client):
        """Waits until it is idle: what it does on becoming complete is not part of seeding."""
        before = None

        def idle():
            nonlocal before
            last, before = before, client.process.cpu()
            return last is not None and before - last <= 0.01
        wait_until(idle, f"{client.name} settles", self.patience, every=0.5)

    def fast_peer(self, role, torrent, address, cores, *more):
        return Process(self.lab, role, [
            sys.executable, HERE / "fast_peers.py", role, torrent.info_hash, torrent.payload, torrent.piece_length,
            *address, *more,
        ], cores)

    def get(self, kind, torrent, cores, peer_cores):
        source = host(PEER_HOST)
        peer = self.fast_peer("source", torrent, source, peer_cores)
        wait_until(lambda: peer.running() or listening(source[1]), "the source listens", self.patience)
        self.tracker.reset(source)
        folder = self.lab.scratch()
        client = self.client(kind, GET, torrent, folder, cores)
        # Some say they are complete while the last blocks are still to be written: holes in the file tell.
        return self.timed(client, torrent.size, lambda: (folder / NAME).stat().st_blocks * 512 >= torrent.size)

    def seed(self, kind, torrent, cores, peer_cores):
        client = self.client(kind, SEED, torrent, torrent.folder, cores)
        client.begin()
        wait_until(client.serving, f"{client.name} serves", self.patience, [client.process])
        self.settle(client)
        before = client.process.cpu()
        sink = self.fast_peer("sink", torrent, host(CLIENT_HOST), peer_cores, host(SINK_HOST)[0])
        wait_until(lambda: sink.ended() is not None, "the sink has all", self.patience, [client.process], POLL)
        if sink.ended():
            raise Failed(f"sink: {sink.output().strip().splitlines()[-1:]}")
        process = client.process
        return Run(process.cpu() - before, float(sink.output()), torrent.size, process.rss, process.private)

    def check(self, kind, torrent, cores, _):
        return self.timed(self.client(kind, CHECK, torrent, torrent.folder, cores), torrent.size)

    def swarm(self, kind, torrent, cores, _):
        """CPU is that of all copies and the seed; the time is until the last copy is complete."""
        seed = self.client(kind, SEED, torrent, torrent.folder, cores, PEER_HOST, SWARM_LIMIT)
        seed.begin()
        wait_until(seed.serving, f"{seed.name} serves", self.patience)
        self.settle(seed)
        scratch = self.lab.scratch()
        copies = []
        for index in range(COPIES):
            folder = scratch / f"copy-{index}"
            folder.mkdir()
            copies.append(self.client(kind, SWARM, torrent, folder, cores, CLIENT_HOST + index))
        everybody = [seed, *copies]
        before = sum(one.process.cpu() for one in everybody if one.process)
        start = time.monotonic()
        for copy in copies:
            copy.begin()
        left = list(copies)

        def all_complete():
            left[:] = [copy for copy in left if not copy.complete()]
            return not left
        wait_until(all_complete, f"all copies of {kind.name} are complete", self.patience,
                   [copy.process for copy in copies], 0.1)
        wall = time.monotonic() - start
        cpu = sum(one.process.cpu() for one in everybody) - before
        return Run(cpu, wall, COPIES * torrent.size, max(one.process.rss for one in copies),
                   max(one.process.private for one in copies))

    def floor(self, job, torrent, cores):
        loop = {GET: "download", SEED: "seed", CHECK: "check"}[job.what]
        core = self.peer_core[0] if job.pinned else -1
        process = Process(self.lab, FLOOR, [
            sys.executable, HERE / "floors.py", loop, torrent.payload, job.piece_length, self.lab.scratch() / NAME,
            core,
        ], cores)
        wait_until(lambda: process.ended() is not None, "the floor's loop ends", self.patience)
        if process.ended():
            raise Failed(process.output()[-600:])
        cpu, wall = map(float, process.output().split())
        return Run(cpu, wall, torrent.size)


def say(text, end="\n"):
    print(text, end=end, file=sys.stderr, flush=True)
