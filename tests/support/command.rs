//! Runs of the real binary, and of other programs.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::LazyLock;

/// Returns the tests' key file with the permissions that a key should have: readable only for this user.
pub fn private_key() -> &'static Path {
    static KEY: LazyLock<PathBuf> = LazyLock::new(|| {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("key");
        let new = path.with_extension(format!("{}.{}", std::process::id(), super::rig::nonce()));
        // Other test processes create the same file, and each of their files is right.
        std::fs::write(&new, "").unwrap();
        std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::write(&new, std::fs::read(super::rig::key_file()).unwrap()).unwrap();
        std::fs::rename(&new, &path).unwrap();
        path
    });
    &KEY
}

pub fn understudy(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_understudy"));
    command.env("UNDERSTUDY_REPOSITORY", dir.join("repository")).env("XDG_CACHE_HOME", dir.join("cache"));
    command.env("UNDERSTUDY_KEY_FILE", private_key());
    command.env("HOME", dir).env_remove("UNDERSTUDY_CONFIG").current_dir(dir).stdin(Stdio::null());
    command
}

/// Returns a command of a host with its own key file, or none.
pub fn host(dir: &Path, home: &str) -> Command {
    let mut command = understudy(dir);
    std::fs::create_dir_all(dir.join(home)).unwrap();
    command.env("HOME", dir.join(home)).env("XDG_CACHE_HOME", dir.join(home).join("cache"));
    command
        .env_remove("UNDERSTUDY_KEY_FILE")
        .env_remove("XDG_CONFIG_HOME")
        .env_remove("UNDERSTUDY_PASSPHRASE");
    command
}

pub fn ok(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

pub fn fails(command: &mut Command, code: i32, with: &str) {
    let output = command.stdout(Stdio::piped()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{command:?}: {said}");
    assert!(said.contains(with), "{said}");
}

/// Returns all that a command printed.
pub fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}
