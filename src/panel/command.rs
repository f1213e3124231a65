//! The command lines that do what the panel's buttons do. Pure.

use crate::model::id::StoreName;
use maud::{Markup, html};

/// Quotes a word for a shell.
pub fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:@=,".contains(c);
    match !word.is_empty() && word.chars().all(is_plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

/// Returns the command line of a request to the API, as an operator's shell sends it.
pub fn request(store: &StoreName, what: &str) -> String {
    format!(
        "curl -X POST -H \"Authorization: Bearer $TOKEN\" http://127.0.0.1:9184/api/v1/stores/{store}/{what}"
    )
}

/// Shows a command line.
pub fn show(line: &str) -> Markup {
    html! { code class="command" { (line) } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_takes_a_quoted_word_as_it_is() {
        for (word, expected) in
            [("acme", "acme"), ("a b", "'a b'"), ("", "''"), ("it's $(x)", r"'it'\''s $(x)'")]
        {
            assert_eq!(quoted(word), expected);
        }
    }
}
