//! Who this host is to AWS.
//!
//! The usual places, in the usual order: the environment, a profile of the shared credentials file, and what
//! `object_store` finds (a web identity's token, a container's, the machine's metadata). No value is ever shown.

use crate::support::chain::chain;
use object_store::aws::{AmazonS3Builder, AwsCredential, AwsCredentialProvider};
use object_store::{ClientOptions, RetryConfig};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// The only region of the services that this host asks.
pub(crate) const REGION: &str = "us-east-1";
/// Maximum size of the credentials file.
const FILE_MAX_BYTES: u64 = 1 << 20;
const CONNECT_LIMIT: Duration = Duration::from_secs(3);

/// Where credentials come from.
pub(crate) enum Credentials {
    Fixed(Arc<AwsCredential>),
    Provider(AwsCredentialProvider),
}

/// Where credentials are, if the configuration says it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Place {
    /// A file in the form of the shared credentials file.
    pub file: Option<PathBuf>,
    /// A profile in it.
    pub profile: Option<String>,
}

impl Credentials {
    /// Looks for credentials. An error is a reason in words.
    pub fn find(place: &Place) -> Result<Self, String> {
        let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        if let Some(file) = &place.file {
            let name = place.profile.as_deref().unwrap_or("default");
            let text = read(file)?.ok_or_else(|| format!("there is no {}", file.display()))?;
            let found = profile_in(&text, name);
            let missing = || format!("{} has no keys of profile '{name}'", file.display());
            return found.map(|found| Self::Fixed(Arc::new(found))).ok_or_else(missing);
        }
        let keys_are_set = set("AWS_ACCESS_KEY_ID").is_some() && set("AWS_SECRET_ACCESS_KEY").is_some();
        let keys_are_set = keys_are_set && place.profile.is_none();
        let profile = place.profile.clone().or_else(|| set("AWS_PROFILE"));
        let file = set("AWS_SHARED_CREDENTIALS_FILE").map(PathBuf::from);
        let file = file.or_else(|| set("HOME").map(|home| Path::new(&home).join(".aws/credentials")));
        if !keys_are_set && let Some(file) = file {
            let name = profile.as_deref().unwrap_or("default");
            let found = read(&file)?.and_then(|text| profile_in(&text, name));
            match found {
                Some(found) => return Ok(Self::Fixed(Arc::new(found))),
                None if profile.is_some() => {
                    return Err(format!("{} has no keys of profile '{name}'", file.display()));
                }
                None => {}
            }
        }
        let options = ClientOptions::new().with_connect_timeout(CONNECT_LIMIT).with_allow_http(true);
        let retry = RetryConfig { max_retries: 1, ..RetryConfig::default() };
        let builder = AmazonS3Builder::from_env().with_client_options(options).with_retry(retry);
        let store = builder.with_bucket_name("unused").with_region(REGION).build();
        Ok(Self::Provider(store.map_err(|error| chain(&error))?.credentials().clone()))
    }

    /// Returns the credentials that hold now.
    pub async fn get(&self) -> Result<Arc<AwsCredential>, String> {
        let key = match self {
            Self::Fixed(fixed) => fixed.clone(),
            Self::Provider(provider) => provider.get_credential().await.map_err(|error| chain(&error))?,
        };
        // They become parts of a header, which `object_store` takes for granted.
        let is_plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
        match is_plain(&key.key_id) && key.token.as_deref().is_none_or(is_plain) {
            true => Ok(key),
            false => Err("the key's name or the token has a character that a header cannot".into()),
        }
    }
}

/// Returns the file's text; none if there is no file.
fn read(file: &Path) -> Result<Option<String>, String> {
    match std::fs::metadata(file) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Ok(meta) if meta.len() > FILE_MAX_BYTES => return Err(format!("{} is too long", file.display())),
        _ => {}
    }
    std::fs::read_to_string(file).map(Some).map_err(|error| format!("{}: {error}", file.display()))
}

/// Returns the keys of a profile.
fn profile_in(text: &str, name: &str) -> Option<AwsCredential> {
    let lines = text.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';']));
    let heading = |line: &str| {
        let inner = line.strip_prefix('[')?.split_once(']')?.0.trim();
        Some(inner.strip_prefix("profile ").map_or(inner, str::trim).to_owned())
    };
    let mut is_in = false;
    let (mut key_id, mut secret_key, mut token) = (None, None, None);
    for line in lines {
        if let Some(found) = heading(line) {
            is_in = found == name;
        } else if is_in && let Some((key, value)) = line.split_once('=') {
            let place = match key.trim().to_ascii_lowercase().as_str() {
                "aws_access_key_id" => &mut key_id,
                "aws_secret_access_key" => &mut secret_key,
                "aws_session_token" => &mut token,
                _ => continue,
            };
            *place = Some(value.trim().to_owned());
        }
    }
    Some(AwsCredential { key_id: key_id?, secret_key: secret_key?, token })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_is_read_from_the_shared_file_and_only_that_one() {
        let text = "# keys\n[default]\naws_access_key_id = D\naws_secret_access_key=ds=\n\n\
                    [ ops ]\nregion = eu-west-1\nAWS_ACCESS_KEY_ID=O\n; aws_secret_access_key = no\n\
                    aws_secret_access_key =  os \naws_session_token = t\n[empty]\naws_access_key_id = E\n";
        let of = |name| profile_in(text, name).map(|found| (found.key_id, found.secret_key, found.token));
        assert_eq!(of("default"), Some(("D".into(), "ds=".into(), None)));
        assert_eq!(of("ops"), Some(("O".into(), "os".into(), Some("t".into()))));
        assert_eq!((of("empty"), of("none"), of("")), (None, None, None));
    }
}
