//! Many pieces, many files, many torrents.

use castanet_integration::{payload::Payload, universe::universe};

use crate::{KIB, MIB, complete};

#[test]
fn a_hundred_thousand_pieces() {
    // Of 256 bytes: what is many here is the pieces.
    let payload = Payload::one_file("cargo", 100_000 * 256, 256, 1);
    universe(1, async |world| {
        let hosts = world.hosts(2).await;
        hosts[0].seed(&payload).await;
        let mut leeching = hosts[1].leech(&payload, &hosts).await;
        complete(&mut leeching).await;
        assert_eq!(leeching.state().pieces, 100_000);
        assert_eq!(hosts[1].difference(&payload), None);
    });
}

#[test]
fn twenty_thousand_tiny_files() {
    let names: Vec<String> = (0..20_000).map(|n| format!("{}/{}/{n}", n % 7, n % 100)).collect();
    let files: Vec<_> = names.iter().zip(0..).map(|(name, n)| (name.as_str(), n % 100)).collect();
    let payload = Payload::folder("ship", &files, 16 * KIB as u32, 1);
    universe(2, async |world| {
        let hosts = world.hosts(2).await;
        hosts[0].seed(&payload).await;
        let mut leeching = hosts[1].leech(&payload, &hosts).await;
        complete(&mut leeching).await;
        assert_eq!(hosts[1].difference(&payload), None);
    });
}

#[test]
fn several_torrents_in_one_engine() {
    let payloads: Vec<_> = (0..5).map(|n| Payload::one_file(&format!("cargo {n}"), MIB, 64 * KIB as u32, n)).collect();
    universe(3, async |world| {
        let hosts = world.hosts(3).await;
        let mut leeching = Vec::new();
        for (n, payload) in payloads.iter().enumerate() {
            // Each host seeds some and downloads the others, over connections of their own.
            hosts[n % 2].seed(payload).await;
            leeching.push(hosts[1 - n % 2].leech(payload, &hosts).await);
            leeching.push(hosts[2].leech(payload, &hosts).await);
        }
        crate::all_complete(&mut leeching).await;
        for host in &hosts {
            assert!(payloads.iter().all(|payload| host.difference(payload).is_none()));
        }
    });
}

#[test]
fn thirty_leeches() {
    let payload = Payload::one_file("cargo", 2 * MIB, 64 * KIB as u32, 1);
    universe(4, async |world| {
        let hosts = world.hosts(31).await;
        hosts.iter().for_each(|host| host.set_uplink(Some(MIB as u64 / 2)));
        hosts[0].seed(&payload).await;
        let mut leeching = Vec::new();
        for host in &hosts[1..] {
            leeching.push(host.leech(&payload, &hosts[..1 + leeching.len()]).await);
        }
        crate::all_complete(&mut leeching).await;
        println!("30 leeches, 2 MiB, every uplink 0.5 MiB/s: {:?} (4 s is ideal)", world.elapsed());
        assert!(world.elapsed().as_secs() < 16, "{:?}", world.elapsed());
    });
}
