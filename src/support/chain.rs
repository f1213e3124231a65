//! An error and its causes, in one line. Most errors' texts already include their causes': each text appears
//! once.

/// Returns the texts of an error and its causes.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{path}: {source}")]
    struct Tells {
        path: &'static str,
        source: std::io::Error,
    }

    #[derive(Debug, thiserror::Error)]
    #[error("the run ended")]
    struct Hides(#[source] Tells);

    #[test]
    fn a_cause_is_said_once_and_never_left_out() {
        let full = || Tells { path: "/srv", source: std::io::Error::from_raw_os_error(28) };
        let said = "/srv: No space left on device (os error 28)";
        assert_eq!(chain(&full()), said);
        assert_eq!(chain(&Hides(full())), format!("the run ended: {said}"));
    }
}
