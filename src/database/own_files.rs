//! The files that a server of ours is started with: its configuration, and an account that only this process
//! knows. The server makes the account itself when it starts, and does not write that to its binary log.

use super::error::DatabaseError;
use super::minimal::Place;
use super::report_account;
use crate::support::durable;
use crate::support::env::Env;

const PRIVATE_MODE: u32 = 0o600;

/// Writes them, with a new password for the account `user`; `more` is what else the server runs when it starts.
///
/// # Errors
/// One cannot be written.
pub(super) fn write(
    env: &Env,
    place: &Place,
    user: &str,
    configuration: &str,
    more: &str,
) -> Result<(), DatabaseError> {
    let mut bytes = [0; 16];
    env.fill(&mut bytes);
    let password: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let init = format!(
        "SET sql_log_bin=0;\nCREATE OR REPLACE USER '{user}'@'localhost' IDENTIFIED BY '{password}';\n\
         GRANT ALL PRIVILEGES ON *.* TO '{user}'@'localhost' WITH GRANT OPTION;\n{}{more}",
        report_account::dropped()
    );
    let account = format!("[client]\nuser={user}\npassword={password}\n");
    let files =
        [(place.init(), init.as_str()), (place.account(), &account), (place.configuration(), configuration)];
    for (path, text) in files {
        let written = durable::replace(env, &path, PRIVATE_MODE, text.as_bytes());
        written.map_err(|source| DatabaseError::File { path, source })?;
    }
    Ok(())
}
