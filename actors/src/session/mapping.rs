//! The session's port mapper: it is started once the session listens, made anew when it dies, and heard.

use std::time::Duration;

use actix::prelude::*;
use castanet_core::seams::discovery::News;
use castanet_protocol::portmap::Report;

use super::{FIRST_PAUSE, Session};
use crate::{
    mail::tell,
    messages::{
        discovery::Hear,
        port_mapper::{ClosePortMapper, MapAnew, PortReported},
    },
    port_mapper::{PortMapper, PortMapperMeans},
    shared::Shared,
};

/// How long the router may take to close the port at the end.
const CLOSING: Duration = Duration::from_secs(1);

/// The port mapper, while there is one.
#[derive(Debug, Default)]
pub(super) struct Mapping {
    running: Option<Addr<PortMapper>>,
    deaths: u32,
}

#[cfg(test)]
impl Mapping {
    pub(super) fn running(&self) -> Option<&Addr<PortMapper>> {
        self.running.as_ref()
    }
}

impl Session {
    /// Starts the port mapper, if the settings want one.
    pub(super) fn start_mapper(&mut self, ctx: &mut Context<Self>) {
        let Some(settings) = self.shared.config.port_mapping.clone().filter(|_| !self.closing) else { return };
        let tools = PortMapperMeans { means: self.shared.means.clone(), web: self.shared.web.clone(), settings };
        let me = ctx.address();
        self.mapping.running = Some(PortMapper::new(tools, me.clone().recipient(), me.recipient()).start());
    }

    /// It has died.
    pub(super) fn mapper_died(&mut self, ctx: &mut Context<Self>) {
        let pause = FIRST_PAUSE * 2u32.pow(self.mapping.deaths.min(8));
        tracing::warn!("the port mapper died and will be made anew");
        self.mapping.running = None;
        self.mapping.deaths += 1;
        ctx.run_later(pause, Self::start_mapper);
    }

    /// The network is another one.
    pub(super) fn map_anew(&self) {
        if let Some(mapper) = &self.mapping.running {
            tell(&mapper.clone().recipient(), MapAnew);
        }
    }

    /// Tells every plugin that runs.
    pub(super) fn tell_plugins(&self, news: &News) {
        for (_, started) in self.plugins.iter().filter_map(|hosted| hosted.running.as_ref()) {
            tell(&started.hear, Hear(news.clone()));
        }
    }

    /// Closes the port; done when it is closed or the time is up.
    pub(super) fn close_mapper(&mut self) -> impl Future<Output = ()> + 'static {
        let closing = self.mapping.running.take().map(|mapper| mapper.send(ClosePortMapper { within: CLOSING }));
        async move {
            if let Some(closing) = closing {
                let _ = closing.await;
            }
        }
    }
}

impl Handler<PortReported> for Session {
    type Result = ();
    fn handle(&mut self, PortReported(report): PortReported, _: &mut Self::Context) {
        match &report {
            Some(Report::Open(open)) => tracing::info!("{open}"),
            Some(Report::Closed(reason)) => tracing::info!("{reason}"),
            None => {}
        }
        let told = |shared: &Shared| shared.means.mapped_port().unwrap_or(shared.port());
        let before = told(&self.shared);
        if let Ok(mut mapped) = self.shared.means.mapped.write() {
            *mapped = match &report {
                Some(Report::Open(open)) => Some(open.external),
                _ => None,
            };
        }
        self.shared.port_report.send_replace(report);
        // What was announced is right in most cases: the router was asked for the very port where we listen.
        if told(&self.shared) != before && !self.closing {
            self.tell_plugins(&News::NetworkChanged);
        }
    }
}
