//! The one place that sends without waiting. actix's mailbox is no bound (docs/ACTORS.md), so every use must be
//! bounded by something else: one message per reply, per tick, or per block within the memory budget.

use actix::{Message, Recipient};

/// Sends a command or an event that must not be lost while its receiver lives. A receiver that has stopped is no error:
/// its parent learns of that by `ChildStopped`.
#[allow(clippy::disallowed_methods)]
pub fn tell<M>(to: &Recipient<M>, message: M)
where
    M: Message + Send + 'static,
    M::Result: Send,
{
    to.do_send(message);
}

/// A test actor that keeps what it is sent; hand its recipient to the actor under test.
#[cfg(test)]
pub(crate) mod probe {
    use actix::prelude::*;
    use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

    struct Probe<M>(UnboundedSender<M>);
    impl<M: Unpin + 'static> Actor for Probe<M> {
        type Context = Context<Self>;
    }
    impl<M: Message<Result = ()> + Send + Unpin + 'static> Handler<M> for Probe<M> {
        type Result = ();
        fn handle(&mut self, message: M, _: &mut Context<Self>) {
            let _ = self.0.send(message);
        }
    }
    /// A recipient of `M` and what it received.
    pub(crate) fn probe<M: Message<Result = ()> + Send + Unpin + 'static>() -> (Recipient<M>, UnboundedReceiver<M>) {
        let (sender, receiver) = unbounded_channel();
        (Probe(sender).start().recipient(), receiver)
    }
}
