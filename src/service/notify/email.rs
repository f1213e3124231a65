//! A message as an e-mail: plain text in UTF-8. Pure.
//!
//! No text can make a header, or end the message: a subject has no control character and is one encoded word after
//! another unless it is plain ASCII, and the body is base64.

use super::message::Message;
use super::settings::EmailSettings;
use crate::support::clock::UnixNanos;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, Utc};

/// Bytes of base64 in a line.
const LINE_BYTES: usize = 76;
/// Maximum length of a subject that stands in one line with its name.
const PLAIN_MAX_BYTES: usize = 66;
/// Maximum number of bytes of text in an encoded word, so that it has at most 75 characters.
const WORD_BYTES: usize = 42;
/// Maximum number of characters of a subject.
const SUBJECT_MAX_CHARS: usize = 150;

/// Returns the whole message, with lines that end in CRLF, and without the dot at its end.
pub(crate) fn mail(settings: &EmailSettings, message: &Message, now: UnixNanos) -> String {
    let date = DateTime::<Utc>::from(now.system_time()).to_rfc2822();
    let domain = settings.from.rsplit_once('@').map_or("localhost", |(_, domain)| domain);
    let headers = [
        ("From", settings.from.clone()),
        ("To", settings.to.join(",\r\n ")),
        ("Date", date),
        ("Message-ID", format!("<{}@{domain}>", message.id)),
        ("Subject", subject(&format!("[understudy] {}", message.subject()))),
        ("MIME-Version", "1.0".to_owned()),
        ("Content-Type", "text/plain; charset=utf-8".to_owned()),
        ("Content-Transfer-Encoding", "base64".to_owned()),
        // Nobody's absence is announced in reply.
        ("Auto-Submitted", "auto-generated".to_owned()),
    ];
    let mut text: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    text += "\r\n";
    let body = STANDARD.encode(message.text().replace('\n', "\r\n"));
    for at in (0..body.len()).step_by(LINE_BYTES) {
        text += &body[at..body.len().min(at + LINE_BYTES)];
        text += "\r\n";
    }
    text
}

/// Returns a subject as it stands in its header.
fn subject(text: &str) -> String {
    let text: String = text.chars().take(SUBJECT_MAX_CHARS).collect();
    if text.chars().all(|c| (' '..='~').contains(&c)) && !text.contains("=?") && text.len() <= PLAIN_MAX_BYTES
    {
        return text;
    }
    let mut words = vec![String::new()];
    for c in text.chars() {
        if words.last().is_some_and(|word| word.len() + c.len_utf8() > WORD_BYTES) {
            words.push(String::new());
        }
        words.last_mut().into_iter().for_each(|word| word.push(c));
    }
    let words = words.iter().map(|word| format!("=?utf-8?B?{}?=", STANDARD.encode(word)));
    words.collect::<Vec<_>>().join("\r\n ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::id::StoreName;
    use crate::service::notify::event::Event;
    use crate::service::notify::message::{Item, State};
    use crate::service::notify::settings::NotifySettings;
    use proptest::prelude::*;

    fn settings() -> EmailSettings {
        let text =
            "kind='email'\nname='a'\nhost='mail'\nfrom='u@b.example'\nto=['c@d.example','e@f.example']";
        match toml::from_str(text).unwrap() {
            NotifySettings::Email(email) => email,
            _ => unreachable!(),
        }
    }

    fn lines(host: &str, text: &str) -> Vec<String> {
        let item = Item {
            state: State::Begun,
            event: Event::Held,
            store: StoreName::parse("shop").unwrap(),
            since: UnixNanos(0),
            until: None,
            text: text.to_owned(),
        };
        let (id, made) = ("msg_1".to_owned(), UnixNanos(0));
        let message =
            Message { id, host: host.to_owned(), made, items: vec![item], left_out: 0, is_test: false };
        mail(&settings(), &message, made).split("\r\n").map(str::to_owned).collect()
    }

    #[test]
    fn it_names_each_receiver_and_keeps_its_id() {
        let lines = lines("web-1", "the root is empty");
        assert_eq!(lines[..3], ["From: u@b.example", "To: c@d.example,", " e@f.example"]);
        assert!(lines.contains(&"Message-ID: <msg_1@b.example>".to_owned()), "{lines:?}");
        assert!(lines.contains(&"Subject: [understudy] web-1: shop: held".to_owned()), "{lines:?}");
    }

    proptest! {
        /// Even if what a message was made of were not plain.
        #[test]
        fn no_text_makes_a_header_or_ends_the_message(host in ".{0,90}|a\r\nBcc: x@y", text in "(?s).{0,300}") {
            let lines = lines(&host, &text);
            let head = lines.iter().position(String::is_empty).unwrap();
            let names: Vec<_> = lines[..head].iter().filter(|line| !line.starts_with(' ')).collect();
            prop_assert_eq!(names.len(), 9);
            for line in &lines {
                prop_assert!(line.chars().all(|c| (' '..='~').contains(&c)), "{:?}", line);
                prop_assert!(line.len() <= 78 && !line.starts_with('.'), "{:?}", line);
            }
        }
    }
}
