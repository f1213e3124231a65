//! Parts of a list that are held in memory together.

/// Returns how many of the first items have at most `max_bytes` together, given the size of each; at least
/// one, if there is one.
pub(crate) fn fitting(sizes_bytes: impl Iterator<Item = u64>, max_bytes: u64) -> usize {
    let (mut sizes_bytes, mut held_bytes) = (sizes_bytes.peekable(), 0u64);
    let least = usize::from(sizes_bytes.peek().is_some());
    let fits = |size_bytes: &u64| {
        held_bytes = held_bytes.saturating_add(*size_bytes);
        held_bytes <= max_bytes
    };
    sizes_bytes.take_while(fits).count().max(least)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_as_fit_and_one_at_least() {
        let of = |sizes: &[u64]| fitting(sizes.iter().copied(), 10);
        assert_eq!((of(&[]), of(&[1, 2, 3]), of(&[10, 1]), of(&[9, 1, 1])), (0, 3, 1, 2));
        assert_eq!((of(&[11, 1]), of(&[u64::MAX, u64::MAX])), (1, 1));
    }
}
