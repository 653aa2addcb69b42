//! A wrapper that stays on this computer: it dials and accepts loopback addresses only.

use std::{future::ready, net::SocketAddr, sync::Arc};

use async_trait::async_trait;
use castanet::seams::transport::{Connection, DialOptions, Listener, Transport, TransportError};
use futures_util::StreamExt as _;

/// Whatever is inside, at home.
#[derive(Debug)]
pub struct AtHome(pub Arc<dyn Transport>);

#[async_trait]
impl Transport for AtHome {
    fn name(&self) -> &'static str {
        self.0.name()
    }
    fn includes(&self, name: &str) -> bool {
        self.0.includes(name)
    }
    async fn dial(&self, to: SocketAddr, options: DialOptions) -> Result<Connection, TransportError> {
        if !to.ip().is_loopback() {
            return Err(TransportError::Unsupported { transport: self.name(), to });
        }
        self.0.dial(to, options).await
    }
    async fn listen(&self, on: SocketAddr) -> Result<Listener, TransportError> {
        let Listener { local, incoming } = self.0.listen(on).await?;
        // An error is about one connection and passes; a connection from elsewhere is dropped, which closes it.
        let is_home = |found: &Result<Connection, _>| found.as_ref().map_or(true, |c| c.remote.ip().is_loopback());
        let incoming = incoming.filter(move |found| ready(is_home(found)));
        Ok(Listener { local, incoming: Box::pin(incoming) })
    }
}
