//! Where a webhook goes: `http://HOST[:PORT]/PATH`.

use axum::http::Uri;

use crate::problem::{Answer, Problem};

const URL_BYTES_MAX: usize = 2048;

/// An address that was understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// Name or address, without brackets.
    pub(super) host: String,
    pub(super) port: u16,
    /// As the header says it.
    pub(super) authority: String,
    /// Path and query.
    pub(super) path: String,
}

impl Target {
    /// # Errors
    /// `invalid-argument` with what is wrong.
    pub(super) fn parse(url: &str) -> Answer<Self> {
        let refuse = |reason: &str| {
            let shown: String = url.chars().take(100).collect();
            Problem::new("invalid-argument", format!("{shown:?} cannot be a webhook: {reason}"))
                .hint("--url http://HOST:PORT/PATH")
        };
        if url.len() > URL_BYTES_MAX {
            return Err(refuse(&format!("it has {} bytes, {URL_BYTES_MAX} can be", url.len())));
        }
        let uri: Uri = url.parse().map_err(|_| refuse("it is no URL"))?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => {
                return Err(refuse("https is not spoken here; send to a proxy on this machine that does, over http"));
            }
            _ => return Err(refuse("it does not begin with http://")),
        }
        let authority = uri.authority().ok_or_else(|| refuse("it names no host"))?;
        if authority.as_str().contains('@') {
            return Err(refuse("it has a password in it, which would be shown; receivers know us by the signature"));
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        if host.is_empty() {
            return Err(refuse("it names no host"));
        }
        let port = match authority.port_u16() {
            Some(0) => return Err(refuse("port 0 is nobody's")),
            Some(port) => port,
            // A port that is no number is not a missing one.
            None if authority.as_str().ends_with(|last: char| last.is_ascii_digit() || last == ':')
                && authority.as_str().rsplit(']').next().is_some_and(|rest| rest.contains(':')) =>
            {
                return Err(refuse("its port is no number from 1 to 65535"));
            }
            None => 80,
        };
        let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        Ok(Self { host, port, authority: authority.as_str().to_owned(), path })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_apart() {
        let parse = |url| Target::parse(url).map(|target| (target.host, target.port, target.path));
        let is = |host: &str, port, path: &str| Ok((host.to_owned(), port, path.to_owned()));
        assert_eq!(parse("http://a.example/hook?x=1"), is("a.example", 80, "/hook?x=1"));
        assert_eq!(parse("http://127.0.0.1:8080"), is("127.0.0.1", 8080, "/"));
        assert_eq!(parse("http://[::1]:90/x"), is("::1", 90, "/x"));
        assert_eq!(parse("http://[::1]/x"), is("::1", 80, "/x"));
    }

    #[test]
    fn what_cannot_be_a_webhook_is_refused_with_the_reason() {
        let long = format!("http://a/{}", "x".repeat(URL_BYTES_MAX));
        for (url, word) in [
            ("https://a/", "https"),
            ("ftp://a/", "http://"),
            ("/hook", "http://"),
            ("http://user:password@a/", "password"),
            ("http://a:0/", "port 0"),
            ("http://a:70000/", "port"),
            ("http:///x", ""),
            ("a b", "no URL"),
            (long.as_str(), "bytes"),
        ] {
            let problem = Target::parse(url).unwrap_err();
            assert_eq!(problem.code, "invalid-argument", "{url}");
            assert!(problem.detail.contains(word) && problem.hint.is_some(), "{url}: {}", problem.detail);
        }
    }
}
