//! `understudy database found`.

use super::{Configured, OfStore};
use crate::cli::error::{Result, UsageError};
use crate::cli::exit::Exit;
use crate::cli::{Global, show};
use crate::database::found::{self, Founded};

pub(super) fn found(global: &Global, of: &OfStore) -> Result<Exit> {
    let configured = Configured::open(global, &of.store)?;
    let (name, database) = (&configured.store.name, &configured.store.database);
    let Some(root) = &database.datadir else {
        let text =
            format!("store '{name}': there is no place for its data; set `datadir` in [store.database]");
        return Err(UsageError(text).into());
    };
    let says = configured.log_says()?;
    if let Some(primary) = says.primary.filter(|_| !says.is_here) {
        let text = format!(
            "store '{name}': its primary is '{primary}', whose database a standby begins from: understudy database run {name}"
        );
        return Err(UsageError(text).into());
    }
    let env = configured.context.env();
    let said = match found::found(name.as_str(), root, database.primary(env), env)? {
        Founded::Before => format!("{}: the database of '{name}' was founded before", root.display()),
        Founded::New => format!("{}: an empty database for '{name}'", root.display()),
        Founded::Adopted => format!(
            "{}: taken over for '{name}'; stop the server that has run it, and keep it from starting by itself",
            root.display()
        ),
    };
    if !global.quiet && !global.json {
        show::line(&said)?;
        show::line(&format!("next: understudy database run {name}, and understudy database promote {name}"))?;
    }
    Ok(Exit::Done)
}
