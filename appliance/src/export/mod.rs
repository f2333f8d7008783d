//! The protocols by which initiators reach vdisks. Each folder is one protocol; none knows of another.

pub mod nbd;
