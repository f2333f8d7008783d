//! What a pool or vdisk may be called: nothing that shells, URLs and protocols would trip over.

/// Longest name of a pool or vdisk in bytes.
pub(crate) const NAME_BYTES_MAX: usize = 64;

/// Whether this is 1 to 64 letters, digits, `-`, `_` or `.`, beginning with a letter or digit.
pub(crate) fn is_name(name: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        && name.as_bytes()[0].is_ascii_alphanumeric()
}
