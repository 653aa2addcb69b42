//! `castanet lab` as a program: the same seed gives the same bytes in every process, and mistakes are told by line and field.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{fs, path::Path, process::Command};

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

#[test]
fn mistakes_are_told_by_line_and_field() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("wrong.toml");
    let good = fs::read_to_string(replay()).unwrap();
    for (from, to, expected) in [
        ("latency = \"40ms\"", "latency = \"soon\"", "line 6, network.latency: `soon` is no duration"),
        ("latency = \"40ms\"", "speed = 3", "line 6, network"),
        ("\"pex\", ", "\"pecks\", ", "line 3, plugins: there is no plugin `pecks`"),
        ("tracker = \"one\"", "tracker = \"six\"", "fault[0].tracker: there is no tracker `six`"),
        ("kill = \"behind\"", "kill = \"ahead\"", "fault[2].kill: there is no group `ahead`"),
        ("nat = \"port-restricted\"", "nat = \"brick\"", "peers[2].nat"),
        ("[dht]", "[settings.pex]\nx = \"{peers:six}\"\n[dht]", "line 11, settings.pex.x: there is no group `six`"),
        ("for = \"4m\"", "for = \"4 years\"", "line 2, for"),
        ("about =", "about", "line 1"),
    ] {
        fs::write(&file, good.replacen(from, to, 1)).unwrap();
        let (code, out, errors) = lab(&[file.to_str().unwrap()]);
        assert_eq!((code, out.as_str()), (Some(1), ""), "{to}");
        assert!(errors.contains("wrong.toml") && errors.contains(expected), "{to}: {errors}");
        assert_eq!(errors.lines().count(), 1, "{errors}");
    }
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
