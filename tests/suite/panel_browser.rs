//! The panel in a real browser: at every size, light and dark, with and without scripts, with the keyboard alone,
//! for screen readers, and live. `tests/support/panel.mjs` is the person who looks.

use crate::support::panel::PanelHost;
use std::path::Path;
use std::process::Command;

/// Has a part of the script run; what it finds wrong is what it prints.
fn run(part: &str) {
    let panel = PanelHost::start(3, "name = 'Example Hosting'");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (admin, customer) = (panel.token("admin", &[]), panel.token("customer", &["s0", "s1"]));
    let mut node = Command::new("node");
    node.arg(root.join("tests/support/panel.mjs")).arg(part).arg(root.join("target/test-tools"));
    node.args([format!("http://localhost:{}", panel.port), admin, customer, "s0".to_owned()]);
    node.args(std::env::var_os("UNDERSTUDY_TEST_SHOTS"));
    let output = node.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.trim() == "done", "{said}{errors}\n{}", panel.host.log());
}

#[test]
fn every_page_fits_every_screen_and_reader_and_is_valid() {
    run("looks");
}

#[test]
fn the_panel_is_live_and_is_used_without_scripts_and_with_keys_alone() {
    run("uses");
}
