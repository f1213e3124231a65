//! The order of outputs: which result an output undid that was handed on later. Pure.

use crate::failover::decide::input::Input;

/// The order numbers of the outputs after which an older result is worth nothing.
#[derive(Default)]
pub(crate) struct Orders {
    pub last: u64,
    pub served: u64,
    pub opened: u64,
    pub closed: u64,
    pub acknowledged: u64,
}

impl Orders {
    /// Returns whether nothing undid since `order` what this result says.
    pub(crate) fn holds(&self, input: &Input, order: u64) -> bool {
        let undone = match input {
            Input::Closed => self.opened,
            Input::Drained { .. } => self.served.max(self.closed),
            Input::AcksStopped => self.acknowledged,
            Input::Prepared { .. }
            | Input::Verified { .. }
            | Input::Rejoined { .. }
            | Input::WaitsFor { .. } => self.closed,
            _ => 0,
        };
        order > undone
    }

    /// Returns the next number.
    pub(crate) fn next(&mut self) -> u64 {
        self.last += 1;
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::id::{Epoch, Sequence};

    #[test]
    fn a_result_that_a_later_output_undid_does_not_hold() {
        let mut orders = Orders::default();
        let closing = orders.next();
        assert!(orders.holds(&Input::Closed, closing));
        orders.opened = orders.next();
        assert!(!orders.holds(&Input::Closed, closing), "services are being started");
        let (preparing, stopping, draining) = (orders.next(), orders.next(), orders.next());
        let (prepared, drained) =
            (Input::Prepared { epoch: Epoch(1) }, Input::Drained { snapshot: Sequence(7) });
        assert!(orders.holds(&prepared, preparing) && orders.holds(&drained, draining));
        assert!(orders.holds(&Input::AcksStopped, stopping));
        orders.served = orders.next();
        assert!(!orders.holds(&drained, draining), "files change again");
        orders.acknowledged = orders.next();
        assert!(!orders.holds(&Input::AcksStopped, stopping));
        assert!(orders.holds(&prepared, preparing));
        orders.closed = orders.next();
        assert!(!orders.holds(&prepared, preparing), "it was closed again");
        assert!(orders.holds(&Input::Tick, closing));
    }
}
