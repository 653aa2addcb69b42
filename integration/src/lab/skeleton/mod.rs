//! `castanet lab new-plugin`: a plugin to begin with, its scenario and its test, in Python or in Rust.
//!
//! The files are those of a plugin called `skeleton`, which works: integration/tests/skeleton.rs compiles the Rust ones.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;
use toml::{Table, Value};

/// What the plugin is called in the files.
const PLACEHOLDER: &str = "skeleton";
const PYTHON: [(&str, &str); 3] = [
    ("skeleton.py", include_str!("python/skeleton.py")),
    ("skeleton.toml", include_str!("python/skeleton.toml")),
    ("test.sh", include_str!("python/test.sh")),
];
const RUST: [(&str, &str); 5] = [
    ("Cargo.toml", include_str!("rust/package.toml")),
    ("skeleton.toml", include_str!("rust/skeleton.toml")),
    ("src/lib.rs", include_str!("rust/src/lib.rs")),
    ("src/main.rs", include_str!("rust/src/main.rs")),
    ("tests/works.rs", include_str!("rust/tests/works.rs")),
];
const CASTANET: &str = "castanet";
/// Where the Rust plugin's manifest gets [`DEPENDENCIES`].
const MARK: &str = "#DEPENDENCIES\n";
/// What the Rust plugin is built with, besides Castanet: as Castanet has it.
const DEPENDENCIES: [&str; 6] = ["anyhow", "async-trait", "clap", "fastrand", "futures-util", "tokio"];
/// What no crate can be called: Rust's keywords in small letters, and the crates that are always there.
#[rustfmt::skip]
const KEYWORDS: [&str; 56] = [
    "abstract", "alloc", "as", "async", "await", "become", "box", "break", "const", "continue", "core", "crate", "do",
    "dyn", "else", "enum", "extern", "false", "final", "fn", "for", "gen", "if", "impl", "in", "let", "loop", "macro",
    "match", "mod", "move", "mut", "override", "priv", "proc-macro", "pub", "ref", "return", "self", "static", "std",
    "struct", "super", "test", "trait", "true", "try", "type", "typeof", "unsafe", "unsized", "use", "virtual", "where",
    "while", "yield",
];

/// Writes a plugin of this name into a new folder, and says how to go on. It is in Python, or, with a folder that has
/// Castanet's sources, in Rust.
///
/// # Errors
/// If it is no name for a plugin, the sources are not there, or the folder is there and not empty, or cannot be written.
pub(super) fn write(name: &str, folder: &Path, sources: Option<&Path>) -> Result<Vec<String>> {
    let is_name = !name.is_empty() && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
    if !is_name {
        bail!("`{}` is no plugin's name: small letters, digits and `-`", name.escape_debug());
    }
    if castanet::BUILTIN_PLUGINS.iter().any(|(builtin, _)| *builtin == name) {
        bail!("there is a built-in plugin called `{name}`: give yours another name");
    }
    let files = match sources {
        Some(sources) => rust(name, sources)?,
        None => PYTHON.map(|(file, contents)| (file, contents.replace(PLACEHOLDER, name))).to_vec(),
    };
    let shown = folder.display();
    fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {shown}"))?;
    if fs::read_dir(folder).with_context(|| format!("cannot read the folder {shown}"))?.next().is_some() {
        bail!("the folder {shown} is not empty: choose another with --folder");
    }
    for (file, contents) in files {
        let path = folder.join(file.replace(PLACEHOLDER, name));
        let written = path.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| fs::write(&path, contents));
        written.with_context(|| format!("cannot write {}", path.display()))?;
    }
    let vary = format!("{name}.toml --runs 10 --vary plugins=pex+http-tracker,pex+http-tracker+{name}");
    Ok(match sources {
        Some(_) => vec![
            format!("{shown}/src/lib.rs is a plugin that works: change it. Then, in {shown}:"),
            "  cargo test".to_owned(),
            format!("  cargo run -- {vary}"),
        ],
        None => vec![
            format!("{shown}/{name}.py is a plugin that works: change it. Then:"),
            format!("  sh {shown}/test.sh"),
            format!("  castanet lab {shown}/{vary}"),
            format!("  castanet get FILE.torrent --plugin '{name}=python3 {shown}/{name}.py HOST:PORT'"),
        ],
    })
}

/// What is read in the manifest of Castanet's sources.
#[derive(Deserialize)]
struct Manifest {
    package: Package,
    workspace: Workspace,
}

#[derive(Deserialize)]
struct Package {
    name: String,
}

#[derive(Deserialize)]
struct Workspace {
    dependencies: Table,
}

/// The files of a Cargo project of this name, upon Castanet's sources.
fn rust(name: &str, sources: &Path) -> Result<Vec<(&'static str, String)>> {
    let is_taken = DEPENDENCIES.contains(&name) || KEYWORDS.contains(&name) || name.starts_with(CASTANET);
    if is_taken || !name.starts_with(|c: char| c.is_ascii_lowercase()) {
        let why = "does not begin with a letter, is a word of Rust's, or is a crate that it uses";
        bail!("a plugin in Rust is a crate, too: `{name}` {why}");
    }
    let shown = sources.display();
    let read = |file: &str| fs::read_to_string(sources.join(file));
    let manifest = read("Cargo.toml").ok().and_then(|text| toml::from_str::<Manifest>(&text).ok());
    let manifest = manifest.filter(|manifest| manifest.package.name == CASTANET);
    let lacks =
        || format!("{shown} is no folder with Castanet's sources: it has no Cargo.toml of the package {CASTANET}");
    let mut shared = manifest.with_context(lacks)?.workspace.dependencies;
    let root = fs::canonicalize(sources).with_context(|| format!("cannot find {shown}"))?;
    let at = |folder: &Path| Table::from_iter([("path".to_owned(), Value::from(folder.display().to_string()))]);
    let mut dependencies = Table::from_iter([
        (CASTANET.to_owned(), Value::Table(at(&root))),
        ("castanet-integration".to_owned(), Value::Table(at(&root.join("integration")))),
    ]);
    for dependency in DEPENDENCIES {
        let taken = shared.remove(dependency);
        let taken = taken.with_context(|| format!("the sources in {shown} do not use {dependency}"))?;
        dependencies.insert(dependency.to_owned(), taken);
    }
    let dependencies: String = dependencies.iter().map(|(name, source)| format!("{name} = {source}\n")).collect();
    let path = format!("{}::", name.replace('-', "_"));
    let named = |text: &str| text.replace("skeleton::", &path).replace(PLACEHOLDER, name).replace(MARK, &dependencies);
    let mut files = RUST.map(|(file, contents)| (file, named(contents))).to_vec();
    // So that it is built with the same versions.
    files.push(("Cargo.lock", read("Cargo.lock").with_context(|| format!("cannot read Cargo.lock in {shown}"))?));
    Ok(files)
}
