//! What plugins remember between two runs: a folder with a file for each page.
//!
//! A page is written under another name, flushed and renamed over the old one: after a crash there is one or the other.

use std::{
    fs::{self, File},
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
};

pub use castanet_core::seams::means::LARGEST_PAGE;
use castanet_core::seams::means::Notebook;

/// The longest name of a page.
const LONGEST_NAME: usize = 64;

/// A notebook in a folder.
#[derive(Debug, Clone)]
pub struct FileNotebook {
    folder: PathBuf,
}

impl FileNotebook {
    /// Pages live in `folder`, which is created when it is needed.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }

    /// The page's file. Names are those of plugins, and no way out of the folder.
    fn path(&self, page: &str) -> io::Result<PathBuf> {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
        if page.is_empty() || page.len() > LONGEST_NAME || !page.chars().all(is_plain) {
            let reason = format!("{page:?} is no name for a page: letters, digits, - and _ only");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
        }
        Ok(self.folder.join(format!("{page}.page")))
    }
}

impl Notebook for FileNotebook {
    fn read(&self, page: &str) -> io::Result<Option<Vec<u8>>> {
        let path = self.path(page)?;
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(told("open", &path, &error)),
        };
        let mut text = Vec::new();
        file.take(LARGEST_PAGE as u64 + 1).read_to_end(&mut text).map_err(|error| told("read", &path, &error))?;
        check(&text, &path)?;
        Ok(Some(text))
    }

    fn write(&self, page: &str, text: &[u8]) -> io::Result<()> {
        let path = self.path(page)?;
        check(text, &path)?;
        fs::create_dir_all(&self.folder).map_err(|error| told("create", &self.folder, &error))?;
        // Another process may write its own page in this moment.
        let fresh = path.with_extension(format!("{}.new", std::process::id()));
        let replace = || {
            let mut file = File::create(&fresh)?;
            file.write_all(text)?;
            file.sync_all()?;
            fs::rename(&fresh, &path)
        };
        replace().map_err(|error| {
            // Half a page is of no use and would keep a full disk full.
            fs::remove_file(&fresh).ok();
            told("write", &path, &error)
        })
    }
}

fn check(text: &[u8], path: &Path) -> io::Result<()> {
    if text.len() > LARGEST_PAGE {
        let reason = format!("{} is larger than {LARGEST_PAGE} bytes", path.display());
        return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
    }
    Ok(())
}

fn told(action: &str, path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot {action} {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_last() {
        let folder = tempfile::tempdir().unwrap();
        let notebook = || FileNotebook::new(folder.path().join("state/plugins"));
        assert_eq!(notebook().read("dht").unwrap(), None);
        notebook().write("dht", b"first").unwrap();
        notebook().write("pex", &vec![7; LARGEST_PAGE]).unwrap();
        notebook().write("dht", b"").unwrap();
        assert_eq!(notebook().read("dht").unwrap(), Some(Vec::new()));
        assert_eq!(notebook().read("pex").unwrap(), Some(vec![7; LARGEST_PAGE]));
        assert_eq!(fs::read_dir(folder.path().join("state/plugins")).unwrap().count(), 2, "nothing else is left");
    }

    #[test]
    fn what_cannot_be_written_leaves_the_old_page() {
        let folder = tempfile::tempdir().unwrap();
        let notebook = FileNotebook::new(folder.path());
        notebook.write("dht", b"old").unwrap();
        let error = notebook.write("dht", &vec![0; LARGEST_PAGE + 1]).unwrap_err();
        assert!(error.to_string().contains("larger than"), "{error}");
        // A folder in the way of the new file stands for every failure to write.
        fs::create_dir(folder.path().join(format!("dht.{}.new", std::process::id()))).unwrap();
        let error = notebook.write("dht", b"new").unwrap_err();
        assert!(error.to_string().starts_with("cannot write"), "{error}");
        assert_eq!(notebook.read("dht").unwrap(), Some(b"old".to_vec()));
    }

    #[test]
    fn a_crash_while_writing_leaves_the_old_page() {
        let folder = tempfile::tempdir().unwrap();
        let notebook = FileNotebook::new(folder.path());
        notebook.write("dht", b"old").unwrap();
        fs::write(folder.path().join(format!("dht.{}.new", std::process::id())), b"ha").unwrap();
        assert_eq!(notebook.read("dht").unwrap(), Some(b"old".to_vec()));
        notebook.write("dht", b"new").unwrap();
        assert_eq!(notebook.read("dht").unwrap(), Some(b"new".to_vec()));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_gigantic_page_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        File::create(folder.path().join("dht.page")).unwrap().set_len(1 << 40).unwrap();
        assert!(FileNotebook::new(folder.path()).read("dht").is_err());
    }

    #[test]
    fn names_do_not_lead_out_of_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let notebook = FileNotebook::new(folder.path().join("pages"));
        for page in ["", "..", "../dht", "a/b", "a\\b", "dht.page", "a\0", "ä", &"x".repeat(65)] {
            assert!(notebook.write(page, b"x").is_err(), "{page:?}");
            assert!(notebook.read(page).is_err(), "{page:?}");
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is made");
    }
}
