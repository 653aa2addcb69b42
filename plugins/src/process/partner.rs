//! A program to whom the thread listens that owns it: answers are awaited by blocking, by a real clock.
//!
//! Its pipes are served by threads, one each, so that neither side waits for the other in the middle of a line: a program may
//! print much before it reads, and read late. The threads end with the pipes.

use std::{
    io::{ErrorKind, Read, Write},
    process,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, Receiver, RecvTimeoutError, SyncSender},
    },
    thread,
    time::{Duration, Instant},
};

use castanet_protocol::tracker::plain;

use super::{
    LAST_WORDS,
    child::{Cutter, Group, Line, Program},
};

/// Lines that wait for us; then the program waits.
const QUEUE: usize = 64;
/// How often to look whether a silent program has ended: what it started may keep its stdout open.
const GLANCE: Duration = Duration::from_millis(10);

/// A running program. Dropping it kills it and all it started.
pub(super) struct Partner {
    process: process::Child,
    group: Group,
    /// How it ended.
    status: Option<String>,
    /// To the thread that writes; `None` closes stdin.
    told: Option<SyncSender<String>>,
    said: Receiver<Line>,
    /// Closed at the end of stderr.
    murmur: Receiver<()>,
    /// The last line on stderr.
    complaint: Arc<Mutex<String>>,
}

/// Why there is no further line.
pub(super) enum Silence {
    /// Not in time.
    Late,
    /// It ended, or closed its stdout: in words.
    Ended(String),
}

impl Partner {
    /// Starts it, or says in words why not.
    pub(super) fn start(program: &Program, name: &Arc<str>) -> Result<Self, String> {
        let mut process = program.command().spawn().map_err(|error| program.explain(&error))?;
        let group = Group::of(process.id());
        let pipes = (process.stdin.take(), process.stdout.take(), process.stderr.take());
        // One may wait while another is written: more would mean that it answers what it has not read.
        let (told, to_tell) = mpsc::sync_channel::<String>(1);
        let (line, said) = mpsc::sync_channel(QUEUE);
        let (end, murmur) = mpsc::sync_channel(0);
        let complaint = Arc::<Mutex<String>>::default();
        let (told, last) = (Some(told), complaint.clone());
        let partner = Self { process, group, status: None, told, said, murmur, complaint };
        let (Some(mut stdin), Some(stdout), Some(stderr)) = pipes else { return Err("it has no pipes".to_owned()) };
        spawn(move || {
            for text in to_tell {
                if stdin.write_all(text.as_bytes()).is_err() {
                    return;
                }
            }
        })?;
        spawn(move || each_line(stdout, |text| line.send(text).is_ok()))?;
        let name = name.clone();
        spawn(move || {
            let _open: SyncSender<()> = end;
            each_line(stderr, |line| {
                let text = line.map_or_else(|_| "(a very long line)".to_owned(), |line| plain(&line));
                if !text.is_empty() {
                    tracing::info!(plugin = %name, "{text}");
                    *last.lock().unwrap_or_else(PoisonError::into_inner) = text;
                }
                true
            });
        })?;
        Ok(partner)
    }
    /// Has it written soon. Returns false if the program has not even read what it was told before the last time. One that has
    /// closed its stdin is told nothing.
    pub(super) fn tell(&self, text: String) -> bool {
        let told = self.told.as_ref().map(|told| told.try_send(text));
        !matches!(told, Some(Err(mpsc::TrySendError::Full(_))))
    }
    /// Its next line.
    pub(super) fn next(&mut self, mut deadline: Instant) -> Result<Line, Silence> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.said.recv_timeout(left.min(GLANCE)) {
                Ok(line) => return Ok(line),
                Err(RecvTimeoutError::Disconnected) => return Err(Silence::Ended(self.end(deadline))),
                Err(RecvTimeoutError::Timeout) if left.is_zero() => {
                    return Err(if self.lives() { Silence::Late } else { Silence::Ended(self.end(deadline)) });
                }
                Err(RecvTimeoutError::Timeout) => {
                    if self.status.is_none() && !self.lives() {
                        deadline = deadline.min(Instant::now() + LAST_WORDS);
                    }
                }
            }
        }
    }
    /// Does it still run? If not, what it left behind is killed.
    fn lives(&mut self) -> bool {
        if self.status.is_none() {
            self.status = match self.process.try_wait() {
                Ok(status) => status.map(|status| status.to_string()),
                Err(error) => Some(error.to_string()),
            };
            if self.status.is_some() {
                self.group.kill();
            }
        }
        self.status.is_none()
    }
    /// What it last said on stderr.
    pub(super) fn complaint(&self) -> String {
        self.complaint.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
    /// Tells it to stop, and kills it if it still runs after `within`.
    pub(super) fn stop(mut self, text: String, within: Duration) {
        let deadline = Instant::now() + within;
        self.tell(text);
        self.told = None;
        while Instant::now() < deadline && self.next(deadline).is_ok() {}
        self.wait(deadline);
    }

    /// How it ended, now that it closed its stdout.
    fn end(&mut self, deadline: Instant) -> String {
        self.wait(deadline.min(Instant::now() + LAST_WORDS));
        match &self.status {
            None => "it closed its stdout".to_owned(),
            Some(status) => {
                let _ = self.murmur.recv_timeout(LAST_WORDS);
                format!("it ended ({status})")
            }
        }
    }
    fn wait(&mut self, deadline: Instant) {
        while self.lives() && Instant::now() < deadline {
            thread::sleep(GLANCE);
        }
    }
}

impl Drop for Partner {
    fn drop(&mut self) {
        if self.lives() {
            self.group.kill();
            let _ = self.process.kill();
            let _ = self.process.wait();
        }
    }
}

fn spawn(work: impl FnOnce() + Send + 'static) -> Result<(), String> {
    let thread = thread::Builder::new().name("plugin".to_owned()).spawn(work);
    thread.map(drop).map_err(|error| format!("there is no thread for its pipes: {error}"))
}

/// Reads lines until the end, or until `each` returns false.
fn each_line(mut from: impl Read, mut each: impl FnMut(Line) -> bool) {
    let mut lines = Cutter::default();
    let mut chunk = [0; 8 * 1024];
    loop {
        while let Some(line) = lines.next() {
            if !each(line) {
                return;
            }
        }
        match from.read(&mut chunk) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Ok(0) | Err(_) => break,
            Ok(read) => lines.buffer.extend_from_slice(&chunk[..read]),
        }
    }
    if let Some(rest) = lines.rest() {
        each(rest);
    }
}
