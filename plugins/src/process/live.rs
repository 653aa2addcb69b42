//! A program that runs beside the engine, in real time: neither waits for the other.

use std::sync::{Mutex, PoisonError};

use castanet_protocol::tracker::plain;
use tokio::{
    io::AsyncWriteExt,
    process::{ChildStderr, ChildStdin, ChildStdout},
    time::{sleep, timeout},
};

use super::{End, HELLO_WITHIN, LAST_WORDS, Phase, Shared, child::Lines, ear::Ear, lines::Told};

impl Shared {
    /// A program's life, from its start to its end.
    pub(super) async fn live(&self) -> End {
        let (mut child, pipes) = match self.program.start() {
            Ok(started) => started,
            Err(reason) => return End::Failed(reason),
        };
        let complaint = Mutex::new(String::new());
        let mut stderr = std::pin::pin!(self.repeat(pipes.stderr, &complaint));
        let end = tokio::select! {
            biased;
            end = self.listen(pipes.stdout) => Some(end),
            end = self.speak(pipes.stdin) => Some(end),
            status = async { let status = child.ended().await; sleep(LAST_WORDS).await; status } => {
                Some(Some(End::Failed(format!("it ended ({status})"))))
            }
            () = &mut stderr => None,
        };
        let end = match end.flatten() {
            Some(end) => end,
            // It closed its stdout; most likely it has ended, and there is a reason to be told.
            None => tokio::select! {
                biased;
                status = timeout(LAST_WORDS, async { let status = child.ended().await; sleep(LAST_WORDS / 10).await; status }) => {
                    End::Failed(status.map_or("it closed its stdout".into(), |status| format!("it ended ({status})")))
                }
                () = &mut stderr => End::Failed("it ended".into()),
            },
        };
        if matches!(*self.phase.borrow(), Phase::Closing(_)) {
            return End::Stopped;
        }
        end.explained(&complaint.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Logs what the program prints to stderr; the last line explains its end. Does not end.
    async fn repeat(&self, stderr: ChildStderr, last: &Mutex<String>) {
        let mut lines = Lines::new(stderr, self.means.clock.clone());
        while let Some(line) = lines.next().await {
            let text = line.map_or_else(|_| "(a very long line)".to_owned(), |line| plain(&line));
            if !text.is_empty() {
                tracing::info!(plugin = %self.name, "{text}");
                *last.lock().unwrap_or_else(PoisonError::into_inner) = text;
            }
        }
        std::future::pending().await
    }

    /// Tells the program what there is to tell, until it is to stop; then waits for its end as long as it may take.
    async fn speak(&self, mut stdin: ChildStdin) -> Option<End> {
        let hello = self.hello();
        let mut whole = false;
        let talk = async {
            let mut text = Some(hello);
            loop {
                if let Some(text) = text {
                    whole = false;
                    stdin.write_all(text.as_bytes()).await?;
                    whole = true;
                }
                let now = self.means.clock.now();
                let pause;
                (text, pause) = self.outbox(|outbox| (outbox.poll(now), outbox.deadline().since(now)));
                if text.is_none() {
                    tokio::select! { biased; () = self.untold.notified() => {}, () = sleep(pause) => {} }
                }
            }
        };
        let failed: Result<(), std::io::Error> = tokio::select! {
            biased;
            _ = self.closing() => Ok(()),
            failed = talk => failed,
        };
        // If it does not listen any more, that alone is no reason to end it: it may still find peers.
        let left = self.closing().await.since(self.means.clock.now());
        let stop = Told::Stop { within: left.as_secs_f64() }.line();
        let last = async {
            if failed.is_ok() && whole {
                let _ = stdin.write_all(stop.as_bytes()).await;
            }
            drop(stdin);
            std::future::pending::<()>().await;
        };
        let _ = timeout(left, last).await;
        Some(End::Stopped)
    }

    /// Hears the program until its end (`None`) or until it is unbearable.
    async fn listen(&self, stdout: ChildStdout) -> Option<End> {
        let mut lines = Lines::new(stdout, self.means.clock.clone());
        let mut ear = Ear::new(self);
        let Ok(mut line) = timeout(HELLO_WITHIN, lines.next()).await else { return Some(End::no_hello()) };
        while let Some(said) = line {
            if let Err(end) = ear.hear(self.read(said)).await {
                return Some(end);
            }
            line = lines.next().await;
        }
        None
    }
}
