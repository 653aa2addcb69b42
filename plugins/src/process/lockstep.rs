//! A program in a simulation: it is told something, and time stands until it has answered.
//!
//! The engine ends what it has to say with `sync` and **blocks its thread** until the program's `synced`. Under paused time
//! nothing else happens meanwhile, so all that a program finds is found at the virtual time at which it was asked, however long it
//! thought. What it says unasked stays in its pipe until the next `sync`. So a run can be replayed if the program uses
//! no other clock and dice than `now` and `seed`.

use std::time::{Duration, Instant};

use castanet_core::Moment;
use tokio::time::sleep;

use super::{
    End, HELLO_WITHIN, Shared,
    ear::Ear,
    lines::{Said, Told, VERSION},
    partner::{Partner, Silence},
};

/// How long, by a real clock, a program may take to answer.
const ANSWER_WITHIN: Duration = HELLO_WITHIN;
/// What a program may say in one answer: it is all held until the answer is complete.
const MOST_LINES: usize = 10_000;
const MOST_BYTES: usize = 64 << 20;
/// A program is woken no sooner, or time would stand for ever.
const SHORTEST_SLEEP: Duration = Duration::from_millis(1);

/// All that a program says when it is told something, and then when to wake it, or why it will say no more.
struct Answer {
    said: Vec<Result<Said, String>>,
    then: Result<Option<Duration>, End>,
}

impl Shared {
    /// A program's life, from its start to its end.
    pub(super) async fn live_in_lockstep(&self) -> End {
        let mut partner = match Partner::start(&self.program, &self.name) {
            Ok(started) => started,
            Err(reason) => return End::Failed(reason),
        };
        let deadline = tokio::select! {
            biased;
            deadline = self.closing() => deadline,
            end = self.converse(&mut partner) => return end.explained(&partner.complaint()),
        };
        let left = deadline.since(self.means.clock.now());
        partner.stop(Told::Stop { within: left.as_secs_f64() }.line(), left);
        End::Stopped
    }

    /// Turn by turn, until the program ends or is unbearable.
    async fn converse(&self, partner: &mut Partner) -> End {
        let mut ear = Ear::new(self);
        let mut text = self.hello();
        let mut id = 0;
        loop {
            let now = self.means.clock.now();
            text.push_str(&Told::Sync { id, now: now.as_secs_f64() }.line());
            let Answer { said, then } = self.ask(partner, text, id);
            for said in said {
                if let Err(end) = ear.hear(said).await {
                    return end;
                }
            }
            let wake = match then {
                Ok(wake_in) => wake_in.map_or(Moment::NEVER, |pause| now + pause.max(SHORTEST_SLEEP)),
                Err(end) => return end,
            };
            text = self.news(wake).await;
            id += 1;
        }
    }

    /// Tells the program something that ends with a `sync`, and blocks until it has answered that.
    fn ask(&self, partner: &mut Partner, text: String, id: u64) -> Answer {
        let deadline = Instant::now() + ANSWER_WITHIN;
        let (mut said, mut bytes) = (Vec::new(), 0);
        if !partner.tell(text) {
            let then = failed("it answers `sync` without reading it");
            return Answer { said, then };
        }
        let then = loop {
            let line = match partner.next(deadline) {
                Ok(line) => line,
                Err(Silence::Ended(how)) => break Err(End::Failed(how)),
                Err(Silence::Late) if id == 0 && said.is_empty() => break Err(End::no_hello()),
                Err(Silence::Late) => {
                    break failed(&format!("it did not answer `sync` within {} s", ANSWER_WITHIN.as_secs()));
                }
            };
            bytes += line.as_ref().map_or(0, |line| line.len());
            let heard = self.read(line);
            if let Ok(Said::Synced(answered, wake_in)) = heard
                && answered == id
            {
                break Ok(wake_in);
            }
            // After a good-bye or a bad first line there is nothing to wait for: the ear knows what to say to it.
            let greets = id == 0 && said.is_empty();
            let over =
                matches!(heard, Ok(Said::Bye)) || greets && !matches!(heard, Ok(Said::Hello { version: VERSION, .. }));
            said.push(heard);
            if over {
                break Ok(None);
            }
            if said.len() > MOST_LINES || bytes > MOST_BYTES {
                let most = format!("more than {MOST_LINES} lines or {} MiB", MOST_BYTES >> 20);
                break failed(&format!("it says {most} before it answers `sync`"));
            }
        };
        Answer { said, then }
    }

    /// Waits until there is something to tell, or until `wake` (then it may be nothing).
    async fn news(&self, wake: Moment) -> String {
        loop {
            let now = self.means.clock.now();
            let mut text = String::new();
            let due = self.outbox(|outbox| {
                while let Some(lines) = outbox.poll(now) {
                    text.push_str(&lines);
                }
                outbox.deadline().min(wake)
            });
            if !text.is_empty() || wake <= now {
                return text;
            }
            let time = async {
                // Paused time would jump even to the last of all moments, if nothing else is to happen.
                match due {
                    Moment::NEVER => std::future::pending().await,
                    due => sleep(due.since(now)).await,
                }
            };
            tokio::select! { biased; () = self.untold.notified() => {}, () = time => {} }
        }
    }
}

/// It cannot be used in a simulation; its author is told where to read why.
fn failed<T>(what: &str) -> Result<T, End> {
    Err(End::Failed(format!("{what} (docs/PLUGIN-PROTOCOL.md, In simulation)")))
}
