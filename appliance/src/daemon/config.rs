//! The configuration file: TOML, for what differs from the defaults. A key that is not known is refused with the nearest
//! one that is, because a misspelt limit that is silently ignored is found at the worst moment.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use plimsoll_hardware::buffer::BUFFER_MAX;
use serde::{Deserialize, Deserializer};

use crate::event::EventLimits;
use crate::export::nbd::NbdLimits;
use crate::name;
use crate::node::same_file;
use crate::problem::{Answer, Problem};
use crate::units::Size;

/// All of it. What is absent has its default.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Config {
    /// Where the state is kept; `--state-dir` wins.
    pub state_dir: Option<PathBuf>,
    /// As PLIMSOLL_LOG, which wins: `info`, `debug`, `plimsoll_engine=trace`.
    pub log: Option<String>,
    /// Pools to serve. One that is not there yet is made if its devices are empty.
    #[serde(default)]
    pub pool: Vec<PoolConfig>,
    /// The NBD server.
    #[serde(default)]
    pub nbd: NbdConfig,
    /// Bounds of memory.
    #[serde(default)]
    pub memory: MemoryConfig,
    /// The event log and its webhooks.
    #[serde(default)]
    pub events: EventsConfig,
    /// Checks of the pools that nobody asks for.
    #[serde(default)]
    pub audit: AuditConfig,
}

/// A pool to serve.
#[derive(Clone, Debug, Deserialize)]
pub struct PoolConfig {
    /// Its name.
    pub name: String,
    /// Paths of its devices.
    pub devices: Vec<String>,
    /// Go through the page cache.
    #[serde(default)]
    pub buffered: bool,
}

/// The NBD server.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct NbdConfig {
    /// Addresses to listen at; loopback port 10809 when absent.
    #[serde(default, deserialize_with = "addresses")]
    pub listen: Option<Vec<SocketAddr>>,
    /// Connections of each listener.
    pub connections: Option<usize>,
    /// Connections of each listener that have not chosen an export yet.
    pub negotiating: Option<usize>,
    /// Seconds from the first byte to the chosen export.
    pub negotiation_seconds: Option<u64>,
    /// Requests of one connection that are not answered yet.
    pub requests: Option<u32>,
    /// Memory of one connection.
    #[serde(default, deserialize_with = "size")]
    pub connection_bytes: Option<u64>,
}

/// Bounds of memory.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct MemoryConfig {
    /// For I/O; when it is used up, sockets are not read.
    #[serde(default, deserialize_with = "size")]
    pub buffer_bytes: Option<u64>,
    /// For mapping pages, per pool.
    #[serde(default, deserialize_with = "size")]
    pub mapping_cache_bytes: Option<u64>,
}

/// The event log and its webhooks.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct EventsConfig {
    /// Events that are kept; 100,000 when absent.
    pub keep: Option<u64>,
    /// A webhook must have answered within so many milliseconds; 10,000 when absent.
    pub webhook_timeout_ms: Option<u64>,
    /// The first pause before another attempt; 1,000 when absent. It doubles with each attempt.
    pub webhook_retry_first_ms: Option<u64>,
    /// The longest pause; 600,000 (10 minutes) when absent.
    pub webhook_retry_longest_ms: Option<u64>,
    /// An event that a webhook does not take for so many seconds is given up; 86,400 (a day) when absent.
    pub webhook_give_up_seconds: Option<u64>,
}

/// Checks of the pools that nobody asks for.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct AuditConfig {
    /// Seconds between two of a pool; 86,400 (a day) when absent, 0 for none.
    pub every_seconds: Option<u64>,
}

/// As many as a process can have files.
const CONNECTIONS: RangeInclusive<u64> = 1..=65_536;
/// Up to an hour, for people who speak NBD by hand.
const NEGOTIATION_SECONDS: RangeInclusive<u64> = 1..=3600;
/// Each one that is under way has a task.
const REQUESTS: RangeInclusive<u64> = 1..=4096;
/// At least one buffer of the largest size; less would keep a request of that size waiting for ever.
const CONNECTION_BYTES: RangeInclusive<u64> = BUFFER_MAX as u64..=16 << 30;
/// Sixteen buffers of the largest size: an eighth is kept for the engine, the rest holds a few large requests. Above it,
/// 64 GiB, whose bookkeeping (13 bytes for each 4 KiB) takes 208 MiB.
const BUFFER_BYTES: RangeInclusive<u64> = 16 * BUFFER_MAX as u64..=64 << 30;
/// Some pages of each level of the mapping, up to the mapping of petabytes.
const MAPPING_CACHE_BYTES: RangeInclusive<u64> = 1 << 20..=1 << 40;
/// A page of a list, up to 700 MB.
const EVENTS_KEPT: RangeInclusive<u64> = 100..=1_000_000;
/// Pauses and time-outs of webhooks: up to an hour.
const WEBHOOK_MS: RangeInclusive<u64> = 1..=3_600_000;
/// Up to a month.
const WEBHOOK_GIVE_UP_SECONDS: RangeInclusive<u64> = 1..=31 * 86_400;

/// None, up to a year.
const AUDIT_EVERY_SECONDS: RangeInclusive<u64> = 0..=366 * 86_400;

/// Known keys by the table that they are in.
const KEYS: &[(&str, &[&str])] = &[
    ("", &["state_dir", "log", "pool", "nbd", "memory", "events", "audit"]),
    ("pool", &["name", "devices", "buffered"]),
    ("nbd", &["listen", "connections", "negotiating", "negotiation_seconds", "requests", "connection_bytes"]),
    ("memory", &["buffer_bytes", "mapping_cache_bytes"]),
    (
        "events",
        &[
            "keep",
            "webhook_timeout_ms",
            "webhook_retry_first_ms",
            "webhook_retry_longest_ms",
            "webhook_give_up_seconds",
        ],
    ),
    ("audit", &["every_seconds"]),
];

impl Config {
    /// Reads a file.
    ///
    /// # Errors
    /// `invalid-config` with the place and what was probably meant.
    pub fn load(path: &Path) -> Answer<Self> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            Problem::new("invalid-config", format!("{} cannot be read: {error}", path.display()))
                .hint("plimsoll serve, without --config, starts with the defaults")
        })?;
        Self::parse(&text)
            .map_err(|problem| Problem { detail: format!("{}: {}", path.display(), problem.detail), ..problem })
    }

    fn parse(text: &str) -> Answer<Self> {
        let table: toml::Table = text
            .parse()
            .map_err(|error: toml::de::Error| Problem::new("invalid-config", error.to_string().trim().to_owned()))?;
        known_keys("", &table)?;
        let config: Self = table.try_into().map_err(|error: toml::de::Error| {
            Problem::new("invalid-config", error.to_string().trim().replace('\n', " "))
        })?;
        config.check()?;
        Ok(config)
    }

    /// Refuses values with which nobody could be served.
    fn check(&self) -> Answer<()> {
        let (nbd, memory) = (&self.nbd, &self.memory);
        within("nbd.connections", nbd.connections.map(|count| count as u64), CONNECTIONS)?;
        within("nbd.negotiating", nbd.negotiating.map(|count| count as u64), CONNECTIONS)?;
        within("nbd.negotiation_seconds", nbd.negotiation_seconds, NEGOTIATION_SECONDS)?;
        within("nbd.requests", nbd.requests.map(u64::from), REQUESTS)?;
        within("nbd.connection_bytes", nbd.connection_bytes, CONNECTION_BYTES)?;
        within("memory.buffer_bytes", memory.buffer_bytes, BUFFER_BYTES)?;
        within("memory.mapping_cache_bytes", memory.mapping_cache_bytes, MAPPING_CACHE_BYTES)?;
        let events = &self.events;
        within("events.keep", events.keep, EVENTS_KEPT)?;
        within("events.webhook_timeout_ms", events.webhook_timeout_ms, WEBHOOK_MS)?;
        within("events.webhook_retry_first_ms", events.webhook_retry_first_ms, WEBHOOK_MS)?;
        within("events.webhook_retry_longest_ms", events.webhook_retry_longest_ms, WEBHOOK_MS)?;
        within("events.webhook_give_up_seconds", events.webhook_give_up_seconds, WEBHOOK_GIVE_UP_SECONDS)?;
        within("audit.every_seconds", self.audit.every_seconds, AUDIT_EVERY_SECONDS)?;
        for (index, pool) in self.pool.iter().enumerate() {
            name::check("pool", &pool.name).map_err(|problem| Problem {
                hint: problem.hint,
                ..Problem::new("invalid-config", format!("[[pool]]: {}", problem.detail))
            })?;
            if pool.devices.is_empty() {
                let detail = format!("pool {} has no devices", pool.name);
                return Err(Problem::new("invalid-config", detail).hint("devices = [\"/dev/nvme0n1\"]"));
            }
            if self.pool[..index].iter().any(|other| other.name == pool.name) {
                let detail = format!("pool {} is there twice", pool.name);
                return Err(Problem::new("invalid-config", detail).hint("put all devices of a pool in one [[pool]]"));
            }
        }
        self.check_devices()
    }

    /// Refuses a device that is named twice.
    fn check_devices(&self) -> Answer<()> {
        let named: Vec<_> =
            self.pool.iter().flat_map(|pool| pool.devices.iter().map(|path| (path, &pool.name))).collect();
        for (index, (path, pool)) in named.iter().enumerate() {
            if let Some((_, other)) = named[..index].iter().find(|(known, _)| same_file(known, path)) {
                let by = if other == pool { format!("pool {pool} twice") } else { format!("pools {other} and {pool}") };
                let problem = Problem::new("invalid-config", format!("device {path} is named by {by}"));
                return Err(problem.hint("name each device once, in one [[pool]]"));
            }
        }
        Ok(())
    }

    /// The limits of the event log.
    pub fn event_limits(&self) -> EventLimits {
        let (defaults, events) = (EventLimits::default(), &self.events);
        let (first, longest) = defaults.webhook_retry;
        EventLimits {
            keep: events.keep.unwrap_or(defaults.keep),
            webhook_timeout: events.webhook_timeout_ms.map_or(defaults.webhook_timeout, Duration::from_millis),
            webhook_retry: (
                events.webhook_retry_first_ms.map_or(first, Duration::from_millis),
                events.webhook_retry_longest_ms.map_or(longest, Duration::from_millis),
            ),
            webhook_give_up: events.webhook_give_up_seconds.map_or(defaults.webhook_give_up, Duration::from_secs),
        }
    }

    /// The limits of the NBD server.
    pub fn nbd_limits(&self) -> NbdLimits {
        let defaults = NbdLimits::default();
        let nbd = &self.nbd;
        NbdLimits {
            negotiating: nbd.negotiating.unwrap_or(defaults.negotiating),
            negotiation_time: nbd.negotiation_seconds.map_or(defaults.negotiation_time, Duration::from_secs),
            requests: nbd.requests.unwrap_or(defaults.requests),
            bytes: nbd.connection_bytes.map_or(defaults.bytes, |bytes| usize::try_from(bytes).unwrap_or(usize::MAX)),
            ..defaults.with_connections(nbd.connections.unwrap_or(NbdLimits::default().connections))
        }
    }
}

fn within(key: &str, value: Option<u64>, allowed: RangeInclusive<u64>) -> Answer<()> {
    match value {
        Some(value) if !allowed.contains(&value) => {
            let (least, most) = allowed.into_inner();
            Err(Problem::new("invalid-config", format!("{key} is {value}; {least} to {most} can be"))
                .hint(format!("leave {key} out to have its default")))
        }
        _ => Ok(()),
    }
}

fn known_keys(place: &str, table: &toml::Table) -> Answer<()> {
    let Some((_, known)) = KEYS.iter().find(|(name, _)| *name == place) else { return Ok(()) };
    for (key, value) in table {
        if !known.contains(&key.as_str()) {
            return Err(unknown(place, key, known));
        }
        match value {
            toml::Value::Table(inner) => known_keys(key, inner)?,
            toml::Value::Array(list) => {
                for inner in list.iter().filter_map(toml::Value::as_table) {
                    known_keys(key, inner)?;
                }
            }
            _ => {}
        }
    }
    Ok(())
}

fn unknown(place: &str, key: &str, known: &[&str]) -> Problem {
    let inside = if place.is_empty() { "at the top".to_owned() } else { format!("in [{place}]") };
    let problem = Problem::new("invalid-config", format!("there is no key {key:?} {inside}"));
    let nearest = known.iter().map(|name| (strsim::damerau_levenshtein(name, key), name)).min();
    match nearest {
        Some((distance, name)) if distance <= name.len() / 2 => problem.hint(format!("did you mean {name}?")),
        _ => problem.hint(format!("known there: {}", known.join(", "))),
    }
}

/// A number of bytes, or a text such as `"256M"`.
fn size<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    struct Written;
    impl serde::de::Visitor<'_> for Written {
        type Value = u64;

        fn expecting(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            to.write_str("a number of bytes, or a size such as \"256M\"")
        }

        fn visit_u64<E: serde::de::Error>(self, bytes: u64) -> Result<u64, E> {
            Ok(bytes)
        }

        fn visit_i64<E: serde::de::Error>(self, bytes: i64) -> Result<u64, E> {
            u64::try_from(bytes).map_err(|_| E::invalid_value(serde::de::Unexpected::Signed(bytes), &self))
        }

        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<u64, E> {
            let size: Size = text.parse().map_err(E::custom)?;
            size.exact().map_err(E::custom)
        }
    }
    from.deserialize_any(Written).map(Some)
}

/// A list of addresses, each with its port.
fn addresses<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Vec<SocketAddr>>, D::Error> {
    let parse = |text: String| {
        let wrong = || format!("{text} is no address to listen at; write ADDRESS:PORT, such as 127.0.0.1:10809");
        text.parse().map_err(|_| serde::de::Error::custom(wrong()))
    };
    Vec::<String>::deserialize(from)?.into_iter().map(parse).collect::<Result<_, _>>().map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_is_none_is_named_with_what_is_one() {
        let problem = Config::parse("[nbd]\nlisten = [\"127.0.0.1:99999\"]").unwrap_err();
        assert!(problem.detail.contains("127.0.0.1:99999") && problem.detail.contains("ADDRESS:PORT"), "{problem:?}");
    }

    #[test]
    fn a_whole_configuration_is_read() {
        let config = Config::parse(
            r#"
            state_dir = "/var/lib/plimsoll"
            log = "debug"
            [memory]
            buffer_bytes = "256M"
            mapping_cache_bytes = 1073741824
            [nbd]
            listen = ["127.0.0.1:10809", "[::1]:10809"]
            connections = 10
            connection_bytes = "4MiB"
            [[pool]]
            name = "tank"
            devices = ["/dev/nvme0n1", "/dev/nvme1n1"]
            "#,
        )
        .unwrap();
        assert_eq!(config.memory.buffer_bytes, Some(256 << 20));
        assert_eq!(config.memory.mapping_cache_bytes, Some(1 << 30));
        assert_eq!(config.nbd.listen.as_ref().map(Vec::len), Some(2));
        assert_eq!(config.nbd_limits().connections, 10);
        assert_eq!(config.nbd_limits().bytes, 4 << 20);
        assert_eq!(config.pool[0].devices.len(), 2);
    }

    #[test]
    fn a_misspelt_key_is_refused_with_the_one_that_was_meant() {
        let problem = Config::parse("[memory]\nbufer_bytes = 1").unwrap_err();
        assert!(problem.detail.contains("bufer_bytes") && problem.detail.contains("[memory]"), "{}", problem.detail);
        assert_eq!(problem.hint.as_deref(), Some("did you mean buffer_bytes?"));
        let problem = Config::parse("[[pool]]\nname = \"a\"\ndevice = [\"/x\"]").unwrap_err();
        assert_eq!(problem.hint.as_deref(), Some("did you mean devices?"));
        assert!(Config::parse("zzz = 1").unwrap_err().hint.is_some_and(|hint| hint.contains("state_dir")));
    }

    #[test]
    fn values_that_make_no_sense_are_refused() {
        for text in ["[memory]\nbuffer_bytes = \"10X\"", "[nbd]\nlisten = [\"nowhere\"]", "pool = 1", "state_dir = "] {
            assert_eq!(Config::parse(text).unwrap_err().code, "invalid-config", "{text}");
        }
    }

    #[test]
    fn values_with_which_nobody_could_be_served_are_refused_with_the_allowed_range() {
        let cases: &[(&str, &str, &[&str], &[&str])] = &[
            ("nbd", "connections", &["0", "65537"], &["1", "65536"]),
            ("nbd", "negotiating", &["0", "65537"], &["1", "65536"]),
            ("nbd", "negotiation_seconds", &["0", "3601"], &["1", "3600"]),
            ("nbd", "requests", &["0", "4097"], &["1", "4096"]),
            ("nbd", "connection_bytes", &["0", "1", "\"17G\""], &["\"1M\"", "\"16G\""]),
            ("events", "keep", &["0", "1000001"], &["100", "1000000"]),
            ("events", "webhook_timeout_ms", &["0", "3600001"], &["1", "3600000"]),
            ("events", "webhook_retry_first_ms", &["0", "3600001"], &["1", "3600000"]),
            ("events", "webhook_retry_longest_ms", &["0", "3600001"], &["1", "3600000"]),
            ("events", "webhook_give_up_seconds", &["0", "2678401"], &["1", "2678400"]),
            ("audit", "every_seconds", &["31622401"], &["0", "31622400"]),
            ("memory", "buffer_bytes", &["0", "1", "\"20T\"", "\"15E\""], &["\"16M\"", "\"64G\""]),
            ("memory", "mapping_cache_bytes", &["0", "1", "\"15E\""], &["\"1M\"", "\"1T\""]),
        ];
        for (table, key, refused, taken) in cases {
            for value in *refused {
                let problem = Config::parse(&format!("[{table}]\n{key} = {value}")).unwrap_err();
                assert_eq!(problem.code, "invalid-config", "{key} = {value}");
                let says = |what: &str| problem.detail.contains(what);
                assert!(says(&format!("{table}.{key}")) && says("can be"), "{}", problem.detail);
            }
            for value in *taken {
                Config::parse(&format!("[{table}]\n{key} = {value}")).unwrap();
            }
        }
        for text in ["connections = -1", "requests = 4294967296", "requests = 1.5", "connection_bytes = \"16E\""] {
            assert_eq!(Config::parse(&format!("[nbd]\n{text}")).unwrap_err().code, "invalid-config", "{text}");
        }
        let pool = |name: &str, devices: &str| format!("[[pool]]\nname = \"{name}\"\ndevices = [{devices}]\n");
        for text in [
            pool("a/b", "\"/x\""),
            pool("a", ""),
            pool("a", "\"/x\"") + &pool("a", "\"/y\""),
            pool("a", "\"/x\", \"/x\""),
            pool("a", "\"/x\"") + &pool("b", "\"/y\", \"/x\""),
        ] {
            assert_eq!(Config::parse(&text).unwrap_err().code, "invalid-config", "{text}");
        }
        // In words that somebody understands who did not write the program.
        for value in ["-5", "1.5", "true"] {
            let problem = Config::parse(&format!("[memory]\nbuffer_bytes = {value}")).unwrap_err();
            assert!(problem.detail.contains("a number of bytes, or a size such as \"256M\""), "{}", problem.detail);
        }
    }
}
