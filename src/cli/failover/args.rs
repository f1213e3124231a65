//! The options of the commands about a failover.

use super::at::At;
use clap::Args;

#[derive(Args)]
pub(in crate::cli) struct SwitchoverArgs {
    #[arg(value_name = "STORE")]
    pub store: String,
    /// The new primary; default: the only other member that may serve
    #[arg(long, value_name = "HOST")]
    pub to: Option<String>,
    /// The person who asks, for the history; default: the user
    #[arg(long, value_name = "NAME")]
    pub person: Option<String>,
}

#[derive(Args)]
#[group(id = "which", required = true, args = ["store", "all_of"])]
pub(in crate::cli) struct FailoverArgs {
    #[arg(value_name = "STORE")]
    pub store: Option<String>,
    /// Take over all stores of which this host is the primary now, several at once, the most valuable plan first
    #[arg(long, value_name = "HOST", conflicts_with_all = ["at", "to"])]
    pub all_of: Option<String>,
    /// The host that takes over: any member that may serve; default: this one
    #[arg(long, value_name = "HOST")]
    pub to: Option<String>,
    /// The snapshot to begin with; default: the latest. With an @, such as @42: a point, to which the database goes back as well (understudy points)
    #[arg(long, value_name = "SNAPSHOT|@SNAPSHOT", value_parser = At::parse)]
    pub at: Option<At>,
    /// Show what would be done and lost, and do nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask for the store's name
    #[arg(long, short = 'y')]
    pub yes: bool,
    /// Say that the former primary is down and stays down until it reads the log: it cannot say so itself
    #[arg(long)]
    pub is_down: bool,
    /// Why, for the history
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
    /// The person who decides, for the history; default: the user
    #[arg(long, value_name = "NAME")]
    pub person: Option<String>,
}

#[derive(Args)]
pub(in crate::cli) struct PauseArgs {
    #[arg(value_name = "STORE")]
    pub store: String,
    /// Why, for the history
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
    /// The person who asks, for the history; default: the user
    #[arg(long, value_name = "NAME")]
    pub person: Option<String>,
}

#[derive(Args)]
pub(in crate::cli) struct ResumeArgs {
    #[arg(value_name = "STORE")]
    pub store: String,
    /// The person who asks, for the history; default: the user
    #[arg(long, value_name = "NAME")]
    pub person: Option<String>,
}

#[derive(Args)]
pub(in crate::cli) struct WhyArgs {
    #[arg(value_name = "STORE")]
    pub store: String,
}

/// Returns the person who asks: as given, else the user who runs the command, also behind `sudo`.
pub(super) fn person(given: Option<&str>) -> String {
    let of_environment = || ["SUDO_USER", "USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok());
    given.map(str::to_owned).or_else(of_environment).unwrap_or_else(|| "an operator".to_owned())
}
