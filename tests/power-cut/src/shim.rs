//! What happens inside the program under test, each time it changes or syncs a file.
//!
//! The exported functions (`shim/lib.rs`) only translate arguments; the decisions are here. Nothing
//! here returns an error to the program that the system call did not return, other than the failing
//! syncs and the full disk that were asked for, and nothing here panics into it: when the model cannot go on it gives
//! up, which means that a line goes to stderr, a record says why, [`Cut::apply`](crate::Cut::apply)
//! refuses, and no further sync counts.
//!
//! # Order
//!
//! A change holds the state's lock shared from before it looks at what is durable until the system
//! call is done; a sync takes it alone for the moment in which it notes the length. So every change is
//! either done before a sync begins, or records what it is about to overwrite after it.

mod process;
mod sync;

use crate::sys;
use process::Shim;
use std::cell::Cell;
use std::ffi::CStr;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;
use sync::Syncing;

/// Which bytes of a file a call is about to change.
#[derive(Debug, Clone, Copy)]
pub enum Span {
    /// So many from where the descriptor stands.
    Here(u64),
    /// So many from an offset.
    At(u64, u64),
    /// All from an offset.
    From(u64),
}

/// Attaches to the journal if the environment says so. Called when the library is loaded, so that the
/// journal knows even of a program that changes nothing.
pub fn load() {
    drop(Visit::begin());
}

/// Runs a call that changes `span` of an open file, after keeping what is durable there. Instead of it
/// fails, if the disk is full and the file would grow.
pub fn changing<R: From<i8>>(descriptor: RawFd, span: Span, call: impl FnOnce() -> R) -> R {
    let Some(visit) = Visit::begin() else {
        return call();
    };
    if visit.attempt(|shim| shim.has_no_space_for(descriptor, span)) == Some(true) {
        return no_space();
    }
    let changing = visit
        .attempt(|shim| shim.before_change(descriptor, span))
        .flatten();
    visit.during(call, || drop(changing))
}

/// Runs a call that reserves space for an open file and changes nothing in it, unless the disk is full.
pub fn reserving<R: From<i8>>(descriptor: RawFd, call: impl FnOnce() -> R) -> R {
    let Some(visit) = Visit::begin() else {
        return call();
    };
    if visit.attempt(|shim| shim.is_full_at(descriptor)) == Some(true) {
        return no_space();
    }
    visit.during(call, || ())
}

fn no_space<R: From<i8>>() -> R {
    sys::set_errno(libc::ENOSPC);
    R::from(-1)
}

/// As [`changing`], for a call that truncates the file at a path to `length_bytes` if it is there.
///
/// # Safety
/// `path` is null or a NUL-terminated string, as the call itself asks for.
#[allow(unsafe_code, reason = "the path comes from C")]
pub unsafe fn truncating_path<R>(
    directory: RawFd,
    path: *const libc::c_char,
    length_bytes: u64,
    call: impl FnOnce() -> R,
) -> R {
    if path.is_null() {
        return call(); // which refuses it
    }
    // SAFETY: the caller's promise; the null pointer is excluded.
    let path = unsafe { CStr::from_ptr(path) };
    let Some(visit) = Visit::begin() else {
        return call();
    };
    let changing = visit.attempt(|shim| {
        let file = shim.open_below(directory, path)?;
        shim.before_change(file.as_raw_fd(), Span::From(length_bytes))
    });
    visit.during(call, || drop(changing))
}

/// Runs a call that moves the content of an open file about, which is not modelled.
pub fn rearranging<R>(descriptor: RawFd, call: impl FnOnce() -> R) -> R {
    let Some(visit) = Visit::begin() else {
        return call();
    };
    visit.attempt(|shim| {
        if shim.is_durable(descriptor) {
            shim.give_up("the program collapsed or inserted a range of a durable file");
        }
    });
    visit.during(call, || ())
}

/// Runs an `fsync` or `fdatasync`, or what was asked for in its place.
pub fn syncing(descriptor: RawFd, call: impl FnOnce() -> libc::c_int) -> libc::c_int {
    let Some(visit) = Visit::begin() else {
        return call();
    };
    match visit
        .attempt(|shim| shim.begin_sync(descriptor))
        .unwrap_or(Syncing::NotOurs)
    {
        Syncing::NotOurs => visit.during(call, || ()),
        Syncing::Instead(0) => 0,
        Syncing::Instead(errno) => {
            sys::set_errno(errno);
            -1
        }
        Syncing::Begun(begun) => {
            let result = call();
            let errno = sys::errno();
            visit.attempt(|shim| shim.end_sync(begun, result, errno));
            sys::set_errno(errno);
            result
        }
    }
}

thread_local! {
    /// Whether this thread is inside of the shim: what it calls from there goes straight through.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// One stay of a thread inside of the shim.
struct Visit {
    shim: &'static Shim,
    errno: libc::c_int,
}

impl Visit {
    /// None if the thread is inside already, or the shim is off in this process.
    fn begin() -> Option<Visit> {
        static SHIM: OnceLock<Option<Shim>> = OnceLock::new();
        if INSIDE.replace(true) {
            return None;
        }
        let errno = sys::errno();
        let shim = SHIM.get_or_init(|| catch_unwind(Shim::from_environment).unwrap_or(None));
        sys::set_errno(errno);
        match shim {
            Some(shim) => Some(Visit { shim, errno }),
            None => {
                INSIDE.set(false);
                None
            }
        }
    }

    /// Does the model's work, which never reaches the program as a panic.
    fn attempt<T>(&self, work: impl FnOnce(&'static Shim) -> T) -> Option<T> {
        let result = catch_unwind(AssertUnwindSafe(|| work(self.shim)));
        if result.is_err() {
            self.shim.give_up("the shim panicked");
        }
        result.ok()
    }

    /// Makes the program's call, then `after`, with `errno` as the call left it.
    fn during<R>(&self, call: impl FnOnce() -> R, after: impl FnOnce()) -> R {
        sys::set_errno(self.errno);
        let result = call();
        let errno = sys::errno();
        after();
        sys::set_errno(errno);
        result
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        INSIDE.set(false);
    }
}

/// Says something to whoever watches the program. Best effort: the journal says it too.
fn complain(words: &str) {
    // Nobody is left to tell if stderr is closed.
    let _ = writeln!(io::stderr(), "power-cut: {words}");
}
