//! `understudy mount`: by the kernel, or by FUSE. This module chooses the method and prints; `mounts` makes
//! the mount and moves it on.

mod args;
mod fuse;
mod kernel;

pub(super) use args::MountArgs;

use super::Global;
use super::context::Context;
use super::error::{Result, UsageError};
use super::exit::Exit;
use crate::model::snapshot_ref::{Moment, SnapshotRef};
use crate::mounts::mount;
use crate::standby::depot::Depot;
use args::Method;

pub(super) fn run(global: &Global, args: MountArgs) -> Result<Exit> {
    let wanted = SnapshotRef::parse(&args.snapshot)?;
    if args.follow && wanted.moment != Moment::Latest {
        return Err(UsageError(
            "--follow switches to each new snapshot: give the store without a snapshot".into(),
        )
        .into());
    }
    let context = Context::new(global)?;
    let depot = Depot::new(&args.standby.dir(&context)?, &wanted.store);
    match method(&args, || {
        mount::find(&depot, &wanted.store, wanted.moment).is_ok() && mount::kernel_works().is_ok()
    }) {
        Method::Fuse if args.writable.is_some() => {
            let text = "--writable requires a mount through the kernel: --method kernel, as root, on a host that follows the store";
            Err(UsageError(text.into()).into())
        }
        Method::Fuse => fuse::run(global, &context, &args, &wanted, depot),
        Method::Kernel => kernel::run(global, context.env(), &args, &wanted, &depot),
    }
}

/// Returns the given method, else the best that works.
fn method(args: &MountArgs, kernel_can: impl FnOnce() -> bool) -> Method {
    match args.method {
        Some(method) => method,
        // Only the kernel supports a writable mount; if it cannot, its error says why.
        None if args.writable.is_some() || kernel_can() => Method::Kernel,
        None => Method::Fuse,
    }
}
