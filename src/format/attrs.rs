//! Encoding of extended attributes, in a page or in a chunk of their own.

use super::wire::{FormatError, Reader, Writer};
use crate::model::entry::Attributes;

/// Appends the count, then name and value of each. The list is sorted by name.
pub fn encode(attrs: &[(Vec<u8>, Vec<u8>)], out: &mut Writer) {
    out.number(attrs.len() as u64);
    for (name, value) in attrs {
        out.bytes(name);
        out.bytes(value);
    }
}

/// Reads the attributes that come next: names strictly ascending, without NUL, 1 to 255 bytes.
pub fn decode(reader: &mut Reader) -> Result<Attributes, FormatError> {
    let count = reader.count(2, "attributes")?;
    let mut attrs: Attributes = Vec::new();
    for _ in 0..count {
        let name = reader.bytes("attribute name")?;
        let value = reader.bytes("attribute value")?;
        if name.is_empty() || name.len() > 255 || name.contains(&0) {
            return Err(FormatError::Range("attribute name"));
        }
        if attrs.last().is_some_and(|(last, _)| last.as_slice() >= name) {
            return Err(FormatError::Order("attribute names"));
        }
        attrs.push((name.to_vec(), value.to_vec()));
    }
    Ok(attrs)
}

/// Decodes the attributes in a chunk of their own.
pub fn decode_chunk(bytes: &[u8]) -> Result<Attributes, FormatError> {
    let mut reader = Reader(bytes);
    let attrs = decode(&mut reader)?;
    reader.end()?;
    Ok(attrs)
}
