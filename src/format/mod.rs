//! Bytes ⇄ model. Pure: no I/O, bounded memory for any input, every failure an error. See `FORMAT.md`.

pub mod attrs;
pub mod extent_list;
pub mod frame;
pub mod index;
pub mod page;
pub mod record;
pub mod wire;
