//! `castanet lab new-plugin`: a plugin to begin with, its scenario and its test.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, bail};

/// The files of a new plugin: their names and contents, with NAME for the plugin's.
const FILES: [(&str, &str); 3] = [
    ("NAME.py", include_str!("plugin.py")),
    ("NAME.toml", include_str!("scenario.toml")),
    ("test.sh", include_str!("test.sh")),
];

/// Writes a plugin of this name into a new folder, and says how to go on.
///
/// # Errors
/// If it is no name for a plugin, or the folder is there and not empty, or cannot be written.
pub(super) fn write(name: &str, folder: &Path) -> Result<Vec<String>> {
    let is_name = !name.is_empty() && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
    if !is_name {
        bail!("`{}` is no plugin's name: small letters, digits and `-`", name.escape_debug());
    }
    if castanet::BUILTIN_PLUGINS.iter().any(|(builtin, _)| *builtin == name) {
        bail!("there is a built-in plugin called `{name}`: give yours another name");
    }
    let shown = folder.display();
    fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {shown}"))?;
    if fs::read_dir(folder).with_context(|| format!("cannot read the folder {shown}"))?.next().is_some() {
        bail!("the folder {shown} is not empty: choose another with --folder");
    }
    for (file, contents) in FILES {
        let path = folder.join(file.replace("NAME", name));
        fs::write(&path, contents.replace("NAME", name)).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(vec![
        format!("{shown}/{name}.py is a plugin that works: change it. Then:"),
        format!("  sh {shown}/test.sh"),
        format!("  castanet lab {shown}/{name}.toml --runs 10 --vary plugins=pex+http-tracker,pex+http-tracker+{name}"),
        format!("  castanet get FILE.torrent --plugin '{name}=python3 {shown}/{name}.py HOST:PORT'"),
    ])
}
