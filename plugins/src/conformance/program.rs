//! Checks of a program by its bare lines, so that its author sees what the plugin host would forgive or hide.

use std::sync::Arc;

use castanet_core::seams::{
    discovery::{Discovery, DiscoveryError, Found, PeerFate, PeerOutcome, Settings},
    means::Means,
};
use castanet_protocol::tracker::plain;
use tokio::{
    io::AsyncWriteExt,
    process::{ChildStderr, ChildStdin, ChildStdout},
    time::{Instant, sleep_until, timeout},
};

use super::{Options, Report, Verdict, check, counted};
use crate::process::{
    self, HELLO_WITHIN,
    child::{Child, Line, Lines, Pipes, Program},
    lines::{self, Complaint, Outcome, Said, Told, VERSION},
};

/// Puts a program through the protocol of docs/PLUGIN-PROTOCOL.md line by line, and then, as a plugin, through [`check`].
/// The settings are those of [`process::build`].
pub async fn check_program(means: &Means, settings: &Settings, options: &Options) -> Report {
    let mut report = Report::default();
    let program = match process::program(settings) {
        Ok(program) => program,
        Err(error) => {
            report.add("has a command", Err(error.to_string()));
            return report;
        }
    };
    let talk = async || Talk::start(&program, means, options).await;
    report.add("says hello in time", async { talk().await.map(|_| "version 1".to_owned()) }.await);
    if !report.passed() {
        return report;
    }
    report.add("prints only messages", async { talk().await?.messages().await }.await);
    report.add("rests at wanted 0", async { talk().await?.rests().await }.await);
    report.add("passes over what it does not know", async { talk().await?.strange().await }.await);
    report.add("ends on stop", async { talk().await?.stops(true).await }.await);
    report.add("ends when stdin is closed", async { talk().await?.stops(false).await }.await);
    let build = || -> Result<Arc<dyn Discovery>, DiscoveryError> { process::build(means, settings) };
    report.checks.extend(check(build, options).await.checks);
    report
}

/// A conversation with a program.
struct Talk<'a> {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Lines<ChildStdout>,
    stderr: Lines<ChildStderr>,
    means: &'a Means,
    options: &'a Options,
    messages: usize,
    peers: usize,
    synced: bool,
    bad: Option<String>,
    /// The last line on stderr.
    complaint: String,
    ended: bool,
}

const WATCH: &str = concat!(
    r#"{"type":"watch","torrent":7,"info_hash":"0707070707070707070707070707070707070707","private":false,"#,
    r#""name":"Näme \"quoted\"","trackers":[["http://tracker.invalid/announce"],["udp://трекер.invalid:1"]],"#,
    r#""peers":["192.0.2.1:6881"],"port":6881,"peer_id":"2d436e303130302d636f6e666f726d616e636530","wanted":50,"left":null}"#,
);

/// The id of the only `sync`.
const SYNC: u64 = 3;

/// A `progress` for the torrent of [`WATCH`].
fn progress(wanted: usize, left: Option<u64>) -> String {
    Told::Progress { torrent: 7, wanted, left, uploaded: 1 << 40, downloaded: 5, now: 1.5 }.line()
}

impl<'a> Talk<'a> {
    /// Starts the program and exchanges hellos.
    async fn start(program: &Program, means: &'a Means, options: &'a Options) -> Result<Self, String> {
        let (child, Pipes { stdin, stdout, stderr }) = program.start()?;
        let stdout = Lines::new(stdout, means.clock.clone());
        let stderr = Lines::new(stderr, means.clock.clone());
        let (bad, complaint) = (None, String::new());
        let (messages, peers, synced, ended) = (0, 0, false, false);
        let stdin = Some(stdin);
        let mut talk =
            Self { child, stdin, stdout, stderr, means, options, messages, peers, synced, bad, complaint, ended };
        let hello = Told::Hello { version: VERSION, engine: &means.user_agent, seed: 1, now: 0.0 };
        if let Some(stdin) = &mut talk.stdin {
            let _ = timeout(HELLO_WITHIN, stdin.write_all(hello.line().as_bytes())).await;
        }
        match timeout(HELLO_WITHIN, talk.stdout.next()).await {
            Err(_) => Err(talk.explain("it says no hello within 10 s")),
            Ok(None) => {
                talk.listen().await;
                Err(talk.explain("it ended before its hello"))
            }
            Ok(Some(line)) => match read(line, means) {
                Ok(Said::Hello { version: VERSION, .. }) => Ok(talk),
                Ok(Said::Hello { version, .. }) => {
                    Err(format!("it speaks version {version} of the protocol, not {VERSION}"))
                }
                Ok(_) => Err("its first line is no hello".into()),
                Err(what) => Err(format!("its first line is no hello: {what}")),
            },
        }
    }

    async fn messages(mut self) -> Verdict {
        let fates = [PeerFate::Refused, PeerFate::Connected, PeerFate::Handshaken, PeerFate::Gave(9), PeerFate::Banned];
        let outcome = |fate| Outcome::new(&PeerOutcome { addr: ([192, 0, 2, 1], 6881).into(), fate });
        let peers = fates.into_iter().filter_map(outcome).collect();
        self.tell(WATCH).await?;
        self.tell(&Told::Outcomes { torrent: 7, peers }.line()).await?;
        self.tell(&Told::NetworkChanged { torrent: 7 }.line()).await?;
        self.tell(&Told::Trackers { torrent: 7, trackers: &["udp://another.invalid:1".into()] }.line()).await?;
        self.tell(&progress(1, Some(0))).await?;
        self.tell(&Told::Completed { torrent: 7 }.line()).await?;
        self.tell(&Told::Unwatch { torrent: 7 }.line()).await?;
        self.lives()?;
        Ok(format!("{}, {}", counted(self.messages, "message"), counted(self.peers, "peer")))
    }

    async fn rests(mut self) -> Verdict {
        self.tell(WATCH).await?;
        self.tell(&progress(0, Some(9))).await?;
        let before = self.peers;
        self.tell(&progress(0, Some(8))).await?;
        if self.peers > before {
            return Err(format!("it found {} that nobody wanted", counted(self.peers - before, "peer")));
        }
        self.tell(&progress(50, Some(8))).await?;
        self.lives()?;
        Ok(format!("{} before, {} after", counted(before, "peer"), self.peers - before))
    }

    async fn strange(mut self) -> Verdict {
        self.tell(r#"{"type":"of tomorrow","torrent":7,"wanted":{"many":[1,2.5e300,null]}}"#).await?;
        self.tell(&WATCH.replace(r#""private":false"#, r#""private":false,"colour":["red"]"#)).await?;
        self.tell(&progress(usize::MAX, Some(u64::MAX))).await?;
        // Not to know this one is no fault.
        self.tell(&Told::Sync { id: SYNC, now: 1.5 }.line()).await?;
        self.lives()?;
        let synced = if self.synced { "answers `sync`" } else { "no answer to `sync`, which only a simulation needs" };
        Ok(format!("an unknown message and an unknown field; {synced}"))
    }

    /// It ends after `stop`, or because its stdin was closed.
    async fn stops(mut self, asked: bool) -> Verdict {
        self.tell(WATCH).await?;
        self.lives()?;
        let within = self.options.within;
        if asked {
            // The kit keeps stdin open: `stop` alone must do.
            let stop = Told::Stop { within: within.as_secs_f64() }.line();
            let _ = timeout(within, self.stdin.as_mut().expect("open until now").write_all(stop.as_bytes())).await;
        } else {
            self.stdin = None;
        }
        let drain = async {
            tokio::join!(async { while self.stdout.next().await.is_some() {} }, async {
                while self.stderr.next().await.is_some() {}
            });
            std::future::pending::<()>().await;
        };
        let ended = tokio::select! {
            biased;
            ended = timeout(within, self.child.ended()) => ended,
            () = drain => unreachable!("it waits for ever"),
        };
        ended.map_err(|_| format!("it still runs {} s later", within.as_secs_f64()))
    }

    /// Says a line, and listens for a while.
    async fn tell(&mut self, line: &str) -> Result<(), String> {
        let line = format!("{}\n", line.trim_end());
        let mut stdin = self.stdin.take();
        let written = async {
            match &mut stdin {
                Some(stdin) => timeout(self.options.settle, stdin.write_all(line.as_bytes())).await.is_ok(),
                None => false,
            }
        };
        let written = written.await;
        self.stdin = stdin;
        self.listen().await;
        if written { Ok(()) } else { Err(self.explain("it does not read its stdin")) }
    }

    /// Listens for a while, or until it ends.
    async fn listen(&mut self) {
        let until = Instant::now() + self.options.settle;
        let (mut out, mut err) = (true, true);
        while out || err {
            tokio::select! {
                biased;
                line = self.stderr.next(), if err => match line {
                    Some(line) => self.complaint = line.map(|line| plain(&line)).unwrap_or_default(),
                    None => err = false,
                },
                line = self.stdout.next(), if out => match line {
                    Some(line) => self.hear(line),
                    None => (out, self.ended) = (false, true),
                },
                () = sleep_until(until) => return,
            }
        }
    }

    fn hear(&mut self, line: Line) {
        self.messages += 1;
        let complaint = match read(line, self.means) {
            Ok(Said::Finds(_, finds)) => finds.into_iter().find_map(|find| match find {
                Ok(Found::Peers(peers)) => {
                    self.peers += peers.len();
                    None
                }
                Err(Complaint::Wrong(what)) => Some(what),
                _ => None,
            }),
            Ok(said) => {
                self.synced |= matches!(said, Said::Synced(SYNC, _));
                None
            }
            Err(what) => Some(what),
        };
        self.bad = self.bad.take().or(complaint);
    }

    /// It is still there, and all it said was well said.
    fn lives(&self) -> Result<(), String> {
        match &self.bad {
            _ if self.ended => Err(self.explain("it ended, or closed its stdout")),
            Some(bad) => Err(self.explain(bad)),
            None => Ok(()),
        }
    }

    /// With the last words on stderr.
    fn explain(&self, what: &str) -> String {
        if self.complaint.is_empty() { what.to_owned() } else { format!("{what}: {}", self.complaint) }
    }
}

fn read(line: Line, means: &Means) -> Result<Said, String> {
    let line = line.map_err(|_| "a line of more than 64 KiB".to_owned())?;
    lines::read(&line, &"it".into(), means.clock.now())
}
