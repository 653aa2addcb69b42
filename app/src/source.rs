//! SOURCE: what the user named, recognised and read.

use std::{
    io::Read as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, Result, bail, ensure};
use castanet::{
    EngineBuilder, Metainfo,
    magnet::{self, Magnet},
};

/// Bytes of a .torrent file at most: what the parser takes.
const MOST_TORRENT: usize = 64 << 20;

/// What a SOURCE stands for.
#[derive(Debug)]
pub(crate) enum Source {
    /// A .torrent file, read.
    Torrent(Arc<Metainfo>),
    /// A magnet link, or an info-hash alone.
    Magnet(Box<Magnet>),
}

impl Source {
    /// Recognises and reads a SOURCE; from the web by the ways out of `web`.
    pub(crate) async fn read(text: &str, web: &EngineBuilder) -> Result<Self> {
        if magnet::is_magnet(text) {
            return Ok(Self::Magnet(Box::new(Magnet::parse(text)?)));
        }
        let lower = text.to_ascii_lowercase();
        if lower.starts_with("http://") || lower.starts_with("https://") {
            let bytes = web.fetch(text, MOST_TORRENT).await.with_context(|| format!("cannot fetch {}", shown(text)))?;
            return Ok(Self::Torrent(Arc::new(Metainfo::parse(&bytes).with_context(|| shown(text))?)));
        }
        // A file of that name comes first: nobody calls a file by 40 hexadecimal digits without meaning it.
        if !Path::new(text).exists()
            && let Some(info_hashes) = magnet::parse_info_hash(text)
        {
            return Ok(Self::Magnet(Box::new(Magnet::new(info_hashes))));
        }
        read_torrent(Path::new(text)).map(Self::Torrent)
    }

    /// The torrent, for commands that need all of it at once; refuses what has to be looked up first.
    pub(crate) async fn torrent(text: &str, web: &EngineBuilder) -> Result<Arc<Metainfo>> {
        match Self::read(text, web).await? {
            Self::Torrent(metainfo) => Ok(metainfo),
            Self::Magnet(_) => {
                bail!("a magnet link or info-hash does not say what the files are: use the .torrent file instead")
            }
        }
    }
}

/// Reads a .torrent file.
pub(crate) fn read_torrent(path: &Path) -> Result<Arc<Metainfo>> {
    let shown = shown(&path.to_string_lossy());
    let mut file = std::fs::File::open(path).with_context(|| format!("cannot open {shown}"))?;
    let is_folder = file.metadata().is_ok_and(|metadata| metadata.is_dir());
    ensure!(!is_folder, "{shown} is a folder, not a torrent file");
    let mut bytes = Vec::new();
    file.by_ref()
        .take(MOST_TORRENT as u64 + 1)
        .read_to_end(&mut bytes)
        .with_context(|| format!("cannot read {shown}"))?;
    Ok(Arc::new(Metainfo::parse(&bytes).with_context(|| shown)?))
}

/// The torrent files that `path` stands for: itself, or those in the folder that it is, by name.
pub(crate) fn torrent_files(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let shown = shown(&path.to_string_lossy());
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).with_context(|| format!("cannot read the folder {shown}"))? {
        let path = entry.with_context(|| format!("cannot read the folder {shown}"))?.path();
        if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("torrent")) && !path.is_dir() {
            files.push(path);
        }
    }
    ensure!(!files.is_empty(), "the folder {shown} has no .torrent files");
    files.sort();
    Ok(files)
}

/// Refuses a torrent whose data cannot be handled yet.
pub(crate) fn ensure_v1(metainfo: &Metainfo, what: &str) -> Result<()> {
    ensure!(
        metainfo.info.pieces.is_some(),
        "{}: this is a BitTorrent v2-only torrent, which Castanet cannot {what} yet",
        shown(&metainfo.info.name)
    );
    Ok(())
}

/// What the user or a stranger wrote, safe to print.
fn shown(text: &str) -> String {
    crate::output::human::escaped(text).into_owned()
}
