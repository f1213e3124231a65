//! The frame of every page: head, header, and where the page's own part goes. Pure.

use super::assets::{APP, HTMX, MARK, SSE, STYLE};
use super::icon::Icon;
use crate::model::access::{Action, Identity, may};
use maud::{DOCTYPE, Markup, html};

/// What every page needs to know.
#[derive(Clone, Copy)]
pub struct Frame<'a> {
    /// The panel's name, by its configuration.
    pub name: &'a str,
    /// Who looks; none before the login.
    pub identity: Option<&'a Identity>,
    /// The key of the page's forms: each is carried out once.
    pub key: &'a str,
}

/// Seconds between two looks of a browser without scripts.
const REFRESH_SECONDS: u32 = 10;

const HTMX_CONFIG: &str = r#"{"metaCharacter":"-","includeIndicatorCSS":false,"history":false,"defaultTimeout":15000,"extensions":"sse"}"#;

/// Returns a page. One that is `live` is shown anew every few seconds where there are no scripts.
pub fn page(frame: &Frame, title: &str, live: Option<&str>, body: Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta name="referrer" content="same-origin";
                meta name="htmx-config" content=(HTMX_CONFIG);
                title { (title) " · " (frame.name) }
                link rel="icon" href=(MARK.url()) type=(MARK.kind);
                link rel="stylesheet" href=(STYLE.url());
                @if live.is_some() {
                    script src=(HTMX.url()) defer {}
                    script src=(SSE.url()) defer {}
                    noscript { meta http-equiv="refresh" content=(REFRESH_SECONDS); }
                }
                script src=(APP.url()) defer {}
            }
            body {
                a class="skip" href="#main" { "Skip to the content" }
                (header(frame))
                main id="main" { (body) }
                @if let Some(url) = live {
                    div data-hx-sse-connect=(url) data-hx-swap="none" hidden {}
                    p class="connection" id="connection" role="status" {}
                }
            }
        }
    }
}

fn header(frame: &Frame) -> Markup {
    html! {
        header class="top" {
            a class="brand" href="/" {
                img src=(MARK.url()) width="28" height="28" alt="";
                span { (frame.name) }
            }
            @if let Some(identity) = frame.identity {
                nav aria-label="Pages" {
                    a href="/" { "Stores" }
                    @if may(identity, Action::SeeAudit, None) { a href="/audit" { "Audit" } }
                }
                div class="who" {
                    span class="person" { (Icon::Person.show()) span { (short(&identity.who)) } span { "· " (identity.role.name()) } }
                    form method="post" action="/logout" {
                        input type="hidden" name="key" value=(frame.key);
                        button class="quiet" type="submit" { "Log out" }
                    }
                }
            }
        }
    }
}

/// Returns the name of who looks: of a token, whose it is, if that was given.
fn short(who: &str) -> &str {
    let named = who.strip_suffix(')').and_then(|who| who.split_once(" ("));
    named.map_or(who, |(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::super::samples::identity;
    use super::*;
    use crate::model::access::UserRole;

    #[test]
    fn a_page_escapes_what_it_shows_and_has_no_script_or_style_of_its_own() {
        let mut anna = identity(UserRole::Admin);
        anna.who = "<script>alert(1)</script>\"'".into();
        let frame = Frame { name: "<b>", identity: Some(&anna), key: "k" };
        let text = page(&frame, "<i>", Some("/events"), html! { p { "<u>" } }).into_string();
        for raw in ["<script>alert", "<b>", "<i>", "<u>", "style=", "onclick", "javascript:", "<style"] {
            assert!(!text.contains(raw), "{raw} in {text}");
        }
        assert!(text.contains("&lt;script&gt;") && text.contains("http-equiv=\"refresh\""));
        assert_eq!(text.matches("<script").count(), 3);
        let still = page(&frame, "x", None, html! {}).into_string();
        assert!(!still.contains("refresh") && !still.contains("htmx.js"));
    }

    #[test]
    fn a_person_is_shown_by_name() {
        let names = ["token 12 (Anna (night))", "token 12", "anna by the proxy"].map(short);
        assert_eq!(names, ["Anna (night)", "token 12", "anna by the proxy"]);
    }

    #[test]
    fn the_audit_is_offered_to_those_who_may_see_it() {
        for role in UserRole::ALL {
            let of = identity(role);
            let frame = Frame { name: "x", identity: Some(&of), key: "k" };
            let offered = page(&frame, "x", None, html! {}).into_string().contains("/audit");
            assert_eq!(offered, matches!(role, UserRole::Admin | UserRole::Auditor), "{role:?}");
        }
    }
}
