//! The names and types of columns, as a server's catalogue has them.

use crate::database::client::literal;
use crate::database::error::DatabaseError;
use crate::database::server::Server;
use crate::format::binlog_rows::TableName;
use crate::format::binlog_value::About;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);

/// The columns of each table, in order.
pub type Columns = BTreeMap<TableName, Vec<About>>;

/// Returns a condition that is true of these tables. `prefix` is that of the columns with their names.
pub(super) fn are(tables: &BTreeSet<TableName>, schema: &str, table: &str) -> String {
    let pairs: Vec<String> =
        tables.iter().map(|name| format!("({},{})", literal(&name.schema), literal(&name.table))).collect();
    match pairs.is_empty() {
        true => "FALSE".to_owned(),
        false => format!("({schema}, {table}) IN ({})", pairs.join(",")),
    }
}

/// Returns what a server's catalogue says of tables. A table that is gone is left out.
///
/// # Errors
/// Those of the server.
pub fn columns(server: &Server, tables: &BTreeSet<TableName>) -> Result<Columns, DatabaseError> {
    let asked = format!(
        "SELECT TABLE_SCHEMA, TABLE_NAME, COLUMN_NAME, COLUMN_TYPE, IFNULL(CHARACTER_SET_NAME, '') \
         FROM information_schema.COLUMNS WHERE {} ORDER BY TABLE_SCHEMA, TABLE_NAME, ORDINAL_POSITION;",
        are(tables, "TABLE_SCHEMA", "TABLE_NAME")
    );
    let mut columns = Columns::new();
    for row in server.client.ask(&asked, LIMIT)?.rows {
        let Ok([schema, table, name, declared, charset]) = <[String; 5]>::try_from(row) else { continue };
        let charset = Some(charset).filter(|charset| !charset.is_empty());
        columns.entry(TableName { schema, table }).or_default().push(About { name, declared, charset });
    }
    Ok(columns)
}
