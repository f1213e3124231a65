//! The capabilities that no program in a drill gets, whoever it runs as.

use rustix::io::Errno;
use rustix::thread::{CapabilitySet, remove_capability_from_bounding_set};
use std::io;

/// By these a process could leave its namespaces, or change the machine.
const TAKEN: [CapabilitySet; 16] = [
    CapabilitySet::NET_ADMIN,
    CapabilitySet::SYS_MODULE,
    CapabilitySet::SYS_RAWIO,
    CapabilitySet::SYS_PTRACE,
    CapabilitySet::SYS_PACCT,
    CapabilitySet::SYS_ADMIN,
    CapabilitySet::SYS_BOOT,
    CapabilitySet::SYS_TIME,
    CapabilitySet::SYS_TTY_CONFIG,
    CapabilitySet::MKNOD,
    CapabilitySet::MAC_OVERRIDE,
    CapabilitySet::MAC_ADMIN,
    CapabilitySet::SYSLOG,
    CapabilitySet::LINUX_IMMUTABLE,
    CapabilitySet::BPF,
    CapabilitySet::CHECKPOINT_RESTORE,
];

/// Takes from all that this process starts what it could leave by.
pub(super) fn take_capabilities() -> io::Result<()> {
    for capability in TAKEN {
        match remove_capability_from_bounding_set(capability) {
            // A kernel that does not know it grants it to nobody.
            Ok(()) | Err(Errno::INVAL) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}
