//! The values of a row of a MariaDB server's binary log, as JSON.
//!
//! A row has bytes and the kinds of its columns. Their names, signs, character sets and words are in the server's
//! catalogue ([`About`]); where that is not known, nothing is guessed: bytes that may be text or not are written in
//! hexadecimal digits, and an enumeration as its number. Every value is exact: decimal numbers are strings. Pure.

use super::binlog_rows::{ColumnType, DIGITS, column};
use chrono::DateTime;
use serde_json::{Value, json};
use std::fmt::Write;

/// What a server's catalogue says of a column.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct About {
    pub name: String,
    /// Its type as it is declared: `int(10) unsigned`, `enum('a','b')`.
    pub declared: String,
    /// Its character set; none where it holds bytes or numbers.
    pub charset: Option<String>,
}

/// Returns a value. `bytes` are those of the row, with the length before them where there is one.
pub fn value(column: &ColumnType, bytes: &[u8], about: Option<&About>) -> Value {
    read(column, bytes, about).unwrap_or_else(|| hex(bytes))
}

fn hex(bytes: &[u8]) -> Value {
    json!({ "hex": bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    }) })
}

/// Reads a number of up to 8 bytes, the lowest first.
fn little(bytes: &[u8]) -> Option<u64> {
    (bytes.len() <= 8).then(|| bytes.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
}

/// Reads a number of up to 7 bytes, the highest first.
fn big(bytes: &[u8]) -> Option<i64> {
    (bytes.len() <= 7).then(|| bytes.iter().fold(0, |sum, byte| sum << 8 | i64::from(*byte)))
}

fn read(column: &ColumnType, bytes: &[u8], about: Option<&About>) -> Option<Value> {
    use column::*;
    let body = bytes.get(column.length_bytes()..)?;
    Some(match column.kind {
        NULL => Value::Null,
        TINY | SHORT | INT24 | LONG | LONGLONG => integer(body, about)?,
        YEAR => json!(match *body.first()? {
            0 => 0,
            year => 1900 + u32::from(year),
        }),
        FLOAT => {
            // The shortest digits that name it, and not those of the wider number.
            let number = f32::from_le_bytes(body.try_into().ok()?);
            json!(number.to_string().parse::<f64>().ok()?)
        }
        DOUBLE => json!(f64::from_le_bytes(body.try_into().ok()?)),
        NEWDECIMAL => decimal(column.meta, body)?.into(),
        BIT => json!(
            body.iter().try_fold(0u64, |sum, byte| sum.checked_mul(256).map(|sum| sum + u64::from(*byte)))?
        ),
        TIMESTAMP => instant(little(body)?.try_into().ok()?, 0, 0)?.into(),
        TIMESTAMP2 => {
            let (seconds, micros) = (big(body.get(..4)?)?, fraction(body.get(4..)?)?);
            instant(seconds, micros, column.meta[0])?.into()
        }
        DATETIME2 => datetime(body, column.meta[0])?.into(),
        TIME2 => time(body, column.meta[0])?.into(),
        DATE | NEWDATE => {
            let packed = little(body)?;
            format!("{:04}-{:02}-{:02}", packed >> 9, packed >> 5 & 15, packed & 31).into()
        }
        DATETIME => {
            let packed = little(body)?;
            let (date, time) = (packed / 1_000_000, packed % 1_000_000);
            let date = format!("{:04}-{:02}-{:02}", date / 10_000, date / 100 % 100, date % 100);
            format!("{date} {:02}:{:02}:{:02}", time / 10_000, time / 100 % 100, time % 100).into()
        }
        TIME => {
            let packed = (little(body)? as i64) << 40 >> 40;
            let (sign, packed) = (if packed < 0 { "-" } else { "" }, packed.unsigned_abs());
            format!("{sign}{:02}:{:02}:{:02}", packed / 10_000, packed / 100 % 100, packed % 100).into()
        }
        ENUM => choice(little(body)?, about),
        SET => choices(little(body)?, about),
        STRING | VAR_STRING => match column.string() {
            (ENUM, _) => choice(little(body)?, about),
            (SET, _) => choices(little(body)?, about),
            (_, most) => text(&padded(body, most, about), about),
        },
        VARCHAR_COMPRESSED | BLOB_COMPRESSED => {
            let mut value = hex(body);
            value["compressed"] = true.into();
            value
        }
        _ => text(body, about),
    })
}

fn integer(body: &[u8], about: Option<&About>) -> Option<Value> {
    let number = little(body)?;
    let unused = 64 - 8 * u32::try_from(body.len()).ok().filter(|length| (1..=8).contains(length))?;
    Some(match about.is_some_and(|about| about.declared.contains("unsigned")) {
        true => json!(number),
        false => json!((number << unused) as i64 >> unused),
    })
}

/// Returns a text, if it is known to be one; else its bytes.
fn text(body: &[u8], about: Option<&About>) -> Value {
    let is_ascii = || body.iter().all(u8::is_ascii);
    let is_text = match about {
        None => is_ascii(),
        Some(About { charset: Some(charset), .. }) => match charset.as_str() {
            "utf8mb4" | "utf8mb3" | "utf8" => true,
            "ucs2" | "utf16" | "utf16le" | "utf32" => false,
            // All others have these in common.
            _ => is_ascii(),
        },
        Some(_) => false,
    };
    match std::str::from_utf8(body) {
        Ok(text) if is_text => text.into(),
        _ => hex(body),
    }
}

/// Returns a value of fixed length with the zeros at its end, which the server leaves out.
fn padded<'a>(body: &'a [u8], most: usize, about: Option<&About>) -> std::borrow::Cow<'a, [u8]> {
    let is_fixed = about
        .is_some_and(|about| ["binary(", "inet", "uuid"].iter().any(|kind| about.declared.starts_with(kind)));
    let mut bytes = std::borrow::Cow::Borrowed(body);
    if is_fixed && body.len() < most {
        bytes.to_mut().resize(most, 0);
    }
    bytes
}

/// Returns the words of an enumeration's or a set's declaration.
fn words(declared: &str) -> Option<Vec<String>> {
    let inner = declared.split_once('(')?.1.strip_suffix(')')?;
    let (mut words, mut word, mut is_inside) = (Vec::new(), String::new(), false);
    let mut chars = inner.chars().peekable();
    while let Some(c) = chars.next() {
        match (c, is_inside) {
            ('\'', false) => is_inside = true,
            ('\'', true) if chars.peek() == Some(&'\'') => {
                chars.next();
                word.push('\'');
            }
            ('\'', true) => {
                words.push(std::mem::take(&mut word));
                is_inside = false;
            }
            (c, true) => word.push(c),
            (_, false) => {}
        }
    }
    Some(words)
}

fn choice(number: u64, about: Option<&About>) -> Value {
    // A value that was none of them is number 0.
    let at = usize::try_from(number).unwrap_or(0).checked_sub(1);
    let words = about.and_then(|about| words(&about.declared));
    match (at, words) {
        (None, Some(_)) => "".into(),
        (Some(at), Some(words)) if at < words.len() => words[at].as_str().into(),
        _ => number.into(),
    }
}

fn choices(bits: u64, about: Option<&About>) -> Value {
    match about.and_then(|about| words(&about.declared)) {
        Some(words) if words.len() == 64 || bits >> words.len().min(63) == 0 => {
            let chosen = words.iter().enumerate().filter(|(at, _)| bits >> at & 1 == 1);
            let chosen: Vec<&str> = chosen.map(|(_, word)| word.as_str()).collect();
            chosen.join(",").into()
        }
        _ => bits.into(),
    }
}

/// Reads the digits of a decimal number.
fn decimal(meta: [u8; 2], body: &[u8]) -> Option<String> {
    let (whole, scale) = (usize::from(meta[0].checked_sub(meta[1])?), usize::from(meta[1]));
    let is_negative = body.first()? & 0x80 == 0;
    let mut bytes: Vec<u8> = body.iter().map(|byte| if is_negative { !byte } else { *byte }).collect();
    bytes[0] ^= 0x80;
    let (mut rest, mut digits) = (bytes.as_slice(), String::new());
    let mut group = |count: usize| -> Option<()> {
        let (taken, left) = rest.split_at_checked(DIGITS[count])?;
        rest = left;
        if count > 0 {
            let _ = write!(digits, "{:0count$}", big(taken)?);
        }
        Some(())
    };
    group(whole % 9)?;
    (0..whole / 9).try_for_each(|_| group(9))?;
    (0..scale / 9).try_for_each(|_| group(9))?;
    group(scale % 9)?;
    let (whole_digits, fraction) = digits.split_at_checked(whole)?;
    let whole_digits = whole_digits.trim_start_matches('0');
    let whole_digits = if whole_digits.is_empty() { "0" } else { whole_digits };
    let sign = if is_negative { "-" } else { "" };
    Some(match scale {
        0 => format!("{sign}{whole_digits}"),
        _ => format!("{sign}{whole_digits}.{fraction}"),
    })
}

/// Millionths of a second in one unit of a part that is stored in 0, 1, 2 or 3 bytes.
const UNITS: [i64; 4] = [0, 10_000, 100, 1];

/// Reads the part of a second, in millionths.
fn fraction(bytes: &[u8]) -> Option<i64> {
    Some(big(bytes)? * UNITS.get(bytes.len())?)
}

/// Returns the part of a second as it is written behind it.
fn decimals(micros: i64, digits: u8) -> String {
    match digits {
        0 => String::new(),
        digits => format!(".{}", &format!("{micros:06}")[..usize::from(digits.min(6))]),
    }
}

/// Returns a moment in UTC, as the session of a customer may not show it.
fn instant(seconds: i64, micros: i64, digits: u8) -> Option<String> {
    if seconds == 0 && micros == 0 {
        return Some(format!("0000-00-00 00:00:00{}", decimals(0, digits)));
    }
    let time = DateTime::from_timestamp(seconds, 0)?.format("%Y-%m-%d %H:%M:%S");
    Some(format!("{time}{}Z", decimals((0..1_000_000).contains(&micros).then_some(micros)?, digits)))
}

/// Reads a number with a part of a second behind it, in units of 2^-24 seconds that hold millionths.
fn packed(bytes: &[u8], whole_bytes: usize) -> Option<i64> {
    let (whole, part) = bytes.split_at_checked(whole_bytes)?;
    let mut number = big(whole)? - (1i64 << (8 * whole_bytes - 1));
    let mut micros = fraction(part)?;
    if number < 0 && micros != 0 {
        // The parts of a negative time count up from the second below.
        number += 1;
        micros -= UNITS.get(part.len())? << (8 * part.len());
    }
    number.checked_mul(1 << 24)?.checked_add(micros)
}

fn datetime(body: &[u8], digits: u8) -> Option<String> {
    let packed = packed(body, 5).filter(|packed| *packed >= 0)?;
    let (micros, packed) = (packed & 0xff_ffff, packed >> 24);
    let (date, time) = (packed >> 17, packed & 0x1_ffff);
    let month = date >> 5;
    let date = format!("{:04}-{:02}-{:02}", month / 13, month % 13, date & 31);
    let time = format!("{:02}:{:02}:{:02}", time >> 12, time >> 6 & 63, time & 63);
    Some(format!("{date} {time}{}", decimals(micros.min(999_999), digits)))
}

fn time(body: &[u8], digits: u8) -> Option<String> {
    let packed = packed(body, 3)?;
    let (sign, packed) = (if packed < 0 { "-" } else { "" }, packed.unsigned_abs());
    let (micros, time) = ((packed & 0xff_ffff) as i64, packed >> 24);
    let time = format!("{:02}:{:02}:{:02}", time >> 12 & 1023, time >> 6 & 63, time & 63);
    Some(format!("{sign}{time}{}", decimals(micros.min(999_999), digits)))
}
