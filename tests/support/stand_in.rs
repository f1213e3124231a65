//! Programs that stand in for managers of services that are not on this machine, found on the `PATH`.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Puts a program of `tests/support` into `dir/bin`; its state is kept in `dir`.
pub fn install(dir: &Path, name: &str) -> PathBuf {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support").join(format!("{name}.py"));
    let to = dir.join("bin").join(name);
    std::fs::create_dir_all(dir.join("bin")).unwrap();
    std::fs::create_dir_all(dir.join("units")).unwrap();
    std::fs::copy(from, &to).unwrap();
    std::fs::set_permissions(&to, std::fs::Permissions::from_mode(0o755)).unwrap();
    to
}

/// Returns the calls of the programs in `dir`, without the questions of `but`.
pub fn calls(dir: &Path, but: &str) -> Vec<String> {
    let text = std::fs::read_to_string(dir.join("calls")).unwrap_or_default();
    text.lines().filter(|line| but.is_empty() || !line.contains(but)).map(str::to_owned).collect()
}

const MARK: &str = "UNDERSTUDY_TEST_STAND_IN";

/// Runs the test of this name once more, in a process of its own whose `PATH` begins with `dir/bin`. Returns
/// that directory in the inner process, and none in the outer one, once the inner one has succeeded.
pub fn again_with_path(test: &str) -> Option<PathBuf> {
    if let Some(dir) = std::env::var_os(MARK) {
        return Some(dir.into());
    }
    let dir = tempfile::tempdir().unwrap();
    let path = format!("{}:{}", dir.path().join("bin").display(), std::env::var("PATH").unwrap());
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([test, "--exact", "--nocapture"]).env("PATH", path).env(MARK, dir.path());
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("1 passed"), "{test} is no test: {said}");
    None
}
