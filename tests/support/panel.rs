//! A host whose daemon serves the control panel, and a browser by hand that sends exactly what it is told.

use super::command::ok;
use super::host::Host;
use super::http::{HttpAnswer, HttpClient};
use super::servers::free_port;
use super::wait::wait_until;

pub struct PanelHost {
    pub host: Host,
    pub port: u16,
}

impl PanelHost {
    /// Starts a host with the stores `s0…`; `more` are keys of `[panel]`, and tables.
    pub fn start(stores: usize, more: &str) -> Self {
        let mut panel = Self { host: Host::new(stores), port: free_port() };
        panel.configure(stores, more);
        panel.host.start();
        wait_until("the panel answers", || panel.get("/healthz", None).status == 200);
        for number in 0..stores {
            let name = format!("s{number}");
            wait_until("it has a snapshot", || panel.host.store(&name)["snapshot"] == 1);
        }
        panel
    }

    fn configure(&self, stores: usize, more: &str) {
        let mut text = format!("[panel]\nlisten = '127.0.0.1:{}'\n{more}\n", self.port);
        for number in 0..stores {
            text += &format!("[[store]]\nname = 's{number}'\npath = 's{number}'\nschedule = '0 0 1 1 *'\n");
        }
        self.host.configure(&text);
    }

    /// Makes a token.
    pub fn token(&self, role: &str, stores: &[&str]) -> String {
        let mut command = self.host.command(&["token", "add", "--role", role, "--name", role]);
        for store in stores {
            command.args(["--store", store]);
        }
        String::from_utf8(ok(&mut command).stdout).unwrap().trim().to_owned()
    }

    /// Sends a request with these headers and no others but the length.
    pub fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> HttpAnswer {
        let mut client = HttpClient::new(self.port);
        client.send(request(method, path, headers, body).as_bytes()).unwrap();
        client.answer().unwrap()
    }

    fn name(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Gets a page with a session.
    pub fn get(&self, path: &str, cookie: Option<&str>) -> HttpAnswer {
        let mut headers = vec![("Host", "localhost")];
        headers.extend(cookie.map(|cookie| ("Cookie", cookie)));
        self.send("GET", path, &headers, "")
    }

    /// Posts a form as a page of the panel's own does.
    pub fn post(&self, path: &str, cookie: Option<&str>, form: &str) -> HttpAnswer {
        let (name, origin) = (self.name(), format!("http://{}", self.name()));
        let mut headers =
            vec![("Host", name.as_str()), ("Origin", &origin), ("Sec-Fetch-Site", "same-origin")];
        headers.extend(cookie.map(|cookie| ("Cookie", cookie)));
        self.send("POST", path, &headers, form)
    }

    /// Logs in, and returns the cookie.
    pub fn login(&self, token: &str) -> String {
        let answer = self.post("/login", None, &format!("token={token}"));
        assert_eq!(answer.status, 303, "{}", answer.text());
        cookie_of(&answer)
    }

    /// Opens a stream of events.
    pub fn stream(&self, path: &str, cookie: &str, last: Option<&str>) -> HttpClient {
        let mut client = HttpClient::new(self.port);
        let mut headers = vec![("Host", "localhost"), ("Cookie", cookie)];
        headers.extend(last.map(|last| ("Last-Event-ID", last)));
        client.send(request("GET", path, &headers, "").as_bytes()).unwrap();
        let head = client.head().unwrap();
        assert_eq!((head.status, head.header("content-type")), (200, Some("text/event-stream")));
        client
    }

    /// Returns the lines of the audit.
    pub fn audit(&self) -> Vec<serde_json::Value> {
        let text =
            std::fs::read_to_string(self.host.path("state/understudy/audit.jsonl")).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// Returns a request as bytes.
pub fn request(method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> String {
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    format!("{method} {path} HTTP/1.1\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len())
}

/// Returns the session that an answer gives.
pub fn cookie_of(answer: &HttpAnswer) -> String {
    let cookie = answer.header("set-cookie").unwrap_or_else(|| panic!("{answer:?}"));
    cookie.split(';').next().unwrap().to_owned()
}
