//! A filesystem that is being configured by the kernel's mount calls; its log messages become part of the
//! error.

use super::error::MountError;
use rustix::fd::{BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_fd, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen,
};
use std::ffi::OsStr;

/// A filesystem that is being configured.
pub(crate) struct Context(OwnedFd, &'static str);

impl Context {
    pub fn open(kind: &'static str) -> Result<Self, MountError> {
        let handle = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC).map_err(|errno| MountError::Kernel {
            action: "open a filesystem context",
            errno,
            hint: match errno {
                Errno::PERM => " (mounts need root or CAP_SYS_ADMIN; --method fuse needs neither)".into(),
                Errno::NODEV => format!(" (it has no {kind})"),
                _ => String::new(),
            },
        })?;
        Ok(Self(handle, kind))
    }

    pub(crate) fn string(&self, key: &str, value: &OsStr) -> Result<(), MountError> {
        fsconfig_set_string(&self.0, key, value).map_err(self.wrong("take an option"))
    }

    pub(crate) fn flag(&self, key: &str) -> Result<(), MountError> {
        fsconfig_set_flag(&self.0, key).map_err(self.wrong("take an option"))
    }

    pub(crate) fn fd(&self, key: &str, value: BorrowedFd) -> Result<(), MountError> {
        fsconfig_set_fd(&self.0, key, value).map_err(self.wrong("take a layer"))
    }

    pub(crate) fn create(&self, action: &'static str) -> Result<(), MountError> {
        fsconfig_create(&self.0).map_err(self.wrong(action))
    }

    pub fn mount(&self, attributes: MountAttrFlags) -> Result<OwnedFd, MountError> {
        fsmount(&self.0, FsMountFlags::FSMOUNT_CLOEXEC, attributes).map_err(self.wrong("mount it"))
    }

    /// Makes an error of the errno, with the filesystem's log messages.
    fn wrong(&self, action: &'static str) -> impl FnOnce(Errno) -> MountError + '_ {
        move |errno| {
            let mut said = String::new();
            let mut line = [0; 512];
            while let Ok(count @ 1..) = rustix::io::read(&self.0, &mut line) {
                said += &format!("; {}: {}", self.1, String::from_utf8_lossy(&line[..count]).trim());
            }
            MountError::Kernel { action, errno, hint: said }
        }
    }
}
