//! Signatures: a receiver that has the secret can tell that an event is ours, whole and new.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// The value of `Plimsoll-Signature`: `sha256=` and HMAC-SHA256 of timestamp, a dot, and the body, in hexadecimal.
pub(super) fn signature(secret: &str, timestamp: u64, body: &[u8]) -> String {
    let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(secret.as_bytes())
        .unwrap_or_else(|_| unreachable!("HMAC takes keys of all lengths (RFC 2104)"));
    mac.update(timestamp.to_string().as_bytes());
    mac.update(b".");
    mac.update(body);
    let digits: String = mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256={digits}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From `printf '1700000000.{"a":1}' | openssl dgst -sha256 -hmac 0123456789abcdef`.
    #[test]
    fn a_signature_is_what_openssl_says() {
        let expected = "sha256=9eb18f493f8ec135d9eb2dad817c369bb4e9cbfa818657897a7437c1cd8c3a23";
        assert_eq!(signature("0123456789abcdef", 1_700_000_000, br#"{"a":1}"#), expected);
    }
}
