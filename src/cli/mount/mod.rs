//! `understudy mount`: a snapshot as a directory, by the kernel or by FUSE.

mod fuse;
mod kernel;

pub(super) use kernel::{MountArgs, run};
