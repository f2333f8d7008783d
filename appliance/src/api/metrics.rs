//! `/metrics`: Prometheus text, made from the node's figures when it is asked for, so nothing is counted twice and the
//! data path knows nothing of it. Names are `plimsoll_<noun>_<what>_<unit>`.
//!
//! A family has the same labels in all its series; an empty one says that there is no tenant, or no virtual machine. A family has as many
//! series as there are objects. Labels are names, of 64 letters and digits at most (`name.rs`), and paths, which the encoder escapes.

use std::sync::atomic::AtomicU64;

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::event::Summary;
use crate::model::{
    CountersView, PoolState, PoolView, Severity, StatusView, SurveyView, TenantView, VdiskView, WebhookState,
    WebhookView,
};
use crate::node::NodeLink;
use crate::problem::{Answer, Problem};

type Labels = Vec<(&'static str, String)>;
type Gauges = Family<Labels, Gauge<f64, AtomicU64>>;
type Counters = Family<Labels, Counter>;

pub(super) fn router() -> OpenApiRouter<NodeLink> {
    OpenApiRouter::new().routes(routes!(metrics))
}

/// Prometheus text.
#[utoipa::path(get, path = "/metrics", tag = "status", operation_id = "metrics",
    responses((status = 200, body = String, content_type = "application/openmetrics-text")))]
async fn metrics(State(node): State<NodeLink>) -> Answer<Response> {
    let figures = |node: crate::node::Node| async move {
        Ok(Figures { pools: node.pools(), vdisks: node.vdisks(None)?, tenants: node.tenants() })
    };
    let (status, webhooks) = super::status::whole(&node).await?;
    let text = encode(&status, &node.call(figures).await?, &webhooks, &node.events().summary())?;
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, kind)], text).into_response())
}

/// What the pools know.
struct Figures {
    pools: Vec<PoolView>,
    vdisks: Vec<VdiskView>,
    tenants: Vec<TenantView>,
}

fn encode(status: &StatusView, figures: &Figures, webhooks: &[WebhookView], events: &Summary) -> Answer<String> {
    let mut registry = Registry::with_prefix("plimsoll");
    node_metrics(&mut registry, status);
    pool_metrics(&mut registry, &figures.pools);
    vdisk_metrics(&mut registry, &figures.vdisks);
    tenant_metrics(&mut registry, &figures.tenants);
    event_metrics(&mut registry, events);
    webhook_metrics(&mut registry, webhooks);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry)
        .map_err(|error| Problem::new("internal", format!("the metrics cannot be written: {error}")))?;
    Ok(text)
}

fn gauge(registry: &mut Registry, name: &str, help: &str, values: impl Iterator<Item = (Labels, f64)>) {
    let family = Gauges::default();
    for (labels, value) in values {
        family.get_or_create(&labels).set(value);
    }
    registry.register(name, help, family);
}

fn node_metrics(registry: &mut Registry, status: &StatusView) {
    let mut one = |name, help, value: f64| gauge(registry, name, help, [(Labels::new(), value)].into_iter());
    one("node_ready", "1 when it serves", f64::from(u8::from(status.ready)));
    one("node_health", "0 ok, 1 warning, 2 critical", status.health.level());
    one("node_clients", "Connected clients", status.clients as f64);
    one("node_jobs_running", "Jobs under way", status.jobs_running as f64);
    one("node_buffer_bytes", "Memory for I/O", status.buffer_bytes as f64);
    one("node_buffer_free_bytes", "Memory for I/O that is not in use", status.buffer_free_bytes as f64);
}

fn pool_metrics(registry: &mut Registry, pools: &[PoolView]) {
    let labels = |pool: &PoolView| vec![("pool", pool.name.clone())];
    let online = pools.iter().map(|pool| (labels(pool), f64::from(u8::from(pool.state == PoolState::Online))));
    gauge(registry, "pool_online", "1 when it is open and writable", online);
    type Figure = fn(&PoolView) -> Option<f64>;
    let figures: [(&str, &str, Figure); 25] = [
        ("pool_physical_bytes", "Space on all devices", |pool| pool.physical_bytes.map(|n| n as f64)),
        ("pool_available_bytes", "What vdisks without a reservation can still get", |pool| {
            pool.available_bytes.map(|n| n as f64)
        }),
        ("pool_available_below_bytes", "Of that, what the file systems under its files have room for", |pool| {
            pool.available_below_bytes.or(pool.available_bytes).map(|n| n as f64)
        }),
        ("pool_utilized_bytes", "Allocated to data", |pool| pool.utilized_bytes.map(|n| n as f64)),
        ("pool_exclusive_bytes", "Allocated to data that one vdisk or snapshot alone names", |pool| {
            pool.exclusive_bytes.map(|n| n as f64)
        }),
        ("pool_shared_bytes", "Allocated to data that several name", |pool| pool.shared_bytes.map(|n| n as f64)),
        ("pool_metadata_bytes", "Allocated to metadata", |pool| pool.metadata_bytes.map(|n| n as f64)),
        ("pool_metadata_reserve_bytes", "Kept back for metadata", |pool| pool.metadata_reserve_bytes.map(|n| n as f64)),
        ("pool_reserved_bytes", "Promised by reservations and not in use yet, with metadata for it", |pool| {
            pool.reserved_bytes.map(|n| n as f64)
        }),
        ("pool_held_bytes", "Space taken for writes under way and granted to held ones", |pool| {
            pool.held_bytes.map(|n| n as f64)
        }),
        ("pool_held_writes", "Writes that wait for space", |pool| pool.held_writes.map(|n| n as f64)),
        ("pool_held_writes_bytes", "Memory behind writes that wait for space", |pool| {
            pool.held_writes_bytes.map(|n| n as f64)
        }),
        ("pool_starved", "1 when metadata waits for room in a file system that is full", |pool| {
            (pool.state != PoolState::Unavailable).then(|| f64::from(u8::from(pool.starved.is_some())))
        }),
        ("pool_time_to_full_seconds", "When it is full at the measured rate", |pool| pool.time_to_full_seconds),
        ("pool_growth_bytes_per_second", "Rate at which its use grows", |pool| {
            pool.growth_bytes_per_second.map(|n| n as f64)
        }),
        ("pool_quarantined_bytes", "Freed, and usable as soon as that is durable", |pool| {
            pool.quarantined_bytes.map(|n| n as f64)
        }),
        ("pool_designated_bytes", "Promised to guests", |pool| pool.designated_bytes.map(|n| n as f64)),
        ("pool_regulation_bytes", "Held back by regulation files in guests", |pool| {
            pool.regulation_bytes.map(|n| n as f64)
        }),
        ("pool_effective_bytes", "Designated minus regulation", |pool| pool.effective_bytes.map(|n| n as f64)),
        ("pool_designated_max_bytes", "What the overcommit limit allows to be promised to guests", |pool| {
            pool.designated_bytes_max.map(|n| n as f64)
        }),
        ("pool_overcommit_bytes", "Designated minus physical", |pool| pool.overcommit_bytes.map(|n| n as f64)),
        ("pool_overcommit_ratio", "Designated by physical", |pool| pool.overcommit_ratio),
        ("pool_vdisks", "Vdisks", |pool| pool.vdisks.map(|n| n as f64)),
        ("pool_check_findings", "Things that the last check found, 0 when all is well", |pool| {
            pool.last_check.as_ref().map(|check| check.findings as f64)
        }),
        ("pool_reclaimable_bytes", "Stored data that could come back, as the last survey found it", |pool| {
            pool.reclaimable_bytes.map(|n| n as f64)
        }),
    ];
    for (name, help, figure) in figures {
        let values = pools.iter().filter_map(|pool| Some((labels(pool), figure(pool)?)));
        gauge(registry, name, help, values);
    }
    survey_metrics(registry, "pool", pools, |pool| Some((labels(pool), pool.survey.as_ref()?)));
    let sizes = pools.iter().flat_map(|pool| &pool.devices).filter_map(|device| {
        Some((vec![("pool", device.pool.clone()), ("device", device.path.clone())], device.size_bytes? as f64))
    });
    gauge(registry, "device_size_bytes", "Size of a device", sizes);
    type Count = fn(&CountersView) -> u64;
    let counts: [(&str, &str, Count); 18] = [
        ("pool_reads", "Reads", |counters| counters.reads),
        ("pool_read_bytes", "Bytes read", |counters| counters.read_bytes),
        ("pool_writes", "Writes", |counters| counters.writes),
        ("pool_written_bytes", "Bytes written", |counters| counters.write_bytes),
        ("pool_first_writes", "Writes that allocated", |counters| counters.first_writes),
        ("pool_discards", "Discards", |counters| counters.discards),
        ("pool_flushes", "Flushes", |counters| counters.flushes),
        ("pool_journal_commits", "Commits of the journal", |counters| counters.journal_commits),
        ("pool_journal_commits_ahead", "Of the commits, beside the data of a first write", |counters| {
            counters.journal_commits_ahead
        }),
        ("pool_checkpoints", "Checkpoints", |counters| counters.checkpoints),
        ("pool_writes_held", "Writes that had to wait for space", |counters| counters.held_writes),
        ("pool_writes_held_bytes", "Data of writes that had to wait for space", |counters| counters.held_write_bytes),
        ("pool_writes_refused", "Writes that failed for want of space", |counters| counters.refused_writes),
        ("pool_zero_bytes", "Data of zeros that was not stored, or is not any more", |counters| counters.zero_bytes),
        ("pool_pattern_bytes", "Data that is stored by the number of a pattern", |counters| counters.pattern_bytes),
        ("pool_packed_bytes", "Space given back by compaction", |counters| counters.packed_bytes),
        ("pool_pages_healed", "Metadata pages healed from their copy", |counters| counters.pages_healed),
        ("pool_pages_lost", "Metadata pages with both copies gone", |counters| counters.pages_lost),
    ];
    for (name, help, count) in counts {
        let family = Counters::default();
        for pool in pools {
            if let Some(counters) = &pool.counters {
                family.get_or_create(&labels(pool)).inc_by(count(counters));
            }
        }
        registry.register(name, help, family);
    }
}

fn vdisk_metrics(registry: &mut Registry, vdisks: &[VdiskView]) {
    let labels = |vdisk: &VdiskView| {
        vec![
            ("pool", vdisk.pool.clone()),
            ("vdisk", vdisk.vdisk.clone()),
            ("tenant", vdisk.tenant.clone().unwrap_or_default()),
            ("vm", vdisk.vm.clone().unwrap_or_default()),
        ]
    };
    type Figure = fn(&VdiskView) -> Option<u64>;
    let figures: [(&str, &str, Figure); 15] = [
        ("vdisk_designated_bytes", "Size shown to the guest", |vdisk| Some(vdisk.designated_bytes)),
        ("vdisk_backed_bytes", "Physical space behind it", |vdisk| Some(vdisk.backed_bytes)),
        ("vdisk_exclusive_bytes", "Physical space that it alone names", |vdisk| Some(vdisk.exclusive_bytes)),
        ("vdisk_shared_bytes", "Physical space that others name too", |vdisk| Some(vdisk.shared_bytes)),
        ("vdisk_regulation_bytes", "Held back by its regulation file", |vdisk| Some(vdisk.regulation_bytes)),
        ("vdisk_effective_bytes", "Designated minus regulation", |vdisk| Some(vdisk.effective_bytes)),
        ("vdisk_available_bytes", "Designated minus backed and regulation", |vdisk| Some(vdisk.available_bytes)),
        ("vdisk_reservation_bytes", "Physical space that is its own", |vdisk| Some(vdisk.reservation_bytes)),
        ("vdisk_reserved_bytes", "Of its reservation, what is not in use yet", |vdisk| Some(vdisk.reserved_bytes)),
        ("vdisk_quota_bytes", "Physical space that it may not exceed", |vdisk| vdisk.quota_bytes),
        ("vdisk_held_writes", "Writes that wait for space", |vdisk| Some(vdisk.held_writes)),
        ("vdisk_held_writes_bytes", "Memory behind writes that wait for space", |vdisk| Some(vdisk.held_writes_bytes)),
        ("vdisk_exhausted", "1 when there is no space for its writes", |vdisk| Some(vdisk.exhausted.into())),
        ("vdisk_clients", "Connected clients", |vdisk| Some(vdisk.clients)),
        ("vdisk_reclaimable_bytes", "Stored data that could come back, as the last survey found it", |vdisk| {
            vdisk.reclaimable_bytes
        }),
    ];
    for (name, help, figure) in figures {
        let values = vdisks.iter().filter_map(|vdisk| Some((labels(vdisk), figure(vdisk)? as f64)));
        gauge(registry, name, help, values);
    }
    survey_metrics(registry, "vdisk", vdisks, |vdisk| Some((labels(vdisk), vdisk.survey.as_ref()?)));
}

/// What the last survey found of each that it looked at.
fn survey_metrics<T>(
    registry: &mut Registry,
    noun: &str,
    all: &[T],
    surveyed: impl Fn(&T) -> Option<(Labels, &SurveyView)>,
) {
    type Figure = fn(&SurveyView) -> u64;
    let figures: [(&str, &str, Figure); 6] = [
        ("reclaimable_packable_bytes", "Of that, what compaction would free", |survey| survey.packable_bytes),
        ("reclaimable_whole_bytes", "Of that, zeros and patterns that are all of their extents", |survey| {
            survey.whole_bytes
        }),
        ("reclaimable_zero_bytes", "Zeros that a reclaim gives up, between data as well", |survey| survey.zero_bytes),
        ("reclaimable_pattern_bytes", "Patterns that a reclaim gives up", |survey| survey.pattern_bytes),
        ("reclaimable_margin_bytes", "Margin of zeros and patterns together, 95 %", |survey| survey.margin_bytes),
        ("survey_age_seconds", "Time since the survey", |survey| survey.age_seconds),
    ];
    for (what, help, figure) in figures {
        let values = all.iter().filter_map(&surveyed).map(|(labels, survey)| (labels, figure(survey) as f64));
        gauge(registry, &format!("{noun}_{what}"), help, values);
    }
}

fn tenant_metrics(registry: &mut Registry, tenants: &[TenantView]) {
    let labels = |tenant: &TenantView| vec![("pool", tenant.pool.clone()), ("tenant", tenant.name.clone())];
    type Figure = fn(&TenantView) -> Option<u64>;
    let figures: [(&str, &str, Figure); 11] = [
        ("tenant_used_bytes", "Physical space that its vdisks have", |tenant| Some(tenant.used_bytes)),
        ("tenant_exclusive_bytes", "Physical space that its vdisks alone name", |tenant| Some(tenant.exclusive_bytes)),
        ("tenant_shared_bytes", "Physical space that others name too", |tenant| Some(tenant.shared_bytes)),
        ("tenant_quota_bytes", "Physical space that they may not exceed together", |tenant| tenant.quota_bytes),
        ("tenant_reservation_bytes", "Sum of their reservations", |tenant| Some(tenant.reservation_bytes)),
        ("tenant_reserved_bytes", "Of these, what is not in use yet", |tenant| Some(tenant.reserved_bytes)),
        ("tenant_designated_bytes", "Sum of their sizes", |tenant| Some(tenant.designated_bytes)),
        ("tenant_regulation_bytes", "Held back by regulation files in their guests", |tenant| {
            Some(tenant.regulation_bytes)
        }),
        ("tenant_effective_bytes", "Designated minus regulation", |tenant| Some(tenant.effective_bytes)),
        ("tenant_reclaimable_bytes", "Stored data that could come back, as the last survey found it", |tenant| {
            tenant.reclaimable_bytes
        }),
        ("tenant_vdisks", "Its vdisks", |tenant| Some(tenant.vdisks)),
    ];
    for (name, help, figure) in figures {
        let values = tenants.iter().filter_map(|tenant| Some((labels(tenant), figure(tenant)? as f64)));
        gauge(registry, name, help, values);
    }
}

fn event_metrics(registry: &mut Registry, events: &Summary) {
    let family = Counters::default();
    for (kind, severity, count) in &events.counts {
        let labels = vec![("kind", kind.clone()), ("severity", severity.name().to_owned())];
        family.get_or_create(&labels).inc_by(*count);
    }
    // The encoder adds `_total` to counters.
    registry.register("events", "Events ever", family);
    let open = [(Severity::Warning, events.warnings), (Severity::Critical, events.criticals)];
    let open = open.map(|(severity, count)| (vec![("severity", severity.name().to_owned())], count as f64));
    gauge(registry, "events_unacknowledged", "Events that nobody took note of", open.into_iter());
}

fn webhook_metrics(registry: &mut Registry, webhooks: &[WebhookView]) {
    let labels = |webhook: &WebhookView| vec![("webhook", webhook.name.clone())];
    type Figure = fn(&WebhookView) -> u64;
    let figures: [(&str, &str, Figure); 3] = [
        ("webhook_failing", "1 when the last delivery failed", |webhook| {
            (webhook.state == WebhookState::Failing).into()
        }),
        ("webhook_failures", "Failed attempts since the last success", |webhook| webhook.failures),
        ("webhook_events_behind", "Events that it is not through with", |webhook| {
            webhook.last_seq.saturating_sub(webhook.delivered_seq)
        }),
    ];
    for (name, help, figure) in figures {
        gauge(registry, name, help, webhooks.iter().map(|webhook| (labels(webhook), figure(webhook) as f64)));
    }
    let given_up = Counters::default();
    for webhook in webhooks {
        given_up.get_or_create(&labels(webhook)).inc_by(webhook.given_up);
    }
    registry.register("webhook_events_given_up", "Events given up after a day of attempts", given_up);
}
