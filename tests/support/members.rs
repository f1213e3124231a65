//! Invitations of members, and decisions that they sign.

use super::command::{ok, said};
use super::host::Host;
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use understudy::model::decision::Decision;
use understudy::model::id::{Sequence, WriterId};
use understudy::model::member::{May, Member};
use understudy::repository::decide::Maker;
use understudy::repository::error::RepositoryError;
use understudy::repository::store::Store;
use understudy::support::signature::SigningKey;

/// Returns a member without addresses, that may serve and watch.
pub fn member(name: &str, key: &SigningKey) -> Member {
    Member {
        name: WriterId(name.into()),
        key: key.public(),
        address: None,
        customers: None,
        database: None,
        zone: None,
        may: BTreeSet::from([May::Serve, May::Watch]),
    }
}

/// Begins an invitation. Returns its process and its token.
pub fn invite(host: &Host, more: &[&str]) -> (Child, String) {
    let mut command = host.command(&["member", "invite", "acme"]);
    let mut inviting = command.args(more).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut token = String::new();
    // The rest of the output is small enough to wait in the pipe.
    let mut stdout = BufReader::new(inviting.stdout.take().unwrap());
    stdout.read_line(&mut token).unwrap();
    inviting.stdout = Some(stdout.into_inner());
    (inviting, token.trim().to_owned())
}

/// Lets a host join, by a token of a member, whose further arguments are `more`. Returns the token.
pub fn join(inviter: &Host, joiner: &Host, more: &[&str]) -> String {
    let (inviting, token) = invite(inviter, more);
    ok(&mut joiner.command(&["member", "join", &token]));
    let output = inviting.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    token
}

/// Appends a decision that a host signs with this key.
pub fn decide(store: &Store, host: &str, key: &SigningKey, decision: Decision) -> Sequence {
    let mut state = store.log().state().unwrap();
    let host = WriterId(host.into());
    let maker = Maker { name: &host, key };
    let decided = store.log().decide::<RepositoryError>(&mut state, maker, |_| Ok(Some(decision.clone())));
    decided.unwrap().unwrap()
}
