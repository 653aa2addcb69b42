//! The program as a user runs it: arguments, exit codes, what it prints, and whole transfers over 127.0.0.1.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use serde_json::Value;
use tempfile::TempDir;

/// A folder with a payload, its torrent, and a home for the program.
struct Place {
    home: TempDir,
}

impl Place {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let payload = home.path().join("seeded/stuff");
        fs::create_dir_all(payload.join("sub")).unwrap();
        let mut random = fastrand::Rng::with_seed(7);
        let mut bytes = |length: usize| (0..length).map(|_| random.u8(..)).collect::<Vec<_>>();
        fs::write(payload.join("a.bin"), bytes(300_000)).unwrap();
        fs::write(payload.join("sub/ü.bin"), bytes(1_000_001)).unwrap();
        fs::write(payload.join("empty"), "").unwrap();
        let place = Self { home };
        let made = place.run(&["create", "seeded/stuff", "-o", "stuff.torrent", "--piece-length", "32K"]);
        assert!(made.status.success(), "{}", said(&made));
        place
    }

    fn path(&self, below: &str) -> PathBuf {
        self.home.path().join(below)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_castanet"));
        command.args(arguments).current_dir(self.home.path()).env_clear().env("HOME", self.home.path());
        command.stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs what must fail with exit code 1 and one sentence; returns that.
    fn refusal(&self, arguments: &[&str]) -> String {
        refusal(self.command(arguments))
    }

    /// A seed of the payload, and where it listens.
    fn seed(&self) -> (Running, String) {
        let arguments = [
            "seed",
            "--json",
            "--listen",
            "127.0.0.1:0",
            "--no-lsd",
            "--state",
            "seed-state",
            "stuff.torrent",
            "seeded",
        ];
        let mut seed = Running::start(self.command(&arguments));
        let address = seed.wait_for("listening")["addresses"][0].as_str().unwrap().to_owned();
        (seed, address)
    }
}

fn refusal(mut command: Command) -> String {
    let output = command.output().unwrap();
    let sentence = said(&output);
    assert_eq!(output.status.code(), Some(1), "{command:?}: {sentence}");
    assert_eq!(sentence.trim().lines().count(), 1, "{command:?}: {sentence}");
    assert!(!sentence.contains("panicked") && !sentence.contains("os error"), "{sentence}");
    sentence
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn printed(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// A program that prints JSON lines; killed when dropped.
struct Running {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Running {
    fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    fn wait_for(&mut self, event: &str) -> Value {
        for line in &mut self.lines {
            let line: Value = serde_json::from_str(&line.unwrap()).unwrap();
            assert!(line["at"].is_number(), "{line}");
            if line["event"] == event {
                return line;
            }
        }
        let mut why = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut why).unwrap();
        panic!("it ended without {event}: {why}");
    }

    #[cfg(unix)]
    fn interrupt(&mut self, signal: rustix::process::Signal) -> Option<i32> {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), signal).unwrap();
        // What is not read could fill the pipe.
        (&mut self.lines).for_each(drop);
        self.child.wait().unwrap().code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn events(output: &Output) -> Vec<Value> {
    printed(output).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn same(a: &Path, b: &Path) {
    for file in ["a.bin", "sub/ü.bin", "empty"] {
        assert_eq!(fs::read(a.join(file)).unwrap(), fs::read(b.join(file)).unwrap(), "{file}");
    }
}

#[test]
fn help_needs_nothing() {
    let bare = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_castanet"));
        command.args(arguments).env_clear().env("CASTANET_CONFIG", "/nowhere/x.toml").output().unwrap()
    };
    let version = bare(&["--version"]);
    assert!(version.status.success());
    assert_eq!(printed(&version).trim(), concat!("castanet ", env!("CARGO_PKG_VERSION")));
    for command in
        ["get", "seed", "discover", "create", "show", "verify", "demo", "plugins", "config", "completions", "man"]
    {
        let help = bare(&[command, "--help"]);
        assert!(help.status.success() && printed(&help).contains("Usage: castanet"), "{command}: {}", said(&help));
        assert!(printed(&bare(&["--help"])).contains(&format!("  {command} ")), "{command} is not in the help");
    }
    for arguments in [&["completions", "bash"][..], &["completions", "zsh"], &["man"], &["config"], &["plugins"]] {
        let output = bare(arguments);
        assert!(output.status.success() && output.stdout.len() > 100, "{arguments:?}: {}", said(&output));
    }
}

#[test]
fn wrong_usage_is_2() {
    let place = Place::new();
    for arguments in [
        &[][..],
        &["get"],
        &["frobnicate"],
        &["seed", "x.torrent"],
        &["get", "x", "--plugin", "fixed=program"],
        &["get", "x", "--dht-bootstrap", "nowhere"],
        &["get", "x", "--max-down", "fast"],
        &["get", "x", "--peer", "nowhere"],
        &["create", "x", "-o", "y", "--piece-length", "5"],
    ] {
        assert_eq!(place.run(arguments).status.code(), Some(2), "{arguments:?}");
    }
}

#[test]
fn what_is_created_is_shown() {
    let place = Place::new();
    let arguments = ["create", "seeded/stuff", "-o", "more.torrent", "--private", "--comment", "hé\u{1b}[2J"];
    let made = place.run(
        &[
            &arguments[..],
            &["--tracker", "http://a.example/x", "--tracker", "udp://b.example:1", "--webseed", "http://w.example/"],
        ]
        .concat(),
    );
    assert!(made.status.success(), "{}", said(&made));
    let shown = place.run(&["show", "more.torrent", "--json"]);
    let shown: Value = serde_json::from_str(&printed(&shown)).unwrap();
    assert!(printed(&made).contains(shown["info_hash"].as_str().unwrap()));
    assert!(printed(&made).contains(shown["magnet"].as_str().unwrap()));
    let file = |path: &str, length: u64| serde_json::json!({ "path": path, "length": length });
    let expected = serde_json::json!({
        "name": "stuff", "info_hash_v2": null, "piece_length": 16384, "length": 1_300_001, "private": true,
        "files": [file("a.bin", 300_000), file("empty", 0), file("sub/ü.bin", 1_000_001)],
        "trackers": [["http://a.example/x"], ["udp://b.example:1"]], "web_seeds": ["http://w.example/"],
        "comment": "hé\u{1b}[2J", "created_by": concat!("Castanet/", env!("CARGO_PKG_VERSION")),
    });
    for (key, value) in expected.as_object().unwrap() {
        assert_eq!(&shown[key], value, "{key}");
    }
    let words = printed(&place.run(&["show", "more.torrent"]));
    assert!(words.contains("sub/ü.bin") && !words.contains('\u{1b}'), "{words}");

    let link = place.run(&["show", "--json", shown["magnet"].as_str().unwrap()]);
    let link: Value = serde_json::from_str(&printed(&link)).unwrap();
    assert_eq!((&link["info_hash"], &link["name"]), (&shown["info_hash"], &shown["name"]));
    assert!(link["files"].is_null() && link["private"].is_null());
}

#[test]
fn a_torrent_of_its_own_folder_leaves_itself_out() {
    let place = Place::new();
    for _ in 0..2 {
        let made = place.run(&["create", "seeded/stuff", "-o", "seeded/stuff/inside.torrent"]);
        assert!(made.status.success(), "{}", said(&made));
        let shown: Value =
            serde_json::from_str(&printed(&place.run(&["show", "seeded/stuff/inside.torrent", "--json"]))).unwrap();
        assert_eq!(shown["files"].as_array().unwrap().len(), 3);
    }
}

#[test]
fn a_torrent_does_not_replace_data() {
    let place = Place::new();
    let data = || fs::read(place.path("seeded/stuff/a.bin")).unwrap();
    let before = data();
    for content in ["seeded/stuff/a.bin", "seeded/stuff"] {
        let sentence = place.refusal(&["create", content, "-o", "seeded/stuff/a.bin"]);
        assert!(sentence.contains("-o") && data() == before, "{sentence}");
    }
    let own = place.refusal(&["create", "stuff.torrent", "-o", "stuff.torrent"]);
    assert!(own.contains("to be shared"), "{own}");
    let fresh = place.run(&["create", "seeded/stuff/a.bin", "-o", "seeded/stuff/empty"]);
    assert!(fresh.status.success(), "{}", said(&fresh));
}

#[test]
fn a_folder_of_torrents_is_seeded_without_its_bad_ones() {
    let place = Place::new();
    fs::create_dir(place.path("torrents")).unwrap();
    fs::write(place.path("torrents/bad.torrent"), "hello").unwrap();
    let arguments = ["seed", "--json", "--listen", "127.0.0.1:0", "--no-lsd", "torrents", "seeded"];
    let none = place.run(&arguments);
    assert_eq!((none.status.code(), events(&none)[0]["event"].as_str()), (Some(1), Some("failed")));
    assert!(said(&none).contains("bad.torrent") && said(&none).contains("no torrent to seed"), "{}", said(&none));
    fs::copy(place.path("stuff.torrent"), place.path("torrents/good.torrent")).unwrap();
    let mut seed = Running::start(place.command(&arguments));
    seed.wait_for("complete");
}

#[test]
fn the_configuration_file_takes_numbers_and_no_unknown_keys() {
    let place = Place::new();
    let refused = |file: &str| {
        fs::write(place.path("some.toml"), file).unwrap();
        place.refusal(&[
            "get",
            "stuff.torrent",
            "--json",
            "--listen",
            "127.0.0.1:0",
            "--no-lsd",
            "--config",
            "some.toml",
        ])
    };
    assert!(refused("max_up = 1000\nmax_down = 2.5\nstall_timeout = 0.001").contains("gave up"));
    for (file, word) in [("max_dwon = 1", "max_dwon"), ("max_up = -1", "max_up"), ("max_up = true", "a number or")] {
        let sentence = refused(file);
        assert!(sentence.contains(word) && !sentence.contains('|') && !sentence.contains('^'), "{sentence}");
    }
    let mut wrong = place.command(&["get", "stuff.torrent", "--config", "some.toml"]);
    fs::write(place.path("some.toml"), "").unwrap();
    wrong.env("CASTANET_SEED_RATIO", "much");
    let sentence = refusal(wrong);
    assert!(sentence.contains("CASTANET_SEED_RATIO") && !sentence.contains("some.toml"), "{sentence}");
}

#[test]
fn verify_says_which_files_are_bad() {
    let place = Place::new();
    let fine = place.run(&["verify", "stuff.torrent", "seeded"]);
    assert!(fine.status.success(), "{}", said(&fine));
    let mut bytes = fs::read(place.path("seeded/stuff/a.bin")).unwrap();
    bytes[100_000] ^= 1;
    fs::write(place.path("seeded/stuff/a.bin"), bytes).unwrap();
    let bad = place.run(&["verify", "stuff.torrent", "seeded"]);
    assert_eq!(bad.status.code(), Some(1));
    assert_eq!(printed(&bad), "a.bin: 1 of 10 pieces missing or bad\n");
    assert!(said(&bad).contains("1 of 40 pieces is missing or bad, in a.bin"), "{}", said(&bad));
    let report: Value =
        serde_json::from_str(&printed(&place.run(&["verify", "stuff.torrent", "seeded", "--json"]))).unwrap();
    assert_eq!((&report["complete"], &report["have"], &report["pieces"]), (&false.into(), &39.into(), &40.into()));
    let sentence = place.refusal(&["seed", "stuff.torrent", "seeded", "--listen", "127.0.0.1:0", "--no-lsd", "--json"]);
    assert!(sentence.contains("in a.bin"), "{sentence}");
}

#[test]
fn refusals_are_one_sentence() {
    let place = Place::new();
    fs::write(place.path("bad.torrent"), "d4:infod6:lengthi5ee").unwrap();
    fs::write(place.path("bad.toml"), "max_down = [\nx").unwrap();
    let hash = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    for (arguments, word) in [
        (&["get", "none.torrent"][..], "no such file"),
        (&["get", "bad.torrent"], "torrent file"),
        (&["show", "bad.torrent"], "torrent file"),
        (&["show", "seeded"], "folder"),
        (&["show", "magnet:?xt=urn:btih:12"], "info-hash"),
        (&["get", hash, "--listen", "127.0.0.1:0", "--no-lsd"], "v2-only"),
        (&["verify", "magnet:?xt=urn:btih:0123456789abcdef0123456789abcdef01234567", "."], ".torrent file"),
        (&["discover", "none.torrent"], "no such file"),
        (&["get", "stuff.torrent", "--proxy", "http://me:secret@127.0.0.1:1"], "only SOCKS5 proxies"),
        (&["show", "http://127.0.0.1:1/", "--proxy", ""], "only SOCKS5 proxies"),
        (&["get", "stuff.torrent", "--proxy", "socks5://127.0.0.1:1", "--listen", "127.0.0.1:0"], "--listen"),
        (&["seed", "stuff.torrent", "seeded", "--proxy", "socks5://127.0.0.1:1", "--plugins", "lsd"], "plugin lsd"),
        (&["get", "stuff.torrent", "--proxy", "socks5://127.0.0.1:1", "--plugins", "mainline"], "plugin mainline"),
        (
            &["verify", "http://[::1]:1/", ".", "--proxy", "socks5://me:secret@127.0.0.1:1"],
            "the proxy 127.0.0.1:1 cannot be",
        ),
        (&["get", "stuff.torrent", "--plugins", "telepathy"], "telepathy"),
        (&["get", "stuff.torrent", "--plugin-setting", "telepathy.range=1"], "telepathy"),
        (&["get", "stuff.torrent", "--plugin-setting", "dht.colour=red"], "no setting colour"),
        (&["get", "stuff.torrent", "--plugin-setting", "dht.always=perhaps"], "always"),
        (&["get", "stuff.torrent", "--select", "*.iso"], "--select"),
        (&["get", "stuff.torrent", "--config", "none.toml"], "none.toml"),
        (&["get", "stuff.torrent", "--config", "bad.toml"], "bad.toml"),
        (&["get", "stuff.torrent", "-o", "stuff.torrent/below"], "cannot make the folder"),
        (&["seed", "stuff.torrent", "nowhere"], "nowhere"),
        (&["create", "nowhere", "-o", "x.torrent"], "nowhere"),
        (&["create", "seeded/stuff/empty", "-o", "x.torrent"], "nothing to share"),
        (&["create", "seeded", "-o", "x.torrent", "--format", "v2"], "v2"),
        (&["create", "seeded", "-o", "nowhere/x.torrent"], "nowhere"),
        (&["verify", "stuff.torrent", "seeded/stuff", "--json"], "none of its 40 pieces"),
        (&["verify", "stuff.torrent", "nowhere"], "cannot open the folder nowhere"),
        (&["verify", "stuff.torrent", "stuff.torrent"], "not a folder"),
    ] {
        let sentence = place.refusal(arguments);
        assert!(sentence.contains(word), "{arguments:?}: {sentence}");
        assert!(!sentence.contains("secret"), "{sentence}");
    }
    assert!(!place.path("x.torrent").exists());
}

#[test]
fn options_come_before_the_environment_and_that_before_the_file() {
    let place = Place::new();
    fs::create_dir_all(place.path(".config/castanet")).unwrap();
    fs::write(place.path(".config/castanet/config.toml"), "plugins = [\"of-file\"]\nstall_timeout = \"1ms\"").unwrap();
    let get = ["get", "stuff.torrent", "--listen", "127.0.0.1:0", "--no-lsd", "--json"];
    assert!(place.refusal(&get).contains("of-file"));
    let mut with_env = place.command(&get);
    with_env.env("CASTANET_PLUGINS", "of-env");
    assert!(refusal(with_env).contains("of-env"));
    let mut with_option = place.command(&[&get[..], &["--plugins", "fixed"]].concat());
    with_option.env("CASTANET_PLUGINS", "of-env");
    // With a plugin that exists it goes on to what the file says of stalls.
    assert!(refusal(with_option).contains("gave up"));
}

#[test]
fn a_download_from_a_seed() {
    let place = Place::new();
    let (mut seed, address) = place.seed();
    let get =
        ["get", "stuff.torrent", "-o", "got", "--peer", &address, "--listen", "127.0.0.1:0", "--no-lsd", "--json"];
    let got = place.run(&get);
    assert!(got.status.success(), "{}", said(&got));
    same(&place.path("seeded/stuff"), &place.path("got/stuff"));

    let events = events(&got);
    let named = |name: &str| events.iter().filter(|event| event["event"] == name).collect::<Vec<_>>();
    assert_eq!(events[0]["event"], "listening");
    assert_eq!((named("added").len(), named("metadata").len(), named("complete").len()), (1, 1, 1));
    assert_eq!((&named("started")[0]["have"], &named("started")[0]["pieces"]), (&0.into(), &40.into()));
    assert_eq!(named("peer_found")[0]["address"], address);
    assert_eq!(named("peer_found")[0]["plugin"], "fixed");
    assert_eq!(named("peer_connected")[0]["address"], address);
    let mut pieces: Vec<_> = named("piece").iter().map(|event| event["index"].as_u64().unwrap()).collect();
    pieces.sort_unstable();
    assert_eq!(pieces, (0..40).collect::<Vec<_>>());
    let summary = events.last().unwrap();
    assert_eq!((&summary["event"], &summary["left"]), (&"summary".into(), &0.into()));
    assert!(summary["downloaded"].as_u64() >= Some(1_300_001), "{summary}");

    // Again, from saved state and without anybody to ask.
    let again = place.run(&["get", "stuff.torrent", "-o", "got", "--listen", "127.0.0.1:0", "--no-lsd"]);
    assert!(again.status.success() && printed(&again).is_empty(), "{}", said(&again));
    assert!(said(&again).contains("complete") && !said(&again).contains("sending"), "{}", said(&again));

    // Some files only, with the last of them shared by no piece of the first.
    let some = place.run(&[&get[..3], &["some", "--select", "a.*"], &get[4..]].concat());
    assert!(some.status.success(), "{}", said(&some));
    assert_eq!(fs::read(place.path("some/stuff/a.bin")).unwrap(), fs::read(place.path("seeded/stuff/a.bin")).unwrap());
    let verified = place.run(&["verify", "stuff.torrent", "some"]);
    assert_eq!(printed(&verified), "sub/ü.bin: 30 of 31 pieces missing or bad\n");

    #[cfg(unix)]
    assert_eq!(seed.interrupt(rustix::process::Signal::INT), Some(130));
    drop(seed);
}

#[cfg(unix)]
#[test]
fn an_interrupted_download_is_resumed_and_claimed_by_one() {
    let place = Place::new();
    let get = ["get", "stuff.torrent", "-o", "got", "--listen", "127.0.0.1:0", "--no-lsd", "--json"];
    let mut running = Running::start(place.command(&get));
    running.wait_for("started");
    let sentence = place.refusal(&get);
    assert!(sentence.contains("another instance"), "{sentence}");
    assert_eq!(running.interrupt(rustix::process::Signal::TERM), Some(130));

    let (_seed, address) = place.seed();
    let got = place.run(&[&get[..], &["--peer", &address]].concat());
    assert!(got.status.success(), "{}", said(&got));
    same(&place.path("seeded/stuff"), &place.path("got/stuff"));
}

#[test]
fn a_torrent_file_from_the_web() {
    let place = Place::new();
    let torrent = fs::read(place.path("stuff.torrent")).unwrap();
    let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = server.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in server.incoming().flatten() {
            let mut asked = String::new();
            let mut reader = BufReader::new(&stream);
            while reader.read_line(&mut asked).is_ok_and(|length| length > 2) {}
            let (status, body) = match asked.contains("GET /stuff.torrent?key=1 HTTP") {
                true => ("200 OK", &torrent[..]),
                false => ("404 Not Found", &b"no"[..]),
            };
            let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", body.len());
            let _ = (&stream).write_all(&[head.as_bytes(), body].concat());
        }
    });
    let fetched = place.run(&["show", "--json", &format!("http://{address}/stuff.torrent?key=1")]);
    assert!(fetched.status.success(), "{}", said(&fetched));
    assert_eq!(fetched.stdout, place.run(&["show", "--json", "stuff.torrent"]).stdout);
    let sentence = place.refusal(&["get", &format!("http://{address}/other.torrent")]);
    assert!(sentence.contains("404"), "{sentence}");
    let sentence = place.refusal(&["get", "http://127.0.0.1:1/x.torrent"]);
    assert!(sentence.contains("cannot fetch http://127.0.0.1:1/x.torrent"), "{sentence}");
}

#[test]
fn a_closed_output_ends_quietly() {
    let place = Place::new();
    fs::create_dir(place.path("void")).unwrap();
    for (arguments, code) in [
        (&["verify", "--json", "stuff.torrent", "seeded"][..], 0),
        (&["verify", "--json", "stuff.torrent", "void"], 1),
        (&["show", "stuff.torrent"], 0),
        (&["completions", "bash"], 0),
        (&["man"], 0),
        (&["get", "stuff.torrent", "--json", "--listen", "127.0.0.1:0", "--no-lsd"], 1),
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = place.command(arguments).stdout(writer).output().unwrap();
        assert_eq!((output.status.code(), said(&output).as_str()), (Some(code), ""), "{arguments:?}");
    }
}

#[test]
fn the_demo_downloads_and_cleans_up() {
    let place = Place::new();
    fs::create_dir(place.path("tmp")).unwrap();
    let demo = place.command(&["demo", "--size", "1M"]).env("TMPDIR", place.path("tmp")).output().unwrap();
    assert!(demo.status.success(), "{}", said(&demo));
    assert!(said(&demo).contains("byte for byte"), "{}", said(&demo));
    assert_eq!(fs::read_dir(place.path("tmp")).unwrap().count(), 0);
}
