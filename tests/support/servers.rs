//! Real servers on loopback, each stopped by its own pid.

use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Azurite's built-in key: of a published test account, no secret.
const AZURITE_KEY: &str =
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

pub struct Server {
    child: Child,
    _dir: TempDir,
    /// Variables for the client's environment.
    pub environment: Vec<(&'static str, String)>,
    pub location: &'static str,
}

pub(super) fn tool(path: &str) -> PathBuf {
    let tool = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/test-tools").join(path);
    assert!(tool.exists(), "{} is missing: run tests/tools.sh", tool.display());
    tool
}

pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn start(mut command: Command, port: u16, dir: TempDir) -> (Child, TempDir) {
    let mut child = command
        .current_dir(dir.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(child.try_wait().unwrap().is_none(), "{command:?} ended at once");
        assert!(Instant::now() < deadline, "{command:?} does not listen");
        std::thread::sleep(Duration::from_millis(50));
    }
    (child, dir)
}

fn s3_environment(port: u16, key: &str) -> Vec<(&'static str, String)> {
    vec![
        ("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{port}")),
        ("AWS_ACCESS_KEY_ID", key.to_owned()),
        ("AWS_SECRET_ACCESS_KEY", key.to_owned()),
        ("AWS_REGION", "us-east-1".to_owned()),
    ]
}

/// Starts an S3 server that honours create-only conditions.
pub fn moto() -> Server {
    let (port, dir) = (free_port(), tempfile::tempdir().unwrap());
    let mut command = Command::new(tool("venv/bin/moto_server"));
    command.args(["-H", "127.0.0.1", "-p", &port.to_string()]);
    let (child, dir) = start(command, port, dir);
    http(port, "PUT /bucket HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    Server {
        child,
        _dir: dir,
        environment: s3_environment(port, "testing"),
        location: "s3://bucket/some/prefix",
    }
}

/// Starts an S3 server that ignores create-only conditions.
pub fn s3rver() -> Server {
    let (port, dir) = (free_port(), tempfile::tempdir().unwrap());
    let mut command = Command::new(tool("node_modules/.bin/s3rver"));
    command.args([
        "--directory",
        ".",
        "--address",
        "127.0.0.1",
        "--port",
        &port.to_string(),
        "--configure-bucket",
        "bucket",
    ]);
    let (child, dir) = start(command, port, dir);
    Server { child, _dir: dir, environment: s3_environment(port, "S3RVER"), location: "s3://bucket" }
}

/// Starts a server of Azure's blob storage.
pub fn azurite() -> Server {
    let (port, dir) = (free_port(), tempfile::tempdir().unwrap());
    let mut command = Command::new(tool("node_modules/.bin/azurite-blob"));
    let port_text = port.to_string();
    command.args([
        "--blobHost",
        "127.0.0.1",
        "--blobPort",
        &port_text,
        "--location",
        ".",
        "--silent",
        "--disableTelemetry",
        "--skipApiVersionCheck",
    ]);
    let (child, dir) = start(command, port, dir);
    create_container(port);
    let environment = vec![
        ("AZURE_STORAGE_USE_EMULATOR", "true".to_owned()),
        ("AZURITE_BLOB_STORAGE_URL", format!("http://127.0.0.1:{port}")),
        ("AZURE_STORAGE_ACCOUNT_NAME", "devstoreaccount1".to_owned()),
        ("AZURE_STORAGE_ACCOUNT_KEY", AZURITE_KEY.to_owned()),
    ];
    Server { child, _dir: dir, environment, location: "az://container" }
}

impl Server {
    /// Returns the keys in an S3 server's bucket.
    pub fn keys(&self) -> Vec<String> {
        let port = self.environment[0].1.rsplit(':').next().unwrap().parse().unwrap();
        let request = "GET /bucket?list-type=2 HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n";
        let reply = http(port, request);
        let keys = reply.split("<Key>").skip(1).filter_map(|rest| rest.split("</Key>").next());
        keys.map(|key| key.replace("&amp;", "&")).collect()
    }
}

fn http(port: u16, request: &str) -> String {
    use std::io::{Read, Write};
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    assert!(reply.starts_with("HTTP/1.1 20"), "{reply}");
    reply
}

/// Creates a container. Shared-key signing needs HMAC, which Python has.
fn create_container(port: u16) {
    let script = format!(
        r#"
import base64, hashlib, hmac, http.client, email.utils
date = email.utils.formatdate(usegmt=True)
text = "PUT\n\n\n\n\n\n\n\n\n\n\n\nx-ms-date:" + date + "\nx-ms-version:2021-12-02\n/devstoreaccount1/devstoreaccount1/container\nrestype:container"
sign = base64.b64encode(hmac.new(base64.b64decode("{AZURITE_KEY}"), text.encode(), hashlib.sha256).digest()).decode()
c = http.client.HTTPConnection("127.0.0.1", {port})
c.request("PUT", "/devstoreaccount1/container?restype=container", headers={{"x-ms-date": date, "x-ms-version": "2021-12-02", "Content-Length": "0", "Authorization": "SharedKey devstoreaccount1:" + sign}})
r = c.getresponse()
assert r.status == 201, (r.status, r.read())
"#
    );
    assert!(Command::new("python3").args(["-c", &script]).status().unwrap().success());
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
