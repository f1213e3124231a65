//! Media that a store's database names, and the files that there are: what the one has and the other lacks.
//!
//! A [`rule`] says which query names files, and where they are below the store. The values come from whoever may
//! write to the database, so a value that leads anywhere else is counted, and nothing is looked up for it. The
//! [`values`] are streamed: of each name a short hash stays in memory, and the name itself lies in a file without a
//! name ([`names`]). The files are those of a snapshot's manifest, which is read page by page ([`compare`]). So
//! memory is 16 bytes a name, whatever a row has in it.
//!
//! Nothing is changed: the query runs in a transaction that only reads, with an account that reads tables alone
//! ([`reader`]). What can race: rows that are committed while
//! the snapshot's files are what they were. Without a point the report is of two moments, and says so.

pub mod compare;
pub mod names;
mod reader;
pub mod rule;
pub mod values;
