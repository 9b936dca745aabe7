//! The preload library: libc's names for what changes or syncs files, each of which asks
//! `power_cut::shim` before it makes the system call. Nothing is decided here.
//!
//! Only what can change *durable bytes in place*, *sync* or *need space* is interposed. Creations,
//! renames, links and unlinks need not be seen: the cut undoes whatever no sync vouches for.

#![allow(unsafe_code, reason = "it replaces C functions")]
#![allow(
    clippy::missing_safety_doc,
    reason = "each is as safe as the C function of its name"
)]

use libc::{c_char, c_int, c_uint, c_void, iovec, off_t, size_t, ssize_t};
use power_cut::shim::{Span, changing, load, rearranging, reserving, syncing, truncating_path};
use power_cut::sys;

/// The loader calls what is listed in this section before the program starts.
#[used]
#[unsafe(link_section = ".init_array")]
static AT_LOAD: extern "C" fn() = at_load;

extern "C" fn at_load() {
    load();
}

// --- opening, which may truncate ---

// In C these are variadic: `mode` is there only if a file may be created. Both ABIs pass it in the
// register in which a third (fourth) fixed argument would be, so it is read only when it is there.

unsafe fn open_any(directory: c_int, path: *const c_char, flags: c_int, mode: c_uint) -> c_int {
    let creates = flags & libc::O_CREAT != 0 || flags & libc::O_TMPFILE == libc::O_TMPFILE;
    let mode = if creates { mode } else { 0 };
    // SAFETY: the caller's arguments, unchanged.
    let open = || unsafe { sys::openat(directory, path, flags, mode) };
    if flags & libc::O_TRUNC == 0 {
        return open();
    }
    // SAFETY: as above.
    unsafe { truncating_path(directory, path, 0, open) }
}

/// Defines names for opening, all with the same meaning: on 64 bits a file is always "large".
macro_rules! opens {
    ($($name:ident($($argument:ident: $type:ty),*) = $directory:expr, $path:expr, $flags:expr, $mode:expr;)*) => {$(
        /// As the C function of this name.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($argument: $type),*) -> c_int {
            // SAFETY: the caller's arguments, unchanged.
            unsafe { open_any($directory, $path, $flags, $mode) }
        }
    )*};
}

opens! {
    open(path: *const c_char, flags: c_int, mode: c_uint) = libc::AT_FDCWD, path, flags, mode;
    open64(path: *const c_char, flags: c_int, mode: c_uint) = libc::AT_FDCWD, path, flags, mode;
    openat(directory: c_int, path: *const c_char, flags: c_int, mode: c_uint) = directory, path, flags, mode;
    openat64(directory: c_int, path: *const c_char, flags: c_int, mode: c_uint) = directory, path, flags, mode;
    creat(path: *const c_char, mode: c_uint) = libc::AT_FDCWD, path, CREAT, mode;
    creat64(path: *const c_char, mode: c_uint) = libc::AT_FDCWD, path, CREAT, mode;
    __open_2(path: *const c_char, flags: c_int) = libc::AT_FDCWD, path, flags, 0;
    __open64_2(path: *const c_char, flags: c_int) = libc::AT_FDCWD, path, flags, 0;
    __openat_2(directory: c_int, path: *const c_char, flags: c_int) = directory, path, flags, 0;
    __openat64_2(directory: c_int, path: *const c_char, flags: c_int) = directory, path, flags, 0;
}

const CREAT: c_int = libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC;

// --- changing bytes ---

/// The sum of some buffers' lengths.
unsafe fn total(vectors: *const iovec, count: c_int) -> u64 {
    if vectors.is_null() {
        return 0;
    }
    let count = usize::try_from(count).unwrap_or(0);
    // SAFETY: the caller promises so many vectors there, as the system call itself needs.
    let vectors = unsafe { std::slice::from_raw_parts(vectors, count) };
    vectors
        .iter()
        .fold(0, |sum, vector| sum.saturating_add(vector.iov_len as u64))
}

/// The span of a call that writes at an offset.
fn at(offset: off_t, count: u64) -> Span {
    // The call refuses a negative offset, but for `pwritev2`'s -1, which means the cursor.
    u64::try_from(offset).map_or(Span::Here(count), |offset| Span::At(offset, count))
}

/// Defines functions that change `$span` of the file `$fd` by the system call `$call`.
macro_rules! changes {
    ($($name:ident($($argument:ident: $type:ty),*) -> $result:ty = $call:ident, $fd:expr, $span:expr;)*) => {$(
        /// As the C function of this name.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($argument: $type),*) -> $result {
            // SAFETY: the caller's arguments, unchanged.
            unsafe { changing($fd, $span, || sys::$call($($argument),*)) }
        }
    )*};
}

changes! {
    write(fd: c_int, buffer: *const c_void, count: size_t) -> ssize_t
        = write, fd, Span::Here(count as u64);
    pwrite(fd: c_int, buffer: *const c_void, count: size_t, offset: off_t) -> ssize_t
        = pwrite, fd, at(offset, count as u64);
    pwrite64(fd: c_int, buffer: *const c_void, count: size_t, offset: off_t) -> ssize_t
        = pwrite, fd, at(offset, count as u64);
    writev(fd: c_int, vectors: *const iovec, count: c_int) -> ssize_t
        = writev, fd, Span::Here(total(vectors, count));
    pwritev(fd: c_int, vectors: *const iovec, count: c_int, offset: off_t) -> ssize_t
        = pwritev, fd, at(offset, total(vectors, count));
    pwritev64(fd: c_int, vectors: *const iovec, count: c_int, offset: off_t) -> ssize_t
        = pwritev, fd, at(offset, total(vectors, count));
    pwritev2(fd: c_int, vectors: *const iovec, count: c_int, offset: off_t, flags: c_int) -> ssize_t
        = pwritev2, fd, at(offset, total(vectors, count));
    pwritev64v2(fd: c_int, vectors: *const iovec, count: c_int, offset: off_t, flags: c_int) -> ssize_t
        = pwritev2, fd, at(offset, total(vectors, count));
    sendfile(to: c_int, from: c_int, offset: *mut off_t, count: size_t) -> ssize_t
        = sendfile, to, Span::Here(count as u64);
    sendfile64(to: c_int, from: c_int, offset: *mut off_t, count: size_t) -> ssize_t
        = sendfile, to, Span::Here(count as u64);
    ftruncate(fd: c_int, length: off_t) -> c_int = ftruncate, fd, at_end(length);
    ftruncate64(fd: c_int, length: off_t) -> c_int = ftruncate, fd, at_end(length);
}

/// All from a length, which the call refuses if it is negative.
fn at_end(length: off_t) -> Span {
    u64::try_from(length).map_or(Span::Here(0), Span::From)
}

/// As `copy_file_range(2)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn copy_file_range(
    from: c_int,
    from_offset: *mut i64,
    to: c_int,
    to_offset: *mut i64,
    count: size_t,
    flags: c_uint,
) -> ssize_t {
    let span = if to_offset.is_null() {
        Span::Here(count as u64)
    } else {
        // SAFETY: the caller promises an offset there, as the system call itself needs.
        at(unsafe { *to_offset }, count as u64)
    };
    // SAFETY: the caller's arguments, unchanged.
    changing(to, span, || unsafe {
        sys::copy_file_range(from, from_offset, to, to_offset, count, flags)
    })
}

unsafe fn truncate_any(path: *const c_char, length: off_t) -> c_int {
    let from = u64::try_from(length).unwrap_or(u64::MAX);
    // SAFETY: the caller's arguments, unchanged.
    unsafe { truncating_path(libc::AT_FDCWD, path, from, || sys::truncate(path, length)) }
}

/// As `truncate(2)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn truncate(path: *const c_char, length: off_t) -> c_int {
    // SAFETY: the caller's arguments, unchanged.
    unsafe { truncate_any(path, length) }
}

/// As `truncate(2)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn truncate64(path: *const c_char, length: off_t) -> c_int {
    // SAFETY: the caller's arguments, unchanged.
    unsafe { truncate_any(path, length) }
}

unsafe fn fallocate_any(fd: c_int, mode: c_int, offset: off_t, length: off_t) -> c_int {
    // SAFETY: the caller's arguments, unchanged.
    let call = || unsafe { sys::fallocate(fd, mode, offset, length) };
    if mode & (libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_ZERO_RANGE) != 0 {
        changing(fd, at(offset, u64::try_from(length).unwrap_or(0)), call)
    } else if mode & !(libc::FALLOC_FL_KEEP_SIZE | libc::FALLOC_FL_UNSHARE_RANGE) != 0 {
        rearranging(fd, call)
    } else {
        reserving(fd, call)
    }
}

/// As `fallocate(2)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fallocate(fd: c_int, mode: c_int, offset: off_t, length: off_t) -> c_int {
    // SAFETY: the caller's arguments, unchanged.
    unsafe { fallocate_any(fd, mode, offset, length) }
}

/// As `fallocate(2)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fallocate64(
    fd: c_int,
    mode: c_int,
    offset: off_t,
    length: off_t,
) -> c_int {
    // SAFETY: the caller's arguments, unchanged.
    unsafe { fallocate_any(fd, mode, offset, length) }
}

// --- syncing ---

/// As `fsync(2)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fsync(fd: c_int) -> c_int {
    // SAFETY: takes no pointer.
    syncing(fd, || unsafe { sys::fsync(fd) })
}

/// As `fdatasync(2)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fdatasync(fd: c_int) -> c_int {
    // SAFETY: takes no pointer.
    syncing(fd, || unsafe { sys::fdatasync(fd) })
}
