//! How long the daemon waits for a client that does not read its answer.
//!
//! hyper bounds how long a request may take to come, not how long an answer may take to go. A
//! client that asks for a large answer and does not read it would hold that, and one of the
//! connections, for ever. From the first write that has to wait until the answer has gone there
//! are [`ANSWER_TIMEOUT`]; a client that reads a byte now and then gains nothing by that.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// How long a client may take to read an answer that does not fit into the socket's buffer.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// A stream whose writes fail when they do not get through in time.
#[derive(Debug)]
pub(super) struct Patience<S> {
    stream: S,
    /// Runs out when the answer under way has taken too long; none while nothing waits.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl<S> Patience<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream, deadline: None }
    }

    fn waited<T>(&mut self, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        let deadline = self.deadline.get_or_insert_with(|| Box::pin(sleep(ANSWER_TIMEOUT)));
        ready!(deadline.as_mut().poll(context));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not read its answer")))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patience<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.stream).poll_write(context, bytes) {
            Poll::Pending => self.waited(context),
            written => written,
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.stream).poll_write_vectored(context, parts) {
            Poll::Pending => self.waited(context),
            written => written,
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// Flushed is what hyper asks for once it has nothing more to write: the answer has gone.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.stream).poll_flush(context) {
            Poll::Pending => self.waited(context),
            flushed => {
                self.deadline = None;
                flushed
            }
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patience<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_reads_too_slowly_is_given_up_and_who_reads_is_not() {
        let (client, mut server) = duplex(16);
        let mut stream = Patience::new(client);
        let reader = tokio::spawn(async move {
            for _ in 0..100 {
                server.read_u8().await.expect("a byte");
            }
            // One byte now and then.
            while server.read_u8().await.is_ok() {
                sleep(ANSWER_TIMEOUT / 10).await;
            }
        });
        for _ in 0..10 {
            stream.write_all(&[0; 10]).await.expect("is read");
            stream.flush().await.expect("is read");
            // Waiting between answers is nobody's fault.
            sleep(ANSWER_TIMEOUT).await;
        }
        let began = Instant::now();
        let error = stream.write_all(&[0; 1000]).await.expect_err("given up");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(began.elapsed() >= ANSWER_TIMEOUT && began.elapsed() < ANSWER_TIMEOUT * 2);
        reader.abort();
    }
}
