//! The plugin with real programs: small ones for the shell. Where the clock is paused it runs ahead while a program is silent,
//! which is the point of those tests.

mod lockstep;

use std::path::Path;

use castanet_core::seams::discovery::{PeerFate, PeerOutcome, SwarmEvent};
use futures_util::StreamExt;
use tempfile::TempDir;

use super::*;
use crate::testing::{Engine, Torrent, World};

const HELLO: &str = r#"echo '{"type":"hello","version":1}'; "#;

fn settings(pairs: &[(&str, &str)]) -> Settings {
    Settings(pairs.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect())
}

fn plugin(script: &str) -> Arc<dyn Discovery> {
    assert!(!script.contains('"') || !script.contains('\\'), "quoted once only: {script}");
    let command = shlex::try_join(["sh", "-c", script]).unwrap();
    build(&World::new().means(), &settings(&[("name", "friends"), ("command", &command)])).unwrap()
}

async fn watch(plugin: &Arc<dyn Discovery>) -> (FoundStream, Engine) {
    let (swarm, engine) = Torrent::new(&["udp://t.test:1"]).swarm();
    (plugin.discover(swarm).await.unwrap(), engine)
}

/// Runs `body` while the plugin works, as an engine does.
async fn working<T>(plugin: &Arc<dyn Discovery>, body: impl Future<Output = T>) -> T {
    let run = async {
        plugin.run().await;
        std::future::pending().await
    };
    tokio::select! { biased; result = body => result, () = run => unreachable!() }
}

/// The next error, as the user reads it.
async fn error(stream: &mut FoundStream) -> String {
    loop {
        match stream.next().await.expect("the stream goes on") {
            Err(error) => return error.to_string(),
            Ok(found) => tracing::debug!(?found),
        }
    }
}

async fn peers(stream: &mut FoundStream) -> Vec<String> {
    loop {
        match stream.next().await.expect("the stream goes on") {
            Ok(Found::Peers(peers)) => return peers.iter().map(|peer| peer.addr.to_string()).collect(),
            other => tracing::debug!(?other),
        }
    }
}

async fn wait_for_text(path: &Path, wanted: &str) -> String {
    for _ in 0..1000 {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        if text.contains(wanted) {
            return text;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{} never had {wanted}: {:?}", path.display(), std::fs::read_to_string(path));
}

/// No process of the group is left: each of them wrote its number into `file`.
#[cfg(unix)]
async fn all_gone(file: &Path) {
    for pid in std::fs::read_to_string(file).unwrap().split_whitespace() {
        let pid = rustix::process::Pid::from_raw(pid.parse().unwrap()).unwrap();
        for round in 0.. {
            // A killed child stays as a zombie until someone reaps it; that is the end, too.
            let state = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
            if rustix::process::test_kill_process(pid).is_err() || state.contains(") Z ") {
                break;
            }
            assert!(round < 500, "{pid:?} lives on");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

#[test]
fn settings_are_read_or_refused() {
    let means = World::new().means();
    let good = [("name", "n"), ("command", "'a b' c"), ("env", "X='1 2' Y="), ("private", "true")];
    let plugin = build(&means, &settings(&good)).unwrap();
    assert_eq!((plugin.name(), format!("{plugin:?}")), ("n".into(), r#"Process(n = ["a b", "c"])"#.to_owned()));
    for (bad, word) in [
        (&[("command", "x")][..], "name"),
        (&[("name", "n")], "command"),
        (&[("name", "n"), ("command", "")], "command"),
        (&[("name", "n"), ("command", "''")], "command"),
        (&[("name", "n"), ("command", "a 'b")], "open quote"),
        (&[("name", "n"), ("command", "x"), ("env", "Y")], "KEY=VALUE"),
        (&[("name", "n"), ("command", "x"), ("private", "yes")], "true or false"),
        (&[("name", "n"), ("command", "x"), ("lockstep", "1")], "lockstep is `1`, not true or false"),
        (&[("name", "n"), ("command", "x"), ("colour", "red")], "colour"),
    ] {
        let error = build(&means, &settings(bad)).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    }
}

#[test]
fn private_torrents_are_the_users_decision() {
    let mut info = Torrent::new(&["udp://t.test:1"]).info;
    info.private = true;
    let with = |pairs: &[(&str, &str)]| build(&World::new().means(), &settings(pairs)).unwrap();
    assert!(!with(&[("name", "n"), ("command", "x")]).serves(&info));
    assert!(with(&[("name", "n"), ("command", "x"), ("private", "true")]).serves(&info));
    info.private = false;
    assert!(with(&[("name", "n"), ("command", "x"), ("private", "false")]).serves(&info));
}

#[tokio::test]
async fn a_program_finds_peers_and_hears_what_becomes_of_them() {
    let folder = TempDir::new().unwrap();
    let heard = folder.path().join("heard");
    let script = format!(
        r#"{HELLO} while read line; do echo $line >> {}; case $line in
            *watch*) echo '{{"type":"peers","torrent":0,"peers":["127.0.0.1:7","nonsense"]}}' ;; esac; done"#,
        heard.display()
    );
    let plugin = plugin(&script.replace('\\', ""));
    working(&plugin, async {
        let (mut stream, engine) = watch(&plugin).await;
        assert_eq!(peers(&mut stream).await, ["127.0.0.1:7"]);
        assert!(error(&mut stream).await.contains("friends sent a bad answer: `nonsense` is no address"));
        let addr = "127.0.0.1:7".parse().unwrap();
        engine.events.try_send(SwarmEvent::Outcome(PeerOutcome { addr, fate: PeerFate::Banned })).unwrap();
        engine.events.try_send(SwarmEvent::Completed).unwrap();
        engine.progress.send_modify(|progress| progress.wanted = 0);
        tokio::select! {
            biased;
            _ = stream.next() => panic!("nothing more is found"),
            text = wait_for_text(&heard, "completed") => {
                assert!(text.lines().next().unwrap().starts_with(r#"{"type":"hello","version":1,"engine":"Castanet/test","seed":7,"#), "{text}");
            }
        }
        drop(stream);
        wait_for_text(&heard, "unwatch").await;
        plugin.close(Duration::from_secs(5)).await;
    })
    .await;
    let text = wait_for_text(&heard, "stop").await;
    let place = |word: &str| text.find(word).unwrap_or_else(|| panic!("no {word}: {text}"));
    for pair in ["hello", "watch", "outcomes", "progress", "completed", "unwatch", "stop"].windows(2) {
        assert!(place(&format!("\"{}\"", pair[0])) < place(&format!("\"{}\"", pair[1])), "{pair:?}: {text}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_says_no_hello_is_started_again_after_longer_and_longer() {
    let plugin = plugin("sleep 1000");
    working(&plugin, async {
        let (mut stream, _engine) = watch(&plugin).await;
        for pause in ["1 s", "2 s", "4 s"] {
            let expected = format!("friends: it said no hello within 10 s; it is started again in {pause}");
            assert_eq!(error(&mut stream).await, expected);
        }
    })
    .await;
}

#[tokio::test]
async fn what_is_wrong_with_a_program_is_said() {
    for (script, word) in [
        ("exit 3", "it ended (exit status: 3)"),
        ("echo oh dear >&2; exit 4", "it ended (exit status: 4): oh dear"),
        ("sleep 1000 & exit 5", "it ended (exit status: 5)"),
        ("echo hello; sleep 1000", "its first line is no hello"),
        (r#"echo '{"type":"hello","version":2}'; sleep 1000"#, "it speaks version 2"),
        ("exec >&-; sleep 1000", "it closed its stdout"),
        (r#"echo '{"type":"notice","text":"x"}'; sleep 1000"#, "its first line is no hello"),
    ] {
        let plugin = plugin(script);
        working(&plugin, async {
            let (mut stream, _engine) = watch(&plugin).await;
            let text = error(&mut stream).await;
            assert!(text.contains(word) && text.ends_with("; it is started again in 1 s"), "{script}: {text}");
        })
        .await;
    }
    let command = settings(&[("name", "friends"), ("command", "/nowhere/to/be/found")]);
    let plugin = build(&World::new().means(), &command).unwrap();
    working(&plugin, async {
        let (mut stream, _engine) = watch(&plugin).await;
        assert!(error(&mut stream).await.contains("there is no program `/nowhere/to/be/found`"));
    })
    .await;
}

#[tokio::test]
async fn a_few_bad_lines_are_forgiven_and_many_are_not() {
    let script = format!("{HELLO} for n in 1 2 3 4 5 6 7 8 9 10 11; do echo nonsense $n; done; sleep 1000");
    let plugin = plugin(&script);
    working(&plugin, async {
        let (mut stream, _engine) = watch(&plugin).await;
        for n in 1..=10 {
            let text = error(&mut stream).await;
            assert!(
                text.starts_with("friends sent a bad answer: ") && text.ends_with(&format!(" nonsense {n}")),
                "{text}"
            );
        }
        let text = error(&mut stream).await;
        assert!(text.contains("it prints what is no message") && text.contains("started again"), "{text}");
    })
    .await;
}

#[tokio::test]
async fn each_program_says_for_itself_whether_it_overhears() {
    let folder = TempDir::new().unwrap();
    // The first one does, the next does not.
    let script = format!(
        r#"mkdir {} 2>/dev/null && it=true || it=false; echo '{{"type":"hello","version":1,"overhears":'$it'}}';
            while read line; do case $line in *watch*) echo '{{"type":"peers","torrent":0,"peers":["127.0.0.1:7"]}}';;
            *completed*) exit;; esac; done"#,
        folder.path().join("been").display()
    );
    let plugin = plugin(&script);
    working(&plugin, async {
        assert!(!plugin.overhears(), "nobody has said so");
        let (mut stream, engine) = watch(&plugin).await;
        for overhears in [true, false] {
            assert_eq!(peers(&mut stream).await, ["127.0.0.1:7"]);
            assert_eq!(plugin.overhears(), overhears);
            engine.events.try_send(SwarmEvent::Completed).unwrap();
        }
    })
    .await;
}

#[tokio::test]
async fn the_next_program_is_told_of_every_torrent() {
    // Each program tells one peer when it hears of torrent 1, and ends.
    let script = format!(
        r#"{HELLO} while read line; do case $line in
            *watch*torrent*:1,*) echo '{{"type":"peers","torrent":1,"peers":["127.0.0.1:7"]}}'; exit;; esac; done"#
    );
    let plugin = plugin(&script);
    working(&plugin, async {
        let (first, _engine) = watch(&plugin).await;
        let (mut second, _engine2) = watch(&plugin).await;
        for _ in 0..2 {
            assert_eq!(peers(&mut second).await, ["127.0.0.1:7"]);
        }
        drop(first);
    })
    .await;
}

#[tokio::test]
async fn a_good_bye_ends_all_streams_for_good() {
    let plugin = plugin(r#"echo '{"type":"hello","version":1}'; read hello; echo '{"type":"bye"}'; sleep 1000"#);
    working(&plugin, async {
        let (stream, _engine) = watch(&plugin).await;
        assert_eq!(stream.count().await, 0);
        let (stream, _engine) = watch(&plugin).await;
        assert_eq!(stream.count().await, 0, "later torrents are no news to it");
        plugin.close(Duration::from_secs(5)).await;
    })
    .await;
}

#[cfg(unix)]
#[tokio::test]
async fn who_does_not_end_is_killed_with_all_it_started() {
    let folder = TempDir::new().unwrap();
    let pids = folder.path().join("pids");
    let script = format!(
        "trap : TERM INT; echo $$ >> {0}; sleep 1000 & echo $! >> {0}; {HELLO} echo deaf >> {0}.ready; while :; do sleep 1; done",
        pids.display()
    );
    let ready = folder.path().join("pids.ready");
    for polite in [true, false] {
        let _ = (std::fs::remove_file(&pids), std::fs::remove_file(&ready));
        let plugin = plugin(&script);
        let closing = async {
            wait_for_text(&ready, "deaf").await;
            if polite {
                plugin.close(Duration::from_millis(300)).await;
                assert_eq!(std::fs::read_to_string(&pids).unwrap().lines().count(), 2);
            }
        };
        // If not polite, the work is dropped.
        working(&plugin, closing).await;
        all_gone(&pids).await;
    }
}

#[tokio::test]
async fn a_flood_that_nobody_reads_waits_in_its_pipe() {
    let folder = TempDir::new().unwrap();
    let count = folder.path().join("count");
    let line = format!(r#"{{"type":"peers","torrent":0,"peers":["127.0.0.1:7"{}]}}"#, r#","127.0.0.1:8""#.repeat(300));
    let script = format!(
        "{HELLO} read hello; n=0; while :; do echo '{line}'; n=$((n+1)); case $n in *0) echo $n >> {};; esac; done",
        count.display()
    );
    let plugin = plugin(&script);
    working(&plugin, async {
        let (stream, _engine) = watch(&plugin).await;
        wait_for_text(&count, "30").await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        let written: usize = std::fs::read_to_string(&count).unwrap().lines().last().unwrap().parse().unwrap();
        assert!(written < 2000, "{written} lines of 4 KiB");
        drop(stream);
        plugin.close(Duration::from_millis(300)).await;
    })
    .await;
}

#[tokio::test]
async fn who_does_not_listen_blocks_nobody() {
    let plugin = plugin(&format!("{HELLO} sleep 1000"));
    let (mut streams, mut engines) = (Vec::new(), Vec::new());
    working(&plugin, async {
        for _ in 0..1000 {
            let (stream, engine) = watch(&plugin).await;
            streams.push(stream);
            engines.push(engine);
        }
        let mut all = futures_util::stream::select_all(streams);
        assert!(timeout(Duration::from_millis(300), all.next()).await.is_err(), "nothing is found");
        plugin.close(Duration::from_millis(300)).await;
        assert!(all.next().await.is_none());
    })
    .await;
}
