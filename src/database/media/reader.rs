//! The account that a comparison asks with: it reads the store's tables, and no file of the server's.
//!
//! A customer of the database may put a view in the place of a table, and what the view calls runs with the rights of
//! who asks. So nobody asks who may read or write files (`FILE`): at a socket an account is made for the comparison,
//! with a password that nobody else has seen, and dropped after it; it is in no binary log. An account of another
//! host's server is used as it is, unless it has that privilege.
//!
//! What can race: two comparisons at one server. The second gives the account another password; who is connected
//! stays so. One that was killed leaves the account, which the next one replaces.

use crate::database::client::{Account, Address, Client, literal};
use crate::database::error::{DatabaseError, Trouble};
use crate::database::server::Server;
use crate::support::durable;
use crate::support::env::Env;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Name of the account.
const NAME: &str = "understudy-media";
const MODE: u32 = 0o600;
const LIMIT: Duration = Duration::from_secs(60);
/// The privilege by which files of the server's host are read and written.
const FILE: &str = "FILE";

/// Who asks.
pub(super) struct Reader {
    pub client: Client,
    /// The account that was made, and by whom.
    made: Option<(Client, PathBuf)>,
}

impl Reader {
    /// Makes the account, with its option file in a directory of our own.
    ///
    /// # Errors
    /// There is none, and the given one may read files.
    pub fn make(by: &Client, dir: &Path, env: &Env) -> Result<Self, DatabaseError> {
        let as_it_is = || match Self::may_read_files(by)? {
            false => Ok(Self { client: by.clone(), made: None }),
            true => Err(DatabaseError::Settings(format!(
                "{}: its account has the privilege FILE, by which a view of a customer's would read this host's files; give it one without",
                by.address
            ))),
        };
        if !matches!(by.address, Address::Socket(_)) {
            return as_it_is();
        }
        let mut bytes = [0; 16];
        env.fill(&mut bytes);
        let password: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let account = Account { user: NAME.to_owned(), password: password.clone().into() };
        match Server::new(by.clone()).make_reader(&account) {
            Ok(()) => {}
            // It may make no accounts.
            Err(error) if error.trouble() == Some(Trouble::Refused) => return as_it_is(),
            Err(error) => return Err(error),
        }
        let path = dir.join(format!("media-{:016x}.cnf", env.nonce()));
        let made = Some((by.clone(), path.clone()));
        let this = Self { client: Client { account_file: Some(path.clone()), ..by.clone() }, made };
        let text = format!("[client]\nuser={NAME}\npassword={password}\n");
        durable::replace(env, &path, MODE, text.as_bytes())
            .map_err(|source| DatabaseError::File { path, source })?;
        Ok(this)
    }

    fn may_read_files(by: &Client) -> Result<bool, DatabaseError> {
        let asked = format!(
            "SELECT COUNT(*) FROM information_schema.USER_PRIVILEGES WHERE PRIVILEGE_TYPE = {};",
            literal(FILE)
        );
        Ok(by.ask(&asked, LIMIT)?.first() != Some("0"))
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if let Some((by, path)) = &self.made {
            // The next comparison replaces what stays.
            let name = format!("{}@'localhost'", literal(NAME));
            let _ = by.ask(&format!("SET sql_log_bin=0; DROP USER IF EXISTS {name};"), LIMIT);
            let _ = std::fs::remove_file(path);
        }
    }
}
