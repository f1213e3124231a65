//! Hands one e-mail to a mail server: SMTP, by STARTTLS or TLS, with a password if there is one.
//!
//! Why it is safe: a server's certificate is checked against the system's roots, and without TLS no password is sent
//! (the configuration does not allow it). What came before TLS began counts for nothing: a byte that follows the
//! answer to STARTTLS, and could have been put there on the way, ends the session. Addresses and the message have no
//! characters that are special in SMTP. An answer is bounded, and so is the time of the whole (the caller's).

use super::settings::{EmailSettings, Tls};
use crate::model::escape;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::ServerName;
use rustls_platform_verifier::ConfigVerifierExt;
use std::sync::Arc;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

/// Maximum size of an answer.
const ANSWER_MAX_BYTES: u64 = 16 << 10;
/// Maximum number of characters of an answer that are shown.
const SHOWN_MAX_CHARS: usize = 200;

/// What a connection is read from and written to.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

struct Session(BufReader<Box<dyn Stream>>);

/// An answer of the server.
struct Answer {
    code: u16,
    lines: Vec<String>,
}

/// Sends `mail` from this host, named `me`.
///
/// One receiver that the server refuses does not keep the others from it; those that it refuses are returned, each with
/// its reason.
///
/// # Errors
/// The reason why the server did not take it for anybody, in words, without the password.
pub(crate) async fn send(
    settings: &EmailSettings,
    password: Option<&str>,
    me: &str,
    mail: &str,
) -> Result<Vec<String>, String> {
    let (host, port) = (settings.host.as_str(), settings.port());
    let stream = TcpStream::connect((host, port)).await;
    let stream = stream.map_err(|error| format!("connecting to {host}, port {port}: {error}"))?;
    let mut session = match settings.tls {
        Tls::Implicit => Session::new(encrypted(Box::new(stream), host).await?),
        Tls::Starttls | Tls::None => Session::new(Box::new(stream)),
    };
    session.expect("its greeting", 220).await?;
    let mut offers = session.hello(me).await?;
    if settings.tls == Tls::Starttls {
        if !has(&offers, "STARTTLS") {
            return Err("the server offers no TLS (STARTTLS); set `tls`".to_owned());
        }
        session.ask("STARTTLS", "STARTTLS", 220).await?;
        session = Session::new(encrypted(session.plain()?, host).await?);
        offers = session.hello(me).await?;
    }
    if let (Some(user), Some(password)) = (&settings.user, password) {
        session.log_in(&offers, user, password).await?;
    }
    session.ask("MAIL FROM", &format!("MAIL FROM:<{}>", settings.from), 250).await?;
    let mut refused = Vec::new();
    for to in &settings.to {
        session.write(format!("RCPT TO:<{to}>\r\n").as_bytes()).await?;
        let answer = session.answer().await?;
        if answer.code / 100 != 2 {
            let said = shown(&answer.lines.join(" "));
            refused.push(format!("{to}: the server says {} {said}", answer.code));
        }
    }
    if refused.len() == settings.to.len() {
        return Err(refused.join("; "));
    }
    session.ask("DATA", "DATA", 354).await?;
    session.write(mail.as_bytes()).await?;
    session.ask("the message", ".", 250).await?;
    // It is delivered, whatever the server says now.
    let _ = session.write(b"QUIT\r\n").await;
    Ok(refused)
}

fn has(offers: &[String], word: &str) -> bool {
    offers
        .iter()
        .any(|line| line.split([' ', '=']).next().is_some_and(|first| first.eq_ignore_ascii_case(word)))
}

async fn encrypted(stream: Box<dyn Stream>, host: &str) -> Result<Box<dyn Stream>, String> {
    // The second call in a process fails because the provider is installed, which is no error.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let config = rustls::ClientConfig::with_platform_verifier().map_err(|error| format!("TLS: {error}"))?;
    let name = ServerName::try_from(host.to_owned());
    let name = name.map_err(|_| format!("'{host}' cannot be in a certificate"))?;
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
    Ok(Box::new(stream.map_err(|error| format!("TLS with {host}: {error}"))?))
}

impl Session {
    fn new(stream: Box<dyn Stream>) -> Self {
        Self(BufReader::new(stream))
    }

    /// Returns the stream, if nothing more was read from it than was answered.
    fn plain(self) -> Result<Box<dyn Stream>, String> {
        match self.0.buffer().is_empty() {
            true => Ok(self.0.into_inner()),
            false => Err("the server said more before TLS began, or somebody between did".to_owned()),
        }
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), String> {
        let lost = |error| format!("the connection was lost: {error}");
        self.0.get_mut().write_all(bytes).await.map_err(lost)?;
        self.0.get_mut().flush().await.map_err(lost)
    }

    async fn answer(&mut self) -> Result<Answer, String> {
        let mut lines = Vec::new();
        let mut left = ANSWER_MAX_BYTES;
        loop {
            let mut line = Vec::new();
            let read = (&mut self.0).take(left).read_until(b'\n', &mut line).await;
            left -= read.map_err(|error| format!("the connection was lost: {error}"))? as u64;
            if line.last() != Some(&b'\n') {
                return Err("the server's answer is cut off, or too long".to_owned());
            }
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            let code = line.get(..3).and_then(|code| code.parse().ok());
            let code = code.ok_or_else(|| format!("no answer of a mail server: {}", shown(&line)))?;
            let is_last = line.as_bytes().get(3) != Some(&b'-');
            lines.push(line.get(4..).unwrap_or_default().to_owned());
            if is_last {
                return Ok(Answer { code, lines });
            }
        }
    }

    async fn expect(&mut self, what: &str, code: u16) -> Result<Answer, String> {
        let answer = self.answer().await?;
        match answer.code / 100 == code / 100 {
            true => Ok(answer),
            false => {
                let said = shown(&answer.lines.join(" "));
                Err(format!("{what}: the server says {} {said}", answer.code))
            }
        }
    }

    /// Sends a line and takes an answer of this code.
    async fn ask(&mut self, what: &str, line: &str, code: u16) -> Result<Answer, String> {
        let line = Zeroizing::new(format!("{line}\r\n"));
        self.write(line.as_bytes()).await?;
        self.expect(what, code).await
    }

    /// Returns what the server offers.
    async fn hello(&mut self, me: &str) -> Result<Vec<String>, String> {
        let is_name = !me.is_empty() && me.chars().all(|c| c.is_ascii_alphanumeric() || ".-".contains(c));
        let me = if is_name { me } else { "localhost" };
        Ok(self.ask("EHLO", &format!("EHLO {me}"), 250).await?.lines)
    }

    async fn log_in(&mut self, offers: &[String], user: &str, password: &str) -> Result<(), String> {
        let methods = offers.iter().filter(|line| has(std::slice::from_ref(line), "AUTH"));
        let methods: Vec<_> = methods.flat_map(|line| line.split([' ', '='])).collect();
        let offers = |name: &str| methods.iter().any(|method| method.eq_ignore_ascii_case(name));
        let encode = |text: &str| Zeroizing::new(STANDARD.encode(text));
        if offers("PLAIN") {
            let both = Zeroizing::new(format!("\0{user}\0{password}"));
            let line = Zeroizing::new(format!("AUTH PLAIN {}", *encode(&both)));
            self.ask("logging in", &line, 235).await?;
        } else if offers("LOGIN") {
            self.ask("logging in", "AUTH LOGIN", 334).await?;
            self.ask("logging in", &encode(user), 334).await?;
            self.ask("logging in", &encode(password), 235).await?;
        } else {
            return Err("the server offers no way to log in with a password (PLAIN, LOGIN)".to_owned());
        }
        Ok(())
    }
}

/// Returns what a server said, for people.
fn shown(text: &str) -> String {
    escape::line(text).chars().take(SHOWN_MAX_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::notify::settings::NotifySettings;

    /// A server that says these lines one after the other, each after a line of the client's, and tells what it read.
    async fn talk(says: &[&str], more: &str) -> (Result<Vec<String>, String>, String) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        // A second receiver is behind a mark.
        let to = if more.ends_with('#') { "'c@d.example','e@f.example'" } else { "'c@d.example'" };
        let text = format!("kind='email'\nname='a'\nhost='127.0.0.1'\nfrom='u@b.example'\nto=[{to}]\n");
        let NotifySettings::Email(settings) = toml::from_str(&format!("{text}port={port}\n{more}")).unwrap()
        else {
            unreachable!()
        };
        let server = async {
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = BufReader::new(stream);
            let mut read = String::new();
            for line in says {
                stream.get_mut().write_all(line.as_bytes()).await.unwrap();
                let before = read.len();
                loop {
                    let length = read.len();
                    if stream.read_line(&mut read).await.unwrap_or(0) == 0 {
                        return read;
                    }
                    // A message has several lines.
                    if !says.iter().any(|said| *said == "354 go on\r\n" && line == said)
                        || &read[length..] == ".\r\n"
                    {
                        break;
                    }
                }
                assert!(read.len() > before);
            }
            read
        };
        let mail = "Subject: x\r\n\r\nYQ==\r\n";
        let (sent, read) = tokio::join!(send(&settings, Some("secret"), "web-1", mail), server);
        (sent, read)
    }

    fn run(says: &[&str], more: &str) -> (Result<Vec<String>, String>, String) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(talk(says, more))
    }

    #[test]
    fn a_message_is_delivered_once_the_server_has_taken_it() {
        let says =
            ["220 hi\r\n", "250-mail\r\n250 8BITMIME\r\n", "250 ok\r\n", "250 ok\r\n", "354 go on\r\n"];
        let (sent, _) = run(&[&says[..], &["451 no space\r\n"]].concat(), "tls='none'");
        assert_eq!(sent, Err("the message: the server says 451 no space".into()));
        let (sent, read) = run(&[&says[..], &["250 queued\r\n"]].concat(), "tls='none'");
        assert_eq!(sent, Ok(Vec::new()));
        let expected = "EHLO web-1\r\nMAIL FROM:<u@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\n";
        assert_eq!(read, format!("{expected}Subject: x\r\n\r\nYQ==\r\n.\r\nQUIT\r\n"));
    }

    #[test]
    fn a_receiver_that_the_server_refuses_does_not_keep_the_others_from_it() {
        let more = "tls='none'";
        let to = "550 who?\r\n";
        let says = ["220 hi\r\n", "250 mail\r\n", "250 ok\r\n", to];
        assert_eq!(run(&says, more).0, Err("c@d.example: the server says 550 who?".into()));
        let two = "tls='none'\n#";
        let says = [&says[..], &["250 ok\r\n", "354 go on\r\n", "250 queued\r\n"]].concat();
        let (sent, read) = run(&says, two);
        assert_eq!(sent, Ok(vec!["c@d.example: the server says 550 who?".into()]));
        assert!(read.contains("RCPT TO:<e@f.example>\r\nDATA\r\n"), "{read}");
    }

    #[test]
    fn without_tls_nothing_more_is_said() {
        let login = "user='u'\npassword_file='/p'";
        let (sent, read) = run(&["220 hi\r\n", "250-mail\r\n250 AUTH PLAIN\r\n"], login);
        assert!(sent.unwrap_err().contains("offers no TLS"));
        assert_eq!(read, "EHLO web-1\r\n");
        // What a man in the middle says after the answer is not taken for the server's word.
        let says = ["220 hi\r\n", "250-mail\r\n250 STARTTLS\r\n", "220 go\r\n250 AUTH PLAIN\r\n"];
        let (sent, read) = run(&says, login);
        assert!(sent.unwrap_err().contains("before TLS began"));
        assert_eq!(read, "EHLO web-1\r\nSTARTTLS\r\n");
    }

    #[test]
    fn an_answer_without_end_is_refused() {
        let long = format!("220-{}\r\n", "x".repeat(1000)).repeat(20);
        assert!(run(&[&long], "tls='none'").0.unwrap_err().contains("too long"));
        assert!(
            run(&["SSH-2.0-OpenSSH\r\n"], "tls='none'").0.unwrap_err().contains("no answer of a mail server")
        );
    }
}
