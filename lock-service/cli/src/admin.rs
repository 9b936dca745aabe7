//! `palisade force-release`: end the lease that holds a lock.

use std::process::ExitCode;

use lock_client::Client;

use crate::arguments::ForceReleaseArguments;
use crate::exit;
use crate::output::{Output, seconds};

/// Ends the lease, and says what that has freed and when.
pub(crate) async fn force_release(
    client: &Client,
    arguments: ForceReleaseArguments,
    output: Output,
) -> ExitCode {
    let ForceReleaseArguments {
        name,
        token,
        lease,
        now,
    } = arguments;
    let answer = match client.force_release(name.clone(), token, lease, now).await {
        Ok(answer) => answer,
        Err(error) if exit::of(&error) == exit::NOT_ACQUIRED => {
            let advice = format!(" Who holds it now: `palisade lock-info {name}`.");
            return exit::failed_with(&error, advice);
        }
        Err(error) => return exit::failed(&error),
    };
    output.show(&answer, |answer| {
        let mut text = match answer.was_live {
            true => format!("lease {} has ended\n", answer.lease_id),
            false => format!("lease {} had ended already\n", answer.lease_id),
        };
        let when = match answer.held_back_ms {
            0 => "free now".to_owned(),
            ms => format!("held back, for {} at most", seconds(ms)),
        };
        for hold in &answer.released {
            text.push_str(&format!("{} (token {}): {when}\n", hold.lock, hold.token));
        }
        text
    })
}
