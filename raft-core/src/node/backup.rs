//! Backups of a running group, and the end of a restore.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use super::Node;
use crate::apply::Applier;
use crate::backup::{self, BackupInfo, PendingRestore};
use crate::error::{BackupError, ProposeError, StartError};
use crate::machine::StateMachine;

/// One try of a restored node to have its first command applied.
const FIRST_COMMAND_TIMEOUT: Duration = Duration::from_secs(2);
const FIRST_COMMAND_PAUSE: Duration = Duration::from_millis(50);

impl<M: StateMachine> Node<M> {
    /// Writes a backup of the whole group to `out`: the state at one point of the log, with everything
    /// in it that was acknowledged anywhere before this call. Works on any node; the group goes on
    /// meanwhile. `out` is written on a thread of its own, and as slowly as it takes it; flushed, not
    /// synced. `taken_unix_ms` is kept in the file for people.
    ///
    /// # Errors
    /// [`BackupError::Read`] when that point cannot be confirmed before the deadline;
    /// [`BackupError::Io`] when the state cannot be written, and then what was written is no backup.
    /// The deadline does not bound the writing.
    ///
    /// # Cancellation
    /// A dropped call goes on writing until `out` fails or everything is written.
    pub async fn backup(
        &self,
        out: impl Write + Send + 'static,
        taken_unix_ms: u64,
        deadline: Instant,
    ) -> Result<BackupInfo, BackupError> {
        self.read_barrier(deadline).await?;
        let frozen = self.raft.with_state_machine(|applier: &mut Applier<M>| {
            let frozen = applier.freeze();
            Box::pin(async move { frozen })
        });
        let (state, meta) = frozen
            .await
            .map_err(|fatal| BackupError::Stopped(fatal.to_string()))?;
        let members = meta.last_membership.membership().nodes();
        let info = BackupInfo {
            cluster: self.identity.cluster,
            node: self.identity.node,
            term: meta.last_log_id.map_or(0, |last| last.leader_id.term),
            index: meta.last_log_id.map_or(0, |last| last.index),
            members: members
                .map(|(node, member)| (*node, member.clone()))
                .collect(),
            taken_unix_ms,
        };
        let written = tokio::task::spawn_blocking(move || {
            backup::write(out, &info, state)?;
            Ok::<_, io::Error>(info)
        });
        let info = written.await.map_err(io::Error::other)??;
        tracing::info!(index = info.index, "backup written");
        Ok(info)
    }

    /// Proposes what the plan says until it is applied, and only then forgets the plan.
    pub(super) async fn finish_restore(&self, pending: PendingRestore) -> Result<(), StartError> {
        let cluster = pending.cluster();
        if let Some(bytes) = pending.first_command() {
            let command = postcard::from_bytes(bytes).map_err(|error| {
                StartError::Configuration(format!(
                    "the restore's command cannot be read by this build ({error}); start the \
                     build that restored"
                ))
            })?;
            loop {
                let deadline = Instant::now() + FIRST_COMMAND_TIMEOUT;
                let failure = match self.propose(&command, deadline).await {
                    Ok(_) => break,
                    Err(
                        error @ (ProposeError::NotProposed
                        | ProposeError::Unknown
                        | ProposeError::Overloaded),
                    ) => error,
                    Err(error) => return Err(StartError::Raft(error.to_string())),
                };
                if let Some(failed) = self.status().failure {
                    return Err(StartError::Raft(failed));
                }
                tracing::info!(%failure, "the restore goes on");
                tokio::time::sleep(FIRST_COMMAND_PAUSE).await;
            }
        }
        tokio::task::spawn_blocking(move || pending.done())
            .await
            .map_err(|error| StartError::Raft(error.to_string()))??;
        tracing::info!(%cluster, "restored from a backup, as a new cluster");
        Ok(())
    }
}
