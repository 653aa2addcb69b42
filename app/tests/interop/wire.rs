//! An emulated wire between a world and a neighbour: a thread that carries packets between two tun devices named `lan`,
//! until it is dropped.

use std::fs::File;
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result, bail, ensure};
use castanet_integration::emulator::{Emulator, Link, Outages, Tally, open};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::runtime::Builder;
use tokio::select;
use tokio::sync::oneshot;

/// Makes the node of the tun driver where a container has none.
const NODE: &str = "test -e /dev/net/tun || { mkdir -p /dev/net && mknod /dev/net/tun c 10 200; }";

/// A wire.
pub(crate) struct Wire {
    emulator: Arc<Emulator>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Wire {
    /// A wire from the namespace of the calling thread to another one.
    pub(crate) fn lay(to: File, link: Link, seed: u64) -> Result<Wire> {
        let node = Command::new("sh").args(["-c", NODE]).output()?;
        ensure!(node.status.success(), "no /dev/net/tun: {}", String::from_utf8_lossy(&node.stderr).trim());
        let (stop, stopped) = oneshot::channel();
        let (tell, told) = mpsc::channel();
        // A new thread is where its parent is.
        let thread = thread::spawn(move || carry(&to, link, seed, stopped, &tell));
        match told.recv() {
            Ok(emulator) => Ok(Wire { emulator, stop: Some(stop), thread: Some(thread) }),
            Err(_) => match thread.join() {
                Ok(Err(error)) => Err(error).context("the emulated wire"),
                _ => bail!("the thread of the emulated wire died"),
            },
        }
    }

    /// What became of the packets that the world sent, and of those of its neighbour.
    pub(crate) fn tallies(&self) -> [Tally; 2] {
        self.emulator.tallies()
    }
}

/// Makes the devices, tells of the emulator, and lets it run until it is to stop.
fn carry(
    to: &File,
    link: Link,
    seed: u64,
    stopped: oneshot::Receiver<()>,
    tell: &mpsc::Sender<Arc<Emulator>>,
) -> Result<()> {
    Builder::new_current_thread().enable_all().build()?.block_on(async {
        let here = open("lan")?;
        move_into_link_name_space(to.as_fd(), Some(LinkNameSpaceType::Network))?;
        let emulator = Arc::new(Emulator::new([here, open("lan")?], link, &Outages::Never, seed));
        tell.send(emulator.clone())?;
        select! {
            _ = stopped => Ok(()),
            ended = emulator.run() => Ok(ended?),
        }
    })
}

impl Drop for Wire {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
