//! Ctrl-C and SIGTERM: the first asks for an orderly end, the second ends the program at once.

use tokio::sync::watch;

/// The exit code after an interruption.
pub(crate) const INTERRUPTED: u8 = 130;

/// Whether the user wants the program to end.
#[derive(Debug, Clone)]
pub(crate) struct Interrupt(watch::Receiver<bool>);

impl Interrupt {
    /// Listens from now on, on a thread of its own: whatever else the program is busy with, it can be ended.
    pub(crate) fn listen() -> std::io::Result<Self> {
        let (asked, receiver) = watch::channel(false);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        let mut signals = {
            let _context = runtime.enter();
            Signals::new()?
        };
        std::thread::Builder::new().name("signals".into()).spawn(move || {
            runtime.block_on(async move {
                signals.next().await;
                let _ = asked.send(true);
                signals.next().await;
                std::process::exit(INTERRUPTED.into());
            });
        })?;
        Ok(Self(receiver))
    }

    /// Has the user asked for the end?
    pub(crate) fn happened(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits until the user asks for the end.
    pub(crate) async fn wait(&mut self) {
        if self.0.wait_for(|asked| *asked).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(unix)]
struct Signals([tokio::signal::unix::Signal; 2]);

#[cfg(unix)]
impl Signals {
    fn new() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self([signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?]))
    }
    async fn next(&mut self) {
        let Self([interrupt, terminate]) = self;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self)
    }
    async fn next(&mut self) {
        let _ = tokio::signal::ctrl_c().await;
    }
}
