//! A world of its own for each test: a network namespace with only `lo` up, a temporary home, and the programs in it.
//!
//! The namespace lives as long as its keeper, a child that waits for its input to end, so nothing is left behind even
//! when the test itself is killed. The thread of the test moves into the namespace: every socket it opens and every
//! child it starts is in it. Addresses are `10.77.0.1` to `.20` beside `127.0.0.1`, because several programs take two
//! peers with one address for the same peer, and Transmission never dials 127/8. A [`Neighbour`] is a second machine on
//! one wire with it, for what does not work on `lo` alone: multicast.

use std::cell::{Cell, RefCell};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// How long anything may take before the test gives up: an upper bound, never an expectation.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// How much of a log is printed when a test fails.
const LOG_TAIL: usize = 6_000;

/// Where the world is on the wire to its neighbour, and where the neighbour is; the latter in IPv6, too.
pub(crate) const HERE: [&str; 2] = ["192.168.77.1", "fd77::1"];
pub(crate) const NEXT_DOOR: [&str; 2] = ["192.168.77.2", "fd77::2"];

const KEEPER: &str =
    "ip link set lo up && for n in $(seq 1 20); do ip addr add 10.77.0.$n/24 dev lo; done && echo ready && exec cat";

/// Runs `test` in a world of its own; prints the logs of all programs when it fails.
pub(crate) fn test(test: impl FnOnce(&World) -> Result<()>) {
    let mut world = World::new().expect("a network namespace");
    let outcome = test(&world);
    world.failed = outcome.is_err();
    drop(world);
    if let Err(error) = outcome {
        panic!("{error:#}");
    }
}

/// A network namespace and a home folder, both gone when it is dropped.
pub(crate) struct World {
    home: tempfile::TempDir,
    keeper: Child,
    /// The namespace the thread came from.
    outside: File,
    hosts: Cell<u8>,
    logs: RefCell<Vec<PathBuf>>,
    failed: bool,
}

/// Starts a child in a network namespace of its own, which ends with the child: that with its input.
fn keep(script: &str) -> Result<Child> {
    let mut keeper = Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "unshare", "--net", "sh", "-c", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("setpriv and unshare (util-linux) make the network namespaces")?;
    let mut said = String::new();
    if let Some(stdout) = keeper.stdout.take() {
        BufReader::new(stdout).read_line(&mut said)?;
    }
    if said.trim() != "ready" {
        let mut why = String::new();
        if let Some(mut stderr) = keeper.stderr.take() {
            stderr.read_to_string(&mut why)?;
        }
        keeper.wait()?;
        bail!("no network namespace ({}); run ./check, or run this as root", why.trim());
    }
    Ok(keeper)
}

/// Moves the calling thread into the namespace of a keeper.
fn enter(keeper: &Child) -> Result<()> {
    let inside = File::open(format!("/proc/{}/ns/net", keeper.id()))?;
    Ok(move_into_link_name_space(inside.as_fd(), Some(LinkNameSpaceType::Network))?)
}

/// A second namespace, joined to the world's by a wire (a veth pair) whose ends are named `lan`.
pub(crate) struct Neighbour<'a> {
    world: &'a World,
    keeper: Child,
}

impl Neighbour<'_> {
    /// Does something from there: what it starts runs there.
    pub(crate) fn at<T>(&self, visit: impl FnOnce() -> Result<T>) -> Result<T> {
        enter(&self.keeper)?;
        let outcome = visit();
        enter(&self.world.keeper)?;
        outcome
    }
}

impl Drop for Neighbour<'_> {
    fn drop(&mut self) {
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
    }
}

impl World {
    fn new() -> Result<World> {
        let outside = File::open("/proc/thread-self/ns/net")?;
        let keeper = keep(KEEPER)?;
        enter(&keeper)?;
        let home = tempfile::Builder::new().prefix("castanet-interop-").tempdir()?;
        Ok(World { home, keeper, outside, hosts: Cell::new(1), logs: RefCell::default(), failed: false })
    }

    /// A neighbour on the same wire, at [`HERE`] and [`NEXT_DOOR`].
    pub(crate) fn neighbour(&self) -> Result<Neighbour<'_>> {
        let up = |[v4, v6]: [&str; 2]| {
            format!("ip addr add {v4}/24 dev lan && ip addr add {v6}/64 dev lan nodad && ip link set lan up")
        };
        let world = self.keeper.id();
        let keeper = keep(&format!(
            "ip link set lo up && ip link add lan type veth peer name lan netns {world} && {} && echo ready && exec cat",
            up(NEXT_DOOR)
        ))?;
        let here = Command::new("sh").args(["-c", &up(HERE)]).output()?;
        ensure!(here.status.success(), "the wire: {}", String::from_utf8_lossy(&here.stderr));
        Ok(Neighbour { world: self, keeper })
    }

    /// A new folder of this name.
    pub(crate) fn folder(&self, name: &str) -> Result<PathBuf> {
        let path = self.home.path().join(name);
        fs::create_dir_all(&path)?;
        Ok(path)
    }

    /// An address and a port for one more peer, used by nobody else in this world.
    pub(crate) fn host(&self) -> SocketAddrV4 {
        let host = self.hosts.get() + 1;
        assert!(host <= 20, "the keeper gave the namespace twenty addresses");
        self.hosts.set(host);
        SocketAddrV4::new(Ipv4Addr::new(10, 77, 0, host), 7000 + u16::from(host))
    }

    /// A number that no other call in this world returns: it makes names of folders and logs unique.
    fn count(&self) -> usize {
        self.logs.borrow().len()
    }

    /// Starts a program in this world: its own home and temporary folder, no input, its output in a log.
    pub(crate) fn start(&self, name: &str, command: &mut Command) -> Result<Process> {
        let label = format!("{name}-{}", self.count());
        let home = self.folder(&format!("home-{label}"))?;
        let path = |kind: &str| self.home.path().join(format!("{label}.{kind}"));
        let (out, err) = (path("out"), path("err"));
        self.logs.borrow_mut().push(out.clone());
        self.logs.borrow_mut().push(err.clone());
        // Children die with the thread of the test, however it ends.
        let mut wrapped = Command::new("setpriv");
        wrapped.args(["--pdeathsig", "KILL"]).arg(command.get_program()).args(command.get_args());
        for (key, value) in command.get_envs() {
            if let Some(value) = value {
                wrapped.env(key, value);
            }
        }
        let child = wrapped
            .env("HOME", &home)
            .env("TMPDIR", &home)
            .env_remove("XDG_CONFIG_HOME")
            .env_remove("XDG_STATE_HOME")
            .env_remove("XDG_DATA_HOME")
            .env("LC_ALL", "C.UTF-8")
            .current_dir(&home)
            .stdin(Stdio::null())
            .stdout(File::create(&out)?)
            .stderr(File::create(&err)?)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        Ok(Process { name: name.to_owned(), child, out, err })
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if self.failed || std::thread::panicking() {
            for log in self.logs.borrow().iter() {
                let text = String::from_utf8_lossy(&fs::read(log).unwrap_or_default()).into_owned();
                if !text.trim().is_empty() {
                    eprintln!("--- {}\n{}", log.display(), tail(&text));
                }
            }
        }
        // The thread may go on to another test.
        let _ = move_into_link_name_space(self.outside.as_fd(), Some(LinkNameSpaceType::Network));
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
    }
}

fn tail(text: &str) -> &str {
    let mut from = text.len().saturating_sub(LOG_TAIL);
    while !text.is_char_boundary(from) {
        from += 1;
    }
    &text[from..]
}

/// A running program; killed when it is dropped.
pub(crate) struct Process {
    name: String,
    child: Child,
    out: PathBuf,
    err: PathBuf,
}

impl Process {
    /// What it wrote to stdout so far.
    pub(crate) fn stdout(&self) -> Result<String> {
        Ok(String::from_utf8_lossy(&fs::read(&self.out)?).into_owned())
    }

    /// What it wrote to stderr so far.
    pub(crate) fn stderr(&self) -> Result<String> {
        Ok(String::from_utf8_lossy(&fs::read(&self.err)?).into_owned())
    }

    /// Kills it as `kill -9` does, and waits until it is gone.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Asks it to end (SIGTERM) and waits until it has.
    pub(crate) fn terminate(&mut self) -> Result<ExitStatus> {
        let id = Pid::from_child(&self.child);
        kill_process(id, Signal::TERM)?;
        self.wait()
    }

    /// Waits until it ends by itself.
    pub(crate) fn wait(&mut self) -> Result<ExitStatus> {
        let what = format!("{} ends", self.name);
        let mut status = None;
        wait_until(&what, || {
            status = self.child.try_wait()?;
            Ok(status.is_some())
        })?;
        status.context(what)
    }

    /// The memory that is its own (RssAnon), in KiB; 0 when it has ended.
    pub(crate) fn private_memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
    }

    /// Whether it has ended, and how.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Fails if the program has ended.
    pub(crate) fn still_running(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("{} ended: {status}", self.name);
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

/// Waits until `done` says so, and fails after [`PATIENCE`].
pub(crate) fn wait_until(what: &str, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    let start = Instant::now();
    while !done()? {
        if start.elapsed() > PATIENCE {
            bail!("waited {} s in vain until {what}", PATIENCE.as_secs());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// Waits until a program of this world listens at `address` (over TCP, or by a UDP socket), without connecting to it.
pub(crate) fn wait_for_listener(address: impl Into<SocketAddr>) -> Result<()> {
    let address = address.into();
    wait_until(&format!("something listens at {address}"), || {
        let port = format!(":{:04X}", address.port());
        // The state of a TCP socket that listens, and of a UDP socket that is bound.
        let listens = |name: &str, listening: &str| {
            let table = fs::read_to_string(format!("/proc/thread-self/net/{name}")).unwrap_or_default();
            table.lines().any(|line| {
                let mut columns = line.split_whitespace().skip(1);
                let (local, _, state) = (columns.next(), columns.next(), columns.next());
                local.is_some_and(|local| local.ends_with(&port)) && state == Some(listening)
            })
        };
        let tables = [("tcp", "0A"), ("tcp6", "0A"), ("udp", "07"), ("udp6", "07")];
        Ok(tables.iter().any(|(name, listening)| listens(name, listening)))
    })
}
