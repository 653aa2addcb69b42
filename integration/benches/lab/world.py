"""The place where programs are compared: a network namespace with `lo` alone, a folder on tmpfs, and processes whose
CPU time and memory are read from /proc.

Host n of the namespace has the address 10.77.0.n and listens at port 7000 + n: several programs take two peers with
one address for the same peer, and some refuse 127/8.
"""
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HOSTS = 20
TICK = os.sysconf("SC_CLK_TCK")
INSIDE = "CASTANET_COMPARE_INSIDE"
NAMESPACE = (f"ip link set lo up && for n in $(seq 1 {HOSTS}); do ip addr add 10.77.0.$n/24 dev lo; done && "
             'exec "$@"')


class Failed(Exception):
    """A run that could not be finished; the next one may."""


def host(number):
    """Address and port of host `number`."""
    return f"10.77.0.{number}", 7000 + number


def address_of_port(port):
    number = port - 7000
    return host(number)[0] if 1 <= number <= HOSTS else None


def enter_namespace():
    """Starts this program again inside a namespace of its own, unless it is."""
    if os.environ.get(INSIDE):
        return
    os.environ[INSIDE] = "1"
    root = [] if os.geteuid() == 0 else ["--map-root-user"]
    command = ["unshare", *root, "--net", "sh", "-c", NAMESPACE, "sh", sys.executable, *sys.argv]
    os.execvp(command[0], command)


# ---- the machine ----

def machine():
    """What it is, in one line."""
    models = [line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")]
    flags = next((line for line in open("/proc/cpuinfo") if line.startswith("flags")), "").split()
    has = [name for flag, name in (("sha_ni", "SHA-NI"), ("avx2", "AVX2"), ("avx512f", "AVX-512")) if flag in flags]
    memory = int(next(line for line in open("/proc/meminfo") if line.startswith("MemTotal")).split()[1]) >> 20
    kernel = os.uname()
    return (f"{os.cpu_count()} cores, {models[0] if models else kernel.machine} ({', '.join(has) or 'no SHA-NI'}), "
            f"{memory} GiB, {kernel.sysname} {kernel.release}")


def load():
    return os.getloadavg()[0]


def busy():
    """CPU seconds that all processes together have used since the machine started."""
    user, nice, system, idle, iowait, irq, softirq, *_ = map(int, open("/proc/stat").readline().split()[1:])
    return (user + nice + system + irq + softirq) / TICK


# ---- processes ----

def stats():
    """(process, parent) of all processes."""
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            fields = stat(entry)
            if fields:
                yield int(entry), int(fields[1])


def stat(process):
    try:
        with open(f"/proc/{process}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()
    except (FileNotFoundError, ProcessLookupError):
        return None


def tree(root):
    """`root` and all below it."""
    children = {}
    for process, parent in stats():
        children.setdefault(parent, []).append(process)
    found = [root]
    for process in found:
        found += children.get(process, [])
    return found


def tree_cpu(root):
    """CPU seconds of `root` and all below it, with those that have ended."""
    rows = [fields for process in tree(root) if (fields := stat(process))]
    return sum(int(ticks) for fields in rows for ticks in fields[11:15]) / TICK


class Process:
    """A running program: its CPU time, memory and output. It ends with `end`, or when the comparison does."""

    def __init__(self, lab, name, command, cores=None, stdin=False):
        self.name = name
        self.cpu_total, self.rss, self.private = None, 0, 0
        self.tree, self.tree_at = [], 0.0
        self.home = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=lab.folder))
        self.log = self.home / "log"
        prefix = ["setpriv", "--pdeathsig", "KILL"]
        if cores is not None:
            prefix += ["taskset", "--cpu-list", ",".join(map(str, cores))]
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("XDG_", "CASTANET_"))}
        environment |= {"HOME": str(self.home), "TMPDIR": str(self.home), "LC_ALL": "C.UTF-8", "TERM": "dumb"}
        self.started = time.monotonic()
        with open(self.log, "wb") as log:
            self.child = subprocess.Popen(
                [*prefix, *map(str, command)], env=environment, cwd=self.home, stdout=log, stderr=log,
                stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
            )
        lab.processes.append(self)

    def ended(self):
        """Its exit code, None while it runs."""
        if self.child.returncode is None:
            process, status, usage = os.wait4(self.child.pid, os.WNOHANG)
            if process:
                self.child.returncode = os.waitstatus_to_exitcode(status)
                self.cpu_total = usage.ru_utime + usage.ru_stime
                self.rss = max(self.rss, usage.ru_maxrss * 1024)
        return self.child.returncode

    def cpu(self):
        """CPU seconds so far."""
        if self.ended() is None:
            return tree_cpu(self.child.pid)
        return self.cpu_total

    def sample_memory(self):
        """Notes the peaks: resident, and of that private (anonymous)."""
        now = time.monotonic()
        if now - self.tree_at > 0.5:
            self.tree, self.tree_at = tree(self.child.pid), now
        resident = private = 0
        for process in self.tree:
            try:
                with open(f"/proc/{process}/status") as file:
                    lines = dict(line.split(":", 1) for line in file)
            except (FileNotFoundError, ProcessLookupError):
                continue
            if "RssAnon" in lines:
                resident += int(lines["VmHWM"].split()[0]) * 1024
                private += int(lines["RssAnon"].split()[0]) * 1024
        self.rss, self.private = max(self.rss, resident), max(self.private, private)

    def output(self):
        return self.log.read_text(errors="replace")

    def says(self, text):
        return text in self.output()

    def running(self):
        """Fails if it has ended."""
        if self.ended() is not None:
            raise Failed(f"{self.name} ended with {self.ended()}: {self.output()[-600:].strip()}")

    def end(self):
        """Asks it to end; kills it if it does not within two seconds."""
        for number, patience in ((signal.SIGTERM, 2.0), (signal.SIGKILL, 10.0)):
            until = time.monotonic() + patience
            while self.ended() is None and time.monotonic() < until:
                if number:
                    self.child.send_signal(number)
                    number = None
                time.sleep(0.02)
        if self.child.stdin:
            self.child.stdin.close()
        shutil.rmtree(self.home, ignore_errors=True)


class Lab:
    """The folder on tmpfs and all processes started for the run."""

    def __init__(self, on):
        self.folder = Path(tempfile.mkdtemp(prefix="castanet-compare-", dir=on))
        self.processes = []

    def scratch(self):
        """An empty folder; the one before is gone."""
        path = self.folder / "download"
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
        return path

    def clear(self):
        """Ends all processes of a run."""
        for process in reversed(self.processes):
            process.end()
        self.processes.clear()

    def close(self):
        self.clear()
        shutil.rmtree(self.folder, ignore_errors=True)


def wait_until(done, what, patience, watch=(), every=0.02):
    """Polls `done`, and the memory of the processes in `watch`; fails after `patience` seconds."""
    until = time.monotonic() + patience
    while not done():
        if time.monotonic() > until:
            raise Failed(f"waited {patience} s in vain: {what}")
        for process in watch:
            process.sample_memory()
        time.sleep(every)


def listening(port):
    """Whether something in the namespace listens at `port` (TCP)."""
    wanted = f":{port:04X}"
    for name in ("tcp", "tcp6"):
        for line in open(f"/proc/self/net/{name}"):
            columns = line.split()
            if columns[1].endswith(wanted) and columns[3] == "0A":
                return True
    return False
