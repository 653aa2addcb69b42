//! What a program said, passed on to the torrents: the same however its lines came.

use std::{mem::replace, sync::atomic::Ordering};

use super::{
    End, Shared,
    lines::{Complaint, Said, VERSION},
};

/// Bad lines that are forgiven.
const MOST_BAD_LINES: usize = 10;

/// Hears one program, from its hello on.
pub(super) struct Ear<'a> {
    shared: &'a Shared,
    greeted: bool,
    bad: usize,
}

impl<'a> Ear<'a> {
    pub(super) fn new(shared: &'a Shared) -> Self {
        Self { shared, greeted: false, bad: 0 }
    }
    /// Believes what can be believed of it. An error means that the program has to end.
    pub(super) async fn hear(&mut self, said: Result<Said, String>) -> Result<(), End> {
        if !replace(&mut self.greeted, true) {
            let overhears = greeting(said)?;
            self.shared.overhears.store(overhears, Ordering::Relaxed);
            return Ok(());
        }
        let shared = self.shared;
        match said {
            Ok(Said::Bye) => return Err(End::Bye),
            Ok(Said::Finds(torrent, finds)) => {
                for find in finds {
                    shared.find(torrent, find.map_err(|complaint| complaint.of(&shared.name))).await;
                }
            }
            Ok(Said::Hello { .. } | Said::Synced(..) | Said::Unknown) => {}
            Err(what) => {
                self.bad += 1;
                if self.bad > MOST_BAD_LINES {
                    return Err(End::Failed(format!("it prints what is no message: {what}")));
                }
                shared.find(None, Err(Complaint::Wrong(what).of(&shared.name))).await;
            }
        }
        Ok(())
    }
}

/// Its first line must be its hello. Does it overhear?
fn greeting(said: Result<Said, String>) -> Result<bool, End> {
    let failed = |text| Err(End::Failed(text));
    match said {
        Ok(Said::Hello { version: VERSION, overhears }) => Ok(overhears),
        Ok(Said::Hello { version, .. }) => {
            failed(format!("it speaks version {version} of the plugin protocol, not {VERSION}"))
        }
        Ok(Said::Bye) => Err(End::Bye),
        Ok(_) => failed("its first line is no hello".into()),
        Err(what) => failed(format!("its first line is no hello: {what}")),
    }
}
