//! The two ways by which a request reaches the daemon.

/// The way by which a request came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Door {
    /// The TCP port, which is open to every process that can connect.
    Port,
    /// The Unix socket of the host's own commands, which is open to this user and root.
    Socket,
}
