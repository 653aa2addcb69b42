//! Every built-in plugin and both examples pass the kit, and the kit sees what it should see.

use std::path::Path;

use async_trait::async_trait;
use castanet_core::{
    PluginName,
    seams::{
        discovery::{PeerCandidate, Settings},
        means::Means,
    },
};
use futures_util::stream;

use super::*;
use crate::{BUILTIN, testing::World};

fn failures(report: &Report) -> Vec<String> {
    let failed = report.checks.iter().filter(|check| !check.passed);
    failed.map(|check| format!("{}: {}", check.name, check.detail)).collect()
}

#[tokio::test(start_paused = true)]
async fn every_built_in_plugin_passes() {
    // Time is free here: long enough for announces, look-ups and their repetition.
    let options = Options { settle: Duration::from_secs(120), within: Duration::from_secs(3) };
    for (name, build) in BUILTIN {
        let worlds: [Means; 2] = [island(), World::new().means()];
        for means in worlds {
            let report = check(|| build(&means, &Settings::default()), &options).await;
            assert_eq!(failures(&report), [""; 0], "{name}");
            assert_eq!(report.checks.len(), 10, "{name}");
        }
    }
}

#[cfg(unix)]
#[tokio::test]
async fn both_examples_pass() {
    let folder = tempfile::tempdir().unwrap();
    let friends = folder.path().join("the friends.txt");
    std::fs::write(&friends, "127.0.0.1:7\n[::1]:8\n").unwrap();
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("examples/plugins");
    let options = Options { settle: Duration::from_millis(300), within: Duration::from_secs(3) };
    let run = async |interpreter: &str, script: &str| {
        let script = examples.join(script);
        let command = shlex::try_join([interpreter, script.to_str().unwrap(), friends.to_str().unwrap()]).unwrap();
        let settings = Settings([("name".into(), "friends".into()), ("command".into(), command)].into());
        check_program(&island(), &settings, &options).await
    };
    let (shell, python) = tokio::join!(run("sh", "friends.sh"), run("python3", "friends.py"));
    for report in [shell, python] {
        assert_eq!(failures(&report), [""; 0]);
        assert_eq!(report.checks.len(), 16);
        assert!(!report.checks[1].detail.ends_with(" 0 peers"), "{report:?}");
    }
}

#[cfg(unix)]
#[tokio::test]
async fn bad_programs_are_seen_through() {
    let options = Options { settle: Duration::from_millis(100), within: Duration::from_millis(300) };
    let hello = r#"echo '{"type":"hello","version":1}'; "#;
    let cases = [
        ("exit 1".to_owned(), "says hello in time"),
        ("echo hi".to_owned(), "says hello in time"),
        (r#"echo '{"type":"hello","version":9}'"#.to_owned(), "says hello in time"),
        (format!("{hello} while read line; do echo nonsense; done"), "prints only messages"),
        (format!("{hello} read a; read b; read c; exit 1"), "prints only messages"),
        (format!("{hello} while read line; do sleep 0; done; sleep 1000"), "ends when stdin is closed"),
        (format!("{hello} cat >/dev/null"), "ends on stop"),
        (
            format!(
                r#"{hello} while read line; do echo '{{"type":"peers","torrent":7,"peers":["127.0.0.1:7"]}}'; done"#
            ),
            "rests at wanted 0",
        ),
        (
            format!(
                r#"{hello} while read line; do case $line in *hello*|*7*) ;; *) exit;; esac; case $line in *morrow*) exit 1; esac; done"#
            ),
            "passes over what it does not know",
        ),
    ];
    let run = async |(script, name): (String, &'static str)| {
        let command = shlex::try_join(["sh", "-c", &script]).unwrap();
        let settings = Settings([("name".into(), "bad".into()), ("command".into(), command)].into());
        let report = check_program(&island(), &settings, &options).await;
        let check = report.checks.iter().find(|check| check.name == name).unwrap();
        assert!(!check.passed, "{script}: {report:#?}");
    };
    futures_util::future::join_all(cases.map(run)).await;
}

/// A plugin that does one thing wrong.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Bad {
    Panics,
    Private,
    NeverRests,
    Undialable,
    Spawns,
    NeverLeaves,
    EndsAtCompletion,
    Escapes,
}

#[async_trait]
impl Discovery for Bad {
    fn name(&self) -> PluginName {
        "bad".into()
    }
    fn serves(&self, swarm: &SwarmInfo) -> bool {
        !swarm.private || *self == Self::Private
    }
    async fn discover(&self, mut swarm: Swarm) -> Result<FoundStream, DiscoveryError> {
        let found = |addr: ([u8; 4], u16)| {
            Ok(Found::Peers(vec![PeerCandidate { addr: addr.into(), peer_id: None, instance: "bad".into() }]))
        };
        match self {
            Self::Panics => panic!("oh dear"),
            Self::Undialable => return Ok(stream::iter([found(([0; 4], 0))]).boxed()),
            Self::Escapes => return Ok(stream::iter([Ok(Found::Notice("\u{1b}[2J".into()))]).boxed()),
            Self::NeverRests => {
                return Ok(stream::unfold((), move |()| async move {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    Some((found(([127, 0, 0, 1], 7)), ()))
                })
                .boxed());
            }
            Self::Spawns => {
                tokio::spawn(async move { while swarm.progress.changed().await.is_ok() {} });
            }
            Self::EndsAtCompletion => {
                return Ok(stream::unfold(swarm, |mut swarm| async move {
                    while !matches!(swarm.events.recv().await?, SwarmEvent::Completed) {}
                    None
                })
                .boxed());
            }
            Self::Private | Self::NeverLeaves => {}
        }
        Ok(stream::pending().boxed())
    }
    async fn leave(&self, _: SwarmInfo, _: Me, _: Progress, _: Duration) -> Result<(), DiscoveryError> {
        if *self == Self::NeverLeaves {
            std::future::pending().await
        }
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn each_fault_is_found() {
    for (bad, name) in [
        (Bad::Panics, "starts for a torrent"),
        (Bad::Private, "keeps away from private torrents"),
        (Bad::NeverRests, "rests when nobody is wanted, and wakes up"),
        (Bad::Undialable, "starts for a torrent"),
        (Bad::Escapes, "starts for a torrent"),
        (Bad::Spawns, "stops working when dropped"),
        (Bad::NeverLeaves, "stops in time"),
        (Bad::EndsAtCompletion, "goes on after the download"),
    ] {
        let options = Options { settle: Duration::from_secs(10), within: Duration::from_secs(1) };
        let report = check(|| Ok(Arc::new(bad)), &options).await;
        let failed: Vec<_> = report.checks.iter().filter(|check| !check.passed).map(|check| check.name).collect();
        assert!(failed.contains(&name), "{bad:?}: {report:#?}");
        assert!(
            bad == Bad::Panics || bad == Bad::Undialable || bad == Bad::Escapes || failed.len() == 1,
            "{report:#?}"
        );
    }
}
