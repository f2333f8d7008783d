//! What an operator decided for a vdisk (in its entry, behind the mapping trees) and for a pool (at the end of the root).
//!
//! Zeros stand for the default everywhere, so an entry or root from before a field existed says what it always said.

use std::time::Duration;

use bytes::BufMut;

use super::{Cursor, FormatError, NAME_BYTES_MAX, Put, is_name};
use crate::event::Level;

/// Levels of one figure, of a vdisk or pool.
pub(crate) const LEVELS_MAX: usize = 4;
/// Bytes of a vdisk's policy in its entry.
pub(crate) const VDISK_POLICY_BYTES: usize = 159;
/// Bytes behind that of a vdisk's levels that are sizes.
pub(crate) const LEVEL_SIZES_BYTES: usize = 32;
/// What such a size is a multiple of.
const LEVEL_UNIT: u64 = 1 << 20;
/// Bytes of a pool's policy in the root and in its record.
pub(crate) const POOL_POLICY_BYTES: usize = 192;

/// How long a write waits for space unless it is said otherwise.
const HOLD_DEFAULT: Duration = Duration::from_secs(20);
const HOLD_FAIL: u32 = 1;
const FLAG_ZEROS_KEPT: u8 = 1;
const FLAG_PATTERNS_KEPT: u8 = 2;
const PERCENT_OFF: u8 = u8::MAX;
const OFF: u64 = u64::MAX;
/// The bit that tells a share (per cents, or thousandths of a ratio) from a number of bytes.
const SHARE: u64 = 1 << 63;

/// What becomes of a write that needs space when there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFull {
    /// It waits so long, in order, and fails then. 2 ms to 49 days; whole milliseconds.
    Hold(Duration),
    /// It fails at once.
    Fail,
}

impl Default for OnFull {
    fn default() -> Self {
        OnFull::Hold(HOLD_DEFAULT)
    }
}

/// The levels of one figure.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Levels {
    /// 70, 85 and 95 per cent.
    #[default]
    Default,
    /// None.
    Off,
    /// These, 1 to 4, ascending.
    At(Vec<Level>),
}

/// What a pool may promise beyond what it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OvercommitLimit {
    /// So many bytes more.
    Bytes(u64),
    /// Promises divided by physical space, in thousandths: 1500 is one and a half times.
    Ratio(u64),
}

/// What was decided for a vdisk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VdiskPolicy {
    /// Whose it is: a name by the rules for a pool's.
    pub tenant: Option<String>,
    /// The virtual machine it belongs to: a name by the same rules.
    pub vm: Option<String>,
    /// What becomes of writes when there is no space.
    pub on_full: OnFull,
    /// Physical bytes that are its own, whatever others take; rounded up to extents.
    pub reservation: u64,
    /// Physical bytes that it may not exceed; rounded down to extents.
    pub quota: Option<u64>,
    /// Blocks of zeros are stored like others.
    pub keep_zeros: bool,
    /// Blocks that repeat a pattern are stored like others.
    pub keep_patterns: bool,
    /// Levels of its physical space against its designated size; whole per cents, or whole MiB below 4 PiB.
    pub levels: Levels,
    /// Levels of its physical space against its quota, the same.
    pub quota_levels: Levels,
}

/// What was decided for a pool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PoolPolicy {
    /// What it may promise beyond what it has; `None` is as much as is asked for.
    pub overcommit_limit: Option<OvercommitLimit>,
    /// Levels of what is in use against physical space.
    pub levels: Levels,
    /// How far below a level the use must fall before the level is armed again, in per cent of the whole, or of a level in bytes;
    /// `None`: 2 per cent.
    pub hysteresis_pct: Option<u8>,
    /// Times to full at which an event rises, descending, at most 4; `None`: 24 hours, 1 hour, 5 minutes. An empty list is none.
    pub horizons: Option<Vec<Duration>>,
    /// Bytes that held writes may take together; `None`: a quarter of the memory for I/O.
    pub hold_bytes: Option<u64>,
}

/// Times to full of a pool.
const HORIZONS_MAX: usize = 4;

impl VdiskPolicy {
    pub(crate) fn encode(&self, out: &mut impl BufMut) {
        for name in [&self.tenant, &self.vm] {
            out.put_text(name.as_deref().unwrap_or_default(), NAME_BYTES_MAX);
        }
        let flag = |set: bool, bit: u8| if set { bit } else { 0 };
        out.put_u8(flag(self.keep_zeros, FLAG_ZEROS_KEPT) | flag(self.keep_patterns, FLAG_PATTERNS_KEPT));
        out.put_u32_le(match self.on_full {
            OnFull::Fail => HOLD_FAIL,
            OnFull::Hold(HOLD_DEFAULT) => 0,
            OnFull::Hold(time) => u32::try_from(time.as_millis()).unwrap_or(u32::MAX).max(HOLD_FAIL + 1),
        });
        out.put_u64_le(self.reservation);
        out.put_u64_le(self.quota.unwrap_or(0));
        for levels in [&self.levels, &self.quota_levels] {
            out.put_slice(&match levels {
                Levels::Default => [0; LEVELS_MAX],
                Levels::Off => [PERCENT_OFF, 0, 0, 0],
                Levels::At(levels) => {
                    let percent = |index: usize| match levels.get(index) {
                        Some(Level::Percent(percent)) => *percent,
                        _ => 0,
                    };
                    std::array::from_fn(percent)
                }
            });
        }
    }

    /// The levels that are sizes, which have their place behind all else.
    pub(crate) fn encode_level_sizes(&self, out: &mut impl BufMut) {
        for levels in [&self.levels, &self.quota_levels] {
            let size = |index: usize| match levels {
                Levels::At(levels) => match levels.get(index) {
                    Some(Level::Bytes(bytes)) => u32::try_from(bytes / LEVEL_UNIT).unwrap_or(u32::MAX),
                    _ => 0,
                },
                _ => 0,
            };
            (0..LEVELS_MAX).for_each(|index| out.put_u32_le(size(index)));
        }
    }

    pub(crate) fn decode_level_sizes(&mut self, cursor: &mut Cursor<'_>) -> Result<(), FormatError> {
        for levels in [&mut self.levels, &mut self.quota_levels] {
            let words = [cursor.u32()?, cursor.u32()?, cursor.u32()?, cursor.u32()?];
            if words == [0; LEVELS_MAX] {
                continue;
            }
            let used: Vec<u32> = words.into_iter().filter(|&word| word > 0).collect();
            if *levels != Levels::Default || !used.is_sorted_by(|a, b| a < b) {
                return Err(FormatError::Field { field: "levels", value: u64::from(words[0]) });
            }
            *levels = Levels::At(used.into_iter().map(|word| Level::Bytes(u64::from(word) * LEVEL_UNIT)).collect());
        }
        Ok(())
    }

    pub(crate) fn decode(cursor: &mut Cursor<'_>) -> Result<Self, FormatError> {
        let (tenant, vm) = (cursor.optional_name("tenant")?, cursor.optional_name("virtual machine")?);
        let flags = cursor.u8()?;
        if flags & !(FLAG_ZEROS_KEPT | FLAG_PATTERNS_KEPT) != 0 {
            return Err(FormatError::Field { field: "policy flags", value: u64::from(flags) });
        }
        let on_full = match cursor.u32()? {
            0 => OnFull::default(),
            HOLD_FAIL => OnFull::Fail,
            time => OnFull::Hold(Duration::from_millis(u64::from(time))),
        };
        let (reservation, quota) = (cursor.u64()?, cursor.u64()?);
        let (levels, quota_levels) = (percents(cursor.array()?)?, percents(cursor.array()?)?);
        Ok(VdiskPolicy {
            tenant,
            vm,
            on_full,
            reservation,
            quota: (quota > 0).then_some(quota),
            keep_zeros: flags & FLAG_ZEROS_KEPT != 0,
            keep_patterns: flags & FLAG_PATTERNS_KEPT != 0,
            levels,
            quota_levels,
        })
    }
}

fn percents(bytes: [u8; LEVELS_MAX]) -> Result<Levels, FormatError> {
    match bytes {
        [0, 0, 0, 0] => Ok(Levels::Default),
        [PERCENT_OFF, ..] => Ok(Levels::Off),
        _ => {
            let levels: Vec<Level> = bytes.into_iter().filter(|&percent| percent > 0).map(Level::Percent).collect();
            let rising = levels.is_sorted_by(|a, b| a < b);
            match rising && bytes.iter().all(|&percent| percent <= 100) {
                true => Ok(Levels::At(levels)),
                false => Err(FormatError::Field { field: "levels", value: u64::from(u32::from_le_bytes(bytes)) }),
            }
        }
    }
}

impl PoolPolicy {
    pub(crate) fn encode(&self, out: &mut impl BufMut) {
        out.put_u64_le(match self.overcommit_limit {
            None => 0,
            Some(OvercommitLimit::Bytes(0)) => OFF,
            Some(OvercommitLimit::Bytes(bytes)) => bytes,
            Some(OvercommitLimit::Ratio(ratio)) => SHARE | ratio,
        });
        let words: [u64; LEVELS_MAX] = match &self.levels {
            Levels::Default => [0; LEVELS_MAX],
            Levels::Off => [OFF, 0, 0, 0],
            Levels::At(levels) => std::array::from_fn(|index| match levels.get(index) {
                None => 0,
                Some(Level::Percent(percent)) => SHARE | u64::from(*percent),
                Some(Level::Bytes(bytes)) => *bytes,
            }),
        };
        words.into_iter().for_each(|word| out.put_u64_le(word));
        out.put_u64_le(self.hold_bytes.unwrap_or(0));
        let seconds = |index: usize| match &self.horizons {
            None => 0,
            Some(horizons) => {
                horizons.get(index).map_or(u32::MAX, |time| u32::try_from(time.as_secs()).unwrap_or(u32::MAX - 1))
            }
        };
        (0..HORIZONS_MAX).for_each(|index| out.put_u32_le(seconds(index)));
        // One more than it is: 0 is the default.
        out.put_u16_le(self.hysteresis_pct.map_or(0, |percent| u16::from(percent) + 1));
        out.put_bytes(0, POOL_POLICY_BYTES - 66);
    }

    pub(crate) fn decode(cursor: &mut Cursor<'_>) -> Result<Self, FormatError> {
        let overcommit_limit = match cursor.u64()? {
            0 => None,
            OFF => Some(OvercommitLimit::Bytes(0)),
            word if word & SHARE != 0 => Some(OvercommitLimit::Ratio(word & !SHARE)),
            bytes => Some(OvercommitLimit::Bytes(bytes)),
        };
        let words: [u64; LEVELS_MAX] = [cursor.u64()?, cursor.u64()?, cursor.u64()?, cursor.u64()?];
        let levels = match words {
            [0, 0, 0, 0] => Levels::Default,
            [OFF, ..] => Levels::Off,
            _ => {
                let used = words.into_iter().filter(|&word| word > 0);
                let level = |word: u64| match word & SHARE {
                    0 => Ok(Level::Bytes(word)),
                    _ => match word & !SHARE {
                        percent @ 1..=100 => Ok(Level::Percent(percent as u8)),
                        value => Err(FormatError::Field { field: "level", value }),
                    },
                };
                let levels = used.map(level).collect::<Result<Vec<_>, _>>()?;
                let of_bytes = levels.iter().filter(|level| matches!(level, Level::Bytes(_))).count();
                if !levels.is_sorted_by(|a, b| a < b) || (of_bytes > 0 && of_bytes < levels.len()) {
                    return Err(FormatError::Field { field: "levels", value: words[0] });
                }
                Levels::At(levels)
            }
        };
        let hold_bytes = Some(cursor.u64()?).filter(|&bytes| bytes > 0);
        let seconds: [u32; HORIZONS_MAX] = [cursor.u32()?, cursor.u32()?, cursor.u32()?, cursor.u32()?];
        let horizons: Option<Vec<Duration>> = seconds.iter().any(|&seconds| seconds > 0).then(|| {
            let set = seconds.iter().filter(|&&seconds| seconds > 0 && seconds < u32::MAX);
            set.map(|&seconds| Duration::from_secs(u64::from(seconds))).collect()
        });
        if let Some(times) = &horizons
            && !times.is_sorted_by(|a: &Duration, b| a > b)
        {
            return Err(FormatError::Field { field: "times to full", value: u64::from(seconds[0]) });
        }
        let hysteresis_pct = match cursor.u16()? {
            0 => None,
            percent @ 1..=100 => Some(percent as u8 - 1),
            value => return Err(FormatError::Field { field: "hysteresis", value: u64::from(value) }),
        };
        cursor.take(POOL_POLICY_BYTES - 66)?;
        Ok(PoolPolicy { overcommit_limit, levels, hysteresis_pct, horizons, hold_bytes })
    }
}

impl VdiskPolicy {
    /// What is wrong with it beyond its levels, and what to do instead.
    pub(crate) fn verify(&self) -> Result<(), String> {
        for (what, name) in [("tenant", &self.tenant), ("virtual machine", &self.vm)] {
            if let Some(name) = name.as_deref().filter(|name| !is_name(name)) {
                let rule = "use 1 to 64 letters, digits, '-', '_' or '.', beginning with a letter or digit";
                return Err(format!("{name:?} cannot be the name of a {what}; {rule}"));
            }
        }
        if let OnFull::Hold(time) = self.on_full
            && !(2..=u128::from(u32::MAX)).contains(&time.as_millis())
        {
            return Err(format!("a write cannot be held for {time:?}; use 2 ms to 49 days, or fail"));
        }
        if let Some(quota) = self.quota.filter(|&quota| quota < self.reservation) {
            let reserved = self.reservation;
            return Err(format!(
                "a quota of {quota} bytes is less than the reservation of {reserved}; raise the quota or lower the reservation"
            ));
        }
        let fits = |bytes: u64| bytes.is_multiple_of(LEVEL_UNIT) && bytes / LEVEL_UNIT <= u64::from(u32::MAX);
        let is_odd = |level: &Level| matches!(level, Level::Bytes(bytes) if !fits(*bytes));
        let has_odd = |levels: &Levels| matches!(levels, Levels::At(levels) if levels.iter().any(is_odd));
        match has_odd(&self.levels) || has_odd(&self.quota_levels) {
            true => {
                Err("thresholds of a vdisk are per cents, such as 70%, or whole MiB below 4 PiB, such as 800G"
                    .to_owned())
            }
            false => Ok(()),
        }
    }
}

impl PoolPolicy {
    /// What is wrong with it beyond its levels and horizons, and what to do instead.
    pub(crate) fn verify(&self) -> Result<(), String> {
        match self.overcommit_limit {
            Some(OvercommitLimit::Bytes(bytes)) if bytes >= SHARE => {
                Err(format!("an overcommit limit of {bytes} bytes is more than can be; leave it out to have none"))
            }
            Some(OvercommitLimit::Ratio(ratio)) if ratio == 0 || ratio >= SHARE - 1 => {
                Err("an overcommit ratio must be more than 0, such as 1.5".to_owned())
            }
            _ if self.horizons.iter().flatten().any(|time| time.subsec_nanos() > 0) => {
                Err("horizons are whole seconds, such as 24h,1h,5m".to_owned())
            }
            _ => Ok(()),
        }
    }
}
