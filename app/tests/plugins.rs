//! `castanet plugins` as an author of a plugin uses it.
#![cfg(unix)]
#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use serde_json::Value;
use tempfile::TempDir;

fn castanet(home: &TempDir, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_castanet"));
    command.args(arguments).current_dir(home.path()).env_clear().env("HOME", home.path());
    // Programs are found by it.
    command.env("PATH", std::env::var_os("PATH").unwrap());
    command.output().unwrap()
}

fn printed(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// An example as a command, with a file of two friends beside it.
fn example(home: &TempDir, interpreter: &str, script: &str) -> String {
    fs::write(home.path().join("friends.txt"), "127.0.0.1:7\n[::1]:8\n").unwrap();
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("examples/plugins");
    format!("{interpreter} '{}' friends.txt", examples.join(script).display())
}

#[test]
fn every_plugin_is_listed_with_what_it_does() {
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join("c.toml"), "plugin = [\"friends=python3 friends.py\"]").unwrap();
    let output = castanet(&home, &["plugins", "--config", "c.toml"]);
    assert!(output.status.success(), "{}", said(&output));
    let text = printed(&output);
    for (name, _) in castanet::BUILTIN_PLUGINS {
        let line = text.lines().find(|line| line.split_whitespace().next() == Some(name)).unwrap();
        assert!(line.contains("built in") && !line.contains("finds peers; needs nothing"), "not described: {line}");
    }
    let last = text.lines().last().unwrap();
    assert!(last.starts_with("friends ") && last.ends_with("in another program: python3 friends.py"), "{text}");
}

#[test]
fn the_example_in_shell_passes() {
    let home = tempfile::tempdir().unwrap();
    let output = castanet(&home, &["plugins", "check", &example(&home, "sh", "friends.sh")]);
    let text = printed(&output);
    assert!(output.status.success(), "{text}{}", said(&output));
    assert!(text.ends_with("All 16 checks passed.\n"), "{text}");
    let oks = text.lines().filter(|line| line.starts_with("ok     ")).count();
    assert_eq!(oks, 16, "{text}");
}

#[test]
fn the_example_in_python_passes() {
    let home = tempfile::tempdir().unwrap();
    let output = castanet(&home, &["plugins", "check", "--json", &example(&home, "python3", "friends.py")]);
    let text = printed(&output);
    assert!(output.status.success(), "{text}{}", said(&output));
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 17);
    assert!(lines[..16].iter().all(|line| line["event"] == "check" && line["passed"] == true), "{text}");
    assert_eq!(lines[16], serde_json::json!({"event": "summary", "passed": 16, "failed": 0}));
}

#[test]
fn the_program_of_the_page_passes() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("docs/ADD-A-PLUGIN.md");
    let page = fs::read_to_string(page).unwrap();
    let program = page.split("```sh\n").nth(1).unwrap().split("```").next().unwrap();
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join("one.sh"), program).unwrap();
    let output = castanet(&home, &["plugins", "check", "sh one.sh"]);
    assert!(output.status.success(), "{}{}", printed(&output), said(&output));
    assert!(printed(&output).contains("starts for a torrent: 1 peer"), "{}", printed(&output));
}

#[test]
fn a_built_in_plugin_is_checked_by_name() {
    let home = tempfile::tempdir().unwrap();
    let output = castanet(&home, &["plugins", "check", "fixed"]);
    assert!(output.status.success(), "{}", printed(&output));
    assert!(printed(&output).contains("its name is fixed"));
}

#[test]
fn what_is_no_plugin_fails() {
    let home = tempfile::tempdir().unwrap();
    for (program, word) in [
        ("no-such-program", "there is no program `no-such-program`"),
        ("echo hello", "its first line is no hello"),
        ("false", "it ended before its hello"),
        ("sh -c 'echo oh dear >&2'", "it ended before its hello: oh dear"),
        ("'open quote", "has an open quote"),
    ] {
        let output = castanet(&home, &["plugins", "check", program]);
        let text = printed(&output);
        assert_eq!(output.status.code(), Some(1), "{program}: {text}");
        assert!(text.starts_with("FAILED ") && text.contains(word), "{program}: {text}");
        assert!(text.ends_with("1 of 1 checks failed.\n"), "{text}");
    }
    assert_eq!(castanet(&home, &["plugins", "check", " "]).status.code(), Some(1));
    assert_eq!(castanet(&home, &["plugins", "check"]).status.code(), Some(2));
}
