//! Extended attributes of an open file or directory, including POSIX ACLs.

use super::tree::AttributesRead;
use crate::model::entry::Attributes;
use rustix::fd::{AsFd, AsRawFd};
use rustix::io::{Errno, Result};

/// Reads all attributes, sorted by name. A filesystem without attributes has none.
pub(crate) fn read(file: impl AsFd) -> Result<Attributes> {
    let read = read_all(file);
    read.failed.map_or(Ok(read.attributes), Err)
}

/// Reads the attributes that can be read, sorted by name.
pub(crate) fn read_all(file: impl AsFd) -> AttributesRead {
    let fd = file.as_fd();
    read_with(
        |buffer| rustix::fs::flistxattr(fd, buffer),
        |name, buffer| rustix::fs::fgetxattr(fd, name, buffer),
    )
}

/// Reads all attributes of the inode of a handle opened with `O_PATH`.
pub(crate) fn read_by_path(handle: impl AsFd) -> Result<Attributes> {
    let read = read_all_by_path(handle);
    read.failed.map_or(Ok(read.attributes), Err)
}

/// Reads the attributes that can be read of the inode of a handle opened with `O_PATH`.
///
/// Such handles (of symlinks, fifos, sockets, devices) are refused by the calls on handles, so this uses the
/// handle's name in `/proc`, which leads to the same inode.
pub(crate) fn read_all_by_path(handle: impl AsFd) -> AttributesRead {
    let path = format!("/proc/self/fd/{}", handle.as_fd().as_raw_fd());
    read_with(
        |buffer| rustix::fs::listxattr(path.as_str(), buffer),
        |name, buffer| rustix::fs::getxattr(path.as_str(), name, buffer),
    )
}

fn read_with(
    list: impl Fn(&mut [u8]) -> Result<usize>,
    get: impl Fn(&[u8], &mut [u8]) -> Result<usize>,
) -> AttributesRead {
    let mut read = AttributesRead::default();
    let names = match growing(&list) {
        Ok(names) => names,
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => return read,
        Err(errno) => return AttributesRead { failed: Some(errno), ..read },
    };
    for name in names.split(|b| *b == 0).filter(|n| !n.is_empty()) {
        match growing(|buffer| get(name, buffer)) {
            Ok(value) => read.attributes.push((name.to_vec(), value)),
            // The attribute was removed after the list was read.
            Err(Errno::NODATA) => {}
            // The other attributes are still worth having.
            Err(errno) => read.failed = Some(errno),
        }
    }
    read.attributes.sort();
    read
}

/// Calls with a small buffer first, which is almost always enough.
fn growing(call: impl Fn(&mut [u8]) -> Result<usize>) -> Result<Vec<u8>> {
    let mut small = [0u8; 512];
    match call(&mut small) {
        Ok(length) => return Ok(small[..length].to_vec()),
        Err(Errno::RANGE) => {}
        Err(error) => return Err(error),
    }
    // Size of the kernel's own limit for both lists and values.
    let mut large = vec![0u8; 64 << 10];
    let length = call(&mut large)?;
    large.truncate(length);
    Ok(large)
}
