//! The control panel and the API keep what each role may see and do, whoever asks in whatever way.

use crate::support::http::HttpClient;
use crate::support::panel::{PanelHost, cookie_of, request};
use crate::support::wait::wait_until;
use understudy::model::access::{Action, UserRole};
use understudy::service::routes::{Access, RouteRow};
use understudy::service::{http, panel};

/// Who may what, written out a second time: admin, operator, customer, auditor, viewer.
fn allows(role: UserRole, action: Action) -> bool {
    use Action as A;
    let who = match action {
        A::ListStores | A::SeeStore | A::SeeSnapshots => "aocuv",
        A::SeeInside => "aouv",
        A::SeePaths | A::ReadContent | A::Resync => "aoc",
        A::Hold | A::Pause | A::FailOver | A::SeedDatabase | A::SettleStranded => "ao",
        A::SeeAudit => "au",
        A::SetMembers | A::ManageTokens => "a",
    };
    let letter = match role {
        UserRole::Admin => 'a',
        UserRole::Operator => 'o',
        UserRole::Customer => 'c',
        UserRole::Auditor => 'u',
        UserRole::Viewer => 'v',
    };
    who.contains(letter)
}

fn path_of(route: &RouteRow, store: &str) -> String {
    route
        .path
        .replace("{store}", store)
        .replace("{record}", "1")
        .replace("{hash}", "0")
        .replace("{name}", "x")
}

/// Returns the status of a request to the API, of a stream its head.
fn ask(panel: &PanelHost, route: &RouteRow, store: &str, token: Option<&str>) -> (u16, String) {
    let path = path_of(route, store);
    let path = if path.ends_with("/changes") { format!("{path}?from=1") } else { path };
    let bearer = token.map(|token| format!("Bearer {token}"));
    let mut headers = vec![("Host", "localhost"), ("Connection", "close")];
    headers.extend(bearer.as_deref().map(|bearer| ("Authorization", bearer)));
    let mut client = HttpClient::new(panel.host.port);
    client.send(request(route.method, &path, &headers, "").as_bytes()).unwrap();
    let answer = client.answer().unwrap();
    (answer.status, answer.text())
}

#[test]
fn each_role_gets_what_it_may_of_the_api_and_nobody_gets_more() {
    let panel = PanelHost::start(1, "");
    let tokens = UserRole::ALL
        .map(|role| (role, panel.token(role.name(), if role == UserRole::Customer { &["s0"] } else { &[] })));
    let routes = http::table();
    assert!(routes.len() >= 25, "{routes:?}");
    for route in &routes {
        let (status, body) = ask(&panel, route, "s0", None);
        match route.access {
            Access::Open => assert_eq!(status, 200, "{route:?}"),
            Access::Signed => assert!([400, 403].contains(&status), "{route:?} {status} {body}"),
            Access::Known | Access::Needs(_) => assert_eq!(status, 401, "{route:?} {body}"),
        }
        for (role, token) in &tokens {
            let (status, body) = ask(&panel, route, "s0", Some(token));
            match route.access {
                Access::Needs(action) if !allows(*role, action) => {
                    assert_eq!(status, 403, "{role:?} {route:?} {body}");
                    assert!(body.contains("your role does not allow it"), "{body}");
                }
                // What it answers is another test's; a customer asks for a resync once in five minutes.
                Access::Signed => {}
                _ => assert!(![401, 403].contains(&status), "{role:?} {route:?} {status} {body}"),
            }
        }
    }
}

#[test]
fn each_role_gets_what_it_may_of_the_panel_and_nobody_gets_more() {
    let panel = PanelHost::start(1, "");
    let routes = panel::table();
    assert!(routes.len() >= 15, "{routes:?}");
    for role in UserRole::ALL {
        let token = panel.token(role.name(), if role == UserRole::Customer { &["s0"] } else { &[] });
        let cookie = panel.login(&token);
        // The way out is taken last.
        let mut routes = routes.clone();
        routes.sort_by_key(|route| (route.path == "/logout", route.path == "/login"));
        for (at, route) in routes.iter().enumerate() {
            let path = path_of(route, "s0");
            let of = |cookie| match route.method {
                "GET" if path.ends_with("/events") => {
                    let mut client = HttpClient::new(panel.port);
                    let headers = [("Host", "localhost"), ("Cookie", cookie)];
                    client.send(request("GET", &path, &headers, "").as_bytes()).unwrap();
                    client.head().unwrap()
                }
                "GET" => panel.get(&path, Some(cookie)),
                _ => panel.post(&path, Some(cookie), &format!("key={}-{at}", role.name())),
            };
            let stranger = of("understudy=0000");
            if matches!(route.access, Access::Open) {
                assert!(![403, 303].contains(&stranger.status), "{route:?} {stranger:?}");
                continue;
            }
            let is_login = stranger.header("location").is_some_and(|to| to.starts_with("/login"));
            assert!(is_login || stranger.status == 401, "{route:?} {stranger:?}");
            let answer = of(&cookie);
            match route.access {
                Access::Needs(action) if !allows(role, action) => {
                    assert_eq!(answer.status, 403, "{role:?} {route:?}");
                }
                _ => {
                    let to = answer.header("location").unwrap_or_default();
                    let is_sent_away = to.starts_with("/login") && path != "/logout";
                    assert!(
                        [200, 303].contains(&answer.status) && !is_sent_away,
                        "{role:?} {route:?} {answer:?}"
                    );
                }
            }
        }
        assert_eq!(panel.get("/", Some(&cookie)).status, 303, "logged out");
    }
    panel.post("/stores/s0/release", Some(&panel.login(&panel.host.token())), "key=k");
}

#[test]
fn a_customer_who_asks_for_another_s_store_hears_what_is_said_of_none() {
    let panel = PanelHost::start(2, "");
    let token = panel.token("customer", &["s0"]);
    let cookie = panel.login(&token);
    for route in http::table().iter().filter(|route| route.path.contains("{store}")) {
        let (other, none) =
            (ask(&panel, route, "s1", Some(&token)), ask(&panel, route, "none", Some(&token)));
        assert_eq!(other.0, 404, "{route:?} {}", other.1);
        assert_eq!((other.0, other.1.replace("s1", "none")), none, "{route:?}");
    }
    for route in panel::table().iter().filter(|route| route.path.contains("{store}")) {
        let of = |store: &str| match route.method {
            "GET" => panel.get(&path_of(route, store), Some(&cookie)),
            _ => panel.post(&path_of(route, store), Some(&cookie), "key=k"),
        };
        let (other, none) = (of("s1"), of("none"));
        assert_eq!((other.status, other.text()), (none.status, none.text()), "{route:?}");
        assert_eq!(other.status, 404, "{route:?}");
    }
    // Neither the list nor the page of all stores has a word of it.
    let list = ask(
        &panel,
        &http::table().into_iter().find(|r| r.path == "/api/v1/stores").unwrap(),
        "",
        Some(&token),
    );
    let page = panel.get("/", Some(&cookie)).text();
    for text in [&list.1, &page] {
        assert!(text.contains("s0") && !text.contains("s1"), "{text}");
    }
}

#[test]
fn a_customer_s_answers_name_no_host_no_place_and_no_error() {
    let panel = PanelHost::start(1, "");
    let customer = panel.token("customer", &["s0"]);
    let admin = panel.login(&panel.host.token());
    std::fs::rename(panel.host.path("s0"), panel.host.path("gone-elsewhere")).unwrap();
    panel.post("/stores/s0/resync", Some(&admin), "key=a");
    wait_until("the run failed", || !panel.host.store("s0")["last_error"].is_null());
    let full = panel.host.store("s0");
    let place = "store root s0";
    assert!(full["last_error"].as_str().unwrap().contains(place), "{full}");
    let cookie = panel.login(&customer);
    let answers = [
        panel.host.ask("GET", "/api/v1/stores/s0", Some(&customer)).1,
        panel.host.ask("GET", "/api/v1/stores", Some(&customer)).1,
        panel.get("/", Some(&cookie)).text(),
        panel.get("/stores/s0", Some(&cookie)).text(),
    ];
    for text in &answers {
        assert!(!text.contains(place) && !text.contains("curl"), "{text}");
    }
    assert!(answers[3].contains("Your store is safe as of"), "{}", answers[3]);
    let operators = panel.get("/stores/s0", Some(&admin)).text();
    assert!(operators.contains(place), "{operators}");
}

#[test]
fn a_page_of_another_site_changes_nothing() {
    let panel = PanelHost::start(1, "");
    let cookie = panel.login(&panel.host.token());
    let own = format!("http://127.0.0.1:{}", panel.port);
    let host = format!("127.0.0.1:{}", panel.port);
    for headers in [
        &[][..],
        &[("Origin", "https://evil.example"), ("Sec-Fetch-Site", "cross-site")],
        &[("Origin", "https://evil.example")],
        &[("Origin", "null")],
        &[("Origin", "http://127.0.0.1:1"), ("Sec-Fetch-Site", "same-site")],
        &[("Sec-Fetch-Site", "cross-site")],
        &[("Sec-Fetch-Site", "none")],
        &[("Origin", own.as_str()), ("Sec-Fetch-Site", "cross-site")],
        &[("Origin", "https://evil.example"), ("Referer", own.as_str())],
    ] {
        let mut all = vec![("Host", host.as_str()), ("Cookie", cookie.as_str())];
        all.extend(headers);
        for path in ["/stores/s0/hold", "/stores/s0/resync", "/logout", "/login", "/handover"] {
            let answer = panel.send("POST", path, &all, "key=k&reason=x");
            assert_eq!(answer.status, 403, "{path} {headers:?}");
        }
    }
    // Nor does any GET.
    for path in ["/stores/s0/hold", "/stores/s0/resync?key=k", "/logout"] {
        assert!(panel.get(path, Some(&cookie)).status >= 400, "{path}");
    }
    assert!(panel.host.store("s0")["held"].is_null());
    assert_eq!(panel.get("/", Some(&cookie)).status, 200, "still logged in");
    // From its own page it is done: once, however often it is sent.
    for _ in 0..2 {
        let answer = panel.post("/stores/s0/hold", Some(&cookie), "key=once&reason=a+look");
        assert_eq!((answer.status, answer.header("location")), (303, Some("/stores/s0?did=once")));
        let held = panel.host.store("s0")["held"].clone();
        assert!(held.as_str().unwrap().starts_with("a look, by"), "{held}");
    }
    panel.post("/stores/s0/release", Some(&cookie), "key=free");
    panel.post("/stores/s0/hold", Some(&cookie), "key=once&reason=a+look");
    assert!(panel.host.store("s0")["held"].is_null(), "the form was carried out already");
    let told = panel.get("/stores/s0?did=free", Some(&cookie)).text();
    assert!(told.contains("Released. Runs are made again."), "{told}");
    assert!(
        !panel
            .get("/stores/s0?did=free", Some(&panel.login(&panel.host.token())))
            .text()
            .contains("Released.")
    );
}

#[test]
fn a_name_that_was_rebound_is_refused_before_anything_else() {
    let panel = PanelHost::start(1, "public_url = 'https://panel.example'");
    let token = panel.host.token();
    for host in ["evil.example", "panel.example.evil.example", "10.0.0.7", "", "localhost.evil.example:80"] {
        let answer = panel.send("GET", "/", &[("Host", host)], "");
        assert_eq!((answer.status, answer.header("set-cookie")), (421, None), "{host}");
        let origin = format!("http://{host}");
        let headers = [("Host", host), ("Origin", &origin), ("Sec-Fetch-Site", "same-origin")];
        assert_eq!(panel.send("POST", "/login", &headers, &format!("token={token}")).status, 421, "{host}");
    }
    for host in ["panel.example", "PANEL.example:443", "localhost", "127.0.0.1:9"] {
        assert_eq!(panel.send("GET", "/", &[("Host", host)], "").status, 303, "{host}");
    }
    // By TLS the cookie is bound to the host, and the browser is told to keep to TLS.
    let headers =
        [("Host", "panel.example"), ("Origin", "https://panel.example"), ("Sec-Fetch-Site", "same-origin")];
    let answer = panel.send("POST", "/login", &headers, &format!("token={token}"));
    let cookie = answer.header("set-cookie").unwrap();
    assert!(
        cookie.starts_with("__Host-understudy=")
            && cookie.ends_with("; Path=/; HttpOnly; SameSite=Strict; Secure"),
        "{cookie}"
    );
    assert!(answer.header("strict-transport-security").is_some());
    // A cookie without the prefix may have been set by another host of the domain.
    let planted = cookie_of(&answer).replace("__Host-", "");
    assert_eq!(panel.send("GET", "/", &[("Host", "panel.example"), ("Cookie", &planted)], "").status, 303);
}

#[test]
fn a_session_that_was_planted_is_never_taken_and_one_ends_with_its_token() {
    let panel = PanelHost::start(1, "");
    let token = panel.token("operator", &[]);
    let planted = "understudy=1111111111111111111111111111111111111111111111111111111111111111";
    let answer = panel.post("/login", Some(planted), &format!("token={token}"));
    let cookie = cookie_of(&answer);
    assert!(cookie != planted && cookie.len() == "understudy=".len() + 64, "{cookie}");
    assert_eq!(panel.get("/", Some(planted)).status, 303);
    assert_eq!(panel.get("/", Some(&format!("{planted}; {cookie}"))).status, 303, "two are none");
    // A second login of the same browser ends the first one's session.
    let again = cookie_of(&panel.post("/login", Some(&cookie), &format!("token={token}")));
    assert!(again != cookie && panel.get("/", Some(&cookie)).status == 303);
    assert_eq!(panel.get("/", Some(&again)).status, 200);
    // A token that is revoked ends its sessions, and the pages that are open.
    let mut stream = panel.stream("/events", &again, None);
    let id = token.split('_').nth(1).unwrap();
    assert!(panel.host.command(&["token", "revoke", id]).status().unwrap().success());
    assert_eq!(panel.get("/", Some(&again)).status, 303);
    assert_eq!(panel.host.ask("GET", "/api/v1/stores", Some(&token)).0, 401);
    let rest = std::io::Read::bytes(&mut stream.stream).count();
    assert!(rest < 100_000, "the stream has ended");
    let (wrong, why) = {
        let answer = panel.post("/login", None, &format!("token={token}"));
        (answer.status, answer.text())
    };
    assert!(wrong == 401 && why.contains("not valid here") && !why.contains(&token), "{wrong} {why}");
}

#[test]
fn what_a_proxy_says_of_users_counts_from_its_address_with_its_secret_alone() {
    let proxy = |from: &str| {
        format!(
            "[panel.proxy]\nfrom = ['{from}']\nsecret_file = 'secret'\n[[panel.proxy.user]]\nname = 'anna'\nrole = 'viewer'\n"
        )
    };
    let secret = ("X-Understudy-Secret", "0123456789abcdef-shared");
    let start = |from: &str| {
        let host = PanelHost::start(1, &proxy(from));
        std::fs::write(host.host.path("secret"), secret.1).unwrap();
        host
    };
    let panel = start("127.0.0.1");
    let (local, anna) = (("Host", "localhost"), ("X-Forwarded-User", "anna"));
    let page = panel.send("GET", "/", &[local, secret, anna], "");
    assert!(
        page.status == 200 && page.text().contains("<span>anna by the proxy</span><span>· viewer</span>"),
        "{}",
        page.text()
    );
    for headers in [
        &[local, anna][..],
        &[local, anna, ("X-Understudy-Secret", "wrong")],
        &[local, anna, ("X-Understudy-Secret", "")],
        &[local, secret],
        &[local, secret, ("X-Forwarded-User", "")],
    ] {
        assert_eq!(panel.send("GET", "/", headers, "").status, 303, "{headers:?}");
    }
    let eve = panel.send("GET", "/", &[local, secret, ("X-Forwarded-User", "eve")], "");
    assert!(eve.status == 403 && eve.text().contains("may not enter"), "{}", eve.text());
    // What a proxy says with each request is no reason to do what another site's page asks.
    let answer = panel.send(
        "POST",
        "/stores/s0/hold",
        &[local, secret, anna, ("Origin", "https://evil.example")],
        "key=k",
    );
    assert_eq!(answer.status, 403);
    let elsewhere = start("10.9.9.9");
    assert_eq!(elsewhere.send("GET", "/", &[local, secret, anna], "").status, 303);
}

mod handing_over {
    use super::PanelHost;
    use crate::support::command::ok;
    use crate::support::panel::cookie_of;
    use std::path::Path;
    use std::process::Command;

    fn encoded(bytes: &[u8], dir: &Path) -> String {
        std::fs::write(dir.join("plain"), bytes).unwrap();
        let mut openssl = Command::new("openssl");
        let output = ok(openssl.args(["base64", "-A", "-in", "plain"]).current_dir(dir)).stdout;
        String::from_utf8(output)
            .unwrap()
            .replace('+', "-")
            .replace('/', "_")
            .trim_end_matches('=')
            .to_owned()
    }

    /// Returns what the platform's own panel would sign, by openssl.
    fn token(dir: &Path, jti: &str, role: &str) -> String {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        let claims = serde_json::json!({
            "aud": "understudy", "iat": now, "exp": now + 60, "jti": jti, "sub": "Bea", "role": role, "stores": ["s0"]
        });
        let signed = format!(
            "{}.{}",
            encoded(br#"{"alg":"EdDSA"}"#, dir),
            encoded(claims.to_string().as_bytes(), dir)
        );
        std::fs::write(dir.join("signed"), &signed).unwrap();
        ok(Command::new("openssl")
            .args(["pkeyutl", "-sign", "-inkey", "key.pem", "-rawin", "-in", "signed", "-out", "signature"])
            .current_dir(dir));
        let signature = encoded(&std::fs::read(dir.join("signature")).unwrap(), dir);
        format!("{signed}.{signature}")
    }

    #[test]
    fn a_user_of_the_platform_is_handed_over_once_and_as_no_more_than_is_allowed() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        ok(Command::new("openssl")
            .args(["genpkey", "-algorithm", "ed25519", "-out", "key.pem"])
            .current_dir(dir));
        ok(Command::new("openssl")
            .args(["pkey", "-in", "key.pem", "-pubout", "-out", "public.pem"])
            .current_dir(dir));
        let key = dir.join("public.pem");
        let panel = PanelHost::start(
            2,
            &format!("[panel.handover]\nkey_file = '{}'\norigin = 'https://my.example'", key.display()),
        );
        let hand = |token: &str, origin: &str| {
            let headers = [("Host", "localhost"), ("Origin", origin), ("Sec-Fetch-Site", "cross-site")];
            panel.send("POST", "/handover", &headers, &format!("token={token}&next=/stores/s0"))
        };
        let first = token(dir, "one", "customer");
        assert_eq!(hand(&first, "https://evil.example").status, 403, "from a page of somebody else");
        let answer = hand(&first, "https://my.example");
        assert!(answer.status == 200 && answer.text().contains("0;url=/stores/s0"), "{}", answer.text());
        let cookie = cookie_of(&answer);
        let page = panel.get("/stores/s0", Some(&cookie)).text();
        assert!(
            page.contains("<span>Bea by handover</span><span>· customer</span>")
                && page.contains("Your store is safe"),
            "{page}"
        );
        assert_eq!(panel.get("/stores/s1", Some(&cookie)).status, 404);
        let again = hand(&first, "https://my.example");
        assert!(again.status == 401 && again.header("set-cookie").is_none());
        for role in ["admin", "operator"] {
            assert_eq!(hand(&token(dir, role, role), "https://my.example").status, 401, "{role}");
        }
        let forged = first.replace("one", "two");
        assert_eq!(hand(&forged[..forged.len() - 4], "https://my.example").status, 401);
        let who: Vec<_> =
            panel.audit().iter().map(|line| format!("{} {}", line["who"], line["action"])).collect();
        assert_eq!(who, ["\"Bea by handover\" \"be handed over\""]);
    }
}

#[test]
fn slow_and_greedy_clients_keep_nobody_out() {
    let panel = PanelHost::start(1, "");
    // Heads that never end, and more connections than there are places.
    let mut slow: Vec<_> = (0..520).map(|_| HttpClient::new(panel.port)).collect();
    for client in &mut slow {
        let _ = client.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n");
    }
    let cookie = panel.login(&panel.host.token());
    assert_eq!(panel.get("/", Some(&cookie)).status, 200);
    drop(slow);
    let own = format!("http://127.0.0.1:{}", panel.port);
    let host = format!("127.0.0.1:{}", panel.port);
    let headers = [("Host", host.as_str()), ("Origin", &own), ("Cookie", &cookie)];
    // A form without an end.
    let large =
        panel.send("POST", "/stores/s0/hold", &headers, &format!("key=k&reason={}", "a".repeat(40_000)));
    assert_eq!(large.status, 413);
    let mut client = HttpClient::new(panel.port);
    let head =
        request("POST", "/stores/s0/hold", &headers, "").replace("Content-Length: 0", "Content-Length: 100");
    client.send(head.as_bytes()).unwrap();
    assert_eq!(client.answer().unwrap().status, 408, "a form that does not arrive");
    assert!(panel.host.store("s0")["held"].is_null());
    // What is far too long in a path or a query is refused, or is nothing.
    let long = panel.get(&format!("/stores/{}", "a".repeat(5000)), Some(&cookie));
    assert_eq!(long.status, 404);
    assert_eq!(panel.get(&format!("/?q={}", "a".repeat(5000)), Some(&cookie)).status, 200);
}

#[test]
fn a_live_page_hears_of_a_change_and_misses_nothing_when_it_comes_back() {
    let panel = PanelHost::start(1, "");
    let cookie = panel.login(&panel.host.token());
    let next = |client: &mut HttpClient, part: &str| {
        let mut event = String::new();
        let mut id = String::new();
        while !event.contains(part) {
            let mut line = String::new();
            assert!(std::io::BufRead::read_line(&mut client.stream, &mut line).unwrap() > 0, "it ended");
            id = line.strip_prefix("id: ").map_or(id, |id| id.trim().to_owned());
            event += &line;
        }
        // The id may stand after the data.
        while id.is_empty() {
            let mut line = String::new();
            std::io::BufRead::read_line(&mut client.stream, &mut line).unwrap();
            id = line.strip_prefix("id: ").map_or(id, |id| id.trim().to_owned());
        }
        (event, id)
    };
    let mut fleet = panel.stream("/events", &cookie, None);
    let (_, seen) = next(&mut fleet, "#row-s0");
    let mut store = panel.stream("/stores/s0/events", &cookie, None);
    next(&mut store, "#live");
    panel.post("/stores/s0/hold", Some(&cookie), "key=k&reason=a+look");
    let (row, _) = next(&mut fleet, "<span>held</span>");
    assert!(row.contains("hx-target=\"#row-s0\""), "{row}");
    next(&mut store, "is held: a look");
    // A browser that was away is told what it missed.
    drop(fleet);
    let mut back = panel.stream("/events", &cookie, Some(&seen));
    next(&mut back, "<span>held</span>");
    // Another daemon's number is none of this one's.
    let mut other = panel.stream("/events", &cookie, Some("0000000000000000-999999"));
    next(&mut other, "#row-s0");
}

#[test]
fn who_did_what_is_in_the_audit_with_what_came_of_it() {
    let panel = PanelHost::start(1, "");
    let (operator, customer) = (panel.token("operator", &[]), panel.token("customer", &["s0"]));
    let cookie = panel.login(&operator);
    panel.post("/stores/s0/hold", Some(&cookie), "key=k&reason=a+look");
    let held = panel.host.ask("POST", "/api/v1/stores/s0/resync", Some(&customer));
    assert_eq!((held.0, held.1.contains("a look")), (409, false), "{}", held.1);
    assert_eq!(panel.host.ask("GET", "/api/v1/stores/s0/changes?from=1", Some(&customer)).0, 200);
    assert_eq!(panel.host.ask("POST", "/api/v1/stores/s0/hold", Some(&customer)).0, 403);
    // What nobody known asks for leaves no line.
    assert_eq!(panel.host.ask("POST", "/api/v1/stores/s0/hold", None).0, 401);
    let lines = panel.audit();
    let told: Vec<_> = lines
        .iter()
        .map(|line| {
            format!(
                "{} {} {}",
                line["role"].as_str().unwrap(),
                line["action"].as_str().unwrap(),
                line["outcome"].as_str().unwrap()
            )
        })
        .collect();
    let expected = [
        "operator log in done",
        "operator hold done",
        "customer resync refused",
        "customer see paths done",
        "customer hold refused",
    ];
    assert_eq!(told, expected, "{lines:?}");
    assert!(lines[1]["who"].as_str().unwrap().ends_with("(operator)") && lines[1]["store"] == "s0");
    assert_eq!(lines[1]["from"], "127.0.0.1");
    let text = std::fs::read_to_string(panel.host.path("state/understudy/audit.jsonl")).unwrap();
    let secret = operator.rsplit('_').next().unwrap();
    assert!(!text.contains(secret) && !text.contains(&cookie) && !panel.host.log().contains(secret));
    // An auditor reads it in the panel.
    let auditor = panel.login(&panel.token("auditor", &[]));
    let page = panel.get("/audit", Some(&auditor)).text();
    assert!(page.contains("see paths") && page.contains("refused"), "{page}");
}

#[test]
fn every_answer_forbids_foreign_scripts_frames_and_guessing() {
    let panel = PanelHost::start(1, "");
    let cookie = panel.login(&panel.host.token());
    let page = panel.get("/", Some(&cookie)).text();
    let asset = page
        .split("href=\"")
        .find_map(|rest| rest.strip_prefix("/assets/"))
        .unwrap()
        .split('"')
        .next()
        .unwrap();
    for (path, cookie) in [
        ("/", Some(cookie.as_str())),
        ("/", None),
        ("/login", None),
        ("/nothing", Some(&cookie)),
        ("/healthz", None),
        (&format!("/assets/{asset}"), None),
    ] {
        let answer = panel.get(path, cookie);
        let policy = answer.header("content-security-policy").unwrap();
        assert!(
            policy.starts_with("default-src 'none';") && policy.contains("frame-ancestors 'none'"),
            "{path}"
        );
        assert!(!policy.contains("unsafe"), "{policy}");
        for (name, value) in [
            ("x-content-type-options", "nosniff"),
            ("x-frame-options", "DENY"),
            ("referrer-policy", "same-origin"),
            ("cross-origin-opener-policy", "same-origin"),
            ("cross-origin-resource-policy", "same-origin"),
        ] {
            assert_eq!(answer.header(name), Some(value), "{path}");
        }
        let kept = answer.header("cache-control").unwrap();
        assert_eq!(kept.contains("immutable"), path.starts_with("/assets/"), "{path} {kept}");
        assert!(path.starts_with("/assets/") || kept == "no-store", "{path} {kept}");
    }
    // A browser that another site sent here comes again from here, with its cookie.
    let headers = [("Host", "localhost"), ("Sec-Fetch-Site", "cross-site"), ("Accept", "text/html")];
    let answer = panel.send("GET", "/stores/s0?did=a", &headers, "");
    assert!(answer.status == 200 && answer.text().contains("0;url=/stores/s0?did=a"), "{}", answer.text());
    let answer = panel.get("/login?next=//evil.example", None).text();
    assert!(answer.contains("name=\"next\" value=\"/\""), "{answer}");
}
