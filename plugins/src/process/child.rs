//! A program as a child process, and the lines it prints, read no faster than they are welcome.
//!
//! A child leads a process group of its own, so that what it started ends with it: when a [`Child`] is dropped, the whole group
//! is killed.

use std::{io, process::Stdio, time::Duration};

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
}

/// A running program. Dropping it kills it and all it started.
#[derive(Debug)]
pub(crate) struct Child {
    process: tokio::process::Child,
    #[cfg(unix)]
    group: Option<rustix::process::Pid>,
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
        let (name, arguments) = self.words.split_first().expect("a program has a name");
        let mut command = tokio::process::Command::new(name);
        command.args(arguments).envs(self.env.iter().map(|(key, value)| (key, value))).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        #[cfg(unix)]
        command.process_group(0);
        let mut process = command.spawn().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => format!("there is no program `{name}`"),
            io::ErrorKind::PermissionDenied => format!("`{name}` may not be executed"),
            _ => format!("`{name}` cannot be started: {error}"),
        })?;
        let pipes = (process.stdin.take(), process.stdout.take(), process.stderr.take());
        let (Some(stdin), Some(stdout), Some(stderr)) = pipes else { return Err("it has no pipes".to_owned()) };
        #[cfg(unix)]
        let group = process.id().and_then(|id| rustix::process::Pid::from_raw(i32::try_from(id).ok()?));
        let child = Child {
            process,
            #[cfg(unix)]
            group,
        };
        Ok((child, Pipes { stdin, stdout, stderr }))
    }
}

impl Child {
    /// Waits for its end, kills what it left behind, and says how it ended, such as `exit status: 1`.
    pub(crate) async fn ended(&mut self) -> String {
        let status = self.process.wait().await;
        // At once: a number that nobody has is soon given to someone else.
        self.kill_group();
        status.map_or_else(|error| error.to_string(), |status| status.to_string())
    }

    fn kill_group(&mut self) {
        #[cfg(unix)]
        if let Some(group) = self.group.take() {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.kill_group();
    }
}

/// The lines of a stream, read at a limited pace: who floods us waits in its own pipe, not in our memory.
#[derive(Debug)]
pub(crate) struct Lines<R> {
    from: R,
    buffer: BytesMut,
    /// The rest of a line that was too long is passed over.
    skipping: bool,
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
        Self { from, buffer: BytesMut::new(), skipping: false, ended: false, clock, pace }
    }

    /// The next line; `None` at the end. What the stream ends with need not end with a newline.
    pub(crate) async fn next(&mut self) -> Option<Line> {
        loop {
            let end = self.buffer.iter().position(|byte| *byte == b'\n');
            if let Some(end) = end {
                let line = self.buffer.split_to(end + 1).split_to(end);
                if std::mem::take(&mut self.skipping) {
                    continue;
                }
                sleep(self.pace.pay(LINE_COST, self.clock.now())).await;
                return Some(if line.len() > LONGEST_LINE { Err(TooLong) } else { Ok(line) });
            }
            if self.buffer.len() > LONGEST_LINE {
                self.buffer.clear();
                if !std::mem::replace(&mut self.skipping, true) {
                    return Some(Err(TooLong));
                }
            }
            if self.ended {
                let rest = self.buffer.split();
                return (!rest.is_empty() && !self.skipping).then_some(Ok(rest));
            }
            self.buffer.reserve(CHUNK);
            let read = (&mut self.from).take(CHUNK as u64).read_buf(&mut self.buffer).await.unwrap_or(0);
            self.ended = read == 0;
            sleep(self.pace.pay(BYTE_COST * read as u32, self.clock.now())).await;
        }
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
            assert!(lines.buffer.capacity() < 4 * LONGEST_LINE, "{}", lines.buffer.capacity());
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
        assert!(endless.buffer.capacity() < 4 * LONGEST_LINE);
    }
}
