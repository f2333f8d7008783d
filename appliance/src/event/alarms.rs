//! The alarm state of a pool, as JSON in the store. The engine's types are not ours to write: they may change with it.

use std::time::Duration;

use plimsoll_engine::{AlarmState, FiredLevel, Level, Limit, Measure, SubjectKey};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

#[derive(Default, Serialize, Deserialize)]
pub(super) struct Alarms {
    #[serde(default)]
    levels: Vec<(Whose, Of, At)>,
    #[serde(default)]
    horizon: Option<Duration>,
    /// Exhausted vdisks, and the bytes that they lack.
    #[serde(default)]
    lacking: Vec<(Uuid, u64)>,
    /// Why.
    #[serde(default)]
    no_growth: Option<String>,
    #[serde(default)]
    exceeded: Vec<(Whose, Which)>,
    #[serde(default)]
    read_only: bool,
    /// Why.
    #[serde(default)]
    not_served: Option<String>,
    #[serde(default)]
    check_found: Option<String>,
    #[serde(default)]
    room_below: bool,
    #[serde(default)]
    files_gone: Option<String>,
}

#[derive(Clone, Serialize, Deserialize)]
enum Whose {
    Pool,
    Vdisk(Uuid),
    Tenant(String),
}

#[derive(Clone, Copy, Serialize, Deserialize)]
enum Of {
    Physical,
    Designated,
    Quota,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
enum At {
    Percent(u8),
    Bytes(u64),
}

#[derive(Clone, Copy, Serialize, Deserialize)]
enum Which {
    Quota,
    Overcommit,
}

impl From<&SubjectKey> for Whose {
    fn from(key: &SubjectKey) -> Self {
        match key {
            SubjectKey::Pool => Whose::Pool,
            SubjectKey::Vdisk(uuid) => Whose::Vdisk(*uuid),
            SubjectKey::Tenant(tenant) => Whose::Tenant(tenant.clone()),
        }
    }
}

impl From<Whose> for SubjectKey {
    fn from(whose: Whose) -> Self {
        match whose {
            Whose::Pool => SubjectKey::Pool,
            Whose::Vdisk(uuid) => SubjectKey::Vdisk(uuid),
            Whose::Tenant(tenant) => SubjectKey::Tenant(tenant),
        }
    }
}

impl From<&AlarmState> for Alarms {
    fn from(state: &AlarmState) -> Self {
        let level = |fired: &FiredLevel| {
            let of = match fired.measure {
                Measure::Physical => Of::Physical,
                Measure::Designated => Of::Designated,
                Measure::Quota => Of::Quota,
            };
            let at = match fired.level {
                Level::Percent(percent) => At::Percent(percent),
                Level::Bytes(bytes) => At::Bytes(bytes),
            };
            ((&fired.subject).into(), of, at)
        };
        let which = |limit: Limit| match limit {
            Limit::Quota => Which::Quota,
            Limit::Overcommit => Which::Overcommit,
        };
        Self {
            levels: state.levels.iter().map(level).collect(),
            horizon: state.horizon,
            lacking: state.exhausted.iter().map(|(vdisk, bytes)| (*vdisk, *bytes)).collect(),
            no_growth: state.growth_impossible.clone(),
            exceeded: state.exceeded.iter().map(|(subject, limit)| (subject.into(), which(*limit))).collect(),
            read_only: state.read_only,
            not_served: state.not_served.clone(),
            check_found: state.check_found.clone(),
            room_below: state.room_below,
            files_gone: state.files_gone.clone(),
        }
    }
}

impl From<Alarms> for AlarmState {
    fn from(alarms: Alarms) -> Self {
        let level = |(whose, of, at): (Whose, Of, At)| FiredLevel {
            subject: whose.into(),
            measure: match of {
                Of::Physical => Measure::Physical,
                Of::Designated => Measure::Designated,
                Of::Quota => Measure::Quota,
            },
            level: match at {
                At::Percent(percent) => Level::Percent(percent),
                At::Bytes(bytes) => Level::Bytes(bytes),
            },
        };
        let limit = |which: Which| match which {
            Which::Quota => Limit::Quota,
            Which::Overcommit => Limit::Overcommit,
        };
        Self {
            levels: alarms.levels.into_iter().map(level).collect(),
            horizon: alarms.horizon,
            exhausted: alarms.lacking.into_iter().collect(),
            growth_impossible: alarms.no_growth,
            exceeded: alarms.exceeded.into_iter().map(|(whose, which)| (whose.into(), limit(which))).collect(),
            read_only: alarms.read_only,
            not_served: alarms.not_served,
            check_found: alarms.check_found,
            room_below: alarms.room_below,
            files_gone: alarms.files_gone,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alarm_state_comes_back_from_json_as_it_was() {
        let (vdisk, tenant) = (SubjectKey::Vdisk(Uuid::from_u128(7)), SubjectKey::Tenant("acme".into()));
        let fired = |subject: &SubjectKey, measure, level| FiredLevel { subject: subject.clone(), measure, level };
        let state = AlarmState {
            levels: [
                fired(&SubjectKey::Pool, Measure::Physical, Level::Percent(70)),
                fired(&vdisk, Measure::Designated, Level::Bytes(1 << 40)),
                fired(&tenant, Measure::Quota, Level::Percent(95)),
            ]
            .into(),
            horizon: Some(Duration::from_millis(1500)),
            exhausted: [(Uuid::from_u128(7), 65_536)].into(),
            growth_impossible: Some("no spare".into()),
            exceeded: [(SubjectKey::Pool, Limit::Overcommit), (tenant, Limit::Quota)].into(),
            read_only: true,
            not_served: Some("a device is missing".into()),
            check_found: Some("one copy of a page is bad".into()),
            room_below: true,
            files_gone: Some("/srv/p.img".into()),
        };
        let json = serde_json::to_vec(&Alarms::from(&state)).unwrap();
        assert_eq!(AlarmState::from(serde_json::from_slice::<Alarms>(&json).unwrap()), state);
        assert_eq!(AlarmState::from(serde_json::from_str::<Alarms>("{}").unwrap()), AlarmState::default());
    }
}
