//! What a failover begins with.

use crate::model::id::Sequence;
use crate::model::snapshot_ref::Moment;

/// The snapshot that a failover begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cli) enum At {
    /// Its files, with the database as it is.
    Files(Sequence),
    /// Its files, and the database of its moment.
    Point(Moment),
}

impl At {
    /// Parses `42`, or a point such as `@42`.
    pub(super) fn parse(text: &str) -> std::result::Result<Self, String> {
        match text.starts_with('@') {
            true => crate::cli::values::point(text).map(Self::Point),
            false => text
                .parse()
                .map(|number| Self::Files(Sequence(number)))
                .map_err(|_| format!("'{text}' is neither a snapshot's number nor a point such as @42")),
        }
    }

    pub(super) fn moment(self) -> Moment {
        match self {
            Self::Files(snapshot) => Moment::At(snapshot),
            Self::Point(moment) => moment,
        }
    }
}
