//! Escapes text from others before a person sees it: characters that steer a terminal, or show letters in
//! another order than they stand in, are written out.
//!
//! `line` and `text` judge characters alike: one is for a part of a line, the other for a whole output that
//! may have several lines.

use std::borrow::Cow;
use std::fmt::Write;

/// Returns whether a character steers a terminal, reorders text or hides in it.
///
/// These are control characters, line and paragraph separators, direction marks, embeddings, overrides and
/// isolates, invisible operators, and tags.
pub(crate) fn is_steering(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}')
        || matches!(c, '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

fn escaped(text: &str, stays: impl Fn(char) -> bool) -> Cow<'_, str> {
    let is_escaped = |c: char| is_steering(c) && !stays(c);
    if !text.chars().any(is_escaped) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match is_escaped(c) {
            true => out.extend(c.escape_default()),
            false => out.push(c),
        }
    }
    Cow::Owned(out)
}

/// Escapes a part of a line; line breaks are escaped too.
pub(crate) fn line(text: &str) -> Cow<'_, str> {
    escaped(text, |_| false)
}

/// Escapes a whole output; line breaks and tabs stay.
pub(crate) fn text(text: &str) -> Cow<'_, str> {
    escaped(text, |c| matches!(c, '\n' | '\t'))
}

/// Escapes such characters in JSON, where they stand only inside strings, by JSON's own escapes.
pub(crate) fn json(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_steering) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if !is_steering(c) {
            out.push(c);
            continue;
        }
        for unit in c.encode_utf16(&mut [0; 2]) {
            // Writing to a string never fails.
            let _ = write!(out, "\\u{unit:04x}");
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_steers_is_written_out_and_the_rest_stays() {
        assert_eq!(line("\x1b]0;title\x07 a\u{202e}b\u{9b}2J"), "\\u{1b}]0;title\\u{7} a\\u{202e}b\\u{9b}2J");
        assert_eq!(line("a\nb"), "a\\nb");
        assert_eq!(text("a\tb\r\nc"), "a\tb\\r\nc");
        assert!(matches!(line("büro — 書 \u{1f600}"), Cow::Borrowed(_)));
    }

    proptest! {
        #[test]
        fn json_means_the_same(value in "\\PC{0,4}[\u{0}-\u{a0}\u{200b}-\u{206f}\u{e0001}]{0,4}") {
            let written = serde_json::to_string(&value).unwrap();
            let safe = json(&written);
            prop_assert!(!safe.chars().any(is_steering));
            prop_assert_eq!(serde_json::from_str::<String>(&safe).unwrap(), value);
        }
    }
}
