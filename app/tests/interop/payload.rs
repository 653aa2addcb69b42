//! What the tests transfer: seeded payloads, the `.torrent` files of them, and the comparison of folders.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};

use crate::programs::libtorrent;
use crate::world::World;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// The shapes a payload comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// One file, its size no multiple of any piece.
    OneFile,
    /// Nested folders, names in several scripts, empty files, and files smaller and larger than a piece.
    ManyFiles,
}

/// A payload on disk and its torrent.
pub(crate) struct Torrent {
    /// The `.torrent` file.
    pub(crate) file: PathBuf,
    /// The v1 info-hash in hexadecimal.
    pub(crate) info_hash: String,
    /// The folder that holds the payload under its name: what a seed serves.
    pub(crate) folder: PathBuf,
    /// The payload's name in that folder.
    pub(crate) name: String,
    /// Bytes in all.
    pub(crate) length: usize,
}

/// Makes a payload of `shape` from `seed`, and a v1 torrent of it with these trackers (each a tier of its own).
pub(crate) fn make(world: &World, shape: Shape, seed: u64, piece_length: usize, trackers: &[&str]) -> Result<Torrent> {
    make_as(world, "v1", shape, seed, piece_length, trackers)
}

/// Like [`make`], in the `format` "v1", "v2", "hybrid" or "private" (v1).
pub(crate) fn make_as(
    world: &World,
    format: &str,
    shape: Shape,
    seed: u64,
    piece_length: usize,
    trackers: &[&str],
) -> Result<Torrent> {
    let folder = world.folder(&format!("payload-{seed}"))?;
    let mut random = fastrand::Rng::with_seed(seed);
    // With large pieces a payload needs more bytes to have more than one of them.
    let size = if piece_length > MIB { 9 * MIB + 12_345 } else { 3 * MIB + 4_321 };
    let (name, files): (&str, Vec<(&str, usize)>) = match shape {
        Shape::OneFile => ("one file.bin", vec![("", size)]),
        Shape::ManyFiles => (
            "many files",
            vec![
                ("a/b/c/deep.bin", size / 3),
                ("a/b/empty", 0),
                ("a/one byte", 1),
                ("a/piece.bin", 16 * KIB),
                ("beta/Καστανιέτες.txt", 16 * KIB + 1),
                ("beta/カスタネット/音.dat", size / 5),
                ("empty at the root", 0),
                ("naïve café.bin", 777),
                ("z/larger.bin", size / 2),
                ("z/tail", 31),
                ("z/zero/also empty.bin", 0),
            ],
        ),
    };
    for (path, length) in &files {
        let path = if path.is_empty() { folder.join(name) } else { folder.join(name).join(path) };
        fs::create_dir_all(path.parent().context("every file is in the folder")?)?;
        let bytes: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(*length).collect();
        fs::write(path, bytes)?;
    }
    let file = folder.join(format!("{format}.torrent"));
    let made = libtorrent::script("create.py")
        .args([format, &piece_length.to_string()])
        .args([&file, &folder.join(name)])
        .args(trackers)
        .output()?;
    ensure!(made.status.success(), "create.py: {}", String::from_utf8_lossy(&made.stderr));
    let info_hash = String::from_utf8(made.stdout)?.trim().to_owned();
    let length = files.iter().map(|(_, length)| length).sum();
    Ok(Torrent { file, info_hash, folder, name: name.to_owned(), length })
}

impl Torrent {
    /// Fails, naming the first difference, unless `folder` holds the same payload.
    ///
    /// With `but_empty`, empty files may be missing: not every program creates them.
    pub(crate) fn same_in(&self, folder: &Path, but_empty: bool) -> Result<()> {
        let expected = tree(&self.folder.join(&self.name))?;
        let found = tree(&folder.join(&self.name))?;
        let empty: [u8; 32] = Sha256::digest([]).into();
        for (path, digest) in &expected {
            match found.get(path) {
                Some(same) if same == digest => {}
                Some(_) => bail!("{path:?} differs in {}", folder.display()),
                None if but_empty && *digest == empty => {}
                None => bail!("{path:?} is missing in {}; there are {:?}", folder.display(), found.keys()),
            }
        }
        match found.keys().find(|path| !expected.contains_key(*path)) {
            Some(path) => bail!("{path:?} in {} is nobody's", folder.display()),
            None => Ok(()),
        }
    }
}

/// The SHA-256 of every file at or under `root`, by its path relative to it.
fn tree(root: &Path) -> Result<BTreeMap<PathBuf, [u8; 32]>> {
    let mut files = BTreeMap::new();
    let mut rest = vec![root.to_owned()];
    while let Some(path) = rest.pop() {
        let kind = fs::symlink_metadata(&path).with_context(|| format!("{} is missing", path.display()))?;
        if kind.is_dir() {
            for entry in fs::read_dir(&path)? {
                rest.push(entry?.path());
            }
        } else {
            files.insert(path.strip_prefix(root)?.to_owned(), Sha256::digest(fs::read(&path)?).into());
        }
    }
    Ok(files)
}

/// Runs a command to its end and fails with its stderr unless it succeeded.
pub(crate) fn run(command: &mut Command) -> Result<Vec<u8>> {
    let output = command.output().with_context(|| format!("{:?}", command.get_program()))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(output.stdout)
}
