//! The panel in a real browser: at every size, light and dark, with and without scripts, with the keyboard alone,
//! for screen readers, and live. `tests/support/panel.mjs` is the person who looks.

use crate::support::panel::PanelHost;
use std::path::Path;
use std::process::Command;

#[test]
fn people_of_all_kinds_use_the_panel() {
    let panel = PanelHost::start(3, "name = 'Example Hosting'");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (admin, customer) = (panel.token("admin", &[]), panel.token("customer", &["s0", "s1"]));
    let mut node = Command::new("node");
    node.arg(root.join("tests/support/panel.mjs")).arg(root.join("target/test-tools"));
    node.args([format!("http://localhost:{}", panel.port), admin, customer, "s0".to_owned()]);
    // For people: UNDERSTUDY_TEST_SHOTS=DIR keeps what was seen.
    node.args(std::env::var_os("UNDERSTUDY_TEST_SHOTS"));
    let output = node.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.trim() == "done", "{said}{errors}\n{}", panel.host.log());
}
