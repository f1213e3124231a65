//! What HAProxy answers on its socket, and what its server-state files contain.
//!
//! Columns are found by their names, since versions add some. An answer that cannot be read is an error, and
//! never taken for "nothing".

use crate::edge::address::Address;
use crate::edge::mark::Mark;
use std::net::IpAddr;

/// One server, as `show servers state` and a server-state file describe it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServerState {
    /// The address; none while it has none.
    pub address: Option<Address>,
    /// Whether the server's configuration gives a name, without which a reload forgets the address.
    pub has_name: bool,
    /// Whether checks, if there are any, say that it answers.
    pub is_up: bool,
    /// Whether it is neither in maintenance nor drained.
    pub is_ready: bool,
}

/// Finds a server. Returns none if it is not listed.
///
/// # Errors
/// A reason in words, if this is no list of servers.
pub(crate) fn server_state(text: &str, backend: &str, server: &str) -> Result<Option<ServerState>, String> {
    let mut lines = text.lines().filter(|line| !line.trim().is_empty());
    let first = lines.next().map(str::trim);
    let columns = match (first, lines.next()) {
        (Some("1"), Some(columns)) if columns.starts_with("# ") => {
            columns[2..].split(' ').collect::<Vec<_>>()
        }
        _ => return Err(format!("this is no list of servers: {}", start_of(text))),
    };
    for line in lines {
        let fields: Vec<&str> = line.split(' ').collect();
        let field = |name: &str| {
            let at = columns.iter().position(|column| *column == name);
            at.and_then(|at| fields.get(at).copied())
                .ok_or_else(|| format!("no {name} in '{}'", start_of(line)))
        };
        if field("be_name")? != backend || field("srv_name")? != server {
            continue;
        }
        let number = |name: &str| {
            let text = field(name)?;
            text.parse::<u32>().map_err(|_| format!("{name} is '{}', no number", start_of(text)))
        };
        let address = match field("srv_addr")?.parse::<IpAddr>() {
            Ok(IpAddr::V6(ip)) => format!("[{ip}]:{}", field("srv_port")?).parse().ok(),
            Ok(ip) => format!("{ip}:{}", field("srv_port")?).parse().ok(),
            Err(_) => None,
        };
        return Ok(Some(ServerState {
            address,
            has_name: field("srv_fqdn")? != "-",
            is_up: number("srv_op_state")? != 0,
            is_ready: number("srv_admin_state")? == 0,
        }));
    }
    Ok(None)
}

/// Finds a store's mark in what `show map` prints: an address in memory, the key and the value on each line.
/// If there are several, the newest counts. Returns whether there is an entry at all, and its mark.
///
/// # Errors
/// A reason in words, if the map is not known, or the value is no mark.
pub(crate) fn map_entry(text: &str, key: &str) -> Result<(bool, Option<Mark>), String> {
    let mut found = (false, None);
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let mut words = line.split(' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some(at), Some(found_key), Some(value), None) if at.starts_with("0x") => {
                if found_key == key {
                    let mark = value.parse::<Mark>().map_err(|error| error.to_string())?;
                    found = (true, crate::edge::switch::newer(found.1, Some(mark)));
                }
            }
            _ => return Err(start_of(line)),
        }
    }
    Ok(found)
}

/// Returns a store's mark in its map file; none in an empty one.
pub(crate) fn file_entry(text: &str, key: &str) -> Result<Option<Mark>, String> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let mut found = None;
    for line in lines {
        let (name, value) = line.split_once(' ').ok_or_else(|| start_of(line))?;
        if name == key {
            let mark = value.trim().parse::<Mark>().map_err(|error| error.to_string())?;
            found = crate::edge::switch::newer(found, Some(mark));
        }
    }
    Ok(found)
}

/// Returns the beginning of an answer, for a message.
pub(crate) fn start_of(text: &str) -> String {
    text.trim().chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIST: &str = "1\n# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_fqdn srv_port\n\
        3 acme 1 origin 10.0.0.1 2 0 acme.invalid 8080\n\
        3 acme 2 spare - 0 32 - 0\n4 six 1 origin 2001:db8::1 0 1 - 80\n\n";

    #[test]
    fn a_server_is_found_by_the_columns_names() {
        let find = |backend, server| server_state(LIST, backend, server).unwrap();
        let origin = find("acme", "origin").unwrap();
        assert_eq!(origin.address.unwrap().to_string(), "10.0.0.1:8080");
        assert!(origin.has_name && origin.is_up && origin.is_ready);
        let spare = find("acme", "spare").unwrap();
        assert_eq!((spare.address, spare.has_name, spare.is_up, spare.is_ready), (None, false, false, false));
        assert_eq!(find("six", "origin").unwrap().address.unwrap().to_string(), "[2001:db8::1]:80");
        assert_eq!((find("acme", "nosuch"), find("nosuch", "origin")), (None, None));
        for wrong in
            ["", "Can't find backend.\n", "2\n# be_id\n", "1\n", "1\n# be_name srv_name\nacme origin\n"]
        {
            assert!(server_state(wrong, "acme", "origin").is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_newest_mark_of_a_store_counts_and_what_is_no_map_is_refused() {
        let map = "0x55 acme 6/web-1/10.0.0.1:80\n0x56 other 9/web-1/10.0.0.1:80\n0x57 acme 7/web-2/10.0.0.2:80\n\n";
        let (is_there, mark) = map_entry(map, "acme").unwrap();
        assert_eq!((is_there, mark.unwrap().to_string()), (true, "7/web-2/10.0.0.2:80".into()));
        assert_eq!(map_entry("\n", "acme"), Ok((false, None)));
        for wrong in [
            "Unknown map identifier. Please use #<id> or <file>.\n",
            "0x5 acme seven\n",
            "0x5 acme 7/a/b:1 x",
        ] {
            assert!(map_entry(wrong, "acme").is_err(), "{wrong}");
        }
        assert_eq!(file_entry("# none\n\n", "acme"), Ok(None));
        assert_eq!(file_entry("acme 7/a/b:1\n", "acme").unwrap().unwrap().to_string(), "7/a/b:1");
        assert!(file_entry("acme\n", "acme").is_err() && file_entry("acme 7\n", "acme").is_err());
    }

    proptest! {
        #[test]
        fn any_answer_is_read_or_refused(text in "(1\n)?(# be_name srv_name[ a-z_]{0,20}\n)?(?s).{0,80}", key in "[a-z]{1,3}") {
            let _ = server_state(&text, &key, &key);
            let _ = map_entry(&text, &key);
            let _ = file_entry(&text, &key);
        }
    }
}
