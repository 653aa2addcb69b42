//! `castanet lab` as a program: the same seed gives the same bytes in every process, and mistakes are told by line and field.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    fs,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use tempfile::TempDir;

/// Runs it; the exit code, stdout and stderr.
fn lab(args: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_castanet")).arg("lab").args(args).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn replay() -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lab/replay.toml").to_string_lossy().into_owned()
}

#[test]
fn three_processes_give_the_same_report_and_another_seed_another() {
    let run = |seed: &str| {
        let (code, report, errors) = lab(&[&replay(), "--seed", seed, "--json"]);
        assert_eq!((code, errors.as_str()), (Some(0), ""));
        report
    };
    let [one, two, three, other] = ["7", "7", "7", "8"].map(run);
    assert!(one.len() > 2000, "{one}");
    assert_eq!(one, two);
    assert_eq!(one, three);
    assert_ne!(one, other);
    let report: serde_json::Value = serde_json::from_str(&one).unwrap();
    let groups = report["variants"][0]["reports"][0]["groups"].as_array().unwrap();
    let near = groups.iter().find(|group| group["name"] == "near").unwrap();
    assert_eq!((&near["complete"], &near["first_peer"]["count"]), (&4.into(), &4.into()), "{near}");
}

#[test]
fn forms_are_compared_drawn_and_hashed() {
    let folder = TempDir::new().unwrap();
    let page = |name: &str| folder.path().join(name);
    let run = |name: &str| {
        let (scenario, drawn) = (replay(), page(name));
        let vary = ["--vary", "plugins=dht,dht+pex", "--set", "dht.sybils=0", "--runs", "3"];
        let args = [&[&*scenario, "--html", drawn.to_str().unwrap()], &vary[..]].concat();
        let (code, text, errors) = lab(&args);
        assert_eq!((code, errors.as_str()), (Some(0), ""));
        text
    };
    let (one, again) = (run("one.html"), run("again.html"));
    assert_eq!(one, again);
    for part in ["plugins = dht+pex beside plugins = dht", "95 % interval", "seeds 1 to 3, report "] {
        assert!(one.contains(part), "{part} in {one}");
    }
    let [drawn, redrawn] = ["one.html", "again.html"].map(|name| fs::read_to_string(page(name)).unwrap());
    assert!(drawn.starts_with("<!") && drawn.contains("<svg") && !drawn.contains("http://"), "a page of its own");
    assert_eq!(drawn, redrawn);
}

/// A mistake ends the program before any run, in one line.
fn is_told(scenario: &Path, mistake: &str, expected: &str) {
    let (code, out, errors) = lab(&[scenario.to_str().unwrap()]);
    assert_eq!((code, out.as_str()), (Some(1), ""), "{mistake}: {errors}");
    assert!(errors.contains("wrong.toml") && errors.contains(expected), "{mistake}: {errors}");
    assert!(!errors.contains("serde") && errors.lines().count() == 1, "{errors}");
}

#[test]
fn mistakes_are_told_by_line_and_field() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("wrong.toml");
    let good = fs::read_to_string(replay()).unwrap();
    for (from, to, expected) in [
        ("latency = \"40ms\"", "latency = \"soon\"", "line 6, network.latency: `soon` is no duration"),
        ("latency = \"40ms\"", "speed = 3", "line 6, network.speed: there is no field `speed`, only `latency`"),
        ("loss = 0.01", "loss = 1.5", "line 8, network.loss: a share is from 0 to 1"),
        ("loss = 0.01", "loss = 0.01\ntransports = []", "line 9, network.transports: peers need a way"),
        ("loss = 0.01", "loss = 0.01\ntransports = [\"tcp\", \"tcp\"]", "line 9, network.transports: peers need a way"),
        ("loss = 0.01", "loss = 0.01\nbandwidth = 0", "line 9, network.bandwidth: nothing passes"),
        ("\"pex\", ", "\"pecks\", ", "line 3, plugins: there is no plugin `pecks`; there are: dht, fixed"),
        ("tracker = \"one\"", "tracker = \"six\"", "fault[0].tracker: there is no tracker `six`"),
        ("until = \"40s\"", "until = \"10s\"", "line 57, fault[0].until: it is over before it begins"),
        ("kill = \"behind\"", "kill = \"ahead\"", "fault[2].kill: there is no group `ahead`"),
        (
            "nat = \"port-restricted\"",
            "nat = \"brick\"",
            "line 40, peers[2].nat: `brick` is not known, only `none`, `full-cone`",
        ),
        ("for = \"4m\"", "for = \"4 years\"", "line 2, for: `4 years` is no duration"),
        ("for = \"4m\"\n", "", "for` must be there"),
        ("[dht]", "[settings.pex]\nx = \"{peers:six}\"\n[dht]", "line 11, settings.pex.x: there is no group `six`"),
        ("about =", "about", "line 1"),
        // What each value is to be, in plain words.
        ("for = \"4m\"", "for = [4]", "line 2, for: a time such as \"90s\" or \"1h30m\" is expected here"),
        ("about = ", "about = 3 #", "line 1, about: a text is expected here"),
        ("count = 2", "count = \"two\"", "line 25, peers[0].count: a whole number from 0 on is expected here"),
        ("count = 2", "count = -2", "line 25, peers[0].count: a whole number from 0 on is expected here"),
        ("tier = 1", "tier = 256", "line 21, tracker[1].tier: a whole number from 0 to 255 is expected here"),
        (
            "loss = 0.01",
            "transports = [\"udp\"]",
            "line 8, network.transports[0]: `udp` is not known, only `tcp` or `utp`",
        ),
        ("nat = \"port-restricted\"", "nat = 5", "line 40, peers[2].nat: a text is expected here"),
        ("loss = 0.01", "loss = true", "line 8, network.loss: a number is expected here"),
        ("seed = true", "seed = \"yes\"", "line 26, peers[0].seed: true or false is expected here"),
        ("part = [\"near\"]", "part = []", "line 61, fault[1].part: it names no group"),
        ("part = [\"near\"]", "part = \"near\"", "line 63, fault[1].part: a list is expected here"),
        ("plugins =", "torrent = 5\nplugins =", "line 3, torrent: a table is expected here"),
        ("plugins =", "program = [5]\nplugins =", "line 3, program[0]: a table is expected here"),
        ("plugins =", "settings = 5\nplugins =", "line 3, settings: a table is expected here"),
        // Settings of plugins, in the plugin's words.
        (
            "plugins =",
            "settings.dht.colour = \"red\"\nplugins =",
            "line 3, settings.dht.colour: the plugin dht has no setting colour",
        ),
        (
            "plugins =",
            "settings.dht.read_only = 1\nplugins =",
            "line 3, settings.dht.read_only: the plugin dht has read_only either true or false",
        ),
        (
            "plugins =",
            "settings.dht.always = [1]\nplugins =",
            "line 3, settings.dht.always: a text, a number, true or false is expected here",
        ),
        ("plugins =", "settings.colour.x = 1\nplugins =", "line 3, settings.colour: there is no plugin `colour`"),
        // How many, and how much.
        ("count = 2", "count = 29985", "line 31, peers.near.count: more than 30000"),
        ("nodes = 12", "nodes = 30001", "line 11, dht.nodes: more than 30000"),
        ("sybils = 3", "sybils = 256", "line 12, dht.sybils: there are at most 255"),
        ("sybils = 3", "sybils = 3\nknown-sybils = 4", "line 13, dht.known-sybils: there are no more of them"),
        ("seed = true", "connections = 0", "line 26, peers.seeds.connections: a peer needs at least one"),
        ("up = \"256 KiB/s\"", "up = 0", "line 27, peers.seeds.up: nothing passes"),
        ("up = \"256 KiB/s\"", "down = \"0.1\"", "line 27, peers.seeds.down: nothing passes"),
        (
            "leave = \"60s..90s\"",
            "join = 90\nleave = \"60s..90s\"",
            "line 49, peers.riders.leave: they are gone before they come",
        ),
        // Names.
        ("name = \"seeds\"", "name = \"\"", "line 24, peers[0].name: `` is no group's name"),
        ("name = \"seeds\"", "name = \"a.b\"", "line 24, peers[0].name: `a.b` is no group's name"),
        ("name = \"seeds\"", "name = \"a b\"", "line 24, peers[0].name: `a b` is no group's name"),
        ("name = \"liar\"", "name = \"seeds\"", "line 51, peers[4].name: there is another group called `seeds`"),
        ("name = \"two\"", "name = \"the_second\"", "line 19, tracker[1].name: `the_second` is no tracker's name"),
        ("name = \"two\"", "name = \"-\"", "line 19, tracker[1].name: `-` is no tracker's name"),
        ("name = \"two\"", "name = \"one\"", "line 19, tracker[1].name: there is another tracker called `one`"),
    ] {
        fs::write(&file, good.replacen(from, to, 1)).unwrap();
        assert!(good.contains(from), "{from}");
        is_told(&file, to, expected);
    }
    fs::write(folder.path().join("here"), "").unwrap();
    for (name, command, expected) in [
        ("mine", "no-such-program at all", ".command: there is no program `no-such-program` on the PATH"),
        ("mine", "./not-here", ".command: there is no program `./not-here` in its folder"),
        ("mine", "'open", ".command: there is an open quote"),
        ("mine", "  ", ".command: a program is expected here"),
        ("mine", "./here {peers:nobody}", ".command: there is no group `nobody`"),
        ("my.own", "./here", ".name: `my.own` is no plugin's name"),
        ("pex", "./here", ".name: there is another plugin called `pex`"),
    ] {
        let program = format!("\n[[program]]\nname = \"{name}\"\ncommand = \"{command}\"\n");
        fs::write(&file, format!("{good}{program}")).unwrap();
        is_told(&file, command, &format!("program[0]{expected}"));
    }
    let mine = "\n[[program]]\nname = \"mine\"\ncommand = \"./here\"\n[settings.mine]\nprivate = 7\n";
    fs::write(&file, format!("{good}{mine}")).unwrap();
    is_told(&file, mine, "line 74, settings.mine.private: the plugin mine: private is `7`");
    let mine = mine.replace("private = 7", "lockstep = false");
    fs::write(&file, format!("{good}{mine}")).unwrap();
    is_told(&file, &mine, "line 74, settings.mine.lockstep: the lab itself sets this");
    let (code, _, errors) = lab(&[&replay(), "--vary", "peers.nobody.count=1,2"]);
    assert_eq!(code, Some(1));
    assert!(errors.contains("peers.nobody.count") && errors.contains("no `nobody`"), "{errors}");
    let scenario = replay();
    for args in [&[&*scenario, "--vary", "plugins"][..], &[&*scenario, "--runs", "0"], &[]] {
        assert_eq!(lab(args).0, Some(2), "{args:?}");
    }
    let (code, _, errors) = lab(&["there-is-none.toml"]);
    assert_eq!(code, Some(1));
    assert!(errors.contains("there-is-none.toml: there is no such file"), "{errors}");
}

#[test]
fn a_page_that_cannot_be_written_is_told_before_the_runs() {
    let folder = TempDir::new().unwrap();
    let page = folder.path().join("page.html");
    fs::write(&page, "the page before").unwrap();
    for (place, expected) in [
        (folder.path().to_path_buf(), "it is a folder"),
        (folder.path().join("nowhere/page.html"), "there is no such file or folder"),
        (page.join("page.html"), "cannot write"),
    ] {
        // Such a run takes minutes.
        let (place, scenario) = (place.to_str().unwrap(), replay());
        let args = [&*scenario, "--html", place, "--set", "peers.near.count=2000", "--set", "for=20h"];
        let begun = Instant::now();
        let (code, _, errors) = lab(&args);
        assert!(code == Some(1) && errors.contains("cannot write") && errors.contains(expected), "{errors}");
        assert!(begun.elapsed() < Duration::from_secs(5), "nothing ran");
    }
    assert_eq!(fs::read_to_string(&page).unwrap(), "the page before");
}

#[test]
fn a_setting_is_a_text_a_number_or_true_or_false() {
    let scenario = replay();
    let run = |settings: &[&str]| {
        let set = settings.iter().flat_map(|setting| ["--set", setting]);
        let few = ["--set", "for=1", "--set", "plugins=dht", "--set", "dht.nodes=0", "--set", "dht.sybils=0"];
        lab(&[&*scenario].into_iter().chain(few).chain(set).collect::<Vec<_>>())
    };
    let [plain, quoted] = ["true", "\"true\""].map(|yes| run(&[&format!("settings.dht.read_only={yes}")]));
    assert_eq!((plain.0, plain.2.as_str()), (Some(0), ""));
    assert_eq!(plain, quoted);
    let (code, _, errors) = run(&["settings.dht.read_only=0.5"]);
    assert!(code == Some(1) && errors.contains("settings.dht.read_only") && errors.contains("\"0.5\""), "{errors}");
}

#[cfg(unix)]
#[test]
fn a_new_plugin_works_as_it_is_written_and_replays() {
    let folder = TempDir::new().unwrap();
    let at = folder.path().join("fresh");
    let write = || lab(&["new-plugin", "friends", "--folder", at.to_str().unwrap()]);
    assert_eq!(write().0, Some(0));
    let (code, _, errors) = write();
    assert!(code == Some(1) && errors.contains("is not empty"), "{errors}");
    for (name, why) in [("Friends", "is no plugin's name"), ("dht", "there is a built-in plugin")] {
        let (code, _, errors) = lab(&["new-plugin", name]);
        assert!(code == Some(1) && errors.contains(why), "{errors}");
    }
    let castanet = env!("CARGO_BIN_EXE_castanet");
    let test = Command::new("sh").arg(at.join("test.sh")).env("CASTANET", castanet).output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&test.stdout), String::from_utf8_lossy(&test.stderr));
    assert!(test.status.success() && said.contains("Without friends nobody was complete"), "{said}");
    let scenario = at.join("friends.toml");
    let [one, again] = [(); 2].map(|()| lab(&[scenario.to_str().unwrap(), "--json"]).1);
    assert!(one.len() > 1000 && one == again, "a program that keeps to what it is told replays");
}

#[cfg(unix)]
#[test]
fn a_program_hears_of_peers_that_others_named_if_it_says_so() {
    let folder = TempDir::new().unwrap();
    let file = |name: &str, text: &str| {
        fs::write(folder.path().join(name), text).unwrap();
        folder.path().join(name)
    };
    file(
        "spy.py",
        r#"
import json, sys
say = lambda **message: print(json.dumps(message), flush=True)
say(type="hello", version=1, overhears=sys.argv[1] == "yes")
for message in map(json.loads, sys.stdin):
    match message["type"]:
        case "outcomes":
            for peer in message["peers"]:
                open("heard-" + sys.argv[1], "a").write(peer["fate"] + "\n")
        case "sync":
            say(type="synced", id=message["id"])
        case "stop":
            break
"#,
    );
    for (says, hears) in [("yes", true), ("no", false)] {
        let scenario = format!(
            "about = \"Who hears what?\"\nfor = \"1m\"\nplugins = [\"fixed\"]\n[torrent]\npieces = 4\n\
             [[program]]\nname = \"spy\"\ncommand = \"python3 spy.py {says}\"\n\
             [[peers]]\nname = \"seed\"\nseed = true\n\
             [[peers]]\nname = \"leech\"\nknows = [\"seed\"]\nplugins = [\"fixed\", \"spy\"]\n"
        );
        let (code, _, errors) = lab(&[file("spy.toml", &scenario).to_str().unwrap()]);
        assert_eq!((code, errors.as_str()), (Some(0), ""));
        let heard = fs::read_to_string(folder.path().join(format!("heard-{says}"))).unwrap_or_default();
        assert_eq!(heard.contains("gave"), hears, "{says}: {heard}");
        assert_eq!(heard.is_empty(), !hears, "{says}: {heard}");
    }
}

/// What is in the files is compiled and run by integration/tests/skeleton.rs: here Cargo only puts the project together.
#[test]
fn a_new_plugin_in_rust_is_a_project_with_castanets_versions() {
    let folder = TempDir::new().unwrap();
    let at = folder.path().join("fresh");
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let write = |name: &str, sources: &Path| {
        lab(&["new-plugin", name, "--folder", at.to_str().unwrap(), "--rust", sources.to_str().unwrap()])
    };
    for (name, sources, why) in [
        ("my-friends", folder.path(), "is no folder with Castanet's sources"),
        ("my-friends", &sources.join("core"), "is no folder with Castanet's sources"),
        ("tokio", sources, "is a crate, too"),
        ("2nd", sources, "is a crate, too"),
        ("async", sources, "is a crate, too"),
    ] {
        let (code, _, errors) = write(name, sources);
        assert!(code == Some(1) && errors.contains(why), "{errors}");
    }
    let (code, said, errors) = write("my-friends", sources);
    assert!(
        code == Some(0) && said.contains("cargo test") && said.contains("cargo run -- my-friends.toml"),
        "{errors}"
    );
    for (file, part) in [
        ("src/lib.rs", "NAME: &str = \"my-friends\""),
        ("src/main.rs", "use my_friends::{NAME, build}"),
        ("tests/works.rs", "include_str!(\"../my-friends.toml\")"),
        ("my-friends.toml", "[settings.my-friends]"),
    ] {
        let text = fs::read_to_string(at.join(file)).unwrap();
        assert!(text.contains(part) && !text.contains("skeleton"), "{file}: {text}");
    }
    let cargo = std::env::var_os("CARGO").unwrap_or("cargo".into());
    let put_together =
        Command::new(cargo).args(["update", "--workspace", "--offline"]).current_dir(&at).output().unwrap();
    assert!(put_together.status.success(), "{}", String::from_utf8_lossy(&put_together.stderr));
    let packages = |folder: &Path| {
        let lock = fs::read_to_string(folder.join("Cargo.lock")).unwrap();
        lock.split("[[package]]").skip(1).map(|it| it.lines().skip(1).take(2).collect()).collect::<Vec<String>>()
    };
    let (locked, ours) = (packages(&at), packages(sources));
    let others: Vec<_> = locked.iter().filter(|package| !ours.contains(package)).collect();
    assert_eq!(others, [r#"name = "my-friends"version = "0.1.0""#]);
    assert!(locked.iter().any(|package| package.contains("castanet-integration")), "{locked:?}");
}
