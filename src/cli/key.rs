//! `understudy key`.

use super::context::Context;
use super::exit::{Exit, UsageError};
use super::{Global, show};
use crate::format::keyring::Slot;
use crate::model::id::StoreName;
use crate::repository::error::RepositoryError;
use crate::repository::keys::{make_key_file, read_key_file, recipient_slot};
use crate::support::durable;
use crate::support::random::Random;
use anyhow::{Context as _, Result};
use clap::{Args, Subcommand};
use std::path::PathBuf;
use zeroize::Zeroizing;

#[derive(Args)]
pub(super) struct KeyArgs {
    #[command(subcommand)]
    command: KeyCommand,
}

#[derive(Subcommand)]
enum KeyCommand {
    /// Make a key file, as age-keygen does
    New {
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Show who may open a store
    List {
        #[arg(value_name = "STORE")]
        store: String,
    },
    /// Let somebody open a store: the holder of a key file, of an age identity, or of a passphrase
    Add(AddArgs),
    /// Let somebody open a store no more: what is written from now on has keys that they never saw
    Remove {
        #[arg(value_name = "STORE")]
        store: String,
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// New keys for what is written from now on, for the same holders
    Rotate {
        #[arg(value_name = "STORE")]
        store: String,
    },
}

#[derive(Args)]
struct AddArgs {
    #[arg(value_name = "STORE")]
    store: String,
    /// What it is called in `key list`
    #[arg(value_name = "NAME")]
    name: String,
    /// age1…
    #[arg(long, value_name = "AGE1…", conflicts_with_all = ["file", "passphrase"])]
    recipient: Option<String>,
    /// A key file; made if it is not there
    #[arg(long, value_name = "FILE", conflicts_with = "passphrase")]
    file: Option<PathBuf>,
    /// The passphrase in UNDERSTUDY_NEW_PASSPHRASE
    #[arg(long)]
    passphrase: bool,
}

pub(super) fn run(global: &Global, args: KeyArgs) -> Result<Exit> {
    let say = |text: &str| if global.quiet { Ok(()) } else { show::line(text) };
    let open = |store: &str| {
        let context = Context::new(global)?;
        let name = StoreName::parse(store)?;
        let store = context.repository_of(&name)?.store(&name);
        Ok::<_, anyhow::Error>((context, store))
    };
    match args.command {
        KeyCommand::New { file } => {
            let identity = make_key_file(&file, fresh())?;
            say(&format!(
                "wrote {}; it opens what is encrypted for {}",
                file.display(),
                identity.recipient()
            ))?;
        }
        KeyCommand::List { store } => {
            let (_context, store) = open(&store)?;
            if store.state_is_empty()? {
                return Err(RepositoryError::NoStore(store.name().clone()).into());
            }
            let slots = store.key_slots()?;
            if global.json {
                show::json(&slots)?;
            } else if let Some(slots) = slots {
                let mut rows = vec![["name", "opened by", "recipient"].map(String::from).to_vec()];
                for slot in slots {
                    let how = if slot.passphrase.is_some() { "passphrase" } else { "key" };
                    rows.push(vec![slot.name, how.into(), slot.recipient]);
                }
                show::table(&rows)?;
            } else {
                show::line(&format!("store '{}' is not encrypted", store.name()))?;
            }
        }
        KeyCommand::Add(args) => {
            let (_context, store) = open(&args.store)?;
            store.add_key(slot(&args)?)?;
            say(&format!("'{}' opens store '{}' from now on", args.name, store.name()))?;
        }
        KeyCommand::Remove { store, name } => {
            let (_context, store) = open(&store)?;
            store.remove_key(&name)?;
            say(&format!(
                "'{name}' opens nothing that is written to store '{}' from now on; what was written before it may have kept",
                store.name()
            ))?;
        }
        KeyCommand::Rotate { store } => {
            let (_context, store) = open(&store)?;
            store.rotate_keys()?;
            say(&format!("store '{}' has new keys for what is written from now on", store.name()))?;
        }
    }
    Ok(Exit::Done)
}

fn fresh() -> [u8; 32] {
    let mut bytes = [0; 32];
    Random::default().fill(&mut bytes);
    bytes
}

fn slot(args: &AddArgs) -> Result<Slot> {
    if let Some(recipient) = &args.recipient {
        return recipient_slot(&args.name, recipient)
            .map_err(|error| UsageError(format!("--recipient {recipient}: {error}")).into());
    }
    if let Some(file) = &args.file {
        let identity = match durable::is_made(file) {
            true => read_key_file(file)?.pop().with_context(|| format!("{} holds no key", file.display()))?,
            false => make_key_file(file, fresh())?,
        };
        return Ok(Slot::of_recipient(&args.name, &identity.recipient()));
    }
    if !args.passphrase {
        return Err(UsageError("say who: --recipient, --file or --passphrase".into()).into());
    }
    let text = std::env::var("UNDERSTUDY_NEW_PASSPHRASE").map(Zeroizing::new).unwrap_or_default();
    if text.len() < 8 {
        return Err(UsageError(
            "UNDERSTUDY_NEW_PASSPHRASE is to hold the new passphrase, 8 characters at least".into(),
        )
        .into());
    }
    let random = Random::default();
    Slot::of_passphrase(&args.name, &text, &mut |bytes| random.fill(bytes)).context("the passphrase")
}
