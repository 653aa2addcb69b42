//! Files against a flat model, and against what users and strangers put in their way.

use std::{fs, io::Write as _};

use proptest::prelude::*;

use super::*;

fn layout(root: &Path, files: &[(&str, u64)]) -> Layout {
    let file = |&(path, length): &(&str, u64)| LayoutFile { path: path.into(), length, pad: path.starts_with(".pad") };
    Layout { root: root.to_owned(), files: files.iter().map(file).collect(), allocation: Allocation::Sparse }
}

fn open(layout: &Layout) -> Arc<dyn Storage> {
    FilesFactory::new(2).open(layout).unwrap()
}

fn write(storage: &dyn Storage, offset: u64, data: &[u8]) -> Result<(), StorageError> {
    storage.write_at(offset, &[IoSlice::new(data)])
}

fn read(storage: &dyn Storage, offset: u64, length: usize) -> Result<Vec<u8>, StorageError> {
    let mut data = vec![0xee; length];
    storage.read_at(offset, &mut data).map(|()| data)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn writes_anywhere_equal_a_flat_run_of_bytes(
        files in prop::collection::vec((0u64..40, prop::bool::weighted(0.2)), 1..12),
        writes in prop::collection::vec((0usize..400, prop::collection::vec(prop::collection::vec(any::<u8>(), 0..30), 0..6)), 0..20),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let files: Arc<[_]> = files.iter().enumerate().map(|(at, &(length, pad))| {
            LayoutFile { path: format!("d{}/f{at}", at % 3).into(), length, pad }
        }).collect();
        let layout = Layout { root: folder.path().join("new"), files: files.clone(), allocation: Allocation::Sparse };
        let whole = layout.length() as usize;
        let storage = open(&layout);
        // Every byte is written once, so that nothing is missing; pads stay zero.
        write(&*storage, 0, &vec![0; whole]).unwrap();
        let mut model = vec![0u8; whole];
        let is_pad: Vec<bool> = files.iter().flat_map(|file| (0..file.length).map(|_| file.pad)).collect();
        for (offset, slices) in writes {
            let slices: Vec<_> = slices.iter().map(|slice| IoSlice::new(slice)).collect();
            let data: Vec<u8> = slices.iter().flat_map(|slice| slice.to_vec()).collect();
            let fits = offset + data.len() <= whole;
            prop_assert_eq!(storage.write_at(offset as u64, &slices).is_ok(), fits);
            if fits {
                for (at, byte) in (offset..).zip(data) {
                    model[at] = if is_pad[at] { 0 } else { byte };
                }
                let part = read(&*storage, offset as u64, whole - offset).unwrap();
                prop_assert_eq!(&part, &model[offset..]);
            }
        }
        prop_assert_eq!(read(&*open(&layout), 0, whole).unwrap(), model);
        for (file, stamp) in files.iter().zip(storage.stamps().unwrap()) {
            prop_assert_eq!(stamp.length, (!file.pad && file.length > 0).then_some(file.length));
        }
    }
}

#[test]
fn files_grow_and_what_is_not_there_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let storage = open(&layout(folder.path(), &[("a", 10), ("empty/e", 0), ("b", 10)]));
    assert!(matches!(read(&*storage, 0, 1), Err(StorageError::Missing { .. })));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "reading creates nothing");
    storage.prepare().unwrap();
    assert!(folder.path().join("empty/e").exists() && !folder.path().join("a").exists());
    write(&*storage, 12, b"xyz").unwrap();
    assert_eq!(fs::read(folder.path().join("b")).unwrap(), b"\0\0xyz");
    assert!(matches!(read(&*storage, 14, 2), Err(StorageError::Missing { path }) if path.ends_with("b")));
    let lengths: Vec<_> = storage.stamps().unwrap().iter().map(|stamp| stamp.length).collect();
    assert_eq!(lengths, [None, Some(0), Some(5)]);
    assert!(storage.stamps().unwrap()[2].modified > 0);
}

#[test]
fn a_stamp_notices_a_replaced_file() {
    let folder = tempfile::tempdir().unwrap();
    let storage = open(&layout(folder.path(), &[("a", 3)]));
    write(&*storage, 0, b"abc").unwrap();
    let before = storage.stamps().unwrap();
    fs::write(folder.path().join("other"), b"xyz").unwrap();
    fs::rename(folder.path().join("other"), folder.path().join("a")).unwrap();
    assert_ne!(storage.stamps().unwrap(), before);
}

#[test]
fn full_allocation_reserves_and_then_leaves_files_alone() {
    let folder = tempfile::tempdir().unwrap();
    let layout =
        Layout { allocation: Allocation::Full, ..layout(folder.path(), &[("a", 100_000), (".pad/1", 5), ("b", 7)]) };
    let storage = open(&layout);
    storage.prepare().unwrap();
    assert_eq!(fs::metadata(folder.path().join("a")).unwrap().len(), 100_000);
    assert_eq!(fs::metadata(folder.path().join("b")).unwrap().len(), 7);
    assert!(!folder.path().join(".pad").exists());
    let before = storage.stamps().unwrap();
    open(&layout).prepare().unwrap();
    assert_eq!(storage.stamps().unwrap(), before);
    assert_eq!(read(&*storage, 99_999, 8).unwrap(), [0; 8]);
}

#[test]
fn a_longer_file_is_cut_when_written_and_kept_when_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a");
    fs::write(&path, b"0123456789").unwrap();
    let layout = layout(folder.path(), &[("a", 4)]);
    let storage = open(&layout);
    storage.prepare().unwrap();
    assert_eq!(read(&*storage, 0, 4).unwrap(), b"0123");
    assert_eq!(fs::read(&path).unwrap().len(), 10);
    write(&*storage, 3, b"x").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"012x");
}

#[cfg(unix)]
#[test]
fn links_are_refused_below_the_root_and_followed_at_it() {
    use std::os::unix::fs::symlink;
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("secret"), b"secret").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("root");
    fs::create_dir(&root).unwrap();
    symlink(outside.path(), root.join("dir")).unwrap();
    symlink(outside.path().join("secret"), root.join("file")).unwrap();
    symlink(outside.path().join("fresh"), root.join("dangling")).unwrap();
    for name in ["dir/secret", "file", "dangling", "dir/new/deep"] {
        let storage = open(&layout(&root, &[(name, 6)]));
        for result in [read(&*storage, 0, 6).map(drop), write(&*storage, 0, b"broken")] {
            assert!(matches!(result, Err(StorageError::Unsafe { .. })), "{name}: {result:?}");
        }
        assert_eq!(storage.stamps().unwrap(), [FileStamp::default()], "{name}");
    }
    assert_eq!(fs::read(outside.path().join("secret")).unwrap(), b"secret");
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);

    let link = folder.path().join("link");
    symlink(&root, &link).unwrap();
    write(&*open(&layout(&link, &[("sub/plain", 2)])), 0, b"ok").unwrap();
    assert_eq!(fs::read(root.join("sub/plain")).unwrap(), b"ok");
}

#[cfg(unix)]
#[test]
fn a_pipe_or_a_folder_in_the_way_is_an_error_and_no_wait() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("folder")).unwrap();
    let pipe = folder.path().join("pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0).unwrap();
    for name in ["folder", "pipe"] {
        let storage = open(&layout(folder.path(), &[(name, 1)]));
        assert!(read(&*storage, 0, 1).is_err(), "{name}");
        assert!(write(&*storage, 0, b"x").is_err(), "{name}");
    }
}

#[test]
fn a_place_that_cannot_be_written_is_an_error_in_words() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, b"x").unwrap();
    // The root is a file; a folder of the path is a file.
    for storage in [open(&layout(&file, &[("a", 1)])), open(&layout(folder.path(), &[("file/a", 1)]))] {
        let error = write(&*storage, 0, b"y").unwrap_err();
        assert!(error.to_string().starts_with("cannot open for writing"), "{error}");
        assert!(!error.is_full());
    }
    assert_eq!(fs::read(&file).unwrap(), b"x");
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_recognised() {
    // Everything written to this device fails as a full disk does.
    let mut full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let source = full.write_all(b"x").and_then(|()| full.sync_data()).unwrap_err();
    let error = vectored::write_all_at(&full, &mut vec![IoSlice::new(b"x")], 0).unwrap_err();
    assert_eq!(error.kind(), source.kind());
    let error = StorageError::Io { action: "cannot write", path: "a".into(), source: error };
    assert!(error.is_full());
    assert_eq!(error.to_string(), "cannot write a: the disk is full");
}

#[test]
fn many_small_files_in_one_write_with_two_open() {
    let folder = tempfile::tempdir().unwrap();
    let names: Vec<String> = (0..1000).map(|n| format!("d{}/f{n}", n / 100)).collect();
    let files: Vec<_> = names.iter().map(|name| (name.as_str(), 7)).collect();
    let factory = FilesFactory::new(2);
    let storage = factory.open(&layout(folder.path(), &files)).unwrap();
    let data: Vec<u8> = (0..7000u32).map(|n| (n % 251) as u8).collect();
    let slices: Vec<_> = data.chunks(16).map(IoSlice::new).collect();
    storage.write_at(0, &slices).unwrap();
    assert_eq!(read(&*storage, 0, 7000).unwrap(), data);
    assert_eq!(factory.pool.keys().len(), 2);
    storage.flush().unwrap();
    drop(storage);
    assert_eq!(factory.pool.keys(), []);
}

#[test]
fn threads_share_a_storage() {
    let folder = tempfile::tempdir().unwrap();
    let storage = open(&layout(folder.path(), &[("a", 4000), ("b", 4000), ("c", 192)]));
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let storage = &storage;
            scope.spawn(move || {
                for at in (thread..128).step_by(4) {
                    write(&**storage, at * 64, &[at as u8; 64]).unwrap();
                    assert_eq!(read(&**storage, at * 64, 64).unwrap(), [at as u8; 64]);
                    if at % 32 == thread {
                        storage.flush().unwrap();
                    }
                }
            });
        }
    });
    let all = read(&*storage, 0, 8192).unwrap();
    assert!(all.chunks(64).enumerate().all(|(at, chunk)| chunk == [at as u8; 64]));
}

#[test]
fn a_folder_that_cannot_be_is_said_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, b"in the way").unwrap();
    let error = open(&layout(&file.join("below"), &[("a", 10)])).prepare().unwrap_err();
    assert!(error.to_string().starts_with("cannot create the folder"), "{error}");
}
