//! `palisade locks`, `lock-info`, `leases` and `fence-check`: what the cluster holds.

use std::process::ExitCode;

use lock_api::{FenceVerdict, LeasesQuery, LockMode, LockResponse, LockView};
use lock_client::{Client, Error, LockName};

use crate::arguments::{FenceCheckArguments, LocksArguments};
use crate::exit;
use crate::output::{Output, or_dash, seconds};

/// A token that a newer one has replaced.
const SUPERSEDED: u8 = 1;
/// A token that nobody was given yet.
const UNKNOWN: u8 = 3;

/// Lists all locks below a prefix.
pub(crate) async fn locks(client: &Client, arguments: &LocksArguments, output: Output) -> ExitCode {
    let mut all = Vec::new();
    let mut cursor = None;
    loop {
        let page = match client.locks(&arguments.prefix, cursor, None).await {
            Ok(page) => page,
            Err(error) => return exit::failed(&error),
        };
        all.extend(page.locks);
        cursor = page.next_cursor;
        if cursor.is_none() {
            break;
        }
    }
    output.show(&all, |all| match all.as_slice() {
        [] => "no locks are held or waited for\n".to_owned(),
        all => {
            let rows: Vec<_> = all.iter().map(lock_row).collect();
            output.table(
                ["LOCK", "MODE", "HOLDERS", "OWNER", "TOKEN", "AGE", "QUEUE"],
                &rows,
            )
        }
    })
}

fn lock_row(view: &LockView) -> [String; 7] {
    let first = view.holders.first();
    let more = match view.holders.len() {
        0 | 1 => String::new(),
        count => format!(" +{}", count - 1),
    };
    let owner = first.map(|holder| or_dash(holder.owner.as_ref()) + &more);
    [
        view.lock.to_string(),
        mode(view),
        view.holders.len().to_string(),
        or_dash(owner),
        or_dash(first.map(|holder| holder.token)),
        or_dash(first.map(|holder| seconds(holder.age_ms))),
        view.queue.len().to_string(),
    ]
}

fn mode(view: &LockView) -> String {
    match (view.holders.first().map(|holder| &holder.mode), view.limit) {
        (Some(LockMode::Permits), Some(limit)) => {
            let taken: u32 = view
                .holders
                .iter()
                .filter_map(|holder| holder.permits)
                .sum();
            format!("permits {taken}/{limit}")
        }
        (Some(mode), _) => mode.to_string(),
        (None, _) => match &view.blocked_by {
            Some(reason) => reason.to_string(),
            None => "free".to_owned(),
        },
    }
}

/// Shows one lock.
pub(crate) async fn lock(client: &Client, name: &LockName, output: Output) -> ExitCode {
    match client.lock_view(name).await {
        Ok(view) => output.show(&view, |view| describe(view, output)),
        Err(error) => exit::failed(&error),
    }
}

fn describe(response: &LockResponse, output: Output) -> String {
    let view = &response.lock;
    let mut text = format!("lock      {}\nmode      {}\n", view.lock, mode(view));
    if let Some(obstacle) = &view.first_waits_for {
        text.push_str(&format!("waiting   {}\n", obstacle.detail));
    }
    if let Some(delay) = &view.delay {
        let left = seconds(delay.remaining_ms);
        text.push_str(&format!("delay     {} for another {left}\n", delay.reason));
    }
    if !view.holders.is_empty() {
        let rows: Vec<_> = view
            .holders
            .iter()
            .map(|holder| {
                [
                    or_dash(holder.owner.as_ref()),
                    holder.mode.to_string(),
                    holder.token.to_string(),
                    seconds(holder.age_ms),
                    seconds(holder.remaining_ms),
                    holder.lease_id.to_string(),
                    or_dash(holder.value.as_ref().map(|value| one_line(value.as_str()))),
                ]
            })
            .collect();
        let header = [
            "HOLDER",
            "MODE",
            "TOKEN",
            "AGE",
            "REMAINING",
            "LEASE",
            "VALUE",
        ];
        text.push_str(&format!("\n{}", output.table(header, &rows)));
    }
    if !view.queue.is_empty() {
        let rows: Vec<_> = view
            .queue
            .iter()
            .map(|waiter| {
                [
                    waiter.place.to_string(),
                    or_dash(waiter.owner.as_ref()),
                    waiter.mode.to_string(),
                    seconds(waiter.wait_remaining_ms),
                    waiter.lease_id.to_string(),
                ]
            })
            .collect();
        let header = ["PLACE", "WAITER", "MODE", "WAITS YET", "LEASE"];
        text.push_str(&format!("\n{}", output.table(header, &rows)));
    }
    text
}

/// A holder's value, which may have any characters, fit for a terminal.
fn one_line(text: &str) -> String {
    text.escape_debug().to_string()
}

/// Lists all leases.
pub(crate) async fn leases(client: &Client, output: Output) -> ExitCode {
    let mut all = Vec::new();
    let mut query = LeasesQuery::default();
    loop {
        let page = match client.leases(&query).await {
            Ok(page) => page,
            Err(error) => return exit::failed(&error),
        };
        all.extend(page.leases);
        query.cursor = page.next_cursor;
        if query.cursor.is_none() {
            break;
        }
    }
    output.show(&all, |all| {
        if all.is_empty() {
            return "no leases are live\n".to_owned();
        }
        let names = |locks: Vec<&LockName>| {
            let names: Vec<_> = locks.into_iter().map(LockName::as_str).collect();
            or_dash((!names.is_empty()).then(|| names.join(" ")))
        };
        let rows: Vec<_> = all
            .iter()
            .map(|lease| {
                [
                    lease.lease_id.to_string(),
                    or_dash(lease.owner.as_ref()),
                    seconds(lease.ttl_ms),
                    seconds(lease.remaining_ms),
                    names(lease.holds.iter().map(|hold| &hold.lock).collect()),
                    names(lease.waits.iter().map(|wait| &wait.lock).collect()),
                ]
            })
            .collect();
        let header = ["LEASE", "OWNER", "TTL", "REMAINING", "HOLDS", "WAITS FOR"];
        output.table(header, &rows)
    })
}

/// Checks one token.
pub(crate) async fn fence(
    client: &Client,
    arguments: &FenceCheckArguments,
    output: Output,
) -> ExitCode {
    let answer: Result<_, Error> = client.fence(&arguments.name, arguments.token).await;
    let answer = match answer {
        Ok(answer) => answer,
        Err(error) => return exit::failed(&error),
    };
    output.show(&answer, |answer| {
        let meaning = match answer.verdict {
            FenceVerdict::Current => "a hint: it was the newest a moment ago",
            FenceVerdict::Superseded => "final: it will never be current again",
            _ => "larger than any token that was issued until now",
        };
        format!("{} ({meaning})\n", answer.verdict)
    });
    ExitCode::from(match answer.verdict {
        FenceVerdict::Current => 0,
        FenceVerdict::Superseded => SUPERSEDED,
        _ => UNKNOWN,
    })
}
