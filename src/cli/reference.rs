//! The reference of all commands, as Markdown. Pure: it is generated from `clap`'s description of the command
//! line, so that the page and the program agree.

use super::Cli;
use super::exit::Exit;
use clap::error::ErrorKind;
use clap::{Arg, Command, CommandFactory, Parser};
use std::fmt::Write;

const EXITS: [Exit; 7] =
    [Exit::Done, Exit::Failed, Exit::Usage, Exit::Warnings, Exit::Held, Exit::Fenced, Exit::Unavailable];

/// Returns the page: every command with its arguments, then the options of all commands and the exit codes.
pub fn reference() -> String {
    let mut cli = Cli::command();
    cli.build();
    let mut page = String::from(
        "# Commands\n\n\
         <!-- Made from the program's own command line; `UNDERSTUDY_WRITE_REFERENCE=1 cargo nextest run \
         commands_reference` writes it again. -->\n\n\
         Look here for every command, argument and option. A snapshot is `acme`, `acme@latest`, `acme@42`\n\
         or `acme@2026-11-23T10:00` (UTC: the last one whose scan had begun by then).\n\n\
         | command | what it does |\n| --- | --- |\n",
    );
    let commands: Vec<&Command> = visible(&cli).collect();
    for command in &commands {
        let (name, about) = (command.get_name(), about(command));
        let _ = writeln!(page, "| [`{name}`](#{name}) | {about} |");
    }
    page += "| [all commands](#options-of-all-commands) | options that every command has |\n";
    for command in commands {
        describe(&mut page, command, 2);
    }
    page += "\n## Options of all commands\n";
    arguments(&mut page, cli.get_arguments().filter(|arg| arg.is_global_set()));
    page += "\n## Exit codes\n\n| code | meaning |\n| ---: | --- |\n";
    for exit in EXITS {
        let _ = writeln!(page, "| {} | {} |", exit.code(), meaning(exit));
    }
    page
}

/// Checks that a command line names commands and options that exist; `args` are those after the program's name.
pub fn parses(args: &[String]) -> Result<(), String> {
    let program = "understudy".to_owned();
    match Cli::try_parse_from(std::iter::once(&program).chain(args)) {
        Ok(_) => Ok(()),
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

fn visible(command: &Command) -> impl Iterator<Item = &Command> {
    command.get_subcommands().filter(|sub| !sub.is_hide_set() && sub.get_name() != "help")
}

fn about(command: &Command) -> String {
    cell(&command.get_about().map(ToString::to_string).unwrap_or_default())
}

fn describe(page: &mut String, command: &Command, level: usize) {
    let name = command.get_bin_name().unwrap_or(command.get_name());
    let name = name.strip_prefix("understudy ").unwrap_or(name);
    let usage = command.clone().render_usage().to_string();
    let usage = usage.trim_start_matches("Usage: ");
    let _ = write!(page, "\n{} {name}\n\n{}.\n\n```text\n{usage}\n```\n", "#".repeat(level), about(command));
    arguments(page, command.get_arguments().filter(|arg| !arg.is_global_set()));
    for sub in visible(command) {
        describe(page, sub, level + 1);
    }
}

fn arguments<'a>(page: &mut String, args: impl Iterator<Item = &'a Arg>) {
    let is_own = |arg: &&Arg| !arg.is_hide_set() && !matches!(arg.get_id().as_str(), "help" | "version");
    let rows: Vec<_> = args.filter(is_own).map(row).collect();
    if !rows.is_empty() {
        let _ = write!(page, "\n| argument | what it does |\n| --- | --- |\n{}", rows.concat());
    }
}

/// Returns a table row for an argument: how it is written, what it does, its possible values, and its other
/// sources.
fn row(arg: &Arg) -> String {
    let long = arg.get_long().map(|long| format!("--{long}"));
    let short = arg.get_short().map(|short| format!("-{short}"));
    let names: Vec<_> = short.into_iter().chain(long).collect();
    let takes_value = arg.get_action().takes_values();
    let values: Vec<_> = arg.get_value_names().unwrap_or_default().iter().map(|name| name.as_str()).collect();
    let value = values.join(" ");
    let is_optional = arg.get_num_args().is_some_and(|count| count.min_values() == 0);
    let written = match (names.is_empty(), takes_value) {
        (true, _) if arg.is_required_set() => format!("<{value}>"),
        (true, _) => format!("[{value}]"),
        (false, true) if is_optional => format!("{}[=<{value}>]", names.join(", ")),
        (false, true) => format!("{} <{value}>", names.join(", ")),
        (false, false) => names.join(", "),
    };
    let mut text = cell(&arg.get_help().map(ToString::to_string).unwrap_or_default());
    let mut add = |more: String| {
        let gap = match text.chars().last() {
            None => "",
            Some('.' | '…') => " ",
            Some(_) => ". ",
        };
        text += gap;
        text += &more;
    };
    let choices = arg.get_possible_values();
    if takes_value && !choices.is_empty() {
        let choices = choices.iter().map(|choice| match choice.get_help() {
            Some(help) => format!("`{}` ({})", choice.get_name(), cell(&help.to_string())),
            None => format!("`{}`", choice.get_name()),
        });
        add(format!("Values: {}", choices.collect::<Vec<_>>().join(", ")));
    }
    let defaults: Vec<_> = arg.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
    if takes_value && !defaults.is_empty() {
        add(format!("Default: `{}`", defaults.join(" ")));
    }
    if let Some(variable) = arg.get_env() {
        add(format!("Environment: `{}`", variable.to_string_lossy()));
    }
    format!("| `{}` | {text} |\n", written.replace('|', "\\|"))
}

/// Escapes text for a table cell.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('<', "&lt;").replace('\n', " ")
}

fn meaning(exit: Exit) -> &'static str {
    match exit {
        Exit::Done => "Done.",
        Exit::Failed => {
            "Failed; nothing was committed. Also: `verify` found damage, a drill failed, or a signal stopped the command."
        }
        Exit::Usage => "Invalid usage or configuration: the message says what to change.",
        Exit::Warnings => {
            "Committed, with warnings: some paths were torn, unreadable or unsettled, or attributes could not be read. \
             For `restore`: some entries did not come back as they were; each is named."
        }
        Exit::Held => {
            "Held: the run would lose more than the plan allows. Nothing was committed or deleted. Look, then `--accept`."
        }
        Exit::Fenced => "Fenced: another host is the store's primary now. This host must not write to it.",
        Exit::Unavailable => "The repository is unavailable. Try again later.",
    }
}
