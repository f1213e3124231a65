//! Icons from the sprite. Each stands beside a word, so none has a text of its own. Pure.

use super::assets::SPRITE;
use maud::{Markup, html};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Icon {
    Down,
    Switch,
    Pause,
    Fence,
    Broken,
    Clock,
    Warning,
    New,
    Check,
    Info,
    Search,
    Person,
}

impl Icon {
    pub const ALL: [Self; 12] = [
        Self::Down,
        Self::Switch,
        Self::Pause,
        Self::Fence,
        Self::Broken,
        Self::Clock,
        Self::Warning,
        Self::New,
        Self::Check,
        Self::Info,
        Self::Search,
        Self::Person,
    ];

    pub fn id(self) -> &'static str {
        match self {
            Self::Down => "down",
            Self::Switch => "switch",
            Self::Pause => "pause",
            Self::Fence => "fence",
            Self::Broken => "broken",
            Self::Clock => "clock",
            Self::Warning => "warning",
            Self::New => "new",
            Self::Check => "check",
            Self::Info => "info",
            Self::Search => "search",
            Self::Person => "person",
        }
    }

    pub fn show(self) -> Markup {
        html! {
            svg class="icon" width="20" height="20" viewBox="0 0 20 20" aria-hidden="true" {
                use href=(format!("{}#{}", SPRITE.url(), self.id())) {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sprite_has_every_icon() {
        let sprite = std::str::from_utf8(SPRITE.bytes).unwrap();
        for icon in Icon::ALL {
            assert!(sprite.contains(&format!("<symbol id=\"{}\"", icon.id())), "{icon:?}");
            assert!(icon.show().into_string().contains(&format!("#{}\"", icon.id())));
        }
        assert!(!sprite.contains("<script") && !sprite.contains("style=") && !sprite.contains("href"));
    }
}
