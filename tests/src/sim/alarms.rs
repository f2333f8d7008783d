//! A listener as the appliance is one: it keeps what was told over all lives, and nothing may be told twice, or be over that never began.

use std::collections::BTreeSet;
use std::rc::Rc;

use plimsoll_engine::{AlarmState, FiredLevel, Shortage, SpaceEvent, SubjectKey};
use plimsoll_hardware::Machine;

use super::session::Session;

/// Arms the pool with what was told, and listens until it is closed.
pub fn listen(session: &Rc<Session>) {
    let told = {
        let alarms = &mut session.state.borrow_mut().alarms;
        forget_the_gone(session, alarms);
        alarms.clone()
    };
    session.pool.arm(&told);
    let listener = session.clone();
    session.machine.spawn(async move {
        let mut held_below = BTreeSet::new();
        loop {
            let events = listener.ask(listener.pool.events()).await;
            if events.is_empty() {
                return;
            }
            let alarms = &mut listener.state.borrow_mut().alarms;
            for event in &events {
                match event {
                    SpaceEvent::Exhausted { vdisk, cause: Shortage::DeviceFull, held: true, .. } => {
                        listener.did("vdisks held for room below");
                        held_below.insert(vdisk.uuid);
                    }
                    SpaceEvent::Resumed { vdisk, writes, .. } if held_below.remove(&vdisk.uuid) => {
                        listener.tally.borrow_mut().did("writes that went on with room below", *writes);
                    }
                    _ => {}
                }
                assert!(is_news(alarms, event), "told already, or never begun: {event:?}; it was told: {alarms:?}");
                alarms.apply(event);
            }
        }
    });
}

/// A crash may have undone a vdisk that was told about.
fn forget_the_gone(session: &Session, alarms: &mut AlarmState) {
    let there: Vec<_> = session.pool.vdisks().iter().map(|vdisk| vdisk.uuid).collect();
    let of_levels = alarms.levels.iter().map(|fired| &fired.subject);
    let subjects =
        of_levels.chain(alarms.exceeded.iter().map(|(subject, _)| subject)).filter_map(|subject| match subject {
            SubjectKey::Vdisk(uuid) => Some(*uuid),
            _ => None,
        });
    let known: Vec<_> = subjects.chain(alarms.exhausted.keys().copied()).filter(|uuid| !there.contains(uuid)).collect();
    known.into_iter().for_each(|gone| alarms.forget_vdisk(gone));
}

fn is_news(told: &AlarmState, event: &SpaceEvent) -> bool {
    match event {
        SpaceEvent::Threshold { subject, measure, level, rising, .. } => {
            let fired = FiredLevel { subject: subject.key(), measure: *measure, level: *level };
            told.levels.contains(&fired) != *rising
        }
        SpaceEvent::LimitExceeded { subject, limit, rising, .. } => {
            told.exceeded.contains(&(subject.key(), *limit)) != *rising
        }
        SpaceEvent::Forecast { horizon, rising: true, .. } => told.horizon.is_none_or(|told| told > *horizon),
        SpaceEvent::Forecast { horizon, .. } => told.horizon == Some(*horizon),
        SpaceEvent::Exhausted { vdisk, .. } => !told.exhausted.contains_key(&vdisk.uuid),
        SpaceEvent::Resumed { vdisk, .. } | SpaceEvent::HoldExpired { vdisk, .. } => {
            told.exhausted.contains_key(&vdisk.uuid)
        }
        SpaceEvent::ReadOnly { rising, .. } => told.read_only != *rising,
        _ => true,
    }
}
