//! The thread that waits for the end of the gate's time, and does what is due: a fence, or a change of the
//! ports. It sleeps on a timer of the clock that goes on while the machine sleeps, and not on the daemon.

use super::fence;
use super::gate::{Duty, Gate};
use super::{ports, settings};
use std::io;
use std::path::Path;
use std::sync::Arc;

/// Starts the thread; `this` is the path of this program.
pub(crate) fn start(gate: Arc<Gate>, this: &'static Path) -> io::Result<()> {
    let keep = move || {
        loop {
            match gate.next_duty() {
                Duty::Fence => {
                    let failures = fence::carry_out(&gate, this);
                    gate.end_fence(failures);
                }
                Duty::Ports { pass } => gate.set_ports(ports::set(&gate.setup, this, &gate.env, pass)),
                Duty::None => gate.wait(),
            }
        }
    };
    std::thread::Builder::new().name("keeper".into()).stack_size(settings::STACK_BYTES).spawn(keep).map(drop)
}
