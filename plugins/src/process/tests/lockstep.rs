//! The plugin in lockstep, as in a simulation: on a runtime that has paused time and no I/O.

use tokio::time::sleep;

use super::*;

/// A program that speaks the protocol: `heard(m)` is called for each message but `sync`, `synced(now)` answers when to be woken.
const PYTHON: &str = "
import sys, json, random
def say(**m): print(json.dumps(m), flush=True)
say(type='hello', version=1)
def talk(heard, synced):
    for line in sys.stdin:
        m = json.loads(line)
        if m['type'] == 'stop': break
        if m['type'] != 'sync': heard(m); continue
        answer = {'type': 'synced', 'id': m['id']}
        wake_in = synced(m['now'])
        if wake_in is not None: answer['wake_in'] = wake_in
        say(**answer)
";

fn simulated<T>(body: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap().block_on(body)
}

fn lockstep(words: [&str; 3], seed: u64) -> (World, Arc<dyn Discovery>) {
    let world = World::new();
    let means = Means { seed, ..world.means() };
    let command = shlex::try_join(words).unwrap();
    let settings = settings(&[("name", "friends"), ("command", &command), ("lockstep", "true")]);
    (world, build(&means, &settings).unwrap())
}

fn shell(script: &str) -> (World, Arc<dyn Discovery>) {
    lockstep(["sh", "-c", script], 7)
}

fn python(script: &str, seed: u64) -> (World, Arc<dyn Discovery>) {
    lockstep(["python3", "-c", &format!("{PYTHON}{script}")], seed)
}

/// What a program finds that wakes by its dice, for two torrents, the second of which comes and goes.
fn transcript(seed: u64) -> Vec<String> {
    let script = "
dice, torrents = random.Random(), set()
def heard(m):
    if m['type'] == 'hello': dice.seed(m['seed'])
    if m['type'] == 'watch': torrents.add(m['torrent'])
    if m['type'] == 'unwatch': torrents.remove(m['torrent'])
def synced(now):
    for torrent in sorted(torrents):
        say(type='peers', torrent=torrent, peers=['192.0.2.%d:%d' % (dice.randint(1, 9), 6881 + torrent)])
    return dice.randint(100, 2000) / 1000
talk(heard, synced)
";
    simulated(async {
        let (world, plugin) = python(script, seed);
        let lines = std::cell::RefCell::new(Vec::new());
        let read = async |mut stream: FoundStream| {
            loop {
                let peers = peers(&mut stream).await;
                lines.borrow_mut().push(format!("{:?} {peers:?}", world.now()));
            }
        };
        let second = async {
            sleep(Duration::from_millis(2500)).await;
            let (stream, _engine) = watch(&plugin).await;
            let _ = timeout(Duration::from_secs(5), read(stream)).await;
        };
        working(&plugin, async {
            let (stream, _engine) = watch(&plugin).await;
            let both = async { tokio::join!(read(stream), second) };
            let _ = timeout(Duration::from_secs(20), both).await;
            plugin.close(Duration::from_secs(5)).await;
        })
        .await;
        lines.into_inner()
    })
}

#[test]
fn the_same_seed_finds_the_same_at_the_same_time() {
    let first = transcript(1);
    assert!(first.len() > 15 && first.iter().any(|line| line.contains(":6882")), "{first:#?}");
    assert_eq!(first, transcript(1));
    assert_ne!(first, transcript(2));
}

#[test]
fn a_program_is_woken_and_told_at_exact_times() {
    // It takes its time, by a real clock; nobody notices.
    let script = "
import time
watched = []
def heard(m):
    if m['type'] in ('watch', 'progress'): watched.append(m['wanted'])
def synced(now):
    time.sleep(0.05)
    if watched: say(type='notice', text='%r %r' % (now, watched[-1]))
    return {0: 0.25, 0.25: 1.5}.get(now)
talk(heard, synced)
";
    simulated(async {
        let (world, plugin) = python(script, 7);
        working(&plugin, async {
            let (mut stream, engine) = watch(&plugin).await;
            for (at, text) in [(0, "0.0 1"), (250, "0.25 1"), (1750, "1.75 1"), (5000, "5.0 0"), (5000, "5.0 4")] {
                if at == 5000 {
                    // It wants to be woken no more: only news wakes it.
                    sleep(Moment::from_secs(5).since(world.now())).await;
                    engine.progress.send_modify(|progress| progress.wanted = if text == "5.0 0" { 0 } else { 4 });
                }
                assert_eq!(stream.next().await.unwrap().unwrap(), Found::Notice(text.to_owned()));
                assert_eq!(world.now(), Moment::ZERO + Duration::from_millis(at));
            }
            assert!(timeout(Duration::from_secs(3600), stream.next()).await.is_err(), "it has nothing more to say");
        })
        .await;
    });
}

/// The errors of a program that fails again and again, and when they came.
fn failures(script: &str, most: usize) -> Vec<(u64, String)> {
    simulated(async {
        let (world, plugin) = shell(script);
        working(&plugin, async {
            let (mut stream, _engine) = watch(&plugin).await;
            let mut errors = Vec::new();
            for _ in 0..most {
                let text = error(&mut stream).await;
                errors.push((world.now().since(Moment::ZERO).as_secs(), text));
            }
            errors
        })
        .await
    })
}

#[test]
fn who_never_answers_sync_is_told_where_to_read_of_it() {
    let errors = failures(&format!("{HELLO} sleep 1000"), 1);
    let expected = "friends: it did not answer `sync` within 10 s (docs/PLUGIN-PROTOCOL.md, In simulation); it is started again in 1 s";
    assert_eq!(errors, [(0, expected.to_owned())]);
}

#[test]
fn who_says_no_hello_is_told_so() {
    let errors = failures("sleep 1000", 1);
    let expected = "friends: it said no hello within 10 s; it is started again in 1 s";
    assert_eq!(errors, [(0, expected.to_owned())]);
}

#[test]
fn what_is_wrong_is_said_at_the_same_virtual_time() {
    for (script, words) in [
        ("echo oh dear >&2; exit 4", "it ended (exit status: 4): oh dear"),
        ("sleep 1000 & exit 5", "it ended (exit status: 5)"),
        ("exec >&-; exec sleep 1000", "it closed its stdout"),
        (
            r#"echo '{"type":"hello","version":2}'; read hello; read sync; echo '{"type":"synced","id":0}'; read stop"#,
            "it speaks version 2",
        ),
    ] {
        let errors = failures(script, 3);
        let times: Vec<_> = errors.iter().map(|(at, _)| *at).collect();
        assert_eq!(times, [0, 1, 3], "{errors:?}");
        for ((_, text), pause) in errors.iter().zip(["1 s", "2 s", "4 s"]) {
            assert!(text.contains(words) && text.ends_with(&format!("started again in {pause}")), "{text}");
        }
    }
    let errors = failures(&format!(r#"{HELLO} while echo '{{"type":"of tomorrow"}}'; do :; done"#), 2);
    let words = "friends: it says more than 10000 lines or 64 MiB before it answers `sync` (docs/PLUGIN-PROTOCOL.md";
    assert!(errors.iter().all(|(_, text)| text.starts_with(words)), "{errors:?}");
}

#[test]
fn a_flood_after_the_answer_waits_in_its_pipe() {
    let script = format!(
        r#"{HELLO} read hello; read sync; echo '{{"type":"synced","id":0}}'; while echo '{{"type":"of tomorrow"}}'; do :; done"#
    );
    simulated(async {
        let (_, plugin) = shell(&script);
        working(&plugin, async {
            sleep(Duration::from_secs(1)).await;
            let (mut stream, _engine) = watch(&plugin).await;
            assert!(error(&mut stream).await.contains("more than 10000 lines"));
        })
        .await;
    });
}

#[test]
fn the_examples_take_part() {
    let folder = TempDir::new().unwrap();
    let friends = folder.path().join("friends.txt");
    std::fs::write(&friends, "127.0.0.1:7\n[::1]:8\n").unwrap();
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("examples/plugins");
    for (interpreter, script) in [("sh", "friends.sh"), ("python3", "friends.py")] {
        let script = examples.join(script);
        simulated(async {
            let words = [interpreter, script.to_str().unwrap(), friends.to_str().unwrap()];
            let (world, plugin) = lockstep(words, 7);
            working(&plugin, async {
                sleep(Duration::from_millis(2500)).await;
                let (mut stream, _engine) = watch(&plugin).await;
                assert_eq!(peers(&mut stream).await, ["127.0.0.1:7", "[::1]:8"]);
                assert_eq!(world.now(), Moment::ZERO + Duration::from_millis(2500));
                assert!(timeout(Duration::from_secs(60), stream.next()).await.is_err(), "nothing more is to be said");
                plugin.close(Duration::from_secs(5)).await;
            })
            .await;
        });
    }
}

#[test]
fn both_may_have_much_to_say() {
    // More than fits into the pipes, in both directions: it prints before it reads on.
    let script = "
def heard(m):
    if m['type'] == 'watch':
        for n in range(20): say(type='peers', torrent=m['torrent'], peers=['127.0.0.1:%d' % (n + 1)] * 200)
talk(heard, lambda now: None)
";
    simulated(async {
        let (world, plugin) = python(script, 7);
        let (mut streams, mut engines) = (Vec::new(), Vec::new());
        for _ in 0..400 {
            let (stream, engine) = watch(&plugin).await;
            streams.push(stream);
            engines.push(engine);
        }
        let mut all = futures_util::stream::select_all(streams);
        working(&plugin, async {
            for _ in 0..400 * 20 {
                assert!(matches!(all.next().await, Some(Ok(Found::Peers(peers))) if peers.len() == 200));
            }
            assert_eq!(world.now(), Moment::ZERO);
        })
        .await;
    });
}

#[test]
fn a_good_bye_needs_no_synced() {
    simulated(async {
        let (world, plugin) = shell(&format!(r#"{HELLO} read hello; echo '{{"type":"bye"}}'; exec sleep 1000"#));
        working(&plugin, async {
            let (stream, _engine) = watch(&plugin).await;
            assert_eq!((stream.count().await, world.now()), (0, Moment::ZERO));
        })
        .await;
    });
}

#[cfg(unix)]
#[test]
fn who_is_to_end_hears_of_it_and_is_killed_with_all_it_started() {
    let folder = TempDir::new().unwrap();
    let (pids, heard) = (folder.path().join("pids"), folder.path().join("heard"));
    // It answers `sync`, and is deaf to `stop`.
    let script = format!(
        r#"{HELLO} echo $$ >> {0}; sleep 1000 & echo $! >> {0}; n=0; while read line; do echo "$line" >> {1}; case $line in
            *sync*) echo '{{"type":"synced","id":'$n'}}'; n=$((n+1)) ;; esac; done; while :; do sleep 1; done"#,
        pids.display(),
        heard.display()
    );
    for polite in [true, false] {
        let _ = (std::fs::remove_file(&pids), std::fs::remove_file(&heard));
        let start = std::time::Instant::now();
        simulated(async {
            let (_, plugin) = shell(&script);
            working(&plugin, async {
                let (mut stream, _engine) = watch(&plugin).await;
                assert!(timeout(Duration::from_secs(60), stream.next()).await.is_err(), "it finds nobody");
                if polite {
                    plugin.close(Duration::from_millis(500)).await;
                    assert!(stream.next().await.is_none());
                }
            })
            .await;
        });
        assert!(start.elapsed() < Duration::from_secs(9), "{:?}", start.elapsed());
        let text = std::fs::read_to_string(&heard).unwrap();
        assert_eq!(text.contains(r#"{"type":"stop","within":0.45}"#), polite, "{text}");
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(all_gone(&pids));
    }
}
