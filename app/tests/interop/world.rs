//! A world of its own for each test: a network namespace with only `lo` up, a temporary home, and the programs in it.
//!
//! The namespace lives as long as its keeper, a child that waits for its input to end, so nothing is left behind even
//! when the test itself is killed. The thread of the test moves into the namespace: every socket it opens and every
//! child it starts is in it. Addresses are `10.77.0.1` to `.20` beside `127.0.0.1`, because several programs take two
//! peers with one address for the same peer, and Transmission never dials 127/8. A [`Neighbour`] is a second machine on
//! one wire with it, for what does not work on `lo` alone: multicast, and links that are far and lossy.

use std::cell::{Cell, RefCell};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use castanet_integration::emulator::{Link, Tally};
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::wire::Wire;

/// How long anything may take before the test gives up: an upper bound, never an expectation.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// How much of a log is printed when a test fails.
const LOG_TAIL: usize = 6_000;

/// Where the world is on the wire to its neighbour, and where the neighbour is; the latter in IPv6, too.
pub(crate) const HERE: [&str; 2] = ["192.168.77.1", "fd77::1"];
pub(crate) const NEXT_DOOR: [&str; 2] = ["192.168.77.2", "fd77::2"];

/// Where the world is behind a [`Router`], where that is in the local network and in the wide one, and who else is there.
pub(crate) const INSIDE: &str = "192.168.77.1";
pub(crate) const GATEWAY: &str = "192.168.77.254";
pub(crate) const EXTERNAL: &str = "11.77.0.1";
pub(crate) const OUTSIDE: &str = "11.77.0.2";

/// What a router at home does: whoever is inside may speak to the world, and looks like the router there; what comes from
/// outside is dropped, unless miniupnpd has put a rule into one of its chains.
const ROUTER: &str = r#"table inet filter {
    chain forward {
        type filter hook forward priority 0; policy drop;
        ct state established,related accept
        iifname "lan" accept
        jump miniupnpd
    }
    chain prerouting { type nat hook prerouting priority -100; jump prerouting_miniupnpd; }
    chain postrouting {
        type nat hook postrouting priority 100;
        jump postrouting_miniupnpd
        oifname "wan" masquerade
    }
    chain miniupnpd { }
    chain prerouting_miniupnpd { }
    chain postrouting_miniupnpd { }
}
"#;

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
    Ok(move_into_link_name_space(inside(keeper)?.as_fd(), Some(LinkNameSpaceType::Network))?)
}

/// A second namespace, joined to the world's by a wire (a veth pair, or an emulated link) whose ends are named `lan`; or a
/// further machine of [`World::machine`].
pub(crate) struct Neighbour<'a> {
    world: &'a World,
    keeper: Child,
    /// The cable to it, if it is a neighbour by one.
    cable: Option<Cable>,
    emulated: Option<Wire>,
}

/// The namespace of a keeper.
fn inside(keeper: &Child) -> Result<File> {
    Ok(File::open(format!("/proc/{}/ns/net", keeper.id()))?)
}

/// A wire to a neighbour (a veth pair), both ends of one name: our address and the neighbour's, in IPv4 and in IPv6.
#[derive(Clone, Copy)]
pub(crate) struct Cable {
    pub(crate) name: &'static str,
    pub(crate) here: [&'static str; 2],
    pub(crate) there: [&'static str; 2],
}

/// The wire to the neighbour.
pub(crate) const LAN: Cable = Cable { name: "lan", here: HERE, there: NEXT_DOOR };

impl Cable {
    /// The commands that make one end usable.
    fn up(self, [v4, v6]: [&str; 2]) -> String {
        let name = self.name;
        format!("ip addr add {v4}/24 dev {name} && ip addr add {v6}/64 dev {name} nodad && ip link set {name} up")
    }
}

/// Runs commands of the shell in the namespace that the calling thread is in.
pub(crate) fn sh(commands: &str) -> Result<()> {
    let done = Command::new("sh").args(["-c", commands]).output()?;
    ensure!(done.status.success(), "{commands}: {}", String::from_utf8_lossy(&done.stderr));
    Ok(())
}

impl Neighbour<'_> {
    /// Its namespace, as `ip` calls it.
    pub(crate) fn namespace(&self) -> u32 {
        self.keeper.id()
    }

    /// Does something from there: what it starts runs there.
    pub(crate) fn at<T>(&self, visit: impl FnOnce() -> Result<T>) -> Result<T> {
        enter(&self.keeper)?;
        let outcome = visit();
        enter(&self.world.keeper)?;
        outcome
    }

    /// Cuts the wire and lays another one of the same name, with the same addresses.
    pub(crate) fn rewire(&self, meanwhile: impl FnOnce() -> Result<()>) -> Result<()> {
        let (cable, there) = (self.cable.context("no cable leads there")?, self.keeper.id());
        let name = cable.name;
        sh(&format!("ip link del {name}"))?;
        meanwhile()?;
        sh(&format!("ip link add {name} type veth peer name {name} netns {there} && {}", cable.up(cable.here)))?;
        self.at(|| sh(&cable.up(cable.there)))
    }

    /// What became of the packets on an emulated link: of those of the world, and of the neighbour's.
    pub(crate) fn tallies(&self) -> Option<[Tally; 2]> {
        self.emulated.as_ref().map(Wire::tallies)
    }
}

/// A router between the world, which is in its local network, and a host outside.
pub(crate) struct Router<'a> {
    /// The router itself: `lan` leads to the world, `wan` outside.
    pub(crate) inner: Neighbour<'a>,
    /// The host outside.
    pub(crate) outside: Neighbour<'a>,
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
        self.neighbour_by(LAN)
    }

    /// A neighbour on another cable.
    pub(crate) fn neighbour_by(&self, cable: Cable) -> Result<Neighbour<'_>> {
        let (world, name) = (self.namespace(), cable.name);
        let script =
            format!("ip link add {name} type veth peer name {name} netns {world} && {}", cable.up(cable.there));
        let mut neighbour = self.machine(&script)?;
        neighbour.cable = Some(cable);
        // The kernel takes a moment to see that the cable has two ends.
        sh(&format!(
            "{} && until ip link show {name} | grep -q 'state UP'; do sleep 0.05; done",
            cable.up(cable.here)
        ))?;
        Ok(neighbour)
    }

    /// A neighbour at the same addresses that is reached over this link alone, with chances drawn by `seed`.
    pub(crate) fn link(&self, link: Link, seed: u64) -> Result<Neighbour<'_>> {
        let keeper = keep("ip link set lo up && echo ready && exec cat")?;
        let emulated = Some(Wire::lay(inside(&keeper)?, link, seed)?);
        let neighbour = Neighbour { world: self, keeper, cable: None, emulated };
        sh(&LAN.up(HERE))?;
        neighbour.at(|| sh(&LAN.up(NEXT_DOOR)))?;
        Ok(neighbour)
    }

    /// A router, which is the way out of this world from now on.
    pub(crate) fn router(&self) -> Result<Router<'_>> {
        let world = self.keeper.id();
        let router = keep(&format!(
            "ip link set lo up && ip link add lan type veth peer name lan netns {world} \
             && ip addr add {GATEWAY}/24 dev lan && ip link set lan up && echo 1 >/proc/sys/net/ipv4/ip_forward \
             && nft -f - <<'END' && echo ready && exec cat\n{ROUTER}END"
        ))?;
        let inner = Neighbour { world: self, keeper: router, cable: None, emulated: None };
        let outside = keep(&format!(
            "ip link set lo up && ip link add wan type veth peer name wan netns {} \
             && ip addr add {OUTSIDE}/24 dev wan && ip link set wan up && echo ready && exec cat",
            inner.keeper.id()
        ))?;
        let outside = Neighbour { world: self, keeper: outside, cable: None, emulated: None };
        let here = |script: &str| -> Result<()> {
            let done = Command::new("sh").args(["-c", script]).output()?;
            ensure!(done.status.success(), "{script}: {}", String::from_utf8_lossy(&done.stderr));
            Ok(())
        };
        inner.at(|| here(&format!("ip addr add {EXTERNAL}/24 dev wan && ip link set wan up")))?;
        here(&format!("ip addr add {INSIDE}/24 dev lan && ip link set lan up && ip route add default via {GATEWAY}"))?;
        Ok(Router { inner, outside })
    }

    /// Another host in the router's local network has got this port from it, by NAT-PMP and TCP, for an hour.
    pub(crate) fn take_port_from_the_router(&self, port: u16) -> Result<()> {
        const OTHER: &str = "192.168.77.3";
        let added = Command::new("ip").args(["addr", "add", &format!("{OTHER}/24"), "dev", "lan"]).status()?;
        ensure!(added.success(), "another address");
        let socket = UdpSocket::bind((OTHER, 0))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let port = port.to_be_bytes();
        socket.send_to(&[&[0, 2, 0, 0], &port[..], &port, &3600u32.to_be_bytes()].concat(), (GATEWAY, 5351))?;
        let mut answer = [0; 16];
        ensure!(socket.recv(&mut answer)? == 16 && answer[..4] == [0, 0x82, 0, 0], "refused: {answer:?}");
        ensure!(answer[10..12] == port, "it gave another port: {answer:?}");
        Ok(())
    }

    /// A machine in a namespace of its own, which the script joins to others.
    pub(crate) fn machine(&self, script: &str) -> Result<Neighbour<'_>> {
        let keeper = keep(&format!("ip link set lo up && {{ {script}\n}} && echo ready && exec cat"))?;
        Ok(Neighbour { world: self, keeper, cable: None, emulated: None })
    }

    /// The world's namespace, as `ip` calls it.
    pub(crate) fn namespace(&self) -> u32 {
        self.keeper.id()
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
