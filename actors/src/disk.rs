//! The disk threads: a queue of typed jobs that write, read, hash and check, shared by all torrents.
//!
//! A worker takes several waiting writes at once, so that a [`Hasher`] sees blocks of many pieces together. In the
//! simulated universe there are no threads and jobs run where they are submitted.

use std::{
    collections::VecDeque,
    io::IoSlice,
    ops::Range,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
};

use bytes::Bytes;
use castanet_core::{
    BLOCK_LENGTH, Geometry, PieceIndex, Sha1Digest,
    buffers::{ReadBuffer, ReadBuffers},
    seams::{
        hasher::{HashJob, Hasher, RunningSha1},
        storage::{Storage, StorageError},
    },
};

use crate::budget::Permit;

/// The unit in which files are read and hashed: small enough to stay in a core's second-level cache.
const READ_UNIT: usize = 256 * 1024;
/// Most writes that one worker takes at once.
const MOST_TOGETHER: usize = 16;

/// Blocks that lie next to each other, on their way to disk.
#[derive(Debug)]
pub struct Run {
    /// Offset of the first byte within the piece.
    pub begin: u32,
    /// The blocks, in order.
    pub blocks: Vec<Bytes>,
    /// Dropped when the run is written.
    pub permits: Vec<Permit>,
}

impl Run {
    /// Length in bytes.
    pub fn length(&self) -> u32 {
        self.blocks.iter().map(|block| block.len() as u32).sum()
    }
}

/// Writes runs of one piece and carries its hash on.
#[derive(Debug)]
pub struct WriteJob {
    /// The torrent's storage.
    pub storage: Arc<dyn Storage>,
    /// The piece.
    pub piece: PieceIndex,
    /// Where the piece begins in the torrent.
    pub offset: u64,
    /// What to write.
    pub runs: Vec<Run>,
    /// The hash of the piece's first `hash.length()` bytes.
    pub hash: RunningSha1,
    /// How far the hash can be carried: the runs above or what is on disk already cover it.
    pub hash_to: u32,
}

/// Takes a job's result, exactly once: a job that panics answers with an error.
pub struct Answer<T>(Option<Taker<T>>);

type Taker<T> = Box<dyn FnOnce(Result<T, StorageError>) + Send>;

impl<T> Answer<T> {
    /// An answer that goes to `take`, from a disk thread.
    pub fn new(take: impl FnOnce(Result<T, StorageError>) + Send + 'static) -> Self {
        Self(Some(Box::new(take)))
    }
    fn give(mut self, result: Result<T, StorageError>) {
        if let Some(take) = self.0.take() {
            take(result);
        }
    }
}

impl<T> Drop for Answer<T> {
    fn drop(&mut self) {
        if let Some(take) = self.0.take() {
            let (action, path) = ("cannot use", "the torrent's files".into());
            take(Err(StorageError::Io { action, path, source: std::io::Error::other("an internal error") }));
        }
    }
}

/// A job, with where its result goes. Results are sent from a disk thread.
pub enum Job {
    /// Write and hash; answers with the hash so far.
    Write(WriteJob, Answer<RunningSha1>),
    /// Read a range for a peer.
    Read {
        /// The torrent's storage.
        storage: Arc<dyn Storage>,
        /// First byte in the torrent.
        offset: u64,
        /// Number of bytes, at most 256 KiB.
        length: usize,
        /// Takes the bytes.
        done: Answer<Bytes>,
    },
    /// Hash whole pieces from disk. A piece that cannot be read has no digest.
    Check {
        /// The torrent's storage.
        storage: Arc<dyn Storage>,
        /// The torrent's pieces.
        geometry: Geometry,
        /// Which pieces.
        pieces: Range<u32>,
        /// Takes a digest for each piece.
        done: Answer<Vec<Option<Sha1Digest>>>,
    },
    /// Anything else that blocks: open, prepare, flush, save.
    Other(Box<dyn FnOnce() + Send>),
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    closed: bool,
}

struct Shared {
    queue: Mutex<Queue>,
    ready: Condvar,
    hasher: Arc<dyn Hasher>,
    reads: ReadBuffers,
    threads: usize,
}

/// The pool. Dropping the last handle lets the queued jobs finish and ends the threads.
pub struct DiskPool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

impl std::fmt::Debug for DiskPool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DiskPool({} threads)", self.shared.threads)
    }
}

impl DiskPool {
    /// A pool of `threads` threads; with none, jobs run on the thread that submits them.
    pub fn new(threads: usize, hasher: Arc<dyn Hasher>) -> std::io::Result<Self> {
        // Without threads there may be thousands of pools, each with little to do.
        let unit = if threads == 0 { BLOCK_LENGTH as usize } else { READ_UNIT };
        let reads = ReadBuffers::new(unit, 4 + 2 * threads);
        let shared = Arc::new(Shared { queue: Mutex::default(), ready: Condvar::new(), hasher, reads, threads });
        let workers = (0..threads)
            .map(|n| {
                let shared = shared.clone();
                std::thread::Builder::new().name(format!("disk-{n}")).spawn(move || shared.work())
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { shared, workers })
    }
    /// Number of threads; at least 1, counting the submitting thread.
    pub fn width(&self) -> usize {
        self.shared.threads.max(1)
    }
    /// Queues a job.
    pub fn submit(&self, job: Job) {
        if self.shared.threads == 0 {
            return self.shared.run(vec![job]);
        }
        self.shared.lock().jobs.push_back(job);
        self.shared.ready.notify_one();
    }
}

impl Drop for DiskPool {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.ready.notify_all();
        for worker in self.workers.drain(..) {
            // The last handle may be dropped by a job's own result: a thread does not wait for itself.
            if worker.thread().id() != std::thread::current().id() {
                let _ = worker.join();
            }
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        while let Some(jobs) = self.next() {
            // A job that panics must not take the thread with it; its `Answer` says so.
            let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.run(jobs)));
        }
    }

    /// The next job, and with a write the writes right behind it: this worker's fair share.
    fn next(&self) -> Option<Vec<Job>> {
        let mut queue = self.lock();
        loop {
            if let Some(job) = queue.jobs.pop_front() {
                let share = (queue.jobs.len() / self.threads.max(1)).min(MOST_TOGETHER - 1);
                let mut jobs = vec![job];
                if matches!(jobs[0], Job::Write(..)) {
                    while jobs.len() <= share && matches!(queue.jobs.front(), Some(Job::Write(..))) {
                        jobs.extend(queue.jobs.pop_front());
                    }
                }
                return Some(jobs);
            }
            if queue.closed {
                return None;
            }
            queue = self.ready.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn run(&self, jobs: Vec<Job>) {
        let mut writes = Vec::new();
        for job in jobs {
            match job {
                Job::Write(job, done) => writes.push((job, done)),
                Job::Read { storage, offset, length, done } => done.give(self.read(&*storage, offset, length)),
                Job::Check { storage, geometry, pieces, done } => {
                    done.give(Ok(self.check(&*storage, &geometry, pieces)))
                }
                Job::Other(job) => job(),
            }
        }
        self.write(writes);
    }

    fn write(&self, mut writes: Vec<(WriteJob, Answer<RunningSha1>)>) {
        let outcomes: Vec<_> = writes.iter().map(|(job, _)| write_runs(job)).collect();
        let mut batch: Vec<HashJob<'_>> = writes
            .iter_mut()
            .zip(&outcomes)
            .filter(|(_, outcome)| outcome.is_ok())
            .filter_map(|((job, _), _)| {
                // Runs are sorted: the one that continues the hash, if it is there, is hashed from memory.
                let at = job.hash.length();
                let run = job.runs.iter().find(|run| u64::from(run.begin) == at)?;
                Some(HashJob { state: &mut job.hash, blocks: &run.blocks })
            })
            .collect();
        if !batch.is_empty() {
            self.hasher.update(&mut batch);
        }
        for ((mut job, done), outcome) in writes.into_iter().zip(outcomes) {
            job.runs.clear();
            let result = outcome.and_then(|()| self.hash_from_disk(&mut job)).map(|()| job.hash);
            done.give(result);
        }
    }

    /// Carries the hash over what was written earlier, out of order.
    fn hash_from_disk(&self, job: &mut WriteJob) -> Result<(), StorageError> {
        while job.hash.length() < u64::from(job.hash_to) {
            let mut buffer = self.reads.take();
            let room = buffer.len() as u64;
            let length = (u64::from(job.hash_to) - job.hash.length()).min(room) as usize;
            job.storage.read_at(job.offset + job.hash.length(), &mut buffer[..length])?;
            job.hash.update(&buffer[..length]);
        }
        Ok(())
    }

    fn read(&self, storage: &dyn Storage, offset: u64, length: usize) -> Result<Bytes, StorageError> {
        let mut buffer = if length <= self.reads.size() { self.reads.take() } else { ReadBuffer::unpooled(length) };
        storage.read_at(offset, &mut buffer[..length])?;
        Ok(buffer.freeze(length))
    }

    fn check(&self, storage: &dyn Storage, geometry: &Geometry, pieces: Range<u32>) -> Vec<Option<Sha1Digest>> {
        let mut buffer = self.reads.take();
        pieces
            .map(|index| {
                let range = geometry.range_of(PieceIndex(index));
                let mut hash = RunningSha1::default();
                let mut at = range.start;
                while at < range.end {
                    let length = (range.end - at).min(buffer.len() as u64) as usize;
                    storage.read_at(at, &mut buffer[..length]).ok()?;
                    hash.update(&buffer[..length]);
                    at += length as u64;
                }
                Some(hash.finish())
            })
            .collect()
    }
}

fn write_runs(job: &WriteJob) -> Result<(), StorageError> {
    for run in &job.runs {
        let slices: Vec<IoSlice<'_>> = run.blocks.iter().map(|block| IoSlice::new(block)).collect();
        job.storage.write_at(job.offset + u64::from(run.begin), &slices)?;
    }
    Ok(())
}
