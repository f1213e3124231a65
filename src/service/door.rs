//! The two ways by which a request comes to the daemon.

/// Way by which a request came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// The TCP port: anybody who can connect.
    Port,
    /// The Unix socket of the host's own commands: this user and root.
    Socket,
}
