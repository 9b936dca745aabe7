//! `GET /v1/cluster/backup`: a backup of the whole cluster, streamed with bounded memory.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures::stream;
use lock_api::{ErrorCode, path};
use raft_core::{BackupError, BackupInfo};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::extract::Terms;
use super::openapi::{Reads, TermsParameters};
use super::{App, Reply};
use crate::clock::unix_ms;
use crate::problem::{Failure, unavailable};

/// Chunks that wait for the client; each is at most as long as the writer's buffer (64 KiB).
const CHUNKS: usize = 4;
/// A client that takes nothing for so long is given up: the frozen state costs memory.
const STALL_TIMEOUT: Duration = Duration::from_secs(60);

type Written = JoinHandle<Result<BackupInfo, BackupError>>;

/// Hands what is written to it to the response's body. For a blocking thread.
struct Chunks {
    sender: mpsc::Sender<Bytes>,
    runtime: Handle,
}

impl io::Write for Chunks {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let sent = self.sender.send(Bytes::copy_from_slice(buffer));
        match self.runtime.block_on(timeout(STALL_TIMEOUT, sent)) {
            Ok(Ok(())) => Ok(buffer.len()),
            Ok(Err(_)) => Err(io::ErrorKind::BrokenPipe.into()),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// `GET /v1/cluster/backup`. A response that breaks off is no backup: its checksum comes last.
#[utoipa::path(
    get,
    path = path::BACKUP,
    params(TermsParameters),
    responses((status = 200, description = "The backup; one that breaks off is none.", body = Vec<u8>, content_type = "application/octet-stream"), Reads),
)]
pub async fn backup(State(app): State<App>, terms: Terms) -> Reply {
    let service = app.service()?;
    let permit = service.backups().try_acquire_owned().map_err(|_| {
        unavailable(
            ErrorCode::Overloaded,
            "this node writes another backup; try again when it is done, or ask another node",
        )
    })?;
    let (sender, mut chunks) = mpsc::channel(CHUNKS);
    let out = Chunks {
        sender,
        runtime: Handle::current(),
    };
    let (node, deadline) = (service.shared_node(), terms.deadline());
    let written: Written = tokio::spawn(async move {
        let _permit = permit;
        node.backup(out, unix_ms(), deadline).await
    });
    // Until there is something to send, a failure can still be told as one.
    match chunks.recv().await {
        None => Err(failure(written).await),
        Some(first) => Ok(streamed(first, chunks, written)),
    }
}

async fn failure(written: Written) -> Failure {
    match written.await {
        Ok(Err(BackupError::Read(error))) => error.into(),
        Ok(Err(error)) => unavailable(ErrorCode::Internal, &error.to_string()),
        Ok(Ok(_)) => unavailable(ErrorCode::Internal, "an empty backup"),
        Err(error) => unavailable(ErrorCode::Internal, &error.to_string()),
    }
}

fn streamed(first: Bytes, chunks: mpsc::Receiver<Bytes>, written: Written) -> Response {
    let rest = stream::unfold((Some(first), chunks, Some(written)), next);
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream"),
        (
            header::CONTENT_DISPOSITION,
            "attachment; filename=\"palisade.backup\"",
        ),
    ];
    (headers, Body::from_stream(rest)).into_response()
}

type Streaming = (Option<Bytes>, mpsc::Receiver<Bytes>, Option<Written>);

/// The next chunk; at the end, an error when what was sent is not the whole.
async fn next(
    (first, mut chunks, mut written): Streaming,
) -> Option<(Result<Bytes, Arc<io::Error>>, Streaming)> {
    let chunk = match first {
        Some(first) => Some(first),
        None => chunks.recv().await,
    };
    if let Some(chunk) = chunk {
        return Some((Ok(chunk), (None, chunks, written)));
    }
    let why = match written.take()?.await {
        Ok(Ok(_)) => return None,
        Ok(Err(error)) => error.to_string(),
        Err(error) => error.to_string(),
    };
    tracing::warn!(why, "a backup broke off");
    Some((Err(Arc::new(io::Error::other(why))), (None, chunks, None)))
}
