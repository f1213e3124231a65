//! Asks a person to type a store's name, before something is done that cannot be undone.

use super::error::{Context as _, Result, UsageError};
use crate::model::id::StoreName;
use std::io::{BufRead, BufReader, IsTerminal, Read};

/// Maximum number of bytes that are read as an answer.
const ANSWER_MAX_BYTES: u64 = 4096;

/// Goes on if the store's name is typed; `question` says what will be done, and `refusal` that it was not.
pub(super) fn confirm(store: &StoreName, question: &str, refusal: &str) -> Result<()> {
    if std::io::stdin().is_terminal() {
        complain!("{question}. Type the store's name to go on:");
    }
    let mut answer = String::new();
    let limited = std::io::stdin().take(ANSWER_MAX_BYTES);
    BufReader::new(limited).read_line(&mut answer).context("reading the answer")?;
    match answer.trim() == store.as_str() {
        true => Ok(()),
        false => Err(UsageError(format!(
            "{refusal}, since the answer is not the store's name; type '{store}', or give --yes"
        ))
        .into()),
    }
}
