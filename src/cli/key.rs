//! `understudy key`.

use super::context::{Context, kill_at};
use super::error::{Context as _, Result, UsageError};
use super::exit::Exit;
use super::{Global, show};
use crate::format::keyring::Holder;
use crate::format::passphrase::{PASSPHRASE_MIN_CHARS, is_long_enough};
use crate::model::escape;
use crate::model::id::{StoreName, WriterId};
use crate::repository::error::RepositoryError;
use crate::repository::key_source::{make_key_file, read_key_file};
use crate::repository::keyrings::Holders;
use crate::repository::rekey::{Author, recipient_holder};
use crate::repository::store::Store;
use crate::support::durable;
use crate::support::env::Env;
use clap::{Args, Subcommand};
use serde::Serialize;
use std::path::PathBuf;
use zeroize::Zeroizing;

#[derive(Args)]
pub(super) struct KeyArgs {
    #[command(subcommand)]
    command: KeyCommand,
}

#[derive(Subcommand)]
enum KeyCommand {
    /// Create a key file in the format of age-keygen
    New {
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// List the keys that open a store
    List {
        #[arg(value_name = "STORE")]
        store: String,
    },
    /// Add a key that opens a store: a key file, an age recipient or a passphrase
    Add(AddArgs),
    /// Remove a key and rotate the data key, so that the removed key cannot read new data
    Remove {
        #[arg(value_name = "STORE")]
        store: String,
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// Rotate the data key: new data is sealed with a new key, for the same holders
    Rotate {
        #[arg(value_name = "STORE")]
        store: String,
    },
    /// Give a store of an earlier version a keyring that proves who made it; earlier versions can then no longer read the store
    Upgrade {
        #[arg(value_name = "STORE")]
        store: String,
    },
}

#[derive(Args)]
struct AddArgs {
    #[arg(value_name = "STORE")]
    store: String,
    /// Name of the key in `key list`
    #[arg(value_name = "NAME")]
    name: String,
    /// An age recipient (age1…)
    #[arg(long, value_name = "AGE1…", conflicts_with_all = ["file", "passphrase"])]
    recipient: Option<String>,
    /// A key file; created if it does not exist
    #[arg(long, value_name = "FILE", conflicts_with = "passphrase")]
    file: Option<PathBuf>,
    /// Use the passphrase in UNDERSTUDY_NEW_PASSPHRASE
    #[arg(long)]
    passphrase: bool,
}

pub(super) fn run(global: &Global, args: KeyArgs) -> Result<Exit> {
    let say = |text: &str| if global.quiet { Ok(()) } else { show::line(text) };
    let open = |store: &str| {
        let context = Context::new(global)?;
        let name = StoreName::parse(store)?;
        let store = context.repository_of(&name)?.store(&name);
        Ok::<_, crate::cli::error::Error>((context, store))
    };
    match args.command {
        KeyCommand::New { file } => {
            let identity = make_key_file(&file, &Env::system())?;
            say(&format!("wrote {}; its recipient is {}", file.display(), identity.recipient()))?;
        }
        KeyCommand::List { store } => {
            let (_context, store) = open(&store)?;
            if store.log().is_empty()? {
                return Err(RepositoryError::NoStore(store.name().clone()).into());
            }
            list(global, &store, store_holders(&store)?)?;
        }
        KeyCommand::Add(args) => {
            let (context, store) = open(&args.store)?;
            store.keyrings().add_key(holder(context.env(), &args)?, &author(&context.writer()))?;
            say(&format!("added key '{}' to store '{}'", args.name, store.name()))?;
        }
        KeyCommand::Remove { store, name } => {
            let (context, store) = open(&store)?;
            store.keyrings().remove_key(&name, &author(&context.writer()))?;
            say(&format!(
                "removed key '{name}' from store '{}'; it cannot read new data, but may have kept copies of old data",
                store.name()
            ))?;
        }
        KeyCommand::Rotate { store } => {
            let (context, store) = open(&store)?;
            store.keyrings().rotate_keys(&author(&context.writer()))?;
            say(&format!("store '{}' has a new data key; new data is sealed with it", store.name()))?;
        }
        KeyCommand::Upgrade { store } => {
            let (context, store) = open(&store)?;
            say(&match store.keyrings().upgrade_keys(&author(&context.writer()))? {
                true => {
                    format!("upgraded the keyring of store '{}': it now proves who made it", store.name())
                }
                false => format!("the keyring of store '{}' already proves who made it", store.name()),
            })?;
        }
    }
    Ok(Exit::Done)
}

fn author(writer: &WriterId) -> Author<'_> {
    Author { writer, on_step: &kill_at }
}

fn store_holders(store: &Store) -> Result<Option<Holders>> {
    // The log is read first: it decides which keyring is in force.
    match store.log().state() {
        Ok(_) | Err(RepositoryError::NoKey { .. }) => Ok(store.keyrings().holders()?),
        Err(error) => Err(error.into()),
    }
}

/// A holder, as it is listed.
#[derive(Serialize)]
struct Listed {
    name: String,
    opened_by: &'static str,
    recipient: Option<String>,
    made_the_keyring: bool,
    verified: bool,
}

fn list(global: &Global, store: &Store, holders: Option<Holders>) -> Result<()> {
    let Some(holders) = holders else {
        return match global.json {
            true => show::json(&holders.map(|_| ())),
            false => show::line(&format!("store '{}' is not encrypted", store.name())),
        };
    };
    let listed: Vec<_> = holders
        .holders
        .iter()
        .map(|holder| Listed {
            name: holder.name.clone(),
            opened_by: if holder.is_passphrase { "passphrase" } else { "key" },
            recipient: holder.recipient.map(|recipient| recipient.to_string()),
            made_the_keyring: holders.maker.as_ref() == Some(&holder.name),
            verified: holders.is_verified,
        })
        .collect();
    if global.json {
        return show::json(&listed);
    }
    let mut rows = vec![["name", "opened by", "recipient", ""].map(String::from).to_vec()];
    for holder in listed {
        let note = if holder.made_the_keyring { "made the keyring" } else { "" };
        let recipient = holder.recipient.unwrap_or_else(|| "-".to_owned());
        rows.push(vec![
            escape::line(&holder.name).into_owned(),
            holder.opened_by.into(),
            recipient,
            note.into(),
        ]);
    }
    show::table(&rows)?;
    match (holders.is_verified, holders.version) {
        (true, _) => {}
        (false, 1) => complain!(
            "understudy: not verified: the keyring is of version 1, which does not prove who made it; run `understudy key upgrade {}` to make one that does",
            store.name()
        ),
        (false, _) => {
            complain!("understudy: not verified: without a key these holders cannot be checked; give one")
        }
    }
    Ok(())
}

fn holder(env: &Env, args: &AddArgs) -> Result<Holder> {
    if let Some(recipient) = &args.recipient {
        return recipient_holder(&args.name, recipient)
            .map_err(|error| UsageError(format!("--recipient {recipient}: {error}")).into());
    }
    if let Some(file) = &args.file {
        let identity = match durable::is_made(file) {
            true => read_key_file(file)?.pop().ok_or_else(|| RepositoryError::EmptyKeyFile(file.clone()))?,
            false => make_key_file(file, env)?,
        };
        return Ok(Holder::of_recipient(&args.name, &identity.recipient()));
    }
    if !args.passphrase {
        return Err(UsageError("no key given: use --recipient, --file or --passphrase".into()).into());
    }
    let text = std::env::var("UNDERSTUDY_NEW_PASSPHRASE").map(Zeroizing::new).unwrap_or_default();
    if !is_long_enough(&text) {
        return Err(UsageError(format!(
            "set UNDERSTUDY_NEW_PASSPHRASE to the new passphrase, of at least {PASSPHRASE_MIN_CHARS} characters"
        ))
        .into());
    }
    let made = Holder::of_passphrase(&args.name, &text, env.random());
    Ok(made.context("the passphrase")?.0)
}
