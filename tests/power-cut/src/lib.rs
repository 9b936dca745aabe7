//! Loses the page cache on purpose.
//!
//! `kill -9` ends a process but loses nothing that it wrote: the kernel still holds it. Only a power
//! cut does that, and so only a power cut shows whether a program synced what it acknowledged. This
//! crate stages one. A preload library (`shim/lib.rs`, `LD_PRELOAD`) runs inside the program under
//! test and records in a journal what each `fsync` and `fdatasync` made durable. After the process
//! was killed, [`Cut::apply`] rewrites the directory to what the journal vouches for.
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use power_cut::Cut;
//! use std::process::Command;
//!
//! let cut = Cut::begin("/tmp/run/data", "/tmp/run/journal")?;
//! let mut command = Command::new("palisaded");
//! cut.env_for(&mut command)?;
//! let mut child = command.spawn()?;
//! // ... have it acknowledge something ...
//! child.kill()?; // SIGKILL
//! child.wait()?;
//! println!("{}", cut.apply()?); // and start it again on what is left
//! # Ok(())
//! # }
//! ```
//!
//! # What survives a cut
//!
//! The least that POSIX promises, with nothing that merely tends to survive:
//!
//! * Everything that was there at [`Cut::begin`], or after the last [`Cut::apply`].
//! * Of a file: its length and content when its last successful `fsync` or `fdatasync` **began**.
//!   What was appended since is cut off; what was overwritten in place, truncated, zeroed or punched
//!   out since is put back. A file that was never synced is empty.
//! * Of a directory: its entries when its last successful `fsync` began. What was created since is
//!   gone (even if the file itself was synced), what was renamed since has its old name, what was
//!   unlinked since is back. A directory that was never synced is empty. The top directory itself
//!   always survives.
//! * After an `fsync` that failed with `EIO`, `ENOSPC` or `EDQUOT`, no later one of that file counts,
//!   although it returns 0: the kernel marks the pages clean and forgets them.
//!
//! Never taken for durable: `sync_file_range`, `sync`, `syncfs`, `msync`, `O_SYNC`, `O_DSYNC`, and
//! `RWF_DSYNC`. Programs that rely on those look worse here than they are.
//!
//! # A full disk
//!
//! While [`Cut::set_full`] says so, calls of libc's write family that would make a file under the
//! directory longer, and reservations of space for one, fail with `ENOSPC` and change nothing. What
//! lies within a file's length has its space and can be overwritten. Names can be made, as a disk
//! runs out of blocks long before it runs out of room in its directories.
//!
//! # What this does not model
//!
//! * **Most outcomes in between.** A real cut may keep any part of what was not synced: a torn tail
//!   (which [`Cut::apply_torn`] models), one of two overwritten pages, an unlink without the rename
//!   before it. [`Cut::apply`] keeps none of it. The other end, all of it, is what plain `kill -9`
//!   tests.
//! * **Stores that do not pass through libc's write family.** Changes of *durable* bytes through
//!   `mmap`, `io_uring`, stdio (`fwrite`) or direct system calls (rustix's `linux_raw` backend, Go,
//!   static programs) are not seen and so not undone. Appends by those means are cut off as any
//!   others are, and namespace changes by any means are undone: neither needs to be seen.
//! * **Syncs that do not pass through libc** are not seen either, and so do not count.
//! * Collapsing or inserting ranges of a durable file (`fallocate`) ends the model: `apply` refuses.
//! * Owners, extended attributes, times and modes of files (modes of directories are kept); hard
//!   links count as one file; sockets, pipes and devices in the directory vanish.
//! * One process at a time may change one file. Several processes may share a journal if they keep to
//!   different files and directories. A child process is followed if it inherits the environment.
//! * On btrfs RocksDB leaves out directory syncs that btrfs does not need; this model needs them.
//!
//! Tests find the library that was built last: `cargo test -p power-cut` and
//! `cargo build --all-targets` build it, while `cargo test -p power-cut --test cuts`, or a test of
//! another package, takes it as it is.
//!
//! The journal and the directory must be on one file system: what is durable is kept alive by hard
//! links beside the journal (`<journal>.keep`). Linux with glibc on x86-64 or aarch64 only. The
//! interposed functions make the system call themselves, so a preload library listed after this one
//! does not see them, and they are not cancellation points (`pthread_cancel`).

mod cut;
mod error;
mod fsync;
mod image;
mod journal;
mod keep;
mod library;
pub mod shim;
mod survey;
pub mod sys;

pub use cut::{Cut, Tear};
pub use error::{Error, Result};
pub use fsync::Fsync;
pub use library::library;
pub use survey::{Change, Report};

/// The directory whose files lose what was not synced. Absolute.
pub const DIRECTORY_VARIABLE: &str = "POWER_CUT_DIR";
/// The journal's path, outside of the directory and on the same file system.
pub const JOURNAL_VARIABLE: &str = "POWER_CUT_JOURNAL";
/// How `fsync` and `fdatasync` behave, in the words of [`Fsync`]; absent: honestly. The file
/// `<journal>.fsync`, which [`Cut::set_fsync`] writes, goes before it.
pub const FSYNC_VARIABLE: &str = "POWER_CUT_FSYNC";
