//! CloudFront without AWS: the emulator `ministack`, which compares ETags, and a point of presence beside it.

use super::proxies::kill;
use super::servers::{free_port, tool};
use super::wait::wait_until;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

const AT: &str = "/2020-05-31";
const ZONES: &str = "/2013-04-01/hostedzone";

/// The emulator, with a distribution of two origins and a key value store.
pub struct Emulator {
    child: Child,
    pub port: u16,
    pub distribution: String,
    pub store_arn: String,
    _dir: TempDir,
}

/// A distribution as one comes from AWS: with elements that understudy does not know, comments and blanks.
fn config(reference: &str, port: u16) -> String {
    let origin = |id: &str, domain: &str| {
        format!(
            "<Origin>\n  <Id>{id}</Id><DomainName>{domain}</DomainName><OriginPath></OriginPath>\
             <CustomHeaders><Quantity>1</Quantity><Items><OriginCustomHeader><HeaderName>X-Secret</HeaderName>\
             <HeaderValue>a&amp;b</HeaderValue></OriginCustomHeader></Items></CustomHeaders>\
             <CustomOriginConfig><HTTPPort>{port}</HTTPPort><HTTPSPort>443</HTTPSPort>\
             <OriginProtocolPolicy>http-only</OriginProtocolPolicy></CustomOriginConfig>\
             <FutureSetting>  kept  </FutureSetting></Origin>"
        )
    };
    let behaviour = |target: &str| {
        format!(
            "<TargetOriginId>{target}</TargetOriginId><ViewerProtocolPolicy>allow-all</ViewerProtocolPolicy>\
             <FunctionAssociations><Quantity>0</Quantity></FunctionAssociations>"
        )
    };
    format!(
        "<?xml version=\"1.0\"?>\n<DistributionConfig xmlns=\"http://cloudfront.amazonaws.com/doc/2020-05-31/\">\
         <CallerReference>{reference}</CallerReference><Aliases><Quantity>0</Quantity></Aliases>\
         <Origins><Quantity>2</Quantity><Items>{}{}</Items></Origins>\
         <DefaultCacheBehavior>{}</DefaultCacheBehavior>\
         <CacheBehaviors><Quantity>2</Quantity><Items>\
         <CacheBehavior><PathPattern>/media/*</PathPattern>{}</CacheBehavior>\
         <CacheBehavior><PathPattern>/checkout/*</PathPattern>{}</CacheBehavior></Items></CacheBehaviors>\
         <CustomErrorResponses><Quantity>0</Quantity></CustomErrorResponses>\
         <Comment>shop &lt;acme&gt;</Comment><Enabled>true</Enabled></DistributionConfig>",
        origin("web-1", "127.0.0.1"),
        origin("media", "media.example"),
        behaviour("web-1"),
        behaviour("media"),
        behaviour("web-1"),
    )
}

impl Emulator {
    /// Starts it with a distribution whose origins are at a port of this machine.
    pub fn start(origin_port: u16) -> Self {
        Self::start_by(Command::new(tool("aws/bin/python")), "127.0.0.1", origin_port)
    }

    fn start_by(mut command: Command, address: &str, origin_port: u16) -> Self {
        let (port, dir) = (free_port(), tempfile::tempdir().unwrap());
        command.args(["-m", "ministack"]).current_dir(dir.path()).env("HOME", dir.path());
        command.env("BIND_HOST", address).env("GATEWAY_PORT", port.to_string());
        command.env("SERVICES", "cloudfront,cloudfront-keyvaluestore,route53,imds");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().unwrap();
        let (distribution, store_arn) = (String::new(), String::new());
        let mut emulator = Self { child, port, distribution, store_arn, _dir: dir };
        wait_until("ministack answers", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        let store = "<CreateKeyValueStoreRequest><Name>understudy</Name></CreateKeyValueStoreRequest>";
        let made = emulator.ask("POST", &format!("{AT}/key-value-store"), "", store);
        emulator.store_arn = between(&made, "<ARN>", "</ARN>").to_owned();
        let made = emulator.ask("POST", &format!("{AT}/distribution"), "", &config("first", origin_port));
        emulator.distribution = between(&made, "<Id>", "</Id>").to_owned();
        emulator
    }

    /// Asks it as somebody else does, and returns the answer with its head.
    pub fn ask(&self, method: &str, path: &str, headers: &str, body: &str) -> String {
        let service = match path {
            path if path.starts_with("/key-value-stores") => "cloudfront-keyvaluestore",
            path if path.starts_with(ZONES) => "route53",
            _ => "cloudfront",
        };
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nConnection: close\r\nContent-Length: {}\r\n\
             Authorization: AWS4-HMAC-SHA256 Credential=other/20260101/us-east-1/{service}/aws4_request, \
             SignedHeaders=host, Signature=0\r\n{headers}\r\n",
            self.port,
            body.len()
        );
        stream.write_all((head + body).as_bytes()).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        String::from_utf8(answer).unwrap()
    }

    /// Makes a hosted zone, and returns its ID.
    pub fn make_zone(&self, name: &str) -> String {
        let body = format!(
            "<CreateHostedZoneRequest><Name>{name}</Name><CallerReference>{name}</CallerReference></CreateHostedZoneRequest>"
        );
        let made = self.ask("POST", ZONES, "", &body);
        between(&made, "<Id>/hostedzone/", "</Id>").to_owned()
    }

    /// Returns the records of a zone as the emulator tells them, but for those that every zone has.
    pub fn records(&self, zone: &str) -> Vec<String> {
        let told = self.ask("GET", &format!("{ZONES}/{zone}/rrset"), "", "");
        let sets = told.split("<ResourceRecordSet>").skip(1).map(|set| {
            let part = |name: &str| between(set, &format!("<{name}>"), "<").to_owned();
            format!("{} {} {} {}", part("Name"), part("Type"), part("TTL"), part("Value"))
        });
        sets.filter(|set| !set.contains(" NS ") && !set.contains(" SOA ")).collect()
    }

    /// Sets a record as an operator does.
    pub fn set_record(&self, zone: &str, record: &str) {
        let body = format!(
            "<ChangeResourceRecordSetsRequest><ChangeBatch><Changes><Change><Action>UPSERT</Action>\
             <ResourceRecordSet>{record}</ResourceRecordSet></Change></Changes></ChangeBatch>\
             </ChangeResourceRecordSetsRequest>"
        );
        let answer = self.ask("POST", &format!("{ZONES}/{zone}/rrset/"), "", &body);
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }

    /// Returns the distribution's configuration and its ETag.
    pub fn config(&self) -> (String, String) {
        let answer = self.ask("GET", &format!("{AT}/distribution/{}/config", self.distribution), "", "");
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let etag = head.lines().find_map(|line| line.strip_prefix("ETag: ").or(line.strip_prefix("etag: ")));
        (body.to_owned(), etag.unwrap().trim().to_owned())
    }

    /// Changes the distribution as an operator does.
    pub fn change(&self, change: impl FnOnce(String) -> String) {
        let (config, etag) = self.config();
        let path = format!("{AT}/distribution/{}/config", self.distribution);
        let answer = self.ask("PUT", &path, &format!("If-Match: {etag}\r\n"), &change(config));
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }

    /// Returns the value of the store's key; none if there is no such key.
    pub fn key(&self, key: &str) -> Option<String> {
        let arn = self.store_arn.replace(':', "%3A").replace('/', "%2F");
        let answer = self.ask("GET", &format!("/key-value-stores/{arn}/keys/{key}"), "", "");
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        let value: serde_json::Value = serde_json::from_str(body).unwrap();
        value["Value"].as_str().map(str::to_owned)
    }

    /// Writes a key as somebody else does.
    pub fn put_key(&self, key: &str, value: &str) {
        let arn = self.store_arn.replace(':', "%3A").replace('/', "%2F");
        let head = self.ask("GET", &format!("/key-value-stores/{arn}"), "", "");
        let etag = between(&head.to_ascii_lowercase(), "\r\netag: ", "\r\n").to_owned();
        let body = serde_json::json!({ "Value": value }).to_string();
        let path = format!("/key-value-stores/{arn}/keys/{key}");
        let answer = self.ask("PUT", &path, &format!("If-Match: {etag}\r\n"), &body);
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }

    /// Returns the `[[store.edge]]` for the hosts `web-1` and `web-2`, whose API is at a port of this machine.
    pub fn edge(&self, api: u16, origin_port: u16, with_store: bool) -> String {
        let store = match with_store {
            true => format!("key_value_store = '{}'\n", self.store_arn),
            false => String::new(),
        };
        format!(
            "[[store.edge]]\nkind = 'cloudfront'\ndistribution = '{}'\nendpoint = 'http://127.0.0.1:{api}'\n{store}\
             timeout_seconds = 20\norigins = [\n    {{ host = 'web-1', id = 'web-1', address = '127.0.0.1:{origin_port}' }},\n    \
             {{ host = 'web-2', id = 'web-2', address = '127.0.0.2:{origin_port}' }},\n]\n",
            self.distribution
        )
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns what is between two texts.
pub fn between<'a>(text: &'a str, before: &str, after: &str) -> &'a str {
    let (_, rest) = text.split_once(before).unwrap_or_else(|| panic!("no {before} in {text}"));
    rest.split_once(after).unwrap().0
}

/// A point of presence.
pub struct Pop {
    child: Child,
    pub port: u16,
    frozen: PathBuf,
    _dir: TempDir,
}

impl Pop {
    pub fn start(emulator: &Emulator, with_store: bool) -> Self {
        let port = free_port();
        let api = format!("http://127.0.0.1:{}", emulator.port);
        let arn = if with_store { &*emulator.store_arn } else { "" };
        let node = Command::new("node");
        let pop = Self::spawn(node, "127.0.0.1", port, [&*api, &*emulator.distribution, arn]);
        wait_until("the point of presence listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        pop
    }

    /// Starts one by the beginning of a command on another machine, which has the emulator's API at an address.
    pub fn start_in(mut command: Command, address: &str, port: u16, api: &str, emulator: &Emulator) -> Self {
        command.arg("node");
        Self::spawn(command, address, port, [api, &*emulator.distribution, &*emulator.store_arn])
    }

    fn spawn(mut command: Command, address: &str, port: u16, what: [&str; 3]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let frozen = dir.path().join("frozen");
        command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/pop.mjs"));
        command.arg(address).arg(port.to_string()).args(what).arg(&frozen);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        Self { child, port, frozen, _dir: dir }
    }

    /// Stops, or resumes, what reaches it.
    pub fn freeze(&self, is_frozen: bool) {
        match is_frozen {
            true => std::fs::write(&self.frozen, "").unwrap(),
            false => std::fs::remove_file(&self.frozen).unwrap(),
        }
    }
}

impl Drop for Pop {
    fn drop(&mut self) {
        kill("-KILL", self.child.id());
        let _ = self.child.wait();
    }
}
