//! A program as a child process, and the lines it prints, read no faster than they are welcome.
//!
//! A child leads a process group of its own, so that what it started ends with it: when it is dropped, the whole group
//! is killed.

use std::{
    io,
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use bytes::BytesMut;
use castanet_core::{Moment, seams::means::Clock};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::{ChildStderr, ChildStdin, ChildStdout},
    time::sleep,
};

use super::lines::LONGEST_LINE;

/// How a program is started: words, not a shell's line.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    /// The program and its arguments; never empty.
    pub(crate) words: Vec<String>,
    /// What is added to our environment.
    pub(crate) env: Vec<(String, String)>,
    /// Where it runs; `None`: where we do.
    pub(crate) folder: Option<PathBuf>,
}

/// A running program. Dropping it kills it and all it started.
#[derive(Debug)]
pub(crate) struct Child {
    // Dropped before the process, whose number it has.
    group: Group,
    process: tokio::process::Child,
}

/// A program's ends of the pipes.
pub(crate) struct Pipes {
    pub(crate) stdin: ChildStdin,
    pub(crate) stdout: ChildStdout,
    pub(crate) stderr: ChildStderr,
}

impl Program {
    /// Starts it, or says in words why not.
    pub(crate) fn start(&self) -> Result<(Child, Pipes), String> {
        let mut command = tokio::process::Command::from(self.command());
        let mut process = command.kill_on_drop(true).spawn().map_err(|error| self.explain(&error))?;
        let group = process.id().map(Group::of).unwrap_or_default();
        let pipes = (process.stdin.take(), process.stdout.take(), process.stderr.take());
        let (Some(stdin), Some(stdout), Some(stderr)) = pipes else { return Err("it has no pipes".to_owned()) };
        Ok((Child { group, process }, Pipes { stdin, stdout, stderr }))
    }
    /// How it is started: with pipes, as the leader of a group.
    pub(super) fn command(&self) -> Command {
        let mut command = Command::new(self.name());
        command.args(&self.words[1..]).envs(self.env.iter().map(|(key, value)| (key, value)));
        if let Some(folder) = &self.folder {
            command.current_dir(folder);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        command
    }
    /// Why it could not be started.
    pub(super) fn explain(&self, error: &io::Error) -> String {
        let name = self.name();
        match error.kind() {
            io::ErrorKind::NotFound => format!("there is no program `{name}`"),
            io::ErrorKind::PermissionDenied => format!("`{name}` may not be executed"),
            _ => format!("`{name}` cannot be started: {error}"),
        }
    }
    fn name(&self) -> &str {
        self.words.first().expect("a program has a name")
    }
}

impl Child {
    /// Waits for its end, kills what it left behind, and says how it ended, such as `exit status: 1`.
    pub(crate) async fn ended(&mut self) -> String {
        let status = self.process.wait().await;
        // At once: a number that nobody has is soon given to someone else.
        self.group.kill();
        status.map_or_else(|error| error.to_string(), |status| status.to_string())
    }
}

/// A program and all it started, where there are process groups. Dropping it kills them.
#[derive(Debug, Default)]
pub(super) struct Group {
    #[cfg(unix)]
    leader: Option<rustix::process::Pid>,
}

impl Group {
    /// The group that this process leads.
    #[cfg_attr(not(unix), expect(unused_variables))]
    pub(super) fn of(leader: u32) -> Self {
        Self {
            #[cfg(unix)]
            leader: i32::try_from(leader).ok().and_then(rustix::process::Pid::from_raw),
        }
    }
    /// Kills them, once.
    pub(super) fn kill(&mut self) {
        #[cfg(unix)]
        if let Some(leader) = self.leader.take() {
            let _ = rustix::process::kill_process_group(leader, rustix::process::Signal::KILL);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The lines of a stream, read at a limited pace: who floods us waits in its own pipe, not in our memory.
#[derive(Debug)]
pub(crate) struct Lines<R> {
    from: R,
    cutter: Cutter,
    ended: bool,
    clock: Clock,
    pace: Pace,
}

/// A line without its end, or that it was longer than [`LONGEST_LINE`].
pub(crate) type Line = Result<BytesMut, TooLong>;

/// A line was longer than [`LONGEST_LINE`].
#[derive(Debug, PartialEq)]
pub(crate) struct TooLong;

impl<R: AsyncRead + Unpin> Lines<R> {
    pub(crate) fn new(from: R, clock: Clock) -> Self {
        let pace = Pace::new(clock.now());
        Self { from, cutter: Cutter::default(), ended: false, clock, pace }
    }

    /// The next line; `None` at the end. What the stream ends with need not end with a newline.
    pub(crate) async fn next(&mut self) -> Option<Line> {
        loop {
            if let Some(line) = self.cutter.next() {
                sleep(self.pace.pay(LINE_COST, self.clock.now())).await;
                return Some(line);
            }
            if self.ended {
                return self.cutter.rest();
            }
            let buffer = &mut self.cutter.buffer;
            buffer.reserve(CHUNK);
            let read = (&mut self.from).take(CHUNK as u64).read_buf(buffer).await.unwrap_or(0);
            self.ended = read == 0;
            sleep(self.pace.pay(BYTE_COST * read as u32, self.clock.now())).await;
        }
    }
}

/// Cuts what was read into lines. It holds little more than a line, if it is asked for lines after each read.
#[derive(Debug, Default)]
pub(super) struct Cutter {
    /// What was read is put here.
    pub(super) buffer: BytesMut,
    /// The rest of a line that was too long is passed over.
    skipping: bool,
}

impl Cutter {
    /// The next line, if it is complete.
    pub(super) fn next(&mut self) -> Option<Line> {
        while let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
            let line = self.buffer.split_to(end + 1).split_to(end);
            if !std::mem::take(&mut self.skipping) {
                return Some(if line.len() > LONGEST_LINE { Err(TooLong) } else { Ok(line) });
            }
        }
        if self.buffer.len() <= LONGEST_LINE {
            return None;
        }
        self.buffer.clear();
        (!std::mem::replace(&mut self.skipping, true)).then_some(Err(TooLong))
    }
    /// What is left at the end.
    pub(super) fn rest(&mut self) -> Option<Line> {
        let rest = self.buffer.split();
        (!rest.is_empty() && !self.skipping).then_some(Ok(rest))
    }
}

/// Bytes that are read at once.
const CHUNK: usize = 8 * 1024;
/// 100 lines a second ...
const LINE_COST: Duration = Duration::from_millis(10);
/// ... and half a megabyte a second, as long as it lasts ...
const BYTE_COST: Duration = Duration::from_micros(2);
/// ... and this much in advance: 400 lines.
const CREDIT: Duration = Duration::from_secs(4);

/// A limit in which every thing costs time.
#[derive(Debug)]
struct Pace {
    /// When all is paid.
    paid: Moment,
}

impl Pace {
    fn new(now: Moment) -> Self {
        Self { paid: now }
    }
    /// How long to wait after a thing that costs so much.
    fn pay(&mut self, cost: Duration, now: Moment) -> Duration {
        self.paid = self.paid.max(now) + cost;
        self.paid.since(now + CREDIT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::World;

    fn lines<R: AsyncRead + Unpin>(from: R) -> (World, Lines<R>) {
        let world = World::new();
        let clock = world.means().clock;
        (world, Lines::new(from, clock))
    }

    #[tokio::test(start_paused = true)]
    async fn lines_are_cut_at_newlines_and_long_ones_passed_over() {
        let mut text = b"one\n\ntwo\n".to_vec();
        text.extend(vec![b'x'; 3 * LONGEST_LINE]);
        text.extend(b"\nthree\n");
        text.extend(vec![b'y'; LONGEST_LINE]);
        text.extend(b"\nfour");
        let (_, mut lines) = lines(&text[..]);
        let mut read = Vec::new();
        while let Some(line) = lines.next().await {
            assert!(lines.cutter.buffer.capacity() < 4 * LONGEST_LINE, "{}", lines.cutter.buffer.capacity());
            read.push(line.map(|line| line.len()));
        }
        assert_eq!(read, [Ok(3), Ok(0), Ok(3), Err(TooLong), Ok(5), Ok(LONGEST_LINE), Ok(4)]);
    }

    #[tokio::test(start_paused = true)]
    async fn floods_wait() {
        let (world, mut few) = lines("x\n".repeat(300).leak().as_bytes());
        while few.next().await.is_some() {}
        assert_eq!(world.now(), Moment::ZERO, "a burst is welcome");
        let (world, mut many) = lines("x\n".repeat(3000).leak().as_bytes());
        while many.next().await.is_some() {}
        assert!(world.now() >= Moment::from_secs(26), "{:?}", world.now());
        let (world, mut endless) = lines(tokio::io::repeat(b'x'));
        let stuck = tokio::time::timeout(Duration::from_secs(60), async { while endless.next().await.is_some() {} });
        assert!(stuck.await.is_err(), "there is no end");
        assert!(world.now() >= Moment::from_secs(60));
        assert!(endless.cutter.buffer.capacity() < 4 * LONGEST_LINE);
    }
}
