//! What is shown in place of a page that is not given. Pure.

use super::frame::{Frame, page};
use maud::{Markup, html};

/// Returns a page that says why there is none.
pub fn refusal(frame: &Frame, title: &str, why: &str) -> Markup {
    let body = html! {
        div class="entrance card" {
            h1 { (title) }
            p { (why) }
            p { a class="button" href="/" { "All stores" } }
        }
    };
    page(frame, title, None, body)
}
