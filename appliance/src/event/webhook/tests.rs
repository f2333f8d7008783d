//! Webhooks against receivers of all kinds.
