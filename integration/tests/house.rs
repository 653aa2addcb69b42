//! The rules of the house, read from the sources: who may import whom, what the pure floors may not name, and that what
//! the docs show and name is there. Runs no engine.
#![allow(missing_docs, clippy::unwrap_used)]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use castanet::seams::{discovery::Build, transport::Transport};

// The examples of docs/ADD-A-TRANSPORT.md and docs/ADD-A-PLUGIN.md, compiled.
#[allow(unreachable_pub)]
#[path = "house/at_home.rs"]
mod at_home;
#[allow(unreachable_pub)]
#[path = "house/neighbours.rs"]
mod neighbours;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace is above")
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// All .rs files below a folder, sorted.
fn sources(folder: impl AsRef<Path>) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        for path in entries.map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    assert!(!found.is_empty());
    found
}

/// What a manifest names in a section.
fn named(folder: &str, section: &str) -> BTreeSet<String> {
    let manifest = read(Path::new(folder).join("Cargo.toml"));
    let lines = manifest.lines().skip_while(|line| line.trim() != section).skip(1);
    lines
        .take_while(|line| !line.trim_start().starts_with('['))
        .filter_map(|line| line.split('#').next()?.split_once(['.', '=', ' ']))
        .map(|(name, _)| name.to_owned())
        .collect()
}

/// Folder, what it may import of ours, what its tests may import besides.
const FLOORS: &[(&str, &[&str], &[&str])] = &[
    ("core", &[], &[]),
    ("protocol", &["core"], &[]),
    ("transports", &["core", "protocol"], &[]),
    ("plugins", &["core", "protocol"], &["transports"]),
    ("storage", &["core"], &[]),
    ("actors", &["core", "protocol"], &["storage", "transports"]),
    ("", &["core", "protocol", "transports", "plugins", "storage", "actors"], &[]),
    ("integration", &["", "core", "protocol", "transports", "plugins", "storage", "actors"], &[]),
    ("app", &["", "core", "integration"], &[]),
];

fn package(folder: &str) -> String {
    if folder.is_empty() { "castanet".into() } else { format!("castanet-{folder}") }
}

#[test]
fn imports_go_down_only() {
    let members = read("Cargo.toml").lines().find(|line| line.starts_with("members")).unwrap().to_owned();
    let folders: BTreeSet<_> = members.split('"').skip(1).step_by(2).collect();
    let known: BTreeSet<_> = FLOORS.iter().map(|(folder, ..)| *folder).filter(|folder| !folder.is_empty()).collect();
    assert_eq!(folders, known, "every crate has its floor");
    for (folder, below, for_tests) in FLOORS {
        let may: BTreeSet<_> = below.iter().map(|folder| package(folder)).collect();
        let tests_may: BTreeSet<_> = for_tests.iter().map(|folder| package(folder)).chain(may.clone()).collect();
        for (section, may) in
            [("[dependencies]", &may), ("[build-dependencies]", &may), ("[dev-dependencies]", &tests_may)]
        {
            let ours = named(folder, section).into_iter().filter(|name| name.starts_with("castanet"));
            for name in ours {
                assert!(may.contains(&name), "{} may not import {name} in {section}", package(folder));
            }
        }
    }
    // That the scan finds anything at all.
    assert!(named("plugins", "[dependencies]").contains("castanet-protocol"));
    assert!(named("plugins", "[dev-dependencies]").contains("castanet-transports"));
}

#[test]
fn actix_begins_at_the_fourth_floor() {
    for folder in ["core", "protocol", "transports", "plugins", "storage", "app"] {
        for section in ["[dependencies]", "[build-dependencies]", "[dev-dependencies]"] {
            let named = named(folder, section);
            let actix: Vec<_> = named.iter().filter(|name| name.starts_with("actix")).collect();
            assert!(actix.is_empty(), "{folder} names {actix:?}");
        }
    }
    assert!(named("actors", "[dependencies]").contains("actix"));
    assert!(!named("protocol", "[dependencies]").contains("tokio"), "decisions do not wait");
}

/// The code of a line, without its comment.
fn code(line: &str) -> &str {
    line.split_once("//").map_or(line, |(code, _)| code)
}

/// Does `text` hold this word, not as the end of a longer one?
fn names(text: &str, word: &str) -> bool {
    text.match_indices(word).any(|(at, _)| !text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_'))
}

/// What makes two runs differ.
const IMPURE: [&str; 7] =
    ["Instant::now", "SystemTime", "HashMap", "HashSet", "rand::", "thread::spawn", "tokio::spawn"];

#[test]
fn decisions_know_no_clock_no_dice_and_no_disorder() {
    assert!(names("std::time::Instant::now()", "Instant::now") && names(" rand::rng()", "rand::"));
    assert!(!names("fastrand::Rng", "rand::"));
    for path in ["core/src", "protocol/src"].into_iter().flat_map(sources) {
        for (number, line) in fs::read_to_string(&path).unwrap().lines().enumerate() {
            for word in IMPURE {
                assert!(!names(code(line), word), "{}:{}: {word}", path.display(), number + 1);
            }
        }
    }
}

/// What would make one run of the same seed differ from another, anywhere in the engine.
const UNSEEDED: [&str; 8] = [
    "HashMap",
    "HashSet",
    "SystemTime",
    "std::time::Instant",
    "fastrand::u",
    "fastrand::fill",
    "fastrand::bool",
    "Rng::new()",
];
/// Where it is meant: a program is waited for in real time; the system's files have theirs; who gives no seed gets one.
const UNSEEDED_ON_PURPOSE: [&str; 4] =
    ["process/lockstep.rs", "process/partner.rs", "transports/src/resolver.rs", "src/ways.rs"];

#[test]
fn nothing_in_the_engine_is_left_to_chance() {
    let engine = ["actors/src", "plugins/src", "transports/src", "storage/src", "src"];
    let is_test = |path: &Path| path.to_string_lossy().contains("test");
    let mut choices = 0;
    for path in engine.into_iter().flat_map(sources).filter(|path| !is_test(path)) {
        let text = fs::read_to_string(&path).unwrap();
        let engine = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        let meant = UNSEEDED_ON_PURPOSE.iter().any(|end| path.ends_with(end));
        let lines: Vec<&str> = engine.lines().map(code).collect();
        for (at, line) in lines.iter().enumerate() {
            let place = || format!("{}:{}", path.display(), at + 1);
            let found = UNSEEDED.iter().find(|word| line.contains(*word));
            assert!(meant || found.is_none(), "{}: {found:?}", place());
            if line.contains("select! {") {
                choices += 1;
                let is_biased = lines[at..].iter().take(2).any(|line| line.contains("biased;"));
                assert!(is_biased, "{}: it draws which future goes first", place());
            }
        }
    }
    assert!(choices > 10, "{choices} places choose between futures: the sources are read");
}

#[test]
fn only_parents_hold_the_address_of_an_actor() {
    let owners: &[(&str, &[&str])] = &[
        ("Session", &[]),
        ("Torrent", &["session.rs"]),
        ("Discovery", &["session.rs"]),
        ("PortMapper", &["session/mapping.rs"]),
        ("Pieces", &["torrent/"]),
        ("Storage", &["torrent/"]),
        // Its own read loop awaits its answers.
        ("Peer", &["torrent/", "peer/"]),
    ];
    let folder = root().join("actors/src");
    for path in sources("actors/src") {
        let place = path.strip_prefix(&folder).unwrap().to_str().unwrap();
        let is_test = place.starts_with("testing") || place.contains("tests");
        let text = fs::read_to_string(&path).unwrap();
        let text = text.split("#[cfg(test)]\nmod tests").next().unwrap();
        for (actor, owners) in owners.iter().filter(|_| !is_test) {
            let may = owners.iter().any(|owner| place.starts_with(owner));
            assert!(may || !text.contains(&format!("Addr<{actor}>")), "{place} holds an Addr<{actor}>");
        }
    }
}

/// The first block of Rust in a page.
fn example(page: &str) -> String {
    let text = read(page);
    let block = text.split("```rust\n").nth(1).unwrap_or_else(|| panic!("{page} has no example"));
    block.split("```").next().unwrap().trim().to_owned()
}

#[test]
fn the_examples_of_the_docs_are_those_that_compile() {
    let build: Build = neighbours::build;
    let _: &[(&str, Build)] = &[(neighbours::NAME, build)];
    let _: fn(Arc<dyn Transport>) -> at_home::AtHome = at_home::AtHome;
    assert_eq!(example("docs/ADD-A-PLUGIN.md"), read("integration/tests/house/neighbours.rs").trim());
    assert_eq!(example("docs/ADD-A-TRANSPORT.md"), read("integration/tests/house/at_home.rs").trim());
    let facade = read("src/lib.rs");
    let lines = facade.lines().skip_while(|line| !line.starts_with("//! ```")).skip(1);
    let shown = lines.take_while(|line| *line != "//! ```").map(|line| line.trim_start_matches("//!"));
    let shown: Vec<_> = shown.map(|line| line.strip_prefix(' ').unwrap_or(line)).collect();
    assert_eq!(example("README.md"), shown.join("\n").trim(), "the README shows the doc test of src/lib.rs");
}

/// Where the tests of a target live: the first part of a test's name, and the folder of its root.
const TARGETS: &[(&str, &str)] = &[
    ("castanet_core", "core/src"),
    ("castanet_protocol", "protocol/src"),
    ("castanet_transports", "transports/src"),
    ("castanet_plugins", "plugins/src"),
    ("castanet_storage", "storage/src"),
    ("castanet_actors", "actors/src"),
    ("castanet_integration", "integration/src"),
    ("loopback", "integration/tests/loopback"),
    ("universe", "integration/tests/universe"),
    ("interop", "app/tests/interop"),
];

/// The file that must hold a test: that of the deepest module which has one.
fn home(name: &str) -> Option<PathBuf> {
    let mut parts = name.split("::");
    let target = parts.next()?;
    let folder = root().join(TARGETS.iter().find(|(name, _)| *name == target)?.1);
    let mut modules: Vec<_> = parts.collect();
    modules.pop()?;
    (0..=modules.len()).rev().find_map(|depth| {
        let place = modules[..depth].iter().fold(folder.clone(), |place, module| place.join(module));
        let files = [place.with_extension("rs"), place.join("mod.rs"), place.join("main.rs"), place.join("lib.rs")];
        files.into_iter().find(|file| file.is_file())
    })
}

#[test]
fn the_tests_that_prove_a_bep_are_there() {
    let page = read("docs/BEPS.md");
    let spans = page.lines().filter(|line| line.starts_with('|')).flat_map(|line| line.split('`').skip(1).step_by(2));
    let tests: Vec<_> = spans.filter(|span| span.contains("::")).collect();
    assert!(tests.len() > 30, "the table is read");
    for test in tests {
        let name = test.rsplit("::").next().unwrap();
        let file = home(test).unwrap_or_else(|| panic!("docs/BEPS.md names {test}: no such module"));
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.contains(&format!("fn {name}(")), "docs/BEPS.md names {test}: not in {}", file.display());
    }
    assert!(home("castanet_core::nowhere").is_some_and(|file| file.ends_with("core/src/lib.rs")));
    assert!(home("elsewhere::tests::x").is_none());
}

#[test]
fn every_message_is_in_the_vocabulary() {
    let page = read("docs/MESSAGES.md");
    let mut found = 0;
    for path in sources("actors/src/messages") {
        let text = fs::read_to_string(&path).unwrap();
        for item in text.split("#[derive(Message,").skip(1) {
            let name = item.split("struct ").nth(1).unwrap().split(|c: char| !c.is_alphanumeric()).next().unwrap();
            assert!(names(&page, name), "docs/MESSAGES.md does not name {name} of {}", path.display());
            found += 1;
        }
    }
    assert!(found > 40, "the messages are read");
}

#[test]
fn links_between_the_pages_lead_somewhere() {
    let mut pages = vec![root().join("README.md")];
    let docs = fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    pages.extend(docs.filter(|path| path.extension().is_some_and(|extension| extension == "md")));
    assert!(pages.len() >= 9);
    for page in pages {
        let text = fs::read_to_string(&page).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = link.split('#').next().unwrap_or_default();
            let is_elsewhere = file.is_empty() || file.contains("://");
            assert!(is_elsewhere || page.with_file_name(file).exists(), "{}: {link}", page.display());
        }
    }
}
