//! An emulated link between two tun devices, for real programs: see `castanet_integration::emulator`.
//!
//! ```text
//! link ONE OTHER [latency=MS] [jitter=MS] [bandwidth=BYTES_A_SECOND] [queue=BYTES] [loss=SHARE] [doubled=SHARE]
//!      [overtaken=SHARE] [largest=BYTES] [seed=NUMBER]
//! ```
//!
//! It makes the devices in the network namespace it is started in, says "ready", carries packets until its input ends,
//! then prints what became of those that were sent at ONE and at OTHER: two lines of JSON. Moving a device to another
//! namespace and giving it an address is for whoever starts it (`ip link set OTHER netns PID`).

use std::{io::Read as _, str::FromStr, time::Duration};

use anyhow::{Context as _, Result, bail};
use castanet_integration::emulator::{Emulator, Link, Outages, open};
use tokio::{runtime::Builder, select, sync::oneshot};

fn value<T: FromStr<Err: std::error::Error + Send + Sync + 'static>>(word: &str) -> Result<T> {
    word.parse().with_context(|| format!("{word:?} is no such number"))
}

fn millis(word: &str) -> Result<Duration> {
    Ok(Duration::try_from_secs_f64(value::<f64>(word)? / 1000.0)?)
}

/// A link of no latency and no limits but those given; and the seed.
fn link(words: &[String]) -> Result<(Link, u64)> {
    let (mut link, mut seed) = (Link { latency: Duration::ZERO, ..Link::default() }, 1);
    for word in words {
        let (key, given) = word.split_once('=').with_context(|| format!("{word:?} is no key=value"))?;
        match key {
            "latency" => link.latency = millis(given)?,
            "jitter" => link.jitter = millis(given)?,
            "bandwidth" => link.bandwidth = Some(value(given)?),
            "queue" => link.queue = value(given)?,
            "loss" => link.loss = value(given)?,
            "doubled" => link.doubled = value(given)?,
            "overtaken" => link.overtaken = value(given)?,
            "largest" => link.largest = value(given)?,
            "seed" => seed = value(given)?,
            _ => bail!("a link has no {key:?}"),
        }
    }
    Ok((link, seed))
}

fn main() -> Result<()> {
    let words: Vec<_> = std::env::args().skip(1).collect();
    let [one, other, rest @ ..] = &words[..] else { bail!("link ONE OTHER [key=value ...]") };
    let (link, seed) = link(rest)?;
    let (ended, ends) = oneshot::channel();
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        let _ = ended.send(());
    });
    Builder::new_current_thread().enable_all().build()?.block_on(async {
        let emulator = Emulator::new([open(one)?, open(other)?], link, &Outages::Never, seed);
        println!("ready");
        select! {
            biased;
            _ = ends => {}
            ended = emulator.run() => ended?,
        }
        emulator.tallies().iter().for_each(|tally| println!("{tally}"));
        Ok(())
    })
}
