//! The files of the panel, built into the program. Their addresses carry their hashes, so a browser may keep
//! them for ever, and never shows one version's page with another's style.
//!
//! `htmx.js` and `hx-sse.js` are htmx 4.0.1 and its extension for server-sent events as npm has them
//! (`dist/htmx.min.js`, `dist/ext/hx-sse.min.js`), under the Zero-Clause BSD licence beside them.

/// A file with its address.
pub struct Asset {
    pub name: &'static str,
    pub kind: &'static str,
    pub bytes: &'static [u8],
}

pub const HTMX: Asset = Asset {
    name: "htmx.js",
    kind: "text/javascript; charset=utf-8",
    bytes: include_bytes!("assets/htmx.js"),
};
pub const SSE: Asset = Asset {
    name: "hx-sse.js",
    kind: "text/javascript; charset=utf-8",
    bytes: include_bytes!("assets/hx-sse.js"),
};
pub const APP: Asset =
    Asset { name: "app.js", kind: "text/javascript; charset=utf-8", bytes: include_bytes!("assets/app.js") };
pub const STYLE: Asset =
    Asset { name: "app.css", kind: "text/css; charset=utf-8", bytes: include_bytes!("assets/app.css") };
pub const SPRITE: Asset =
    Asset { name: "sprite.svg", kind: "image/svg+xml", bytes: include_bytes!("assets/sprite.svg") };

pub const MARK: Asset =
    Asset { name: "mark.svg", kind: "image/svg+xml", bytes: include_bytes!("assets/mark.svg") };

pub const ALL: [Asset; 6] = [HTMX, SSE, APP, STYLE, SPRITE, MARK];

impl Asset {
    fn hash(&self) -> String {
        blake3::hash(self.bytes).to_hex()[..16].to_owned()
    }

    /// Returns the file's address.
    pub fn url(&self) -> String {
        format!("/assets/{}/{}", self.hash(), self.name)
    }

    /// Returns the file at an address; none if this version has none there.
    pub fn find(hash: &str, name: &str) -> Option<Asset> {
        ALL.into_iter().find(|asset| asset.name == name && asset.hash() == hash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ring::digest::{SHA256, digest};
    use std::fmt::Write;

    fn sha256(bytes: &[u8]) -> String {
        digest(&SHA256, bytes).as_ref().iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
    }

    #[test]
    fn what_others_wrote_is_as_they_published_it() {
        assert_eq!(sha256(HTMX.bytes), "a0abb04f2f45a1f89d1d4844023245537e5e6014c87b144553e0607b4cc32130");
        assert_eq!(sha256(SSE.bytes), "18ef2761356ec1fe0bb6d92612315b37517a7c1e9856b661c5ae81fef239d103");
    }

    #[test]
    fn a_file_is_found_by_its_hash_alone_and_its_own_part_stays_small() {
        for asset in ALL {
            let url = asset.url();
            let mut parts = url.rsplit('/');
            let (name, hash) = (parts.next().unwrap(), parts.next().unwrap());
            assert_eq!(Asset::find(hash, name).unwrap().bytes, asset.bytes);
            assert!(Asset::find("0123456789abcdef", name).is_none() && Asset::find(hash, "../x").is_none());
        }
        let lines = |asset: &Asset| asset.bytes.iter().filter(|byte| **byte == b'\n').count();
        assert!(lines(&APP) <= 150 && lines(&STYLE) <= 600, "{} {}", lines(&APP), lines(&STYLE));
        let text = String::from_utf8(APP.bytes.to_vec()).unwrap();
        for forbidden in ["eval(", "innerHTML", "new Function", "document.write", "style="] {
            assert!(!text.contains(forbidden), "{forbidden}");
        }
    }
}
