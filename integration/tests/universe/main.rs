//! Ring 3: whole swarms in the simulated universe. A few minutes of its own time a story, a moment of ours.
#![allow(missing_docs)]

mod churn;
mod dht;
mod discovery;
mod disks;
mod holepunch;
mod hostile;
mod life;
mod limits;
mod links;
mod manners;
mod poison;
mod scale;
mod slowness;
mod trackers;
mod trading;
mod web_seeds;

use std::time::Duration;

use castanet::TorrentHandle;
use tokio::time::timeout;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;
/// No story waits longer than this, in its own time.
const PATIENCE: Duration = Duration::from_secs(600);

async fn complete(handle: &mut TorrentHandle) {
    let done = timeout(PATIENCE, handle.completed()).await;
    done.unwrap_or_else(|_| panic!("the download hangs: {:?}", handle.state())).expect("the download completes");
}

async fn all_complete(leeching: &mut [TorrentHandle]) {
    for handle in leeching {
        complete(handle).await;
    }
}

async fn seconds(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}
