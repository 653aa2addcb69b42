//! An emulated network of many hosts, each at a tun device, for real programs: see `castanet_integration::emulator`.
//!
//! ```text
//! star [latency=MS] [jitter=MS] [queue=BYTES] [loss=SHARE] [largest=BYTES] [seed=NUMBER] DEVICE@ADDRESS[@UP] ...
//! ```
//!
//! It makes the devices in the network namespace it is started in, says "ready", and carries each IPv4 packet that a host
//! sends to the device of the address it is for, until its input ends. What a host sends waits in a queue for its UP bytes
//! a second, if given, then travels for the latency: a host's way out is one line of a [`Link`], whoever it is to, as a
//! host's uplink is in the network in memory. Then it prints what became of the packets of all hosts together, and how
//! much later than they should the machine let them arrive, as one line of JSON. Moving the devices and giving them their addresses is for whoever starts it.

use std::{cell::Cell, collections::BTreeMap, io::Read as _, net::Ipv4Addr, rc::Rc, str::FromStr, time::Duration};

use anyhow::{Context as _, Result, bail};
use castanet_core::Moment;
use castanet_integration::emulator::{Link, Tun, open};
use castanet_transports::link::{Fate, Line, Loss, Transit};
use futures_util::future::try_join_all;
use tokio::{
    runtime::Builder,
    select,
    sync::oneshot,
    time::{Instant, sleep_until},
};

/// The largest IP packet.
const LARGEST: usize = 65_535;

fn value<T: FromStr<Err: std::error::Error + Send + Sync + 'static>>(word: &str) -> Result<T> {
    word.parse().with_context(|| format!("{word:?} is no such number"))
}

fn millis(word: &str) -> Result<Duration> {
    Ok(Duration::try_from_secs_f64(value::<f64>(word)? / 1000.0)?)
}

/// A host to be: its device, its address, its way out.
struct Host {
    device: String,
    address: Ipv4Addr,
    up: Option<u64>,
}

/// The link that all have but for their uplinks, the seed, and the hosts.
fn plan(words: &[String]) -> Result<(Link, u64, Vec<Host>)> {
    let (mut link, mut seed, mut hosts) = (Link { latency: Duration::ZERO, ..Link::default() }, 1, Vec::new());
    for word in words {
        if let Some((device, rest)) = word.split_once('@') {
            let (address, up) = rest.split_once('@').map_or((rest, None), |(address, up)| (address, Some(up)));
            hosts.push(Host { device: device.into(), address: value(address)?, up: up.map(value).transpose()? });
            continue;
        }
        let (key, given) = word.split_once('=').with_context(|| format!("{word:?} is no key=value and no host"))?;
        match key {
            "latency" => link.latency = millis(given)?,
            "jitter" => link.jitter = millis(given)?,
            "queue" => link.queue = value(given)?,
            "loss" => link.loss = value(given)?,
            "largest" => link.largest = value(given)?,
            "seed" => seed = value(given)?,
            _ => bail!("a star has no {key:?}"),
        }
    }
    Ok((link, seed, hosts))
}

/// Packets by what became of them, and how late those were that arrived.
#[derive(Default)]
struct Tally {
    arrived: Cell<u64>,
    late: Cell<Duration>,
    latest: Cell<Duration>,
    by_chance: Cell<u64>,
    queue_full: Cell<u64>,
    others: Cell<u64>,
}

impl Tally {
    fn count(&self, fate: Fate) {
        let counter = match fate {
            Fate::Arrives { .. } => &self.arrived,
            Fate::Lost(Loss::Chance) => &self.by_chance,
            Fate::Lost(Loss::QueueFull) => &self.queue_full,
            Fate::Lost(Loss::TooLarge | Loss::Outage) => &self.others,
        };
        counter.set(counter.get() + 1);
    }

    /// A packet is handed over so long after its time.
    fn late(&self, by: Duration) {
        self.late.set(self.late.get() + by);
        self.latest.set(self.latest.get().max(by));
    }
}

/// Whom a packet is for, if it is one of IPv4.
fn receiver(packet: &[u8]) -> Option<Ipv4Addr> {
    let is_ipv4 = packet.first().is_some_and(|first| first >> 4 == 4);
    let address: [u8; 4] = packet.get(16..20)?.try_into().ok()?;
    is_ipv4.then(|| address.into())
}

/// Carries what one host sends.
async fn carry(
    from: &Tun,
    hosts: &BTreeMap<Ipv4Addr, Rc<Tun>>,
    line: Line,
    start: Instant,
    tally: &Tally,
) -> Result<()> {
    let mut transit: Transit<(Rc<Tun>, Vec<u8>)> = Transit::new(line);
    let now = || Moment::ZERO + start.elapsed();
    let mut space = vec![0; LARGEST];
    loop {
        while let Some((due, (to, packet))) = transit.due().zip(transit.receive(now())) {
            tally.late(now().since(due));
            // A device that is down or gone takes nothing: that host is not there, and the packet is lost.
            let _ = to.send(&packet).await;
        }
        let due = transit.due().map(|due| start + due.since(Moment::ZERO));
        select! {
            biased;
            received = from.recv(&mut space) => {
                let packet = &space[..received?];
                // What is for nobody here is lost, as on the internet.
                if let Some(to) = receiver(packet).and_then(|address| hosts.get(&address)) {
                    tally.count(transit.send(now(), packet.len(), (to.clone(), packet.to_vec())));
                }
            }
            () = sleep_until(due.unwrap_or(start)), if due.is_some() => {}
        }
    }
}

fn main() -> Result<()> {
    let words: Vec<_> = std::env::args().skip(1).collect();
    let (link, seed, plan) = plan(&words)?;
    let (ended, ends) = oneshot::channel();
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        let _ = ended.send(());
    });
    Builder::new_current_thread().enable_all().build()?.block_on(async {
        let mut hosts = BTreeMap::new();
        for host in &plan {
            hosts.insert(host.address, Rc::new(open(&host.device)?));
        }
        let (start, tally, mut random) = (Instant::now(), Tally::default(), fastrand::Rng::with_seed(seed));
        let line = |host: &Host, random| Line::new(Link { bandwidth: host.up, ..link }, random);
        let lines: Vec<_> = plan.iter().map(|host| (host.address, line(host, random.fork()))).collect();
        let carried = lines.into_iter().map(|(address, line)| carry(&hosts[&address], &hosts, line, start, &tally));
        println!("ready");
        select! {
            biased;
            _ = ends => {}
            ended = try_join_all(carried) => drop(ended?),
        }
        let Tally { arrived, late, latest, by_chance, queue_full, others } = &tally;
        let (arrived, late, latest) = (arrived.get(), late.get().as_secs_f64(), latest.get().as_secs_f64());
        let mean = late / arrived.max(1) as f64;
        print!(r#"{{"arrived":{arrived},"late_seconds":{mean:.6},"latest_seconds":{latest:.6},"#);
        print!(r#""by_chance":{},"queue_full":{},"#, by_chance.get(), queue_full.get());
        println!(r#""others":{}}}"#, others.get());
        Ok(())
    })
}
