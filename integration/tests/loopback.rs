//! Whole engines over real sockets and real files, on loopback.
#![allow(missing_docs, clippy::unwrap_used)]

use std::{path::Path, time::Duration};

use castanet::{Engine, Listen, Torrent};
use castanet_integration::payload::Payload;

async fn engine(state: &Path) -> Engine {
    Engine::builder()
        .listen(Listen::At(vec!["127.0.0.1:0".parse().unwrap()]))
        .state_folder(state)
        .start()
        .await
        .unwrap()
}

#[tokio::test]
async fn one_seed_one_leech() {
    let payload = Payload::folder(
        "ship",
        &[("a", 3_000_001), ("b/empty", 0), ("b/c/d", 70_000), ("b/ü", 5_000_000)],
        256 * 1024,
        1,
    );
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    payload.write_to(here.path()).unwrap();
    let seed = engine(&here.path().join("state")).await;
    let mut seeding = seed.add(Torrent::new(payload.metainfo.clone(), here.path())).await.unwrap();
    seeding.completed().await.unwrap();

    let leech = engine(&there.path().join("state")).await;
    let torrent = Torrent::new(payload.metainfo.clone(), there.path()).peers([seed.listening()[0].to_string()]);
    let mut leeching = leech.add(torrent).await.unwrap();
    tokio::time::timeout(Duration::from_secs(30), leeching.completed()).await.unwrap().unwrap();
    leech.shutdown(Duration::from_secs(1)).await;
    seed.shutdown(Duration::from_secs(1)).await;
    assert_eq!(payload.difference(there.path()), None);
}
