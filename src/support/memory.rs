//! The memory of this host, as the kernel tells it.

/// Returns how much memory programs could still get without swapping, in MiB; none where the kernel does not say.
pub(crate) fn available_mib() -> Option<u64> {
    available_of(&std::fs::read_to_string("/proc/meminfo").ok()?)
}

fn available_of(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib / 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_available_is_read_as_the_kernel_writes_it() {
        let text = "MemTotal:       24576000 kB\nMemAvailable:   20480000 kB\n";
        assert_eq!((available_of(text), available_of("MemTotal: 1 kB\n")), (Some(20_000), None));
        assert!(available_mib().is_some_and(|mib| mib > 0));
    }
}
