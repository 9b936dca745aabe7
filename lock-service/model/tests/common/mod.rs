//! What the script and the property tests share: checking what must hold after every entry.

use lock_model::{LockTable, invariants};

/// The bytes of a snapshot.
pub fn encode(table: &LockTable) -> Vec<u8> {
    let mut bytes = Vec::new();
    table
        .freeze()
        .write(&mut bytes)
        .expect("a Vec takes all that is written");
    bytes
}

/// Every promise is kept.
pub fn check_invariants(table: &LockTable) -> Result<(), String> {
    let violations = invariants::check(table);
    if violations.is_empty() {
        return Ok(());
    }
    let lines: Vec<String> = violations.iter().map(ToString::to_string).collect();
    Err(lines.join("\n"))
}

/// The state that comes back from its own snapshot, which has the same bytes again.
pub fn through_a_snapshot(table: &LockTable) -> Result<LockTable, String> {
    let bytes = encode(table);
    let mut rest = bytes.as_slice();
    let back = LockTable::read(&mut rest).map_err(|error| error.to_string())?;
    if !rest.is_empty() {
        return Err(format!(
            "{} bytes of the snapshot were not read",
            rest.len()
        ));
    }
    if encode(&back) != bytes {
        return Err("the snapshot of a restored state has other bytes".to_owned());
    }
    Ok(back)
}
