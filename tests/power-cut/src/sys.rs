//! The system calls, made directly: through libc's names they would come back to the shim.
//!
//! Thin wrappers without policy. They set `errno` as libc does.

#![allow(
    unsafe_code,
    reason = "the point of this module is to make system calls"
)]

use libc::{c_char, c_int, c_long, c_uint, c_void, iovec, off_t, size_t, ssize_t};
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The part of `struct stat` that the shim looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// The file system.
    pub device: u64,
    /// The inode number on it.
    pub inode: u64,
    /// The size in bytes.
    pub size_bytes: u64,
    /// What it is.
    pub kind: Kind,
}

/// What a descriptor refers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A socket, pipe, device, ...
    Other,
}

/// `fstat(2)`; none on an error, which is in `errno`.
pub fn fstat(fd: RawFd) -> Option<Stat> {
    let mut stat = MaybeUninit::<libc::stat>::uninit();
    // SAFETY: `stat` is large enough for a `struct stat`, which the call fills when it returns 0.
    let stat = unsafe {
        if libc::fstat(fd, stat.as_mut_ptr()) != 0 {
            return None;
        }
        stat.assume_init()
    };
    Some(Stat {
        device: stat.st_dev,
        inode: stat.st_ino,
        size_bytes: u64::try_from(stat.st_size).unwrap_or(0),
        kind: match stat.st_mode & libc::S_IFMT {
            libc::S_IFREG => Kind::File,
            libc::S_IFDIR => Kind::Directory,
            _ => Kind::Other,
        },
    })
}

/// The calling thread's `errno`.
pub fn errno() -> c_int {
    // SAFETY: glibc returns a valid pointer to the thread's own errno.
    unsafe { *libc::__errno_location() }
}

/// Sets the calling thread's `errno`.
pub fn set_errno(errno: c_int) {
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = errno }
}

/// `CLOCK_MONOTONIC`, the same in all processes.
pub(crate) fn monotonic_ns() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // Not by libc's name for it, which may be another preloaded library's: time must go on from process
    // to process whatever rate of clocks a program is told.
    // SAFETY: `time` is a valid timespec to write to. The clock always exists.
    unsafe { libc::syscall(libc::SYS_clock_gettime, libc::CLOCK_MONOTONIC, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Where the next `write` on this descriptor goes; none if it always appends, or cannot seek.
pub fn cursor(fd: RawFd) -> Option<u64> {
    // SAFETY: neither call touches memory.
    let (flags, position) = unsafe {
        (
            libc::fcntl(fd, libc::F_GETFL),
            libc::lseek(fd, 0, libc::SEEK_CUR),
        )
    };
    if flags == -1 || flags & libc::O_APPEND != 0 {
        return None;
    }
    u64::try_from(position).ok()
}

/// The same file on a large descriptor number, where there is one.
pub(crate) fn move_descriptor_up(file: File) -> File {
    const FIRST: c_int = 700;
    // SAFETY: duplicates a descriptor that `file` owns; touches no memory.
    let moved = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_DUPFD_CLOEXEC, FIRST) };
    if moved == -1 {
        return file;
    }
    // SAFETY: the descriptor is new and nobody else's.
    unsafe { File::from_raw_fd(moved) }
}

/// Makes `link` a name of the file that is open as `descriptor`.
pub(crate) fn link_open_file(descriptor: RawFd, link: &Path) -> io::Result<()> {
    let from = CString::new(format!("/proc/self/fd/{descriptor}"))?;
    let to = CString::new(link.as_os_str().as_bytes())?;
    // SAFETY: both are NUL-terminated and outlive the call.
    let result = unsafe {
        libc::linkat(
            libc::AT_FDCWD,
            from.as_ptr(),
            libc::AT_FDCWD,
            to.as_ptr(),
            libc::AT_SYMLINK_FOLLOW,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

macro_rules! system_calls {
    ($($(#[$doc:meta])* $name:ident($($argument:ident: $type:ty),*) -> $result:ty = $number:ident($($value:expr),*);)*) => {$(
        $(#[$doc])*
        ///
        /// # Safety
        /// Pointers must be what the manual page of the call asks for.
        pub unsafe fn $name($($argument: $type),*) -> $result {
            // SAFETY: the caller keeps to the call's contract, and each argument is passed as wide as
            // the kernel reads it.
            unsafe { libc::syscall(libc::$number, $($value),*) as $result }
        }
    )*};
}

system_calls! {
    /// `openat(2)`.
    openat(directory: c_int, path: *const c_char, flags: c_int, mode: c_uint) -> c_int
        = SYS_openat(directory as c_long, path, flags as c_long, mode as c_long);
    /// `write(2)`.
    write(fd: c_int, buffer: *const c_void, count: size_t) -> ssize_t
        = SYS_write(fd as c_long, buffer, count);
    /// `writev(2)`.
    writev(fd: c_int, vectors: *const iovec, count: c_int) -> ssize_t
        = SYS_writev(fd as c_long, vectors, count as c_long);
    /// `pwrite(2)`.
    pwrite(fd: c_int, buffer: *const c_void, count: size_t, offset: off_t) -> ssize_t
        = SYS_pwrite64(fd as c_long, buffer, count, offset);
    /// `pwritev(2)`.
    pwritev(fd: c_int, vectors: *const iovec, count: c_int, offset: off_t) -> ssize_t
        = SYS_pwritev(fd as c_long, vectors, count as c_long, offset, 0 as c_long);
    /// `pwritev2(2)`.
    pwritev2(fd: c_int, vectors: *const iovec, count: c_int, offset: off_t, flags: c_int) -> ssize_t
        = SYS_pwritev2(fd as c_long, vectors, count as c_long, offset, 0 as c_long, flags as c_long);
    /// `ftruncate(2)`.
    ftruncate(fd: c_int, length: off_t) -> c_int = SYS_ftruncate(fd as c_long, length);
    /// `truncate(2)`.
    truncate(path: *const c_char, length: off_t) -> c_int = SYS_truncate(path, length);
    /// `fallocate(2)`.
    fallocate(fd: c_int, mode: c_int, offset: off_t, length: off_t) -> c_int
        = SYS_fallocate(fd as c_long, mode as c_long, offset, length);
    /// `copy_file_range(2)`.
    copy_file_range(from: c_int, from_offset: *mut i64, to: c_int, to_offset: *mut i64, count: size_t, flags: c_uint) -> ssize_t
        = SYS_copy_file_range(from as c_long, from_offset, to as c_long, to_offset, count, flags as c_long);
    /// `sendfile(2)`.
    sendfile(to: c_int, from: c_int, offset: *mut off_t, count: size_t) -> ssize_t
        = SYS_sendfile(to as c_long, from as c_long, offset, count);
    /// `fsync(2)`.
    fsync(fd: c_int) -> c_int = SYS_fsync(fd as c_long);
    /// `fdatasync(2)`.
    fdatasync(fd: c_int) -> c_int = SYS_fdatasync(fd as c_long);
}
