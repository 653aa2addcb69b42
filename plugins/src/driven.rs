//! A stream made of a future that works and sends: no task is spawned, and dropping the stream drops the work.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use castanet_core::seams::discovery::{DiscoveryError, Found, FoundStream};
use futures_core::Stream;
use tokio::sync::mpsc;

/// Where the work puts what it found. When it is full the work waits, so a slow reader bounds the memory.
pub(crate) type Finds = mpsc::Sender<Result<Found, DiscoveryError>>;

/// Finds that may wait for the reader.
const QUEUE: usize = 32;

/// Runs `work` whenever the stream is polled. The stream ends when the work has ended and all finds are read.
pub(crate) fn driven<W>(work: impl FnOnce(Finds) -> W) -> FoundStream
where
    W: Future<Output = ()> + Send + 'static,
{
    let (finds, found) = mpsc::channel(QUEUE);
    Box::pin(Driven { work: Some(Box::pin(work(finds))), found })
}

struct Driven {
    work: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    found: mpsc::Receiver<Result<Found, DiscoveryError>>,
}

impl Stream for Driven {
    type Item = Result<Found, DiscoveryError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        // What is found already comes first; then the work goes on, which may find more.
        if let Poll::Ready(found @ Some(_)) = self.found.poll_recv(cx) {
            return Poll::Ready(found);
        }
        if let Some(work) = &mut self.work
            && work.as_mut().poll(cx).is_ready()
        {
            self.work = None;
        }
        self.found.poll_recv(cx)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt;

    use super::*;

    #[tokio::test]
    async fn everything_is_read_and_then_it_ends() {
        let stream = driven(async |finds| {
            for n in 0..3 * QUEUE {
                tokio::task::yield_now().await;
                finds.send(Ok(Found::Notice(n.to_string()))).await.unwrap();
            }
        });
        let notices: Vec<_> = stream.map(Result::unwrap).collect().await;
        assert_eq!(notices.len(), 3 * QUEUE);
        assert_eq!(notices.last(), Some(&Found::Notice((3 * QUEUE - 1).to_string())));
    }

    #[tokio::test]
    async fn a_reader_that_stops_stops_the_work() {
        let (alive, ended) = tokio::sync::oneshot::channel::<()>();
        let mut stream = driven(async move |finds| {
            let _alive = alive;
            finds.send(Ok(Found::Notice("first".into()))).await.unwrap();
            std::future::pending().await
        });
        assert!(stream.next().await.is_some());
        drop(stream);
        assert!(ended.await.is_err(), "the work's locals are dropped");
    }
}
