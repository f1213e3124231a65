//! The way in: the login, and the page that goes on by itself. Pure.

use super::frame::{Frame, page};
use super::icon::Icon;
use maud::{DOCTYPE, Markup, html};

/// Returns the login. `next` is where it goes on to, a path of this panel's.
pub fn login(frame: &Frame, next: &str, wrong: Option<&str>) -> Markup {
    let body = html! {
        div class="entrance card" {
            h1 { "Log in" }
            p class="soft" { "With a token that begins with " code { "us_" } ", from whoever runs this panel." }
            @if let Some(wrong) = wrong {
                p class="told bad" role="alert" { (Icon::Warning.show()) span { (wrong) } }
            }
            form method="post" action="/login" {
                input type="hidden" name="next" value=(next);
                label for="token" { "Token" }
                input id="token" name="token" type="password" autocomplete="current-password" required maxlength="200" autofocus;
                button class="main" type="submit" { "Log in" }
            }
        }
    };
    page(frame, "Log in", None, body)
}

/// Returns a page that goes on by itself. A cookie of this site's alone is not sent with a request that another
/// site began; it is with the one that this page begins.
pub fn onwards(to: &str) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="referrer" content="same-origin";
                meta http-equiv="refresh" content=(format!("0;url={to}"));
                title { "One moment" }
            }
            body { main { p { a href=(to) { "Go on" } } } }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_login_says_what_was_wrong_and_keeps_where_to_go_on() {
        let frame = Frame { name: "x", identity: None, key: "" };
        let text = login(&frame, "/stores/acme?a=\"b", Some("no <token>")).into_string();
        assert!(text.contains("value=\"/stores/acme?a=&quot;b\"") && text.contains("no &lt;token&gt;"));
        assert!(!text.contains("Log out"));
        assert!(onwards("/x").into_string().contains("content=\"0;url=/x\""));
    }
}
